"""The paper's method in two minutes: a plain LSTM and a G2-LSTM of equal size, trained side by side.

Run by `make demo`. Needs no network and no data: it trains on the English that comes with Python.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf
from report import report
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from g2lstm import build, cli
from g2lstm.compression import Method, compressed_copy
from g2lstm.engines import compiled
from g2lstm.inspection.gates import binary_share, recorded_gates
from g2lstm.results import load_best
from g2lstm.training.progress import duration, perplexity_text, say
from g2lstm.training.rundir import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
GATES = {"sigmoid": "plain LSTM", "gumbel": "G2-LSTM"}
SETTINGS = ("round:0.5", "round:0.3+clip:0.6", "svd:2", "svd:1")  # harsh, for the models are small and so are their weights


@dataclass
class Training:
    """A training run in a process of its own."""

    gate: str
    run: RunDirectory
    process: subprocess.Popen[bytes]
    read: int = 0

    def new_lines(self) -> list[dict]:
        """What the run wrote to its curve since the last call."""
        if not self.run.metrics.exists():
            return []
        with self.run.metrics.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self.read += len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def demo(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/demo.py", description="Trains a plain LSTM and a G2-LSTM side by side.")
    parser.add_argument("--epochs", type=int, help="epochs of each run; task=builtin's own without it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_options(arguments)
    console = Console()
    folder = RunDirectory.create(Path("runs/demo")).path
    say(console, "Training a plain LSTM and a G2-LSTM of equal size on Python's language reference, one core each.")
    compiled.problem()  # once, before both trainings need the kernel
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trainings: list[Training] = []
    try:
        for gate in GATES:
            trainings.append(_start(gate, folder / gate, options.seed, options.epochs))
        _follow(trainings, console)
    except KeyboardInterrupt:
        return 130
    finally:
        _stop(trainings, console)
    failed = [training for training in trainings if training.process.wait()]
    if failed:
        say(console, (folder / f"{failed[0].gate}.log").read_text(encoding="utf-8"))
        return 1
    console.print(_table(trainings))
    page = folder / "report.html"
    report([f"runs={','.join(str(training.run.path) for training in trainings)}", f"out={page}"])
    say(console, f"The runs lie in {folder}; open {page} in a browser. Next: .venv/bin/python train.py says what it can do.")
    return 0


def _stop(trainings: list[Training], console: Console) -> None:
    """Ends what still runs, so that nothing is left behind whatever happened; each run saves itself."""
    running = [training for training in trainings if training.process.poll() is None]
    for training in running:
        training.process.terminate()
    for training in running:
        training.process.wait()
        if training.run.config.is_file():
            say(console, f"stopped; go on with: .venv/bin/python train.py resume={training.run.path}")


def _start(gate: str, path: Path, seed: int, epochs: int | None) -> Training:
    command = [sys.executable, str(ROOT / "train.py"), "task=builtin", f"gate={gate}", f"seed={seed}", "threads=1"]
    command += [f"run_dir={path}", "eval.cache.enabled=false"] + ([f"epochs={epochs}"] if epochs else [])
    with path.with_name(f"{gate}.log").open("wb") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    return Training(gate, RunDirectory(path), process)


def _follow(trainings: list[Training], console: Console) -> None:
    """Shows the progress of all runs until each has ended."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"))
    with Progress(*columns, console=console) as progress:
        bars = {t.gate: progress.add_task(GATES[t.gate], total=1.0, text="starting") for t in trainings}
        running = True
        while running:
            running = any(training.process.poll() is None for training in trainings)
            for training in trainings:
                for line in training.new_lines():
                    if line["kind"] == "train":
                        text = f"training perplexity {perplexity_text(line['loss']):>6}  ETA {duration(line['eta'])}"
                        progress.update(bars[training.gate], completed=line["progress"], text=text)
            if running:
                _wait(trainings)


def _wait(trainings: list[Training]) -> None:
    alive = next(training for training in trainings if training.process.poll() is None)
    try:
        alive.process.wait(timeout=0.3)
    except subprocess.TimeoutExpired:
        return


def _table(trainings: list[Training]) -> Table:
    """One column a model, one row a measurement."""
    measured = [_measure(training.run) for training in trainings]
    table = Table(title="Two LSTMs of equal size after equal training")
    table.add_column("")
    for training in trainings:
        table.add_column(GATES[training.gate], justify="right")
    for name in measured[0]:
        table.add_row(name, *(of_model[name] for of_model in measured))
    return table


def _measure(run: RunDirectory) -> dict[str, str]:
    """What the table says of a run, all on its validation text."""
    config = OmegaConf.load(run.config)
    corpus = build.build_corpus(config.data, build.vocabulary_of(run.path))
    task = build.build_task(config, corpus, torch.device("cpu"))
    model = load_best(run, task.build_model())
    with torch.no_grad(), recorded_gates(list(model.layers)) as records:
        original = task.evaluate(model, "valid")["perplexity"]
    found = {
        "validation perplexity": f"{original:.1f}",
        "gate values outside [0.1, 0.9]": f"{binary_share(records):.1%}",
    }
    for method in (Method.parse(text) for text in SETTINGS):
        perplexity = task.evaluate(compressed_copy(model, method), "valid")["perplexity"]
        found[f"perplexity after {method.label}"] = f"{perplexity:.1f} ({perplexity - original:+.1f})"
    return found | {"seconds": f"{run.read_json('summary.json')['seconds']:.0f}"}


if __name__ == "__main__":
    cli.main(demo)
