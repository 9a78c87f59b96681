"""Encoded sentence pairs in Arrow tables: in memory, or in files that are mapped and not read.

Files are written shard by shard: memory stays bounded, and what was killed goes on with the first shard that is missing.
N pairs.
"""

import math
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from g2lstm.data.download import write_to_cache
from g2lstm.data.lines import Pair, Text
from g2lstm.data.subwords import missing
from g2lstm.errors import UserError

SHARD = 50_000  # pairs
PROCESSES = 4  # at most: each has 0.5 GiB, so that all stay below 4
DROPPED = ("dropped_empty", "dropped_long")
# source and target lines, one by one, to their ids
Encode = Callable[[Sequence[str], Sequence[str]], tuple[list[list[int]], list[list[int]]]]


@dataclass(frozen=True, eq=False)
class Side:
    """The sentences of one language in one shard: sentence i is values[offsets[i] : offsets[i + 1]]."""

    offsets: np.ndarray
    values: np.ndarray

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of one split, as ids without special ones.

    Attributes:
        shards: source and target of each.
        counts: pairs that were left out, by `DROPPED`.
    """

    shards: tuple[tuple[Side, Side], ...]
    counts: dict[str, int]

    @classmethod
    def of(cls, shards: Iterable[Any]) -> "Pairs":
        """From what `shard` gave, or paths of files with that; a UserError where one is cut."""
        arrow = _arrow()
        sides, counts = [], dict.fromkeys(DROPPED, 0)
        for shard in shards:
            try:
                source = arrow.memory_map(str(shard)) if isinstance(shard, Path) else arrow.BufferReader(shard)
                batch = arrow.ipc.open_file(source).get_batch(0)
            except (arrow.ArrowException, OSError) as error:
                raise UserError(f"{shard} is no whole file of pairs ({' '.join(str(error).split())}): remove it") from None
            counts = {key: counts[key] + int(batch.schema.metadata[key.encode()]) for key in DROPPED}
            sides.append(tuple(_side(column) for column in batch.columns))
        return cls(tuple(sides), counts)  # type: ignore[arg-type]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum([len(source.offsets) - 1 for source, _ in self.shards]).tolist()]

    def __len__(self) -> int:
        return self._starts[-1]

    def _find(self, index: int) -> tuple[tuple[Side, Side], int]:
        if not 0 <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return self.shards[shard], index - self._starts[shard]

    def source(self, index: int) -> np.ndarray:
        """The ids of one source sentence."""
        (source, _), place = self._find(index)
        return source[place]

    def target(self, index: int) -> np.ndarray:
        """The ids of one target sentence."""
        (_, target), place = self._find(index)
        return target[place]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N, 2) sub-words of source and target."""
        shards = [np.stack([np.diff(side.offsets) for side in sides], axis=1) for sides in self.shards]
        return np.concatenate(shards).astype(np.int64) if shards else np.zeros((0, 2), np.int64)


def encode_pairs(pairs: Iterable[Pair], encode: Encode, *, longest: int | None = None) -> Pairs:
    """Pairs in memory; those with an empty side or more than `longest` sub-words on one are left out and counted."""
    return Pairs.of(shard(block, encode, longest) for block in _blocks(pairs))


def cached_pairs(folder: Path, text: Text, encode: Encode, *, longest: int | None = None) -> Pairs:
    """`encode_pairs` through files in a folder that only this text, this encoding and `longest` have.

    Raises:
        UserError: the folder can't be written, or a file in it is cut.
    """
    paths = [folder / f"{number:05}.arrow" for number in range(math.ceil(text.pairs / SHARD))]
    absent = {path for path in paths if not path.is_file()}
    if absent:
        for left in folder.glob(".*.arrow.*"):  # by what was killed; younger ones may be written just now
            with suppress(OSError):
                if left.stat().st_mtime < time.time() - 3600:
                    left.unlink()
        named = ((path, block) for path, block in zip(paths, _blocks(text.read()), strict=True) if path in absent)
        _write(named, len(absent), encode, longest)
    return Pairs.of(paths)


def _write(blocks: Iterator[tuple[Path, list[Pair]]], count: int, encode: Encode, longest: int | None) -> None:
    """Writes some shards, many of them with several processes; each is there whole or not at all."""

    parent = os.getpid()

    def write(path: Path, block: list[Pair]) -> None:
        around: AbstractContextManager[Any] = nullcontext()
        if os.getpid() != parent:
            import joblib

            end_with(parent)
            around = joblib.parallel_config(backend="sequential")  # in what `encode` does: the cores are taken
        with around:
            write_to_cache(path, shard(block, encode, longest))

    processes = min(PROCESSES, os.cpu_count() or 1)
    if count <= 2 * processes or processes == 1:  # a process takes seconds to start
        for path, block in blocks:
            write(path, block)
        return
    import joblib

    with joblib.Parallel(n_jobs=processes) as run:
        for several in iter(lambda: list(islice(blocks, processes)), []):
            run(joblib.delayed(write)(path, block) for path, block in several)


@cache
def end_with(parent: int) -> None:
    """Ends this process within a second or two of its parent: one that is killed would leave us idle for minutes."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _blocks(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    rest = iter(pairs)
    return iter(lambda: list(islice(rest, SHARD)), [])


def shard(pairs: Sequence[Pair], encode: Encode, longest: int | None) -> bytes:
    """Some pairs as one Arrow file, with the counts of those left out."""
    arrow = _arrow()
    full = [pair for pair in pairs if all(pair)]
    sources, targets = encode([source for source, _ in full], [target for _, target in full])
    kept = [
        pair for pair in zip(sources, targets, strict=True) if longest is None or max(len(pair[0]), len(pair[1])) <= longest
    ]
    counts = {"dropped_empty": len(pairs) - len(full), "dropped_long": len(full) - len(kept)}
    columns = [_column([pair[side] for pair in kept]) for side in (0, 1)]
    metadata = {key: str(count) for key, count in counts.items()}
    batch = arrow.record_batch(columns, names=["source", "target"], metadata=metadata)
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


# Arrow's own ways from and to numpy import pandas, which takes longer than all the rest.
def _column(sequences: list[list[int]]) -> Any:
    arrow = _arrow()
    offsets = np.zeros(len(sequences) + 1, np.int32)
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(sequences), np.int32, count=int(offsets[-1]))
    numbers = arrow.Array.from_buffers(arrow.int32(), len(values), [None, arrow.py_buffer(values)])
    lists, places = arrow.list_(arrow.int32()), arrow.py_buffer(offsets)
    return arrow.Array.from_buffers(lists, len(sequences), [None, places], children=[numbers])


def _side(column: Any) -> Side:
    _, places, _, numbers = column.buffers()
    offsets = np.frombuffer(places, np.int32, count=len(column) + 1) if len(column) else np.zeros(1, np.int32)
    return Side(offsets, np.frombuffer(numbers, np.int32, count=offsets[-1]) if offsets[-1] else np.zeros(0, np.int32))


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise missing("pyarrow") from None
    return pyarrow


def refuse_none_left(pairs: Pairs, split: str, *, empty: int, longest: int | None = None) -> None:
    """Raises a UserError where all were left out: `empty` for a side that is, others for more than `longest` sub-words."""
    if len(pairs):
        return
    long = f", {pairs.counts['dropped_long']:,} more than data.longest={longest} sub-words" if longest else ""
    way = "mend the text or raise data.longest" if longest else "mend the text"
    raise UserError(f"no pair is left of {split}: {empty:,} have an empty side{long}: {way}")
