"""A model as tensors: python experiments/explain.py task=ptb gate=gumbel, with any option of train.py, or run=RUN_DIR.

Every layer's shapes on one real batch, h and c, parameters by gate block and multiply-adds, as tables and as a figure.
"""

import json
from pathlib import Path

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.files import write_atomically
from g2lstm.inspection.shapes import explained
from g2lstm.reporting import shapes
from g2lstm.reporting.figures import save_figure
from g2lstm.reporting.tables import screen_table
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config, value_of
from g2lstm.runs.run import Run
from g2lstm.training.progress import say


def explain(arguments: list[str]) -> int:
    options, others = _parser().parse_with_others(arguments)
    if options.run is None:
        config = Config.parse(compose([f"{name}={value}" for name, value in others.items()]))
        task = config.build_task(torch.device("cpu"))
    else:
        values = {name: value_of(name, value) for name, value in others.items()}
        run = Run.open(options.run, values | {"device": "cpu"})
        config, task = run.config, run.task()
    name = config.run.task.name
    found = explained(name, task, task.build_model())
    console, out = Console(), options.out or Path("runs", "shapes", name)
    for kind, texts in shapes.TEXTS.items():
        console.print(screen_table(kind, shapes.lines(found, kind), texts=texts), shapes.footnote(found, kind) + "\n")
    write_atomically(out / shapes.FILE, json.dumps(found.values(), indent=1) + "\n")
    written = [out / shapes.FILE, *save_figure(shapes.draw_unrolled(found), out, "unrolled")]
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/explain.py",
        description="Shows the tensors of a task's model on one batch.",
        epilog="Any option of train.py can be given, or with run= any option of the run's config.",
    )
    parser.add_argument("--run", metavar="DIR", help="a run directory, or a folder under results/; else task=")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="for JSON, PNG and SVG; runs/shapes/TASK without it")
    return parser


if __name__ == "__main__":
    cli.main(explain)
