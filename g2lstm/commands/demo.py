"""Two models trained side by side, and what is measured of them: the work of `experiments/demo.py`."""

from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import torch
from rich.console import Console
from rich.table import Table

from g2lstm.commands import start_training
from g2lstm.compression import Method, compressed_copy
from g2lstm.inspection.gates import binary_share, recorded_gates
from g2lstm.reporting.figures import gate_label
from g2lstm.runs.run import Run
from g2lstm.training.progress import say


def train_side_by_side(gates: Sequence[str], folder: Path, options: Sequence[str], console: Console) -> list[Run] | None:
    """Trains a model for each gate, one core each. Whatever happens, no process is left behind.

    Args:
        gates: whose runs come to `folder`/<gate>. The first says on the screen how far it is, the others in <gate>.log.
        folder: there is one.
        options: of train.py.
        console: where to say what is stopped, and what a training said that failed: then there are no runs.
    """
    paths = [folder / gate for gate in gates]
    trainings: list[Popen[bytes]] = []
    try:
        for path in paths:
            trainings.append(_start(path, options, shown=path == paths[0]))
        failed = [path for path, training in zip(paths, trainings, strict=True) if training.wait()]
    finally:
        for path, training in zip(paths, trainings, strict=False):
            if training.poll() is None:
                training.terminate()  # it saves itself
                training.wait()
                say(console, f"stopped; go on with: .venv-make/bin/python train.py resume={path}")
    for path in failed:
        if (log := path.with_suffix(".log")).is_file():
            say(console, log.read_text(encoding="utf-8"))
    return None if failed else list(map(Run.open, paths))


def _start(path: Path, options: Sequence[str], *, shown: bool) -> Popen[bytes]:
    options = [*options, f"gate={path.name}", f"run_dir={path}"]
    if shown:
        return start_training(options, threads=1)
    with path.with_suffix(".log").open("wb") as log:
        return start_training(options, log, threads=1)


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


def _measured(run: Run, methods: Sequence[Method]) -> dict[str, str]:
    """What the table says of a run, all on its validation split."""
    task = run.task()
    model, metric = run.model(task), task.metric

    def value(model: torch.nn.Module) -> float:
        return task.evaluate(model, "valid").metrics[metric.name]

    with torch.no_grad(), recorded_gates(model) as records:
        original = value(model)
    found = {
        f"validation {metric.name}": f"{original:.1f}",
        "gate values outside [0.1, 0.9]": f"{binary_share(records):.1%}",
    }
    for method in methods:
        compressed = value(compressed_copy(model, method))
        found[f"{metric.name} after {method.label}"] = f"{compressed:.1f} ({compressed - original:+.1f})"
    return found | {"seconds": f"{run.summary['seconds']:.0f}"}
