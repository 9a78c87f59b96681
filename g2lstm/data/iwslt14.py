"""The published archive of IWSLT14 German to English, and the two ways in which it is split.

Every 23rd pair of its training text is kept for validation; the ways differ in how long a sentence may be. The text becomes
what the published preparations make of it: Moses' tokens in lower case, without pairs of very unequal lengths.
"""

import re
import tarfile
from itertools import chain
from pathlib import Path

from g2lstm.data.download import RawFile, UnavailableError
from g2lstm.data.lines import Pair
from g2lstm.data.moses import tokenize

ARCHIVE = RawFile("http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz", "10936dfdf616504ddbd844e91b94ef4a")
LANGUAGES = ("de", "en")
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
LONGEST = {"mixer": 50, "fairseq": 175}  # tokens of a side
RATIO = 1.5  # of the longer side to the shorter, at most
HELD_OUT = 23
_NO_TEXT = re.compile("<url>|<talkid>|<keywords>")  # lines of the training text with these are left out
_TAGS = re.compile("</?(?:title|description)>")
_SEGMENT = re.compile(r'\s*(?:<seg id="[0-9]*">|</seg>)\s*')
_LAST_STOP = re.compile(r"(?<=[^ .])\.$")  # Moses cuts it off every last word, sacremoses not off what may be shortened


def read_archive(path: Path, split: str) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """The pairs of train, valid and test as `split` has them, a key of `LONGEST`.

    Raises:
        UnavailableError: it is no whole archive, or lacks a file, or a file has a line more than its translation.
    """
    try:
        with tarfile.open(path) as archive:
            train = [_training(_lines(archive, f"train.tags.de-en.{language}")) for language in LANGUAGES]
            names = [[f"IWSLT14.{test}.de-en.{language}.xml" for test in TESTS] for language in LANGUAGES]
            test = [_segments(chain.from_iterable(_lines(archive, name) for name in side)) for side in names]
        pairs, held_out = (list(zip(*map(_tokens, side, LANGUAGES), strict=True)) for side in (train, test))
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise UnavailableError(f"{path} ({' '.join(str(error).split())})") from None
    kept = [pair for pair in pairs if _alike(pair, LONGEST[split])]
    valid = kept[HELD_OUT - 1 :: HELD_OUT]
    del kept[HELD_OUT - 1 :: HELD_OUT]
    return kept, valid, held_out


def _lines(archive: tarfile.TarFile, name: str) -> list[str]:
    file = archive.extractfile(f"de-en/{name}")
    assert file is not None
    return file.read().decode("utf-8").removesuffix("\n").split("\n")


def _training(lines: list[str]) -> list[str]:
    return [_TAGS.sub("", line) for line in lines if not _NO_TEXT.search(line)]


def _segments(lines: "chain[str]") -> list[str]:
    return [_SEGMENT.sub("", line).replace("’", "'") for line in lines if "<seg id" in line]


def cut_last_stop(line: str) -> str:
    """A line of tokens with its last full stop as one, as the published text has it."""
    return _LAST_STOP.sub(" .", line)


def _tokens(lines: list[str], language: str) -> list[str]:
    return [cut_last_stop(line) for line in tokenize(lines, language, lower=True)]


def _alike(pair: Pair, longest: int) -> bool:
    shorter, longer = sorted(len(side.split()) for side in pair)
    return shorter > 0 and longer <= longest and longer <= RATIO * shorter
