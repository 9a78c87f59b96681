"""Prepares millions of synthetic pairs for translation, killed once on the way: python experiments/preparation.py."""

import json
import os
import signal
import tempfile
from argparse import ArgumentTypeError
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes
    options, console = _parser().parse_options(arguments), Console()
    table_file = options.out.with_suffix(".md")
    check_committed(options.out)
    about = environment(torch.device("cpu"), "native")
    found = {key: about[key] for key in ("hardware", "python", "g2lstm", "commit")}
    found["load"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="preparation-") as folder:
        found |= measure_preparation(
            Path(folder), options.pairs, options.vocabulary_size, seed=options.seed, say=lambda text: say(console, text)
        )
    table = preparation_table(found)
    print(table)
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    write_atomically(table_file, table + "\n")
    say(console, f"wrote {options.out} and {table_file}")
    return 0


def _out(text: str) -> Path:
    """A JSON file, beside which the table goes."""
    path = cli.file(text)
    if path.suffix != ".json":
        raise ArgumentTypeError(f"must end in .json, got {text!r}")
    if not path.exists() and path.with_suffix(".md").exists():
        raise ArgumentTypeError(f"{path.with_suffix('.md')} is there and would be replaced: name another file")
    return path


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
    parser.add_argument("--out", type=_out, default=out, metavar="FILE", help="%(default)s, with a table beside it")
    return parser


if __name__ == "__main__":
    cli.main(preparation)
