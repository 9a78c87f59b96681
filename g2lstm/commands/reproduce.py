"""Members of the reproduction in short stretches: the work of `experiments/reproduce.py`."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rich.console import Console

from g2lstm.commands import start_training
from g2lstm.errors import UserError
from g2lstm.reporting.paper_tables import measured_cells
from g2lstm.reporting.tables import markdown
from g2lstm.runs.device import build_device
from g2lstm.runs.members import Member, Places, Plan, state_of
from g2lstm.runs.run import Run
from g2lstm.runs.shards import Stopping, restore, step_of, write_shards
from g2lstm.training.interruption import StopSignals
from g2lstm.training.progress import duration, say

FIRST_STOP = 30.0  # seconds kept free to save in, and for shards, where that was not measured yet; at most budget / 8
SAFETY = 1.5  # times what it took last


class Process(Protocol):
    """What is asked of a training: the part of subprocess.Popen that is used here."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


Start = Callable[..., Process]  # as `start_training`


@dataclass
class Training:
    """A member while it is trained here."""

    member: Member
    folder: Path
    process: Process
    before: int  # steps behind its checkpoint when it was started
    log: Path
    saving: float = 0.0  # seconds that it took to stop and save it

    @property
    def finished(self) -> bool:
        with suppress(UserError):
            return bool(Run.open(self.folder).summary.get("finished"))
        return False

    def went_on(self) -> bool:
        return self.finished or step_of(self.folder) > self.before

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return (lines or ["it said nothing"])[-1].removeprefix("error: ")


