"""Tables and curves from recorded runs: python experiments/tables.py writes them into results/ and into the documents.

A document quotes a table between the lines `<!-- table: NAME -->` and `<!-- end of table -->`; NAME is a folder of results/,
speed:KIND for a table of what experiments/speed.py measured, gates/NAME:KIND of what experiments/gate_*.py measured,
compression/NAME:sweep or NAME:study for what experiments/compression_sweep.py or study.py wrote.
"""

import json
import re
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

from g2lstm import cli
from g2lstm.benchmark import report
from g2lstm.errors import UserError
from g2lstm.figures import COLOURS, DASHES, MORE_LINES, gate_kind, gate_label, gate_order, save_figure
from g2lstm.files import write_atomically
from g2lstm.inspection import measure

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("reproduction", "performance", "compression", "gates", "tuning-log")
DOCUMENTS = ("README.md", *(f"docs/{page}.md" for page in PAGES))
COLUMNS = {
    "valid": "valid_perplexity",
    "test": "test_perplexity",
    "valid + cache": "valid_perplexity_cache",
    "test + cache": "test_perplexity_cache",
}


def tables(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/tables.py", description="Makes tables and curves from recorded runs.")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of recorded runs")
    parser.add_argument("--check", type=cli.flag, default=False, help="true: write nothing, fail where a document is stale")
    options = parser.parse_options(arguments)
    if not options.results.is_dir():
        raise UserError(f"no folder {options.results}: train with record=true first")
    stale = []
    for name in DOCUMENTS:
        document = ROOT / name
        before = document.read_text(encoding="utf-8")
        after = filled(before, options.results)
        if after != before:
            stale.append(name)
            if not options.check:
                write_atomically(document, after)
    if not options.check:
        for folder in sorted(path for path in options.results.iterdir() if path.is_dir()):
            if any(run_groups(folder)):
                if any(len(validations(run)) > 1 for runs in run_groups(folder).values() for run in runs):
                    draw_curves(folder)
                print(f"{folder.name}\n{table(folder)}\n")
    elif stale:
        raise UserError(f"{', '.join(stale)} quote other numbers than results/ has: run python experiments/tables.py")
    return 0


def filled(document: str, results: Path) -> str:
    """The document with every table between its marks made anew."""

    def one(match: re.Match[str]) -> str:
        folder, _, kind = match[1].partition(":")
        if not kind:
            content = table(results / folder)
        elif kind in ("sweep", "study"):
            path = results / folder / f"{kind}.md"
            content = path.read_text(encoding="utf-8").rstrip() if path.is_file() else f"(no {kind} is recorded yet)"
        else:
            content = (measure if kind in measure.TABLES else report).markdown(results / folder, kind)
        return f"<!-- table: {match[1]} -->\n{content}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", one, document, flags=re.DOTALL)


def run_groups(folder: Path) -> dict[str, list[Path]]:
    """Recorded runs that differ only in their seed: {"gumbel-p0.5": [...]}, the paper's three gates first."""
    groups = defaultdict(list)
    for summary in sorted(folder.glob("*/summary.json")):
        groups[re.sub(r"-seed\d+$", "", summary.parent.name)].append(summary.parent)
    return dict(sorted(groups.items(), key=lambda item: gate_order(item[0])))


def table(folder: Path) -> str:
    """A Markdown table of a folder's runs: one row a gate, mean and standard deviation over seeds."""
    rows = [["gate", *COLUMNS, "seeds", "parameters", "threads", "minutes", "words/s"]]
    hardware: set[str] = set()
    for name, runs in run_groups(folder).items():
        summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in runs]
        hardware |= {f"{s['hardware']}, torch {s['torch']}" for s in summaries}
        row = [gate_label(name)]
        row += [spread([s[key] for s in summaries if s.get(key) is not None], 2) for key in COLUMNS.values()]
        row += [str(len(summaries)), f"{summaries[0]['parameters'] / 1e6:.2f}M"]
        row.append(", ".join(sorted({str(s["threads"]) for s in summaries})))
        row += [spread([s["seconds"] / 60 for s in summaries], 0), spread([s["words_per_second"] for s in summaries], 0)]
        rows.append(row)
    if len(rows) == 1:
        return "(no run is recorded yet)"
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"Perplexity; measured on {'; '.join(sorted(hardware))}."])


def spread(values: list[float], digits: int) -> str:
    """The mean, with the standard deviation where there are several values."""
    if not values:
        return "-"
    text = f"{mean(values):,.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 and digits else text


def validations(run: Path) -> list[tuple[int, float]]:
    """(epoch, validation perplexity) of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(record["epoch"], record["perplexity"]) for record in records if record["kind"] == "valid"]


def draw_curves(folder: Path) -> None:
    """Validation perplexity over epochs, one line a run, as curves.png and curves.svg."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    lowest, more = [], cycle(MORE_LINES)
    for name, runs in run_groups(folder).items():
        known = name in COLOURS
        colour, marker = (COLOURS[name], ".") if known else next(more)
        look = {"color": colour, "linestyle": DASHES[gate_kind(name)] if known else "-", "marker": marker, "markersize": 4}
        for index, run in enumerate(runs):
            points = validations(run)
            label = gate_label(name) if index == 0 else None
            axes.plot(*zip(*points, strict=True), label=label, **look)
            lowest.append(min(value for _, value in points))
    axes.set(xlabel="epoch", ylabel="validation perplexity", title=f"{folder.name}: Penn Treebank")
    axes.set_ylim(0.97 * min(lowest), 2.2 * min(lowest))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    save_figure(figure, folder, "curves")


if __name__ == "__main__":
    cli.main(tables)
