"""Where a training step's time goes: a trace to look at and the ten dearest operations. A run's numbers stay the same."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from g2lstm.files import write_atomically

BEFORE = 8  # steps of a process that are not looked at: the first ones are slow
WARMUP = 2  # the profiler's own
STEPS = 10


class StepProfiler:
    """Profiles ten training steps, the 11th to the 20th of this process, then steps aside.

    Args:
        folder: where `trace.json.gz`, for ui.perfetto.dev or chrome://tracing, and `profile.txt` are written.
        device: where the model is.
        say: prints a text.
    """

    def __init__(self, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self.folder, self.device, self.say = folder, device, say
        self._profile: profile | None = None
        self._steps = 0
        self._written = False

    def step(self) -> None:
        """To be called after each training step."""
        self._steps += 1
        if self._profile is not None:
            self._profile.step()
            if self._written:
                self.pause()
        elif self._steps >= BEFORE and not self._written:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it writes that it begins and ends
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])
            plan = schedule(wait=0, warmup=WARMUP, active=STEPS, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, on_trace_ready=self._write, acc_events=True)
            self._profile.start()

    def pause(self) -> None:
        """To be called before anything else than a training step: what was profiled so far is written."""
        if self._profile is not None:
            ending, self._profile = self._profile, None
            ending.stop()

    def close(self) -> None:
        """To be called at the end, or when the run is interrupted."""
        self.pause()
        if not self._written:
            self.say(f"nothing was profiled: it begins after {BEFORE + WARMUP} steps, and this run made {self._steps}")
            self._written = True

    def _write(self, found: profile) -> None:
        steps = found.step_num - WARMUP
        if steps < 1:
            return
        self._written = True
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / "trace.json.gz"
            found.export_chrome_trace(str(trace))
            write_atomically(self.folder / trace.name, trace.read_bytes())
        order = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        text = f"{steps} training steps on {self.device.type}\n" + found.key_averages().table(sort_by=order, row_limit=10)
        write_atomically(self.folder / "profile.txt", text)
        self.say(f"{text}wrote {self.folder / 'trace.json.gz'} (open it in ui.perfetto.dev) and profile.txt")
