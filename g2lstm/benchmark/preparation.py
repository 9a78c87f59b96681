"""What it takes to prepare a large parallel text: time, memory of all processes, a kill on the way, and to open it again.

The text is synthetic: words by Zipf's law, 22 in a line on average (Poisson).
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from g2lstm.data.pairs import PROCESSES, SHARD
from g2lstm.errors import UserError
from g2lstm.files import writing
from g2lstm.training.progress import duration

WORDS = 100_000  # different ones of each language
EXPONENT = 1.1  # of Zipf's law
LINE = 22.0  # words, on average
HELD_OUT = 1000  # pairs of valid, and of test
BLOCK = 100_000  # pairs that are drawn at a time
PAUSE = 0.2  # seconds between two looks
TELL = 30.0  # seconds between two lines of how far it is
GRACE = 15.0  # seconds for the processes of one that was killed
LANGUAGES = ("xx", "yy")
# A process of its own, which ends with ours; what it says is the time that it took, without that of its imports.
LOAD = """
import os, sys, time
from pathlib import Path
import joblib, pooch, pyarrow.ipc, sacremoses, tokenizers
from g2lstm.cli import guarded
from g2lstm.data import lines, pairs, parallel
from g2lstm.data.parallel import load_parallel

def load():
    started = time.monotonic()
    found = load_parallel("parallel", data_dir=sys.argv[1], languages=("xx", "yy"), tokenised=True, lowercase=False,
                          vocabulary_size=int(sys.argv[2]), joint=False)
    print(time.monotonic() - started, len(found.train), int(found.train.lengths.sum()))
    return 0

