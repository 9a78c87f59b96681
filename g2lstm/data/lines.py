"""Text in two languages, line for line: files as people have them."""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from g2lstm.data.download import cache_folder, write_to_cache
from g2lstm.errors import UserError
from g2lstm.files import read_json, refuse_utf16

Pair = tuple[str, str]  # source and target line
_CHUNK = 1 << 20  # bytes
_REMEMBERED = 1 << 24  # bytes of a file from which on its digest is kept, so that it is read once and not at each start
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b]")  # as the Moses tokeniser strips them, but for white space


@dataclass(frozen=True, eq=False)
class Text:
    """The pairs of one split, read anew each time; either line of a pair may be empty.

    Attributes:
        read: starts at the first pair. Words of a line have one space between them, and no control characters.
        pairs: how many there are.
        digest: of all they say.
    """

    read: Callable[[], Iterator[Pair]]
    pairs: int
    digest: str


def text_of(pairs: Sequence[Pair]) -> Text:
    """Pairs that are in memory."""
    digest = hashlib.sha256("".join(f"{source}\t{target}\n" for source, target in pairs).encode()).hexdigest()
    return Text(lambda: iter(pairs), len(pairs), digest)


def open_text(files: Sequence[Path]) -> Text:
    """A source and a target file, or one file of `source TAB target`; .gz or plain.

    Raises:
        UserError: a file is missing, empty, cut short, UTF-16 or of lines that end in carriage returns alone, both hold the
            same text, or have other numbers of lines;
            while it is read: a line that is not UTF-8 or has no two columns.
    """
    if len(files) not in (1, 2):
        raise UserError(f"{len(files)} files for one split: name a source and a target file, or one with both in columns")
    scans = [_scan(path) for path in files]
    digest = hashlib.sha256("".join(digest for digest, _ in scans).encode()).hexdigest()
    if len(files) == 1:
        return Text(lambda: _read_columns(files[0]), scans[0][1], digest)
    (source, target), ((one, lines), (other, others)) = files, scans
    if one == other:
        raise UserError(f"{source} and {target} hold the same text: name the files of two languages")
    if lines != others:
        raise UserError(
            f"{source} has {lines:,} lines and {target} {others:,}: line n of one has to translate line n of the other"
        )
    return Text(lambda: zip(_read(source), _read(target), strict=True), lines, digest)


def find_text(folder: Path, split: str, languages: tuple[str, str]) -> tuple[Path, ...]:
    """The file or two files of a split in a folder: `train.de` and `train.en`, or `train.tsv`, each perhaps with .gz.

    Raises:
        UserError: one side alone is there, or more files than one text has.
    """
    sides = [_only(folder / f"{split}.{language}") for language in languages]
    columns = _only(folder / f"{split}.tsv")
    if all(sides) and columns:
        names = " and ".join(path.name for path in sides if path)
        raise UserError(f"{folder} has {names}, and {columns.name}: keep the two or the one")
    if all(sides):
        return tuple(path for path in sides if path)
    if any(sides):
        there, absent = (
            language for _, language in sorted(zip(sides, languages, strict=True), key=lambda side: not side[0])
        )
        raise UserError(f"{folder} has {split}.{there} and no {split}.{absent}: put the other side there, line for line")
    return (columns,) if columns else ()


def _only(path: Path) -> Path | None:
    """The file, or the same packed; a UserError where both are there."""
    found = [one for one in (path, path.with_name(f"{path.name}.gz")) if one.is_file()]
    if len(found) > 1:
        raise UserError(f"{path.parent} has {found[0].name} and {found[1].name}: keep one of them there")
    return found[0] if found else None


def _read(path: Path) -> Iterator[str]:
    return (_words(line) for line in decoded(raw_lines(path), str(path)))


def _read_columns(path: Path) -> Iterator[Pair]:
    for number, line in enumerate(decoded(raw_lines(path), str(path)), 1):
        columns = line.rstrip("\r\n").split("\t") if line.strip() else ["", ""]
        if len(columns) != 2:
            count = f"{len(columns)} columns" if len(columns) > 1 else "one column"
            raise UserError(
                f"{path} line {number:,} has {count}, where source TAB target are 2: "
                "mend the line, or keep two columns with cut -f1,2"
            )
        source, target = columns
        yield _words(source), _words(target)


def _words(line: str) -> str:
    return " ".join(_CONTROL.sub("", line).split())


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """The lines of a file called `name`. They end at a line feed alone: U+2028 and U+0085 are white space within one.

    Raises:
        UserError: a byte is not UTF-8.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            refuse_utf16(line, name)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name} is not UTF-8: byte 0x{line[error.start]:02x} at byte {error.start + 1:,} of line {number:,}: "
                "convert it, for example with iconv -f ISO-8859-1 -t UTF-8"
            ) from None
        yield text.removeprefix("\ufeff") if number == 1 else text


def raw_lines(path: Path) -> Iterator[bytes]:
    """The bytes of each line of a file, of a .gz unpacked; a UserError where they can't be read."""
    with _unpacked(path) as file:
        yield from file


@contextmanager
def _unpacked(path: Path) -> Iterator[gzip.GzipFile | BufferedReader]:
    """A file's bytes; whatever is wrong with it is one line."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is no whole .gz file ({error}): copy or download it again") from None
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror}): check the file and its permissions") from None


def _scan(path: Path) -> tuple[str, int]:
    """The digest of a file's content, and its lines."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"no file {path} ({error.strerror}): name one that is there") from None
    if found.st_size < _REMEMBERED:
        return _read_whole(path)
    name = hashlib.sha256(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:16]
    note = cache_folder("parallel") / f"file-{name}.json"
    if not note.is_file():
        digest, lines = _read_whole(path)
        write_to_cache(note, json.dumps({"path": str(path), "digest": digest, "lines": lines}))
    content = read_json(note, dict, advice="delete it")
    return content["digest"], content["lines"]


def _read_whole(path: Path) -> tuple[str, int]:
    digest, lines, returns, blank, last = hashlib.sha256(), 0, 0, True, b""  # returns: carriage returns without a line feed
    with _unpacked(path) as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            if not last:
                refuse_utf16(chunk, path)
            digest.update(chunk)
            lines += chunk.count(b"\n")
            returns += chunk.count(b"\r") - chunk.count(b"\r\n")
            blank = blank and not chunk.strip()
            last = chunk
    if blank:
        raise UserError(f"{path} is empty: put at least one line of text in it")
    if returns - last.endswith(b"\r") > lines:
        raise UserError(f"{path} ends its lines by carriage returns alone: convert it with tr '\\r' '\\n'")
    return digest.hexdigest(), lines + (not last.endswith(b"\n"))
