"""Documents that quote tables of what was recorded.

A document quotes a table between the lines `<!-- table: NAME -->` and `<!-- end of table -->`; NAME is a folder of results/,
NAME:runs for its runs without their differences,
paper:NUMBER for a table of the paper beside ours (`conf/reproduction.yaml`),
NAME:paired for its three gates beside each other (compression/NAME:paired, gates/NAME:paired: that part of it),
NAME:paired:A/B,C/D for other ones, where A/B is what is called A, as gumbel-dropout1, less what is called B,
NAME:tests:MARGIN:A/B,C/D for how sure these differences of test are,
NAME:losses:SEED for how its other gates differ from the plain LSTM, over resampled words or sentences of one seed's runs,
speed:KIND for a table of what experiments/speed.py measured, gates/NAME:KIND of what experiments/gate_*.py measured,
shapes/NAME:KIND of what experiments/explain.py saw, profiles/NAME:KIND of a trace that experiments/step_trace.py copied,
compression/NAME:sweep, NAME:study, gradient_flow:norms or deployment/NAME:pareto for what experiments/compression_sweep.py,
study.py, gradient_flow.py or pareto.py wrote.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from g2lstm.files import write_atomically
from g2lstm.reporting import gate_tables, paired, paper_tables, profiles, run_tables, shapes, speed_tables

MARKED = re.compile(r"<!-- table: (\S+) -->\n.*?<!-- end of table -->", re.DOTALL)


def filled(document: str, results: Path) -> str:
    """The document with every table between its marks made anew."""
    return MARKED.sub(lambda m: f"<!-- table: {m[1]} -->\n{quoted(m[1], results)}\n<!-- end of table -->", document)


def quoted(name: str, results: Path) -> str:
    """The table of this name."""
    folder, kind, *options = name.split(":") if ":" in name else (name, "")
    if not kind:
        return run_tables.recorded(results / folder)
    if folder == "paper":
        return paper_tables.recorded(kind, results)
    if kind == "runs":
        return run_tables.run_table(run_tables.recorded_runs(results / folder))
    if kind == "paired":
        return paired.recorded(folder, results, _pairs(*options))
    if kind == "tests":
        margin, pairs = options
        return paired.tests(folder, results, float(margin), _pairs(pairs))
    if kind == "losses":
        (seed,) = options
        return run_tables.recorded_losses(results, folder, int(seed))
    for tables in (gate_tables, speed_tables, shapes, profiles):
        if kind in tables.TABLES:
            return tables.recorded(results / folder, kind)
    path = results / folder / f"{kind}.md"
    return path.read_text(encoding="utf-8").rstrip() if path.is_file() else f"(no {kind} is recorded yet)"


def _pairs(text: str = "") -> list[paired.Pair]:
    """ "A/B,C/D" -> [("A", "B"), ("C", "D")]"""
    return [(one, other) for one, _, other in (pair.partition("/") for pair in text.split(",") if pair)]


def fill(documents: Iterable[Path], results: Path, *, write: bool) -> list[Path]:
    """Makes the tables of documents anew; the documents that quoted other numbers."""
    stale = []
    for document in documents:
        before = document.read_text(encoding="utf-8")
        after = filled(before, results)
        if after != before:
            stale.append(document)
            if write:
                write_atomically(document, after)
    return stale
