"""Prepares millions of synthetic pairs for translation, killed once on the way: python experiments/preparation.py."""

import json
import tempfile
from pathlib import Path

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.benchmark.preparation import measure_preparation
from g2lstm.files import write_atomically
from g2lstm.reporting.speed_tables import preparation_table
from g2lstm.training.environment import check_committed, environment
from g2lstm.training.progress import say


def preparation(arguments: list[str]) -> int:
    options, console = _parser().parse_options(arguments), Console()
    check_committed(options.out)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="preparation-") as folder:
        measured = measure_preparation(
            Path(folder), options.pairs, options.vocabulary_size, seed=options.seed, say=lambda text: say(console, text)
        )
    about = environment(torch.device("cpu"), "native")
    found = measured | {key: about[key] for key in ("hardware", "python", "g2lstm", "commit")}
    table = preparation_table(found)
    print(table)
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    write_atomically(options.out.with_suffix(".md"), table + "\n")
    say(console, f"wrote {options.out} and {options.out.with_suffix('.md').name}")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/preparation.py", description="Prepares synthetic pairs, killed once.")
    parser.add_argument(
        "--pairs", type=cli.positive, default=4_500_000, metavar="N", help="as many as WMT14 has: %(default)s"
    )
    size = {"type": cli.positive, "default": 30_000, "metavar": "V"}
    parser.add_argument("--vocabulary_size", **size, help="sub-words of each language; %(default)s")
    parser.add_argument(
        "--dir", type=cli.folder, metavar="DIR", help="for files of 0.6 kB a pair; the system's own without it"
    )
    parser.add_argument("--seed", type=cli.seed, default=1, help="of the text; %(default)s")
    out = Path("results/preparation/pairs.json")
    parser.add_argument("--out", type=cli.file, default=out, metavar="FILE", help="%(default)s, with a table beside it")
    return parser


if __name__ == "__main__":
    cli.main(preparation)
