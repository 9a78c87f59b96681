"""A large text is prepared, killed and opened again."""

import math
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from g2lstm.benchmark import preparation
from g2lstm.benchmark.preparation import measure_preparation, write_text
from g2lstm.errors import UserError
from g2lstm.reporting.speed_tables import preparation_table

FOUND = {
    **{"pairs": 4_500_000, "words": 2e8, "text_mb": 1300.4, "prepared_mb": 900.0, "processes": 2, "vocabulary_size": 30000},
    **{"seconds_before_the_kill": 250.4, "seconds_after_the_kill": 200.2, "shards": 92, "shards_at_the_kill": 46},
    **{"shards_kept": 45, "peak_memory_mib": 1536.0, "seconds_to_open": 0.453, "hardware": "a machine", "load": 0.1},
}


def test_the_words_follow_zipfs_law_and_differ_between_the_sides(tmp_path: Path):
    words = write_text(tmp_path, "train", 2000, np.random.default_rng(1))
    sides = [(tmp_path / f"train.{language}").read_text() for language in ("xx", "yy")]
    assert [side.count("\n") for side in sides] == [2000, 2000]
    assert words == sum(len(side.split()) for side in sides)
    assert words / 4000 == pytest.approx(preparation.LINE, rel=0.02)
    assert all(line.strip() for side in sides for line in side.splitlines())
    assert not set(sides[0].split()) & set(sides[1].split())
    counts = [count for _, count in Counter(sides[0].split()).most_common(20)]
    assert counts[0] / counts[9] == pytest.approx(10**preparation.EXPONENT, rel=0.2)
    again = tmp_path / "again"
    again.mkdir()
    write_text(again, "train", 2000, np.random.default_rng(1))
    assert (again / "train.yy").read_text() == sides[1]


def test_every_number_is_another_word():
    assert len({preparation.word(number, language) for number in range(5000) for language in ("xx", "yy")}) == 10_000


linux = pytest.mark.skipif(not Path("/proc/thread-self/children").exists(), reason="the system doesn't tell of processes")


@linux
@pytest.mark.slow
def test_a_kill_loses_no_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "PAUSE", 0.05)
    monkeypatch.setattr(preparation, "TELL", math.inf)
    said: list[str] = []
    found = measure_preparation(tmp_path, 60_000, 600, shard=1_500, say=said.append)
    assert (found["pairs"], found["shards"], len(said)) == (60_000, 42, 4)  # valid and test have one each
    assert 20 <= found["shards_at_the_kill"] == found["shards_kept"] < 42
    assert 0 < found["pairs_to_train_on"] <= 60_000 < found["words"] < found["subwords"]
    assert 0 < found["seconds_to_open"] < 2
    assert found["peak_memory_mib"] > 100
    about = {"hardware": "a machine", "load": 0.1}
    assert f"{found['shards_kept']} of which stayed" in preparation_table(found | about)


def test_it_says_how_far_it_is_and_how_long_the_rest_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, said = [0.0], []
    monkeypatch.setattr(preparation, "time", SimpleNamespace(monotonic=lambda: now[0]))
    (tmp_path / "of-a-run-before.arrow").touch()
    told = preparation.Told(tmp_path, 10, said.append)
    for seconds, shard in ((20.0, None), (40.0, None), (60.0, "a"), (100.0, "b"), (110.0, "c"), (140.0, "d")):
        now[0] = seconds
        if shard:
            (tmp_path / f"{shard}.arrow").touch()
        told.look()
    assert said == [
        "1 of 10 shards, time left unknown",  # 40 s: sub-words are learned
        "3 of 10 shards, time left 4 min",  # 60 s since they were, for two
        "5 of 10 shards, time left 2 min",  # 25 s each
    ]
    for number in range(5):
        (tmp_path / f"{number}.arrow").touch()
    now[0] = 500.0
    assert told.look() == 10
    assert len(said) == 3


@linux
def test_memory_is_of_all_processes_and_a_kill_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ready, big = tmp_path / "ready", "x = b'1' * 60_000_000"
    child = f"from g2lstm.data.pairs import end_with; import os, time; end_with(os.getppid()); {big}; "
    child += f"open({str(ready)!r}, 'w'); time.sleep(60)"
    parent = f"import subprocess, sys; {big}; subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.setattr(preparation, "LOAD", parent)
    watched = preparation.Watched(tmp_path, tmp_path, 1, 1)
    watched.watch(ready.exists)
    watched.watch(lambda: watched.peak is None or watched.peak > 115)  # once both have theirs
    assert not watched.ended
    processes = list(preparation.family(watched._process.pid))
    assert len(processes) == 2
    watched.kill()
    assert not any(map(preparation.lives, processes))


@pytest.mark.slow
def test_sigterm_leaves_no_folder(tmp_path: Path):
    script = Path(__file__).parents[2] / "experiments" / "preparation.py"
    arguments = ["--pairs", "1200000", "--dir", str(tmp_path / "there"), "--out", str(tmp_path / "found.json")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, str(script), *arguments], env=environment) as process:
        while not list(tmp_path.glob("there/preparation-*/text/*")) and process.poll() is None:
            time.sleep(0.1)
        process.terminate()
        assert process.wait() == 130
    assert not list((tmp_path / "there").iterdir())
    assert not (tmp_path / "found.json").exists()


@pytest.mark.parametrize(
    ("code", "said"), [("os.kill(os.getpid(), 9)", "by signal 9, perhaps for want"), ("exit(2)", "above")]
)
def test_a_preparation_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str):
    monkeypatch.setattr(preparation, "LOAD", f"import os; {code}")
    with pytest.raises(UserError, match=said):
        preparation.Watched(tmp_path, tmp_path, 1, 1).watch(lambda: False)


def test_too_few_pairs_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(UserError, match=r"more than 500,000, .* got 4,000"):
        measure_preparation(tmp_path, 4_000, 600)
    assert not list(tmp_path.iterdir())


def test_one_that_ends_before_it_is_killed_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preparation, "LOAD", "")
    monkeypatch.setattr(preparation, "WORDS", 50)
    with pytest.raises(UserError, match="200 pairs were prepared before the kill: set more"):
        measure_preparation(tmp_path, 200, 600, shard=10)


def test_the_table_says_what_was_measured_and_what_was_not():
    head, _, row, _, footnote = preparation_table(FOUND).splitlines()
    assert len(head.split("|")) == len(row.split("|"))
    assert row == "| 4,500,000 | 200,000,000 | 1,300 | 900 | 2 | 7.5 | 1.50 | 0.45 |"
    assert "46 of 92 files were there, 45 of which stayed: 250 s before the kill, 200 s after it" in footnote
    assert "| 7.5 | - | 0.45 |" in preparation_table(FOUND | {"peak_memory_mib": None})
