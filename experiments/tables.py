"""Tables and curves from recorded runs: python experiments/tables.py writes them into results/ and into the documents.

With runs='runs/x/*' it prints the statistics of these runs instead, with losses=true their loss on the same words, or
the BLEU of their translations of the same sentences. How a document quotes a table is said in g2lstm/reporting/documents.py.
"""

import math
from pathlib import Path

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.reporting import run_tables
from g2lstm.reporting.curves import draw_curves
from g2lstm.reporting.documents import fill
from g2lstm.reporting.figures import save_figure
from g2lstm.runs.run import find_runs

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))


def tables(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.margin is not None and not 0 < options.margin < math.inf:
        raise UserError(f"margin must be a number above 0, got {options.margin:g}")
    if options.runs is None and (options.losses or options.margin is not None):
        raise UserError("losses= and margin= are of runs: set runs=... too, or leave them out")
    if options.runs is not None and options.check:
        raise UserError("check=true is of the documents: leave it out, or runs=...")
    if options.runs is not None:
        runs = find_runs(options.runs)
        if options.losses:
            print(run_tables.loss_table(runs))
        else:
            found = run_tables.by_metric(run_tables.ended(runs))
            print("\n\n".join(run_tables.statistics_table(groups, options.margin) for groups in found))
        return 0
    if not options.results.is_dir():
        raise UserError(f"no folder {options.results}: train with record=true first")
    own = options.results.resolve() == (ROOT / "results").resolve()  # of which the documents speak
    if options.check and not own:
        raise UserError(f"check=true compares the documents with results/, not with {options.results}: leave one out")
    stale = fill(DOCUMENTS, options.results, write=not options.check) if own else []
    if options.check and stale:
        names = ", ".join(path.relative_to(ROOT).as_posix() for path in stale)
        raise UserError(f"{names} quote other numbers than results/ has: run python experiments/tables.py")
    for folder in sorted(path for path in options.results.iterdir() if path.is_dir()) if not options.check else ():
        if groups := run_tables.recorded_runs(folder):
            if (figure := draw_curves(groups, folder.name)) is not None:
                save_figure(figure, folder, "curves")
            print(f"{folder.name}\n{run_tables.recorded(folder)}\n")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/tables.py", description="Makes tables and curves from recorded runs.")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of recorded runs")
    parser.add_argument(
        "--check", type=cli.flag, nargs="?", const=True, default=False, help="write nothing, fail where a document is stale"
    )
    parser.add_argument("--runs", metavar="DIRS", help="print the statistics of these runs and write nothing")
    parser.add_argument("--margin", type=cli.real, metavar="X", help="with runs=: test whether differences are below X")
    parser.add_argument(
        "--losses", type=cli.flag, default=False, help="with runs=A,B,...: true compares losses by token, or BLEU, with A's"
    )
    return parser


if __name__ == "__main__":
    cli.main(tables)
