"""Reading the network: parquet files of the Hub through `datasets`, and raw files by URL with their md5."""

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# Seconds. The Hub is probed first: `datasets` alone retries for half a minute before it says there is no network.
PROBE_TIMEOUT = 3.0
READ_TIMEOUT = 10.0


@dataclass(frozen=True)
class HubFiles:
    """Parquet files of one dataset on the Hub: a pattern for each split, and the column with the text."""

    path: str
    revision: str | None
    data_files: Mapping[str, str]
    column: str


@dataclass(frozen=True)
class RawFile:
    """One file by URL, and the md5 its bytes must have."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


class UnavailableError(Exception):
    """A place that has no data just now; its text becomes part of the one message the user sees."""


def read_hub(hub: HubFiles) -> dict[str, list[str]]:
    """The lines of each split of a dataset on the Hub (or of a local folder of its layout).

    Raises:
        UnavailableError: no network, no package `datasets`, or whatever that package says.
    """
    place = f"{hub.path} on the Hub"
    if not Path(hub.path).is_dir() and not os.environ.get("HF_HUB_OFFLINE"):
        _probe(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), place)
    try:
        import datasets

        loaded = datasets.load_dataset(hub.path, revision=hub.revision, data_files=dict(hub.data_files))
        return {split: [str(line) for line in loaded[split][hub.column]] for split in hub.data_files}
    except Exception as error:  # the library raises dozens of kinds, its dependencies' among them
        raise UnavailableError(f"{place} ({_reason(error)})") from None


def _probe(endpoint: str, place: str) -> None:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=PROBE_TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # it answers: `datasets` will say what is wrong
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnavailableError(f"{place} ({_reason(error)})") from None


def download_file(url: str, md5: str | None, destination: Path) -> None:
    """Downloads one file with a progress line, checks length and md5, and removes it if they are wrong.

    Raises:
        UnavailableError: no network, a truncated answer, or another md5.
    """
    from rich.console import Console
    from rich.progress import Progress

    digest = hashlib.md5(usedforsecurity=False)
    received, total = 0, None
    try:
        with (
            urllib.request.urlopen(url, timeout=READ_TIMEOUT) as response,
            destination.open("wb") as file,
            Progress(console=Console(stderr=True)) as progress,
        ):
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            line = progress.add_task(destination.name, total=total)
            while chunk := response.read(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress.update(line, completed=received)
        if total is not None and received != total:
            raise UnavailableError(f"{url} (truncated: {received:,} of {total:,} bytes)")
        if md5 is not None and digest.hexdigest() != md5:
            raise UnavailableError(f"{url} (corrupt: md5 {digest.hexdigest()}, expected {md5})")
    except BaseException as error:
        destination.unlink(missing_ok=True)
        if isinstance(error, (OSError, http.client.HTTPException)):
            raise UnavailableError(f"{url} ({_reason(error)})") from None
        raise


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` if the block succeeds; else nothing is left."""
    parent_is_new = not folder.parent.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as staging:
            yield Path(staging)
            folder.mkdir(exist_ok=True)
            for file in Path(staging).iterdir():
                file.replace(folder / file.name)
    except BaseException:
        if parent_is_new:
            with suppress(OSError):
                folder.parent.rmdir()
        raise


def _reason(error: BaseException) -> str:
    """One short line for what went wrong."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return _reason(error.reason)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]
