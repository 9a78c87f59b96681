"""Forecasts what comes after a CSV file: python experiments/forecast.py run=RUN_DIR file=new.csv > next.csv."""

import csv
import io
from pathlib import Path

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.evaluate import find_model, weighted
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.runs.run import blamed
from g2lstm.training.progress import say


def forecast(arguments: list[str]) -> int:
    options, console = _parser().parse_options(arguments), Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.output and options.output.resolve() == options.file.resolve():
        raise UserError(f"output={options.output} is the file too, and would be lost: name another one")
    model = find_model(options.run, cli.overrides(options))
    with blamed(model):
        if not hasattr(model.config.task_class, "forecast"):
            raise UserError(f"its task is {model.config.run.task.name}, which forecasts nothing: name a run of task=series")
        task = model.task()
        series, rows = task.forecast(weighted(model, task, options.average), options.file)
    say(console, f"{options.file}: {series.said()}")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    if options.output:
        write_atomically(options.output, text.getvalue())
    else:
        print(text.getvalue(), end="")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("average", "threads", "device"),
        prog="experiments/forecast.py",
        description="Forecasts what comes after the rows of a CSV file, as CSV: the time, and each target.",
    )
    add = parser.add_argument
    add("--run", required=True, metavar="RUN", help="a run's folder or a model.g2")
    add("--file", required=True, type=Path, metavar="FILE", help="a CSV with the columns of the one that was trained on")
    add("--output", type=cli.file, metavar="FILE", help="standard output without it")
    return parser


if __name__ == "__main__":
    cli.main(forecast)
