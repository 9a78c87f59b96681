"""Where a training step's time and memory go: a trace, its spans by layer and phase, the ten dearest operations, memory by
category. A run's numbers stay the same."""

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, schedule

from g2lstm.files import write_atomically
from g2lstm.training import trace
from g2lstm.training.memory import MemoryStep

BEFORE = 8  # steps of a process that are not looked at: the first ones are slow
WARMUP = 2  # the profiler's own
STEPS = 10
TRACE = "trace.json.gz"
MOST_OPERATIONS = 10


class StepProfiler:
    """Profiles ten training steps, the 11th to the 20th of this process, then steps aside; memory in the 8th.

    Args:
        folder: where `trace.json.gz`, for ui.perfetto.dev or chrome://tracing, and `profile.txt` are written. What the text
            says is in the trace too, under "g2lstm".
        device: where the model is.
        say: prints a text.
    """

    def __init__(self, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self.folder, self.device, self.say = folder, device, say
        self._model: nn.Module = nn.Module()
        self._memory_step: MemoryStep | None = None
        self._memory: dict[str, float] | None = None  # by category
        self._profile: profile | None = None
        self._names = ExitStack()
        self._steps = 0
        self._written = False

    def watch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Says whose layers are named, and whose memory is measured."""
        self._model, self._memory_step = model, MemoryStep(model, optimizer, self.device)

    def step(self) -> None:
        """To be called after each training step."""
        self._steps += 1
        if self._profile is not None:
            self._profile.step()
            if self._written:
                self.pause()
        elif self._memory_step is not None and self._memory_step.begun:
            self._memory, self._memory_step = self._memory_step.end(), None
        elif self._memory_step is not None and self._steps >= BEFORE - 1:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes that it begins and ends
            self._memory_step.begin()
        if self._profile is None and self._memory_step is None and self._steps >= BEFORE and not self._written:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])
            plan = schedule(wait=0, warmup=WARMUP, active=STEPS, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write, acc_events=True)
            self._names.enter_context(trace.named_layers(self._model))
            self._profile.start()

    def pause(self) -> None:
        """To be called before anything else than a training step: what was profiled so far is written."""
        if self._memory_step is not None:
            self._memory_step.stop()
        if self._profile is not None:
            ending, self._profile = self._profile, None
            ending.stop()
            self._names.close()

    def close(self) -> None:
        """To be called at the end, or when the run is interrupted."""
        self.pause()
        if not self._written:
            way = f"it begins after {BEFORE + WARMUP} steps, {WARMUP + 1} in a row without an evaluation"
            self.say(f"nothing was profiled: {way}, and this run made {self._steps}")
            self._written = True

    def _write(self, found: profile) -> None:
        steps = found.step_num - WARMUP
        if steps < 1:
            return
        self._written = True
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            found.export_chrome_trace(str(path))
            content = json.loads(path.read_text(encoding="utf-8"))
        order = f"self_{'device' if self.device.type == 'cuda' else 'cpu'}_time_total"
        averages = found.key_averages()
        spans = trace.name_spans(content["traceEvents"], {name for name, _ in self._model.named_modules() if name})
        about: dict[str, Any] = {"steps": steps, "device": self.device.type, "memory_mb": self._memory}
        about["step_ms"] = trace.step_ms(content["traceEvents"], steps)
        about["spans"] = trace.span_rows(spans, steps)
        operations = [one for one in averages if "::" in one.key or one.device_type.name == "CUDA"]  # no spans
        dearest = sorted(operations, key=lambda one: -getattr(one, order))[:MOST_OPERATIONS]
        about["operations"] = [
            {"name": one.key, "calls": round(one.count / steps, 1), "ms": round(getattr(one, order) / 1000 / steps, 3)}
            for one in dearest
        ]
        write_atomically(self.folder / TRACE, gzip.compress(json.dumps(content | {"g2lstm": about}).encode(), mtime=0))
        text = f"{steps} training steps on {self.device.type}\n\n{_text(about)}"
        write_atomically(self.folder / "profile.txt", text)
        self.say(f"{text}wrote {self.folder / TRACE} (open it in ui.perfetto.dev) and profile.txt")


def _text(about: dict[str, Any]) -> str:
    """Operations, spans and memory as people read them."""
    lines = list[str]()
    for kind, title in (("operations", "operation"), ("spans", "layer and phase")):
        lines.append(f"{title:<48}{'calls a step':>14}{'ms a step':>12}{'of a step':>12}")
        for row in about[kind]:
            share = row["ms"] / about["step_ms"]
            lines.append(f"{row['name']:<48}{row['calls']:>14.1f}{row['ms']:>12.3f}{share:>12.1%}")
        lines.append("")
    if memory := about["memory_mb"]:
        lines.append(f"{'memory at the fullest moment of a step':<48}{'MB':>14}")
        lines += [f"{name:<48}{size:>14.1f}" for name, size in (memory | {"in all": sum(memory.values())}).items()]
    return "\n".join([*lines, ""])
