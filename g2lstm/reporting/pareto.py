"""Deployed language models: perplexity beside the size of the file and the time of a word, as a figure and a table."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from g2lstm.benchmark.cases import ONNX, ONNX_INT8
from g2lstm.reporting.figures import gate_label, gate_order, grid, looks, save_figure
from g2lstm.reporting.tables import SPREAD, markdown, number, spread
from g2lstm.runs.store import Row

AXES = {"file_mb": "file, MB", "ms": "ms a word, one sequence"}
OTHERS = {ONNX: ("onnxruntime float32", "P"), ONNX_INT8: ("onnxruntime int8", "X")}


def table(rows: list[Row]) -> str:
    """Markdown: a line for each engine, perplexity and time of each gate and the size of the file."""
    gates = sorted({row["gate"] for row in rows}, key=gate_order)
    names = [gate_label(gate) for gate in gates]
    lines = [["engine", *(f"{name}: perplexity" for name in names), *(f"{name}: ms a word" for name in names), "file, MB"]]
    for engine in _engines(rows):
        of = [[row for row in rows if (row["engine"], row["gate"]) == (engine, gate)] for gate in gates]
        values = [spread([row["value"] for row in some]) for some in of]
        times = [spread([row["ms"] for row in some], 3) for some in of]
        size = max(row["file_mb"] for some in of for row in some)
        lines.append([OTHERS[engine][0] if engine in OTHERS else engine, *values, *times, number(size)])
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    part = f"the first {first['limit']} sentences of " if first["limit"] else ""
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}, {SPREAD}"
    threads = f"{first['threads']} thread{'s' if first['threads'] > 1 else ''}"
    machine = f"{first['hardware']}, torch {first['torch']}, {threads}; all take turns in one process"
    return markdown(lines, f"Perplexity on {part}test of the whole model in that engine, {of_seeds}. {machine}.") + "\n"


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Writes the files of the figure."""
    return save_figure(figure(rows), folder, "pareto")


def figure(rows: list[Row]) -> Figure:
    """Perplexity over the size of the file, and over the time of a word; of several seeds the means."""
    made, panels = grid(1, len(AXES), (10.4, 6.0), sharey=True)
    gates = looks(sorted({row["gate"] for row in rows}, key=gate_order))
    numbers = {engine: number for number, engine in enumerate((e for e in _engines(rows) if e not in OTHERS), 1)}
    for axes, (name, title) in zip(panels[0], AXES.items(), strict=True):
        for side, (gate, (colour, marker)) in enumerate(gates.items()):
            _gate(axes, [row for row in rows if row["gate"] == gate], name, colour, marker, numbers, left=side % 2 == 0)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.set_xlabel(title)
    panels[0][0].set_ylabel("test perplexity, its low end spread out")
    _spread_low_values(panels[0][0], [row["value"] for row in rows])
    mark: Callable[..., Line2D] = lambda colour, marker: Line2D([], [], color=colour, marker=marker, linestyle="")  # noqa: E731
    handles = [mark(*look) for look in gates.values()] + [mark("grey", marker) for _, marker in OTHERS.values()]
    texts = [*map(gate_label, gates), *(text for text, _ in OTHERS.values())]
    made.legend(handles, texts, loc="outside upper center", ncols=4, frameon=False)
    key = [f"{number} {engine.replace(', rest ', ' / ')}" for engine, number in numbers.items()]
    half = -(-len(key) // 2)
    made.supxlabel("\n".join("    ".join(part) for part in (key[:half], key[half:])), fontsize=8)
    return made


def _spread_low_values(axes: Axes, values: list[float]) -> None:
    """Logarithms of what lies above a little less than the least: most forms cost next to nothing, a few a lot."""
    low, high = min(values), max(values)
    floor = low - max(0.05 * (high - low), 1e-3 * low)
    axes.set_yscale("function", functions=(lambda v: np.log(np.maximum(v - floor, 1e-9)), lambda v: np.exp(v) + floor))
    ticks = [math.floor(low) + step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)]
    axes.set_yticks([tick for tick in ticks if low <= tick <= high])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(floor + 0.7 * (low - floor), floor + 1.2 * (high - floor))


def _gate(axes: Axes, rows: list[Row], at: str, colour: str, marker: str, numbers: dict[str, int], *, left: bool) -> None:
    """A numbered mark for each engine of a gate, the number on one side; a line joins those that none beats in both."""
    points = {}
    for engine in _engines(rows):
        of = [row for row in rows if row["engine"] == engine]
        points[engine] = (mean(row[at] for row in of), mean(row["value"] for row in of))
    best = front([points[engine] for engine in points if engine not in OTHERS])
    axes.plot(*zip(*best, strict=True), color=colour, linewidth=1, alpha=0.6)
    for engine, (x, y) in points.items():
        if engine in OTHERS:
            axes.plot(x, y, OTHERS[engine][1], color=colour, markersize=9, markeredgecolor="black", markeredgewidth=0.7)
        else:
            axes.plot(x, y, marker, color=colour, markersize=4)
            axes.annotate(
                str(numbers[engine]), (x, y), (-4 if left else 4, 0), textcoords="offset points", fontsize=7, color=colour,
                ha="right" if left else "left", va="center",
            )  # fmt: skip


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, perplexity) that no other beats in both, by cost."""
    best, found = float("inf"), []
    for cost, value in sorted(points):
        if value < best:
            best = value
            found.append((cost, value))
    return found


def _engines(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["engine"] for row in rows))
