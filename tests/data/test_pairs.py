"""Encoded pairs: in memory and in files the same; what was interrupted goes on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from g2lstm.data import pairs as module
from g2lstm.data.lines import Text, text_of
from g2lstm.data.pairs import Pairs, cached_pairs, encode_pairs, refuse_none_left
from g2lstm.data.subwords import Subwords
from g2lstm.errors import UserError

PAIRS = [("a " * (n % 7), "b " * (n % 5)) for n in range(100)]


def encode(sources: list[str], targets: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """A word is its place in the line."""
    return tuple([list(range(len(line.split()))) for line in side] for side in (sources, targets))


def content(pairs: Pairs) -> list[tuple[list[int], list[int]]]:
    return [(pairs.source(n).tolist(), pairs.target(n).tolist()) for n in range(len(pairs))]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 30)


def test_files_hold_what_memory_holds(tmp_path: Path):
    inside = encode_pairs(PAIRS, encode, longest=5)
    for _ in range(2):  # written, then opened
        outside = cached_pairs(tmp_path / "pairs", text_of(PAIRS), encode, longest=5)
        assert content(outside) == content(inside)
        assert outside.counts == inside.counts
        assert (outside.lengths == inside.lengths).all()
    assert len(outside.shards) == 4


def test_other_processes_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SHARD", 9)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    subwords = Subwords.train(["a"], ["b"], size=8, joint=True)

    seen = tmp_path / "seen"
    seen.mkdir()

    def encode_words(sources: list[str], targets: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        (seen / str(os.getpid())).touch()
        return subwords.encode_source(sources), subwords.encode_target(targets)

    outside = cached_pairs(tmp_path, text_of(PAIRS), encode_words)
    assert {path.name for path in seen.iterdir()}.isdisjoint({str(os.getpid())})
    assert len(outside.shards) == 12
    assert content(outside) == content(encode_pairs(PAIRS, encode_words))


def test_pairs_are_left_out_for_an_empty_side_or_too_many_subwords_and_counted():
    lengths = [(n % 7, n % 5) for n in range(100)]
    kept = [pair for pair in lengths if min(pair) and max(pair) <= 5]
    pairs = encode_pairs(PAIRS, encode, longest=5)
    assert pairs.lengths.tolist() == [list(pair) for pair in kept]
    assert pairs.lengths.dtype == np.int64
    empty = sum(not min(pair) for pair in lengths)
    assert pairs.counts == {"dropped_empty": empty, "dropped_long": 100 - empty - len(kept)}
    assert encode_pairs([("a", "b" * 1), ("a " * 10_000, "b")], encode, longest=64).counts["dropped_long"] == 1


def test_an_opened_file_is_mapped(tmp_path: Path):
    cached_pairs(tmp_path, text_of(PAIRS), encode)
    pairs = cached_pairs(tmp_path, Text(lambda: pytest.fail("read again"), len(PAIRS), ""), encode)
    assert not pairs.source(3).flags.writeable
    if (maps := Path("/proc/self/maps")).is_file():
        assert str(tmp_path / "00000.arrow") in maps.read_text()


@pytest.mark.parametrize("size", [0, 9, 300])
def test_a_cut_file_is_told(tmp_path: Path, size: int):
    cached_pairs(tmp_path, text_of(PAIRS), encode)
    path = tmp_path / "00001.arrow"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"\A[^\n]*00001.arrow is no whole file of pairs [^\n]*: remove it\Z"):
        cached_pairs(tmp_path, text_of(PAIRS), encode)


def test_what_was_interrupted_goes_on_with_the_first_missing_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    encoded = []

    def once(sources: list[str], targets: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(sources))
        return encode(sources, targets)

    with pytest.raises(KeyboardInterrupt):
        cached_pairs(tmp_path, text_of(PAIRS), once)
    first = (tmp_path / "00000.arrow").stat().st_mtime_ns
    encoded.clear()
    encoded.append(0)  # one shard is encoded, then it is interrupted again
    with pytest.raises(KeyboardInterrupt):
        cached_pairs(tmp_path, text_of(PAIRS), once)
    assert content(cached_pairs(tmp_path, text_of(PAIRS), encode)) == content(encode_pairs(PAIRS, encode))
    assert (tmp_path / "00000.arrow").stat().st_mtime_ns == first


def test_what_a_killed_process_left_is_removed_and_what_another_writes_now_is_not(tmp_path: Path):
    left, written = (tmp_path / f".0000{n}.arrow.abc" for n in range(2))
    for path in (left, written):
        path.touch()
    os.utime(left, (1e9, 1e9))
    cached_pairs(tmp_path, text_of(PAIRS), encode)
    assert not left.exists()
    assert written.exists()


def test_a_process_ends_with_the_one_that_was_killed():
    child = "import os, time; from g2lstm.data.pairs import end_with; end_with(os.getppid()); "
    child += "print('up', flush=True); time.sleep(90)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"up\n"
        process.kill()
        killed = time.monotonic()
        assert process.stdout.read() == b""  # once nobody holds the other end
    assert time.monotonic() - killed < 60


def test_a_place_outside_is_an_index_error():
    pairs = encode_pairs([("a", "b")], encode)
    for place in (-1, 1):
        with pytest.raises(IndexError, match=f"pair {place} of 1"):
            pairs.source(place)


def test_no_pair_left_is_told_with_the_reasons():
    pairs = encode_pairs([("a " * 9, "b"), ("a", "")], encode, longest=3)
    assert pairs.lengths.shape == (0, 2)
    with pytest.raises(UserError, match=r"no pair is left of train: 1 have an empty side, 1 more than data.longest=3"):
        refuse_none_left(pairs, "train", empty=1, longest=3)
