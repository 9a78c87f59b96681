"""Profiling some steps of a run: what it writes, and that it changes nothing else."""

import gzip
import json
from pathlib import Path

import pytest
import torch

import train
from g2lstm import cli, layout
from g2lstm.engines import compiled
from g2lstm.layers.attention import Attention
from g2lstm.tasks import TASKS
from g2lstm.training import profiling, trace
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.memory import MemoryStep
from g2lstm.training.profiling import BEFORE, STEPS, WARMUP, StepProfiler
from g2lstm.training.task import LossModule


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
    calls = {line.split()[0]: line.split()[1] for line in text.splitlines() if "aten::" in line}
    assert calls["aten::mm"] == calls["aten::relu"] == "1.0"  # a step
    assert "ProfilerStep" not in text  # no operation
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
    assert said == ["nothing was profiled: it begins after 10 steps, 3 in a row without an evaluation, and this run made 9"]
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_can_be_profiled(tiny):
    assert command(*tiny, "max_steps=2", "run_dir=run", "eval.cache.enabled=false") == 0
    assert command("resume=run", "profile=true", "max_steps=24") == 0
    assert recorded_steps(Path("run")) > 0


def test_profile_is_true_or_false(capsys):
    assert command("task=builtin", "profile=3") == 2
    assert "profile must be true or false, got 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*TASKS, "copying"])
def test_a_trace_of_each_task_names_layers_and_phases_both_ways(name, small_task, tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "BEFORE", 1)
    monkeypatch.setattr(profiling, "STEPS", 1)
    task, model = small_task(name, *(["model.num_layers=2"] if name == "mnist" else []))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profiler = StepProfiler(tmp_path, torch.device("cpu"), lambda _: None)
    profiler.watch(model, optimizer)
    items, loss = task.plan(torch.Generator().manual_seed(1)), LossModule(task, model.train())
    for item in items[:5]:
        loss(item, None).objective.backward()
        optimizer.step()
        optimizer.zero_grad()
        profiler.step()
    with gzip.open(tmp_path / "trace.json.gz") as file:
        found = json.load(file)
    assert found["g2lstm"]["steps"] == 1
    spans: dict[str, list[tuple[float, float]]] = {}
    for event in found["traceEvents"]:
        if event.get("cat") == "user_annotation":
            spans.setdefault(event["name"], []).append((event["ts"], event["ts"] + event["dur"]))
    assert {row["name"] for row in found["g2lstm"]["spans"]} <= spans.keys()
    for key, module in model.named_modules():
        if not key or not (list(module.parameters(recurse=False)) or isinstance(module, Attention)):
            continue
        wanted = {}
        several = isinstance(module, torch.nn.LSTM) and layout.endings(module) not in ([["_l0"]], [("_l0",)])
        for part in (
            [f"{end[1:].replace('_', ' ')} " for ends in layout.endings(module) for end in ends] if several else [""]
        ):
            if isinstance(module, layout.LSTMModule) and task.gate.tau != 1:
                wanted[f"{key}: {part}input product"] = key
            for way in ("", " backward") if isinstance(module, torch.nn.LSTM) else ():
                wanted[f"{key}: {part}recurrence{way}"] = f"{key}{way}"
                if compiled.problem() is None:
                    wanted[f"{key}: {part}point-wise{way}"] = f"{key}: {part}recurrence{way}"
        for inner, outer in wanted.items():
            for begin, end in spans[inner]:
                assert any(first <= begin and end <= last + 0.01 for first, last in spans[outer])
        assert max(end for _, end in spans[f"{key} backward"]) > max(end for _, end in spans[key])
    assert len(found["g2lstm"]["operations"]) == 10
    memory = found["g2lstm"]["memory_mb"]
    assert memory["parameters"] == round(sum(parameter.nbytes for parameter in model.parameters()) / 1e6, 3)
    assert memory["activations"] > 0


def test_spans_that_a_device_repeats_count_once():
    events = [
        {"ph": "X", "cat": category, "name": name, "pid": 1, "tid": thread, "ts": 0.0, "dur": 2000.0}
        for category, thread in (("user_annotation", 1), ("gpu_user_annotation", 7))
        for name in ("ProfilerStep#1", "Optimizer.step#SGD.step", "layers.0")
    ]
    assert trace.step_ms(events, 1) == 2.0
    rows = trace.span_rows(trace.name_spans(events, {"layers.0"}), 1)
    assert [(row["name"], row["calls"]) for row in rows] == [("Optimizer.step#SGD.step", 1.0), ("layers.0", 1.0)]


def test_memory_is_that_of_the_fullest_moment():
    class Exponential(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(250_000))

    model = Exponential()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        watched = MemoryStep(model, optimizer, torch.device("cpu"))
        watched.begin()
        model.weight.exp().sum().backward()  # keeps its result, which the gradient is a product with
        optimizer.step()
        optimizer.zero_grad()
        found = watched.end()
    expected = {"parameters": 1.0, "optimiser state": 1.0, "gradients": 1.0, "activations": 1.0, "other": 0.0}
    assert found == pytest.approx(expected, abs=0.01)
