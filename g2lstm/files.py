"""Files: where the config groups lie; written so that a reader never sees half of one; a mistake is one line."""

import codecs
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from g2lstm.errors import UserError

Content = TypeVar("Content")


def conf_folder() -> Path:
    """The folder of config groups: inside an installed package, at the top of the repository in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def refuse_utf16(content: bytes, name: Path | str) -> None:
    """Raises a UserError where a text called `name` begins as UTF-16 does."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name} is UTF-16, not UTF-8: convert it with iconv -f UTF-16 -t UTF-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk, a folder that can't be written, ... become a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"can't write {path} ({error.strerror or error}): make room or get leave, or name another place"
        ) from None


@contextmanager
def folder_made(path: Path) -> Iterator[None]:
    """Makes a folder and those above it; where what is done with it fails, those that it made go again if they are empty."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def write_atomically(path: Path, content: str | bytes | Iterator[str]) -> None:
    """Writes `content`, or its parts one by one, to a temporary file beside `path` and renames it: all of it or nothing.

    Raises:
        UserError: it can't be written; what stood there stays, and no folder is left that was made for it.
    """
    with writing(path), folder_made(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for part in (content,) if isinstance(content, str | bytes) else content:
                    file.write(part.encode() if isinstance(part, str) else part)
                file.flush()
                os.fsync(file.fileno())
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp keeps files private
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def read_text(path: Path) -> str:
    """A file's text; a UserError where it can't be read or is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"can't read {path} ({reason}): put back the file that was written, or name another") from None


def read_json(path: Path, kind: type[Content] = Any, advice: str = "it was edited or is no such file") -> Content:  # type: ignore[assignment]
    """The content of a JSON file.

    Raises:
        UserError: it can't be read, is not JSON or not of `kind`, as dict or list; `advice` is the way out.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {advice}") from None
    if kind is not Any and not isinstance(content, kind):
        raise UserError(f"{path} holds a {type(content).__name__}, where a {kind.__name__} was expected: {advice}")
    return content
