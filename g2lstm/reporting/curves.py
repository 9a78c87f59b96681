"""Validation curves of recorded runs."""

import json
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from g2lstm.figures import COLOURS, DASHES, MORE_LINES, gate_kind, gate_label
from g2lstm.reporting.run_tables import Groups


def validations(run: Path) -> list[tuple[int, float]]:
    """(epoch, validation perplexity) of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(record["epoch"], record["perplexity"]) for record in records if record["kind"] == "valid"]


def draw_curves(groups: Groups, title: str) -> Figure | None:
    """Validation perplexity over epochs, one line a run; None where no run was validated twice."""
    curves = {name: [validations(run.path) for run in runs] for name, runs in groups.items()}
    if not any(len(points) > 1 for lines in curves.values() for points in lines):
        return None
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    more = cycle(MORE_LINES)
    for name, lines in curves.items():
        known = name in COLOURS
        colour, marker = (COLOURS[name], ".") if known else next(more)
        dashes = DASHES[gate_kind(name)] if known else "-"
        look: dict[str, Any] = {"color": colour, "linestyle": dashes, "marker": marker, "markersize": 4}
        for index, points in enumerate(lines):
            axes.plot(*zip(*points, strict=True), label=gate_label(name) if index == 0 else None, **look)
    lowest = min(value for lines in curves.values() for points in lines for _, value in points)
    axes.set(xlabel="epoch", ylabel="validation perplexity", title=title, ylim=(0.97 * lowest, 2.2 * lowest))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
