"""What a run shows while it trains: one line that is renewed on a terminal, a line now and then in a log."""

import math
import os
import select
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from g2lstm.training.task import Metric

PATIENCE = 5.0  # seconds for who reads
PIECE = 1024  # signs, which a pipe takes whole where it takes anything


class Output:
    """Standard output of a run, which goes on whoever reads it.

    What nobody takes for `PATIENCE` seconds is dropped, as by a pager that waits for a key, and everything once the reader
    is gone, as `head` is, or the disk behind it is full: the run's files have it all.
    """

    def __init__(self) -> None:
        self._patience = PATIENCE

    def write(self, text: str) -> int:
        stream = sys.stdout
        try:
            for start in range(0, len(text), PIECE):
                if not self._has_room(stream):
                    break
                stream.write(text[start : start + PIECE])
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # nor does what is left fail at the end
            os.close(nowhere)
        return len(text)

    def _has_room(self, stream: Any) -> bool:
        try:
            ready = select.select([], [stream.fileno()], [], self._patience)[1]
        except (OSError, ValueError):  # no file, or a system that asks this of sockets alone
            return True
        self._patience = PATIENCE if ready else 0.0
        return bool(ready)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


class Reporter:
    """Prints progress to a console.

    Args:
        console: where to; without a terminal a line is printed every `log_seconds`.
        log_seconds: seconds between two lines of a log.
        advice: what to say when the run would take longer than a day on this device.
    """

    def __init__(self, console: Console, *, log_seconds: float = 30.0, advice: str = "") -> None:
        self.console, self.log_seconds, self.advice = console, log_seconds, advice
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self.start, self.stop = self._live.start, self._live.stop
        self._told_eta = False
        self._printed = -math.inf

    def say(self, text: str) -> None:
        """A line that stays."""
        say(self.console, text)

    def expected(self, eta: float) -> None:
        """Says once how long the run will take, and what to do where that is more than a day."""
        if not self._told_eta:
            self._told_eta = True
            advice = f"; {self.advice}" if self.advice and eta > 86400 else ""
            self.say(f"about {duration(eta)} to go on this device{advice}")

    def trained(
        self, stage: str, epoch: int, epochs: int, share: float, values: dict[str, float], eta: float, metric: Metric
    ) -> None:
        """Where training is: `share` of `epoch` of the stage's `epochs` is done, `eta` seconds remain."""
        loss, found = values["loss"], ""
        if metric.of_loss is not None:
            value = metric.of_loss(loss)
            found = f"{metric.name} {value:.1f}  " if value < 1e21 else f"{metric.name} over 1e21  "
        speed = f"{values[f'{metric.unit}_per_second']:,.0f} {metric.unit}/s"
        line = f"{_stage(stage)}epoch {epoch}/{epochs} {share:4.0%}  loss {loss:.3f}  {found}{speed}  ETA {duration(eta)}"
        if self.console.is_terminal:
            self._live.update(Text(line), refresh=True)
        elif time.monotonic() - self._printed >= self.log_seconds:
            self._printed = time.monotonic()
            self.say(line)

    def evaluated(self, stage: str, epoch: int, metrics: dict[str, float], seconds: float, metric: Metric) -> None:
        """The metrics on valid after an epoch."""
        numbers = "  ".join(f"{name} {value:.{metric.digits}f}" for name, value in metrics.items() if name != "loss")
        self.say(f"{_stage(stage)}epoch {epoch}: valid {numbers} after {duration(seconds)}")


def say(console: Console, text: str) -> None:
    """One line, however narrow the console, with brackets in paths left alone."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """For example "45 s", "12 min", "3 h 05 min", "9.5 days"."""
    if not math.isfinite(seconds):
        return "unknown"
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes / 1440:.1f} days"


def _stage(stage: str) -> str:
    return "finetune " if stage == "finetune" else ""
