"""Two models trained side by side, and what is measured of them: the work of `experiments/demo.py`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from g2lstm.compression import Method, compressed_copy
from g2lstm.inspection.gates import binary_share, lstm_layers, recorded_gates
from g2lstm.reporting.figures import gate_label
from g2lstm.runs.run import Run
from g2lstm.training.folder import RunFolder
from g2lstm.training.progress import duration, say

TRAIN = "from g2lstm.commands.train import command; command()"


@dataclass
class Training:
    """A training run in a process of its own."""

    gate: str
    folder: RunFolder
    process: subprocess.Popen[bytes]
    read: int = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """What the run wrote to its curve since the last call."""
        if self.folder.metrics.exists():
            with self.folder.metrics.open("rb") as file:
                file.seek(self.read)
                text = file.read()
            complete = text[: text.rfind(b"\n") + 1]
            self.read += len(complete)
            yield from map(json.loads, complete.splitlines())


def train_side_by_side(gates: Sequence[str], folder: Path, options: Sequence[str], console: Console) -> list[Run] | None:
    """Trains a model for each gate, one core each, and shows how far they are. Whatever happens, no process is left behind.

    Args:
        gates: whose runs come to `folder`/<gate>.
        folder: there is one.
        options: of train.py.
        console: where to say what is done.

    Returns:
        the runs, None where one failed, which has been told.
    """
    trainings: list[Training] = []
    try:
        for gate in gates:
            trainings.append(_start(gate, folder / gate, options))
        _follow(trainings, console)
    finally:
        _stop(trainings, console)
    for training in trainings:
        if training.process.wait():
            say(console, (folder / f"{training.gate}.log").read_text(encoding="utf-8"))
            return None
    return [Run.open(training.folder.path) for training in trainings]


def comparison(runs: Sequence[Run], settings: Sequence[str]) -> Table:
    """One column a model, one row a measurement."""
    measured = [_measured(run, [Method.parse(text) for text in settings]) for run in runs]
    table = Table(title="Two LSTMs of equal size after equal training")
    table.add_column("")
    for run in runs:
        table.add_column(gate_label(run.gate), justify="right")
    for name in measured[0]:
        table.add_row(name, *(of_model[name] for of_model in measured))
    return table


def _start(gate: str, path: Path, options: Sequence[str]) -> Training:
    command = [sys.executable, "-c", TRAIN, *options, f"gate={gate}", "threads=1", f"run_dir={path}"]
    with path.with_name(f"{gate}.log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    return Training(gate, RunFolder(path), process)


def _follow(trainings: list[Training], console: Console) -> None:
    """Shows the progress of all runs until each has ended."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"))
    with Progress(*columns, console=console) as progress:
        bars = {
            training.gate: progress.add_task(gate_label(training.gate), total=1.0, text="starting") for training in trainings
        }
        running: Training | None = trainings[0]
        while running is not None:
            running = next((training for training in trainings if training.process.poll() is None), None)
            for training in trainings:
                for line in training.new_lines():
                    if line["kind"] == "train":
                        text = f"training loss {line['loss']:.3f}  ETA {duration(line['eta'])}"
                        progress.update(bars[training.gate], completed=line["progress"], text=text)
            if running is not None:
                try:
                    running.process.wait(timeout=0.3)
                except subprocess.TimeoutExpired:
                    continue


def _stop(trainings: list[Training], console: Console) -> None:
    """Ends what still runs; each run saves itself."""
    running = [training for training in trainings if training.process.poll() is None]
    for training in running:
        training.process.terminate()
    for training in running:
        training.process.wait()
        if training.folder.config.is_file():
            say(console, f"stopped; go on with: .venv-make/bin/python train.py resume={training.folder.path}")


def _measured(run: Run, methods: Sequence[Method]) -> dict[str, str]:
    """What the table says of a run, all on its validation split."""
    task = run.task()
    model, metric = run.model(task), task.metric

    def value(model: torch.nn.Module) -> float:
        return task.evaluate(model, "valid").metrics[metric.name]

    with torch.no_grad(), recorded_gates(lstm_layers(model).values()) as records:
        original = value(model)
    found = {
        f"validation {metric.name}": f"{original:.1f}",
        "gate values outside [0.1, 0.9]": f"{binary_share(records):.1%}",
    }
    for method in methods:
        compressed = value(compressed_copy(model, method))
        found[f"{metric.name} after {method.label}"] = f"{compressed:.1f} ({compressed - original:+.1f})"
    return found | {"seconds": f"{run.summary['seconds']:.0f}"}