pairs.end_with(os.getppid())
pairs.SHARD = int(sys.argv[3])
lines.cache_folder = parallel.cache_folder = lambda name: Path(sys.argv[4], name)
sys.exit(guarded(load))
"""
Say = Callable[[str], None]


def measure_preparation(
    folder: Path, pairs: int, vocabulary: int, *, shard: int = SHARD, seed: int = 1, say: Say = lambda _: None
) -> dict[str, Any]:
    """Prepares synthetic pairs, is killed when half of the shards are there, goes on, and opens what was prepared.

    Args:
        folder: where text and prepared files lie, 0.6 kB a pair.
        pairs: to train on.
        vocabulary: sub-words of each language.
        shard: pairs of a prepared file.
        say: gets a line before each part.

    Returns:
        seconds of each part, the most memory of all processes together (None where the system doesn't tell), and sizes.

    Raises:
        UserError: too few pairs for work before and after a kill, the folder can't be written, or a process failed.
    """
    processes, shards = min(PROCESSES, os.cpu_count() or 1), math.ceil(pairs / shard)
    if shards <= (least := 4 * processes + 2):
        raise UserError(f"pairs must be more than {least * shard:,}, for work before and after a kill, got {pairs:,}")
    say(f"writing {pairs:,} pairs")
    text, cache, draw = folder / "text", folder / "cache", np.random.default_rng(seed)
    with writing(text):
        text.mkdir(parents=True)
        words = sum(
            write_text(text, split, n, draw) for split, n in (("valid", HELD_OUT), ("test", HELD_OUT), ("train", pairs))
        )
    say(f"preparing until half of {shards} shards are there")
    first, told = Watched(text, cache, vocabulary, shard), Told(cache, shards // 2, say)
    first.watch(lambda: told.look() >= shards // 2)
    if first.ended:
        raise UserError(f"{pairs:,} pairs were prepared before the kill: set more")
    first.kill()
    before = prepared(cache)
    say("killed; going on")
    second, told = Watched(text, cache, vocabulary, shard), Told(cache, shards, say)
    second.watch(lambda: told.look() < 0)
    again = prepared(cache)
    kept = sum(again.get(path) == made for path, made in before.items())
    say("opening what was prepared")
    opened = Watched(text, cache, vocabulary, shard)
    opened.watch(lambda: False)
    seconds, left, subwords = opened.said()
    peaks = [part.peak for part in (first, second) if part.peak is not None]
    return {
        "pairs": pairs,
        "pairs_to_train_on": int(left),
        "words": words,
        "subwords": int(subwords),
        "vocabulary_size": vocabulary,
        "text_mb": round(_megabytes(text.iterdir()), 1),
        "prepared_mb": round(_megabytes(again), 1),
        "processes": processes,
        "seconds_before_the_kill": round(first.seconds, 1),
        "seconds_after_the_kill": round(second.seconds, 1),
        "shards_at_the_kill": len(before),
        "shards_kept": kept,
        "shards": len(again),
        "peak_memory_mib": round(max(peaks), 1) if peaks else None,
        "seconds_to_open": round(seconds, 3),
        "seed": seed,
    }


def write_text(folder: Path, split: str, pairs: int, draw: np.random.Generator) -> int:
    """Writes both sides of a split; their words."""
    share = 1.0 / np.arange(1, WORDS + 1) ** EXPONENT
    edges, count = np.cumsum(share / share.sum()), 0
    for language in LANGUAGES:
        names = np.array([word(number, language) for number in range(WORDS)], dtype=object)
        with (folder / f"{split}.{language}").open("w") as file:
            for start in range(0, pairs, BLOCK):
                ends = np.cumsum(1 + draw.poisson(LINE - 1, min(BLOCK, pairs - start)))
                said = names[np.minimum(edges.searchsorted(draw.random(ends[-1])), WORDS - 1)].tolist()
                file.writelines(f"{' '.join(said[a:b])}\n" for a, b in pairwise([0, *ends.tolist()]))
                count += len(said)
    return count


def word(number: int, language: str) -> str:
    """Syllables of a language, two or more, for each number others."""
    consonants, vowels = {"xx": ("bdfgklmn", "aeiou"), "yy": ("prstvwzh", "aeioy")}[language]
    syllables, number = [consonants[-1] + vowels[-1]], number + 1
    while number:
        number, place = divmod(number, len(consonants) * len(vowels))
        syllables.append(consonants[place % len(consonants)] + vowels[place // len(consonants)])
    return "".join(syllables)


class Watched:
    """A process that loads the text.

    Attributes:
        seconds: it took so far, imports too.
        peak: MiB of it and its own processes together, the most that was seen; None where the system doesn't tell.
    """

    def __init__(self, text: Path, cache: Path, vocabulary: int, shard: int) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment["PYTHONWARNINGS"] = "ignore"  # what joblib says of a process that was killed
        command = [sys.executable, "-c", LOAD, str(text), str(vocabulary), str(shard), str(cache)]
        self._process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
        self._began, self.seconds = time.monotonic(), 0.0
        self.peak: float | None = None

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def watch(self, enough: Callable[[], bool]) -> None:
        """Until there is enough, or it ends."""
        try:
            while not self.ended and not enough():
                if (found := memory(self._process.pid)) is not None:
                    self.peak = max(self.peak or 0.0, found)
                time.sleep(PAUSE)
        except BaseException:
            self.kill()
            raise
        self.seconds = time.monotonic() - self._began
        if (status := self._process.poll()) not in (None, 0):
            said = f"by signal {-status}, perhaps for want of memory" if status and status < 0 else "as is said above"
            raise UserError(f"the text could not be prepared: the process ended {said}")

    def kill(self) -> None:
        """As a system does that wants memory. Its own processes end by themselves, within a second or two."""
        own = [process for process in family(self._process.pid) if process != self._process.pid]
        self._process.kill()
        self._process.wait()
        until = time.monotonic() + GRACE
        while any(map(lives, own)) and time.monotonic() < until:
            time.sleep(PAUSE)

    def said(self) -> list[float]:
        assert self._process.stdout is not None
        return [float(word) for word in self._process.stdout.read().split()]


class Told:
    """Says now and then how many shards are there, of how many, and how long the others will take."""

    def __init__(self, cache: Path, until: int, say: Say) -> None:
        self._cache, self._until, self._say = cache, until, say
        self._first = len(prepared(cache))
        self._began = self._last = time.monotonic()

    def look(self) -> int:
        """Shards that are there."""
        there, now = len(prepared(self._cache)), time.monotonic()
        if there == self._first:
            self._began = now  # sub-words are learned before
        if there < self._until and now - self._last >= TELL:
            self._last, new = now, there - self._first
            left = duration((now - self._began) * (self._until - there) / new) if new else "unknown"
            self._say(f"{there} of {self._until} shards, time left {left}")
        return there


def prepared(cache: Path) -> dict[Path, int]:
    """The shards that are there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}


def family(process: int) -> Iterator[int]:
    """A process and its descendants, on Linux."""
    yield process
    with suppress(OSError):  # it has just ended
        for file in Path(f"/proc/{process}/task").glob("*/children"):
            for child in file.read_text().split():
                yield from family(int(child))


def memory(process: int) -> float | None:
    """MiB of a process and its descendants (Linux's proportional set size: a page that n processes map counts 1/n)."""
    if not Path("/proc/thread-self/children").exists():
        return None
    total = 0
    for one in family(process):
        with suppress(OSError):
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024 or None


def lives(process: int) -> bool:
    """Whether it is there, and has not ended without anyone who asked for its status."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _megabytes(files: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in files) / 1e6
