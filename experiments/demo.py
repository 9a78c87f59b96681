"""The paper's method in two minutes: a plain LSTM and a G2-LSTM of equal size, trained side by side.

Run by `make demo`. Needs no network and no data: it trains on the English that comes with Python.
"""

import signal
from itertools import count
from pathlib import Path

import interrupts  # noqa: F401 first of all
from report import report
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.demo import comparison, train_side_by_side
from g2lstm.engines import compiled
from g2lstm.training.progress import say

SETTINGS = ("round:0.5", "round:0.3+clip:0.6", "svd:2", "svd:1")  # harsh, for the models are small and so are their weights


def demo(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/demo.py", description="Trains a plain LSTM and a G2-LSTM side by side.")
    parser.add_argument("--epochs", type=cli.positive, help="epochs of each run; task=builtin's own without it")
    parser.add_argument("--seed", type=cli.seed, default=1)
    options = parser.parse_options(arguments)
    console = Console()
    names = ("demo" if number == 1 else f"demo-{number}" for number in count(1))
    folder = next(path for path in map(Path("runs").joinpath, names) if not path.exists())
    folder.mkdir(parents=True)
    say(console, "Training a plain LSTM and a G2-LSTM of equal size on Python's language reference, one core each.")
    compiled.problem()  # once, before both trainings need the kernel
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    training = ["task=builtin", f"seed={options.seed}", "eval.cache.enabled=false"]
    training += [f"epochs={options.epochs}"] if options.epochs else []
    runs = train_side_by_side(("sigmoid", "gumbel"), folder, training, console)
    if runs is None:
        return 1
    console.print(comparison(runs, SETTINGS))
    page = folder / "report.html"
    report([f"runs={','.join(str(run.path) for run in runs)}", f"out={page}"])
    say(console, f"The runs lie in {folder}; open {page}. Next: .venv-make/bin/python train.py says what it can do.")
    return 0


if __name__ == "__main__":
    cli.main(demo)