@dataclass
class Stretch:
    """What is done within one budget."""

    budget: float
    places: Places
    console: Console
    together: int = 1
    start: Start = start_training
    active: list[Training] = field(default_factory=list)
    ended: list[Training] = field(default_factory=list)
    lost: list[Training] = field(default_factory=list)  # of them those that something else ended
    began: float | None = None  # by time.monotonic(); now without it

    def __post_init__(self) -> None:
        self._began = time.monotonic() if self.began is None else self.began

    def run(self, members: Sequence[Member]) -> None:
        """Goes on with those that have begun, then begins others, `together` at once, until the budget ends.

        Raises:
            UserError: none got further, a training failed, or shards are damaged or of another run.
        """
        states = [(state_of(member, self.places), member) for member in members]
        waiting = [member for name in ("running", "missing") for state, member in states if state.name == name]
        for state, member in states:
            if state.name != "done" or not (self.places.results / member.name).exists():
                self._restore(member)
        if not waiting:
            say(self.console, "every member is done")
            return
        with StopSignals() as stop:
            try:
                while not stop.asked and self._left() > self._needed():
                    self._reap()
                    while waiting and len(self.active) < self.together:
                        self._begin(waiting.pop(0))
                    if not self.active:
                        break
                    time.sleep(min(0.1, self.budget / 50))
            finally:
                self._stop()
        self._write_shards()
        self._say_what_failed()

    def _left(self) -> float:
        return self.budget - (time.monotonic() - self._began)

    def _needed(self) -> float:
        """Seconds to keep free for stopping and saving all that is trained now, and for writing shards."""
        known = [Stopping.noted(training.folder) for training in self.active]
        saving = max((found.saving for found in known if found), default=0.0)
        return max(self._unknown if None in known else 0.0, SAFETY * saving) + self._writing()

    def _writing(self) -> float:
        """Seconds of that for the shards."""
        if self.places.shards is None:
            return 0.0
        known = [Stopping.noted(training.folder) for training in (*self.active, *self.ended)]
        found = [self._unknown if one is None or one.writing is None else SAFETY * one.writing for one in known]
        return sum(found)

    @property
    def _unknown(self) -> float:
        return min(FIRST_STOP, self.budget / 8)

    def _begin(self, member: Member) -> None:
        folder = self.places.runs / member.name
        goes_on = (folder / "config.yaml").is_file()
        log = folder.with_name(f"{folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        options = [f"resume={folder}"] if goes_on else [*member.overrides, f"run_dir={folder}"]
        shared = self.together > 1 and build_device("auto").type == "cpu"
        threads = max((os.cpu_count() or 1) // self.together, 1) if shared else None
        before = step_of(folder)
        with log.open("wb") as output:
            process = self.start(options, output, threads=threads)
        self.active.append(Training(member, folder, process, before, log))
        say(self.console, f"{member.name}: {f'goes on from step {before}' if goes_on else 'begins'}")

    def _reap(self) -> None:
        for training in [training for training in self.active if training.process.poll() is not None]:
            self.active.remove(training)
            self.ended.append(training)
            if training.finished:
                say(self.console, f"{training.member.name}: finished")
            elif training.process.poll() not in (0, 1, 2, 130):
                self.lost.append(training)

    def _stop(self) -> None:
        """Asks all to save and end, and ends those that have not when the budget is spent: their last checkpoint stands."""
        asked = time.monotonic()
        for training in self.active:
            with suppress(ProcessLookupError):
                training.process.terminate()
        while any(training.process.poll() is None for training in self.active):
            if self._left() <= self._writing():
                for training in self.active:
                    training.process.kill()
                break
            time.sleep(0.02)
        for training in self.active:
            training.process.wait()
            training.saving = round(time.monotonic() - asked, 2)
            if training.folder.is_dir():
                earlier = Stopping.noted(training.folder)
                Stopping(saving=training.saving, writing=earlier.writing if earlier else None).note(training.folder)
            say(self.console, f"{training.member.name}: stopped at step {step_of(training.folder)}")
        self.ended += self.active
        self.active = []

    def _restore(self, member: Member) -> None:
        """Makes the run's folder of its shards where they are ahead of it."""
        manifest, folder = self.places.manifest(member), self.places.runs / member.name
        if manifest is None or self.places.shards is None:
            return
        if not folder.exists() or not (step_of(folder) >= manifest.step or Run.open(folder).summary.get("finished")):
            restore(manifest, self.places.shards / member.name, folder)
            say(self.console, f"{member.name}: read from its shards at step {manifest.step}")

    def _write_shards(self) -> None:
        for training in self.ended if self.places.shards else ():
            name = training.member.name
            if training.went_on():
                folder = self.places.shards / name  # type: ignore[operator]
                manifest = write_shards(Run.open(training.folder), name, folder, training.saving)
                how = (
                    "bit for bit"
                    if manifest.levels is None
                    else f"rounded ({2 * manifest.levels + 1} levels for a difference)"
                )
                say(self.console, f"{name}: written to {folder} as {len(manifest.shards)} shards, {how}")

    def _say_what_failed(self) -> None:
        for training in self.ended:
            if training.process.poll() in (1, 2):
                raise UserError(f"{training.member.name} failed: {training.last_words()}")
        if self.lost:
            names = ", ".join(training.member.name for training in self.lost)
            raise UserError(f"{names} was ended, perhaps for want of memory: the same command goes on")
        if not any(training.went_on() for training in self.ended):
            spent = max((training.saving for training in self.ended), default=0.0)
            raise UserError(
                f"budget={self.budget:g}s is too small: no member got further, and stopping took {spent:.0f} s: give more"
            )


def overview(plan: Plan, members: Sequence[Member], places: Places) -> str:
    """Two tables: the members with their states and times, and how many cells of the paper's tables are measured."""
    lines = [["member", "size", "tables", "state", "time"]]
    for member in members:
        state = state_of(member, places)
        time_of = "not measured" if state.seconds is None else duration(state.seconds)
        more = {"done": "took {}", "running": "{} to go", "missing": "{}"}[state.name] if state.seconds is not None else "{}"
        shown = f"{state.name} {state.share:.0%}" if state.name == "running" else state.name
        tables = ", ".join(plan.tables_of(member.experiment))
        lines.append([member.name, member.about.size, tables, shown, more.format(time_of)])
    cells = [["table", "experiment", "cells measured", "of"]]
    for name, table in plan.tables.items():
        for experiment in table.ours:
            found, wanted = measured_cells(plan, name, experiment, places.results)
            cells.append([f"{name}. {table.title}", experiment, str(found), str(wanted)])
    return f"{markdown(lines, texts=5)}\n\n{markdown(cells, texts=2)}"
