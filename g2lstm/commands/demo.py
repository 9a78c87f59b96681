"""Two models trained side by side, and what is measured of them: the work of `experiments/demo.py`."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from g2lstm.compression import Method, compressed_copy
from g2lstm.errors import UserError
from g2lstm.inspection.gates import binary_share, lstm_layers, recorded_gates
from g2lstm.reporting.figures import gate_label
from g2lstm.runs.run import Run
from g2lstm.training.folder import RunFolder
from g2lstm.training.progress import duration, say

TRAIN = "from g2lstm.commands.train import command; command()"


def train_side_by_side(gates: Sequence[str], folder: Path, options: Sequence[str], console: Console) -> list[Run] | None:
    """Trains a model for each gate, one core each, and shows how far they are. Whatever happens, no process is left behind.

    Args:
        gates: whose runs come to `folder`/<gate>.
        folder: there is one.
        options: of train.py.
        console: where to say what is done, and what a training said that failed: then there are no runs.
    """
    trainings: dict[RunFolder, Popen[bytes]] = {}
    try:
        for gate in gates:
            trainings[RunFolder(folder / gate)] = _start(gate, folder / gate, options)
        _follow(trainings, console)
    finally:
        _stop(trainings, console)
    for run, process in trainings.items():
        if process.wait():
            say(console, run.path.with_name(f"{run.path.name}.log").read_text(encoding="utf-8"))
            return None
    return [Run.open(run.path) for run in trainings]


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


def _start(gate: str, path: Path, options: Sequence[str]) -> Popen[bytes]:
    command = [sys.executable, "-c", TRAIN, *options, f"gate={gate}", "threads=1", f"run_dir={path}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with path.with_name(f"{gate}.log").open("wb") as log:
        return Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def _follow(trainings: Mapping[RunFolder, Popen[bytes]], console: Console) -> None:
    """Shows the progress of all runs until each has ended."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"))
    with Progress(*columns, console=console) as progress:
        bars = {run: progress.add_task(gate_label(run.path.name), total=1.0, text="starting") for run in trainings}
        running = list(trainings.values())
        while running:
            with suppress(TimeoutExpired):
                running[0].wait(timeout=0.3)
            running = [process for process in running if process.poll() is None]
            for run, bar in bars.items():
                with suppress(UserError):  # a line is half written
                    if lines := [line for line in run.curve() if line["kind"] == "train"]:
                        text = f"training loss {lines[-1]['loss']:.3f}  ETA {duration(lines[-1]['eta'])}"
                        progress.update(bar, completed=lines[-1]["progress"], text=text)


def _stop(trainings: Mapping[RunFolder, Popen[bytes]], console: Console) -> None:
    """Ends what still runs; each run saves itself."""
    running = [(run, process) for run, process in trainings.items() if process.poll() is None]
    for _, process in running:
        process.terminate()
    for run, process in running:
        process.wait()
        if run.config.is_file():
            say(console, f"stopped; go on with: .venv-make/bin/python train.py resume={run.path}")


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
