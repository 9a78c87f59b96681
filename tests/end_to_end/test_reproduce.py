"""Members trained within a budget: several at once, too little time, and what fails. (In stretches: test_resume.py.)"""

import os
import time

import pytest
import reproduce
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.reproduce import Stretch
from g2lstm.errors import UserError
from g2lstm.runs.members import Experiment, Member, Places, state_of
from g2lstm.runs.shards import Stopping


@pytest.fixture
def stretch(commands, tmp_path):
    """stretch(budget, options, together=1) trains a plain LSTM and a G2-LSTM; returns members, places and threads."""

    def run(budget: float, options: list[str], together: int = 1):
        places, started = Places(tmp_path / "results", tmp_path / "runs"), []

        def start(options, output, threads):
            started.append(threads)
            return commands.start_training(options, output)

        about = Experiment(size="cpu", options=tuple(options), seeds=(1,))
        members = [Member("text", about, gate, 1) for gate in ("sigmoid", "gumbel")]
        Stretch(budget, places, Console(), together, start).run(members)
        return members, places, started

    return run


def test_several_at_once_are_processes_of_their_own_that_share_the_cores(stretch, tiny, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    options = [*tiny, "epochs=1", "finetune=false"]
    members, places, threads = stretch(300.0, options, together=2)
    assert threads == [2, 2]
    assert all(state_of(member, places).name == "done" for member in members)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["begins", "begins", "finished", "finished"]
    again = stretch(300.0, options)
    assert again[2] == []
    assert capsys.readouterr().out.splitlines() == ["every member is done"]


def test_a_budget_in_which_nothing_gets_further_is_one_line_and_ends_in_time(stretch, tiny):
    began = time.monotonic()
    with pytest.raises(UserError, match=r"budget=0\.2s is too small: no member got further"):
        stretch(0.2, [*tiny, "epochs=500"])
    assert time.monotonic() - began < 30  # on however busy a machine


def test_a_stopped_member_notes_how_long_stopping_took(stretch, tiny, tmp_path, monkeypatch):
    def goes_on(self: Stretch) -> float:
        return float("inf") if any(path.stat().st_size for path in tmp_path.glob("runs/*/*/metrics.jsonl")) else 0.0

    monkeypatch.setattr(Stretch, "_needed", goes_on)
    (first, second), places, _ = stretch(300.0, [*tiny, "epochs=500"])
    assert state_of(first, places).name == "running"
    assert state_of(second, places).name == "missing"
    assert Stopping.noted(places.runs / first.name).saving > 0


def test_a_training_that_something_else_ends_is_told(commands, tiny, tmp_path):
    def start(options, output, threads):
        process = commands.start_training(options, output)
        if "gate=gumbel" in options:
            process.kill()
        return process

    about = Experiment(size="cpu", options=(*tiny, "epochs=1", "finetune=false"), seeds=(1,))
    members = [Member("text", about, gate, 1) for gate in ("gumbel", "sigmoid")]
    with pytest.raises(UserError, match=r"text/gumbel-\S+ was ended, perhaps for want of memory: the same command goes on"):
        Stretch(300.0, Places(tmp_path / "results", tmp_path / "runs"), Console(), 1, start).run(members)


def test_what_a_training_says_of_a_mistake_is_said(stretch, tiny):
    with pytest.raises(UserError, match=r"text/sigmoid-.* failed: .*model.hidden_size"):
        stretch(300.0, [*tiny, "model.hidden_size=-1"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["budget=soon"], "must be a time as 90s, 9m or 2h, got 'soon'"),
        (["budget=0"], "must be a time"),
        (["only=nothing"], "no member is called nothing"),
        (["together=0"], "at least 1"),
        (["plan=none.yaml"], "can't read none.yaml"),
    ],
)
def test_a_mistake_is_one_line(arguments, text, capsys):
    assert cli.guarded(lambda: reproduce.reproduce(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


@pytest.mark.parametrize(
    "arguments", [["run=true", "budget=9m", "together=4"], ["--run", "--budget", "9m", "--together", "4"]]
)
def test_both_spellings_mean_the_same(arguments, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        reproduce.Stretch, "run", lambda self, members: asked.append((self.budget, self.together, len(members)))
    )
    assert reproduce.reproduce([*arguments, "only=ptb_cpu/*", f"results={tmp_path}", f"runs={tmp_path}"]) == 0
    assert asked == [(540.0, 4, 6)]
    assert "| ptb_cpu/gumbel-seed2 | cpu | 1, 3 | missing | not measured |" in capsys.readouterr().out
