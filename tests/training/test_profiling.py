"""Profiling some steps of a run: what it writes, and that it changes nothing else."""

import gzip
import json
from pathlib import Path

import pytest
import torch

import train
from g2lstm import cli
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.profiling import BEFORE, STEPS, WARMUP, StepProfiler


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*arguments: str) -> int:
    return cli.guarded(lambda: train.main(list(arguments)))


def trained_steps(profiler: StepProfiler, count: int) -> None:
    for _ in range(count):
        torch.ones(3, 3).mm(torch.ones(3, 3)).relu()
        profiler.step()


def recorded_steps(folder: Path) -> int:
    with gzip.open(folder / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    names = {event["name"] for event in events if event.get("cat") == "user_annotation"}
    return sum(name.startswith("ProfilerStep#") for name in names)


def test_a_profiled_run_has_a_trace_a_table_and_the_same_numbers(tiny, capsys):
    options = [*tiny, "max_steps=21", "eval.cache.enabled=false"]
    assert command(*options, "run_dir=plain") == 0
    assert command(*options, "run_dir=profiled", "profile=true") == 0
    printed = capsys.readouterr().out
    plain, profiled = (load_checkpoint(Path(run, "last.safetensors")) for run in ("plain", "profiled"))
    assert plain["position"]["step"] == profiled["position"]["step"] == 21
    assert plain["model"].keys() == profiled["model"].keys()
    assert all(torch.equal(tensor, profiled["model"][name]) for name, tensor in plain["model"].items())
    assert torch.equal(plain["rng"], profiled["rng"])
    assert recorded_steps(Path("profiled")) == STEPS
    text = Path("profiled/profile.txt").read_text()
    assert text.startswith(f"{STEPS} training steps on cpu\n")
    assert text in printed
    assert not Path("plain/profile.txt").exists()


def test_the_table_names_the_operations_of_the_steps_alone(tmp_path):
    said: list[str] = []
    profiler = StepProfiler(tmp_path, torch.device("cpu"), said.append)
    torch.ones(3).sin()
    trained_steps(profiler, BEFORE + WARMUP + STEPS)
    torch.ones(3).cos()
    profiler.close()
    text = (tmp_path / "profile.txt").read_text()
    assert text.startswith(f"{STEPS} training steps on cpu\n")
    calls = {line.split()[0]: line.split()[-1] for line in text.splitlines() if "aten::" in line}
    assert calls["aten::mm"] == calls["aten::relu"] == str(STEPS)
    assert "aten::sin" not in text
    assert "aten::cos" not in text
    assert len(said) == 1


def test_an_evaluation_ends_the_profile_with_the_steps_so_far(tmp_path):
    profiler = StepProfiler(tmp_path, torch.device("cpu"), lambda _: None)
    trained_steps(profiler, BEFORE + WARMUP + 3)
    profiler.pause()
    before = (tmp_path / "profile.txt").read_text()
    assert before.startswith("3 training steps on cpu\n")
    trained_steps(profiler, 30)
    assert (tmp_path / "profile.txt").read_text() == before


def test_a_profile_that_ends_before_its_first_step_begins_again(tmp_path):
    profiler = StepProfiler(tmp_path, torch.device("cpu"), lambda _: None)
    trained_steps(profiler, BEFORE + WARMUP)
    profiler.pause()
    assert list(tmp_path.iterdir()) == []
    trained_steps(profiler, 1 + WARMUP + STEPS)
    assert (tmp_path / "profile.txt").read_text().startswith(f"{STEPS} training steps on cpu\n")


def test_a_run_with_short_epochs_is_profiled_too(tmp_path):
    profiler = StepProfiler(tmp_path, torch.device("cpu"), lambda _: None)
    for _ in range(8):
        trained_steps(profiler, 5)
        profiler.pause()
    assert recorded_steps(tmp_path) > 0


def test_a_run_of_few_steps_says_that_nothing_was_profiled(tmp_path):
    said: list[str] = []
    profiler = StepProfiler(tmp_path, torch.device("cpu"), said.append)
    trained_steps(profiler, BEFORE + 1)
    profiler.close()
    profiler.close()
    assert said == ["nothing was profiled: it begins after 10 steps, and this run made 9"]
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_can_be_profiled(tiny):
    assert command(*tiny, "max_steps=2", "run_dir=run", "eval.cache.enabled=false") == 0
    assert command("resume=run", "profile=true", "max_steps=24") == 0
    assert recorded_steps(Path("run")) > 0


def test_profile_is_true_or_false(capsys):
    assert command("task=builtin", "profile=3") == 2
    assert "profile must be true or false, got 3" in capsys.readouterr().err
