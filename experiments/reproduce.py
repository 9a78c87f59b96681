"""What is done and missing of the paper's tables, and doing more of it: python experiments/reproduce.py run=true budget=9m.

It takes the next unfinished member of conf/reproduction.yaml, goes on with it within the budget, and leaves it so that the
next call goes on. With shards=DIR it leaves it as files that travel to another machine, and reads them back.
"""

import argparse
import re
from fnmatch import fnmatch
from pathlib import Path

import interrupts  # first of all
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.reproduce import Stretch, overview
from g2lstm.errors import UserError
from g2lstm.runs.members import Places, Plan

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def reproduce(arguments: list[str], began: float | None = None) -> int:
    options = _parser().parse_options(arguments)
    plan = Plan.load(options.plan)
    members = [
        member
        for member in plan.members()
        if options.size in (None, member.about.size) and any(fnmatch(member.name, one) for one in options.only.split(","))
    ]
    if not members:
        raise UserError(f"no member is called {options.only}: python experiments/reproduce.py lists them")
    places, console = Places(options.results, options.runs, options.shards), Console()
    if options.run:
        Stretch(options.budget, places, console, options.together, began=began).run(members)
    print(overview(plan, members, places))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/reproduce.py", description="The paper's tables, member by member.")
    parser.add_argument(
        "--run", type=cli.flag, nargs="?", const=True, default=False, help="true: go on with the next member"
    )
    parser.add_argument("--budget", type=_seconds, default=540.0, metavar="TIME", help="as 90s, 9m or 2h; 9m without it")
    parser.add_argument("--together", type=cli.positive, default=1, metavar="N", help="members at once, a process each")
    parser.add_argument("--shards", type=cli.folder, metavar="DIR", help="where run folders lie as shards")
    parser.add_argument("--only", default="*", metavar="NAMES", help="names or patterns of members, comma-separated")
    parser.add_argument("--size", choices=("cpu", "paper"), help="both without it")
    parser.add_argument("--plan", type=Path, metavar="FILE", help="conf/reproduction.yaml without it")
    parser.add_argument("--results", type=cli.folder, default=Path("results"), metavar="DIR", help="%(default)s")
    parser.add_argument("--runs", type=cli.folder, default=Path("runs"), metavar="DIR", help="%(default)s")
    return parser


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"must be a time as 90s, 9m or 2h, got {text[:50]!r}")
    return float(found[1]) * UNITS[found[2]]


if __name__ == "__main__":
    cli.main(lambda arguments: reproduce(arguments, interrupts.BEGAN))
