"""Reading the network: parquet files of the Hub through `datasets`, and raw files by URL through `pooch`."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2lstm.errors import UserError
from g2lstm.files import write_atomically

# Seconds. The Hub is probed first: `datasets` alone retries for half a minute before it says there is no network.
PROBE_TIMEOUT = 3.0
READ_TIMEOUT = 10.0
RETRIES = 2


@dataclass(frozen=True)
class HubFiles:
    """Parquet files of one dataset on the Hub: a pattern for each split, and the column with the text."""

    path: str
    revision: str | None
    data_files: Mapping[str, str]
    column: str


@dataclass(frozen=True)
class RawFile:
    """One file by URL."""

    url: str  # http, https or ftp
    md5: str | None  # what its bytes must have; None where its publisher says no sum
    member: str | None = None  # of an archive (tar or zip), the file in it that is meant

    @property
    def name(self) -> str:
        """Where it lies below the folder it is fetched into."""
        return self.member or self.url.rsplit("/", 1)[-1]


class UnavailableError(Exception):
    """A place that has no data just now; its text becomes part of the one message the user sees."""


def cache_folder(name: str) -> Path:
    """Where what came over the network is kept: ~/.cache/g2lstm/<name>, or what the system has in its place."""
    import pooch

    return Path(pooch.os_cache("g2lstm")) / name


def write_to_cache(path: Path, content: str | bytes | Iterator[str]) -> None:
    """`write_atomically` of a file in the cache folder, whose error says how another folder is named."""
    try:
        write_atomically(path, content)
    except UserError as error:
        raise UserError(f"{error} (the cache folder, on Linux: XDG_CACHE_HOME=FOLDER)") from None


def read_hub(hub: HubFiles) -> dict[str, list[str]]:
    """The lines of each split of a dataset on the Hub (or of a local folder of its layout).

    Raises:
        UnavailableError: as `open_hub`.
    """
    loaded = open_hub(hub)
    return {split: [str(line) for line in loaded[split][hub.column]] for split in hub.data_files}


def open_hub(hub: HubFiles) -> dict[str, Any]:
    """The splits of a dataset on the Hub (or of a local folder of its layout), mapped and not read.

    Raises:
        UnavailableError: no network, no package `datasets`, or whatever that package says.
    """
    place = f"{hub.path} on the Hub"
    try:
        import datasets
    except ImportError:
        raise UnavailableError(f"{place} (the package datasets is missing: pip install 'g2lstm[hub]')") from None
    try:
        if not Path(hub.path).is_dir() and not os.environ.get("HF_HUB_OFFLINE"):
            import requests

            # any answer will do: `datasets` will say what is wrong
            requests.head(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=PROBE_TIMEOUT)
        loaded = datasets.load_dataset(hub.path, revision=hub.revision, data_files=dict(hub.data_files))
        return {split: loaded[split].select_columns([hub.column]) for split in hub.data_files}
    except Exception as error:  # the library raises dozens of kinds, its dependencies' among them
        raise UnavailableError(f"{place} ({_reason(error)})") from None


def fetch(file: RawFile, folder: Path) -> Path:
    """The file in `folder`, downloaded unless it is there with the right sum; of an archive, its member unpacked there.

    Raises:
        UnavailableError: no network, another sum, nowhere to write, or an archive without the member.
    """
    import pooch

    archive = file.url.rsplit("/", 1)[-1]
    sums = {archive: f"md5:{file.md5}" if file.md5 else None}
    source = pooch.create(folder, base_url="", registry=sums, urls={archive: file.url}, retry_if_failed=RETRIES)
    unpack: type[pooch.Unzip | pooch.Untar] = pooch.Unzip if archive.endswith(".zip") else pooch.Untar
    processor = unpack(members=[file.member], extract_dir=".") if file.member else None
    downloader = pooch.HTTPDownloader(timeout=READ_TIMEOUT) if file.url.startswith("http") else None
    try:
        source.fetch(archive, processor=processor, downloader=downloader)
    except Exception as error:  # requests', tarfile's, zipfile's and the system's own
        raise UnavailableError(f"{file.url} ({_reason(error)})") from None
    if not (folder / file.name).is_file():
        raise UnavailableError(f"{file.url} (no {file.member} in it)")
    return folder / file.name


def _reason(error: Exception) -> str:
    """One short line for what went wrong."""
    import requests

    if (response := getattr(error, "response", None)) is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().splitlines()[0]
