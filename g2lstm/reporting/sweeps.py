"""What a compression sweep found: the paper's table, and the metric over bits and over rank."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.reporting.figures import gate_label, gate_order, grid, legend_below, looks, save_figure
from g2lstm.reporting.tables import SPREAD, markdown, metric_label, number, spread
from g2lstm.runs.store import Row

MOST_SETTINGS = 6  # beside the original, in one table
AXES = {
    "bits_per_gate_parameter": "bits for each parameter of the compressed blocks",
    "rank": "rank, mean over the blocks (dotted: the original)",
}
FAMILIES = {"rounding": "rounding", "bits": "few bits", "prune": "pruning", "svd": "low rank"}


def tables(rows: list[Row]) -> str:
    """Markdown: a table in the paper's shape for each metric and variant of evaluation, and what the settings cost.

    One row a gate, one column a setting: the mean over seeds and, in brackets, the mean difference to the original of the
    same run, with standard deviations where there are several runs.
    """
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    parts = []
    for metric, variant in dict.fromkeys((row["metric"], row["variant"]) for row in rows):
        chosen = [row for row in rows if (row["metric"], row["variant"]) == (metric, variant)]
        better = "" if lower_is_better(chosen[0]) else "; higher is better"
        title = measured(chosen[0])
        title = f"{title[0].upper()}{title[1:]} (and difference to the original{better})"
        parts.append(f"{title}\n\n{_table(chosen, settings, _cell)}")
    if cost := list({(row["run"], row["setting"]): row for row in rows}.values()):
        parts.append(f"Bits for each parameter of the compressed blocks\n\n{_table(cost, settings, _bits_cell)}")
        parts.append(_footnote(rows))
    return "\n\n".join(parts) + "\n"


def lower_is_better(row: Row) -> bool:
    """The direction of a row's metric; rows of earlier versions, which all had the perplexity, don't tell."""
    return row.get("lower_is_better", True)


def measured(row: Row) -> str:
    """ "test perplexity with cache"."""
    return f"{row['split']} {metric_label(row['metric'])}" + (f" with {row['variant']}" if row["variant"] else "")


def _table(rows: list[Row], settings: list[str], cell: Callable[[list[Row]], str]) -> str:
    """One row a gate and one column a setting; many settings make several tables below each other."""
    compressed = [setting for setting in settings if setting != ORIGINAL]
    gates = {
        gate: [row for row in rows if row["gate"] == gate] for gate in sorted({r["gate"] for r in rows}, key=gate_order)
    }
    parts = []
    for start in range(0, max(1, len(compressed)), MOST_SETTINGS):
        shown = [ORIGINAL] * (ORIGINAL in settings) + compressed[start : start + MOST_SETTINGS]
        lines = [["gate", *(Method.parse(setting).label for setting in shown), "n"]]
        for gate, mine in gates.items():
            cells = [cell([row for row in mine if row["setting"] == setting]) for setting in shown]
            lines.append([gate_label(gate), *cells, str(len({row["run"] for row in mine}))])
        parts.append(markdown(lines))
    return "\n\n".join(parts)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    digits = rows[0].get("digits", 2)  # rows of earlier versions, which all had the perplexity, don't tell
    text = spread([row["value"] for row in rows], digits)
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    return text if rows[0]["setting"] == ORIGINAL or not differences else f"{text} ({spread(differences, digits, '+')})"


def _bits_cell(rows: list[Row]) -> str:
    return number(mean(row["bits_per_gate_parameter"] for row in rows) if rows else None)


def _footnote(rows: list[Row]) -> str:
    row = next((row for row in rows if row["setting"] != ORIGINAL), rows[0])
    layers = "all layers" if row["layers"] == "all" else f"layers {row['layers']}"
    matrices = row["matrices"].replace("+", " and ")
    part = f"Evaluated on the first {row['limit']:,} of the {row['split']} split alone. " if row.get("limit") else ""
    return part + (
        f"Compressed: the {', '.join(row['gates'])} blocks of the {matrices} matrices of {layers}, each block by itself; "
        f"no biases. n runs that differ in their seed; with several, {SPREAD}."
    )


def figures(rows: list[Row]) -> dict[str, Figure]:
    """What the rows give: the metric against "bits", and against "rank" where SVDs are among the settings."""
    compressed = [row for row in rows if row["setting"] != ORIGINAL]
    axes = dict(zip(("bits", "rank"), AXES, strict=True))
    return {name: _figure(rows, at) for name, at in axes.items() if any(row[at] is not None for row in compressed)}


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Writes the files of the figures."""
    for file in ("bits.png", "bits.svg", "rank.png", "rank.svg"):
        (folder / file).unlink(missing_ok=True)  # what another sweep left there would be of other rows
    return [path for name, figure in figures(rows).items() for path in save_figure(figure, folder, name)]


def _figure(rows: list[Row], axis: str) -> Figure:
    """One column of panels a family of settings, one row each way to evaluate; only low rank against rank."""
    present = {Method.parse(row["setting"]).family for row in rows if row["setting"] != ORIGINAL}
    families = ["svd"] if axis == "rank" else [family for family in FAMILIES if family in present]
    drawn = [row for row in rows if row["setting"] != ORIGINAL and Method.parse(row["setting"]).family in families]
    ways = list(dict.fromkeys(map(measured, drawn)))
    size = (0.8 + 4.4 * len(families), 0.9 + 3.4 * len(ways))
    figure, panels = grid(len(ways), len(families), size, sharex="col", sharey="row")
    for line, way in zip(panels, ways, strict=True):
        chosen = [row for row in rows if measured(row) == way]
        for axes, family in zip(line, families, strict=True):
            _panel(axes, [row for row in chosen if _belongs(row, family)], axis)
        _scale_values(line[0], [row["value"] for row in chosen if any(_belongs(row, family) for family in families)])
        limit = chosen[0].get("limit")
        of = f"{way}, first {limit:,}" if limit else way
        line[0].set_ylabel(of if lower_is_better(chosen[0]) else f"{of} (higher is better)")
    for axes, family in zip(panels[0], families, strict=True):
        several = any("+" in row["setting"] for row in rows if _belongs(row, family))
        axes.set_title(FAMILIES[family] + (" (hollow: in several steps)" if several else ""), fontsize="medium")
    seeds = len({row["run"] for row in drawn}) > len({row["gate"] for row in drawn})
    for axes in panels[-1]:
        axes.set_xlabel(AXES[axis] + ("\nbands, bars: ± standard deviation over seeds" if seeds else ""))
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)  # the line comes before the hollow marks
    legend_below(figure, handles.values(), handles.keys(), 4)
    return figure


def _belongs(row: Row, family: str) -> bool:
    return row["setting"] == ORIGINAL or Method.parse(row["setting"]).family == family


def _panel(axes: Axes, rows: list[Row], axis: str) -> None:
    """A line for each gate over settings of one step, hollow marks for those of several."""
    for gate, (colour, marker) in looks(sorted({row["gate"] for row in rows}, key=gate_order)).items():
        of_gate = [row for row in rows if row["gate"] == gate]
        original = [row for row in of_gate if row["setting"] == ORIGINAL]
        several = [row for row in of_gate if "+" in row["setting"]]
        one = [row for row in of_gate if "+" not in row["setting"] and (row not in original or axis != "rank")]
        if axis == "rank" and original:
            axes.axhline(mean(row["value"] for row in original), color=colour, linestyle=":", linewidth=1)
        if any(row not in original for row in one):
            xs, means, deviations = np.array(_points(one, axis)).T
            axes.plot(xs, means, marker=marker, markersize=5, color=colour, label=gate_label(gate))
            if any(deviations):
                axes.fill_between(xs, means - deviations, means + deviations, color=colour, alpha=0.18, linewidth=0)
        if several:
            xs, means, deviations = np.array(_points(several, axis)).T
            axes.errorbar(xs, means, deviations, fmt=marker, markersize=5, color=colour, elinewidth=1,
                          markerfacecolor="white", label=gate_label(gate))  # fmt: skip
    _scale_places(axes, [row[axis] for row in rows if row[axis] is not None])
    axes.grid(alpha=0.3)


def _points(rows: list[Row], axis: str) -> list[tuple[float, float, float]]:
    """(place on the axis, mean, standard deviation) of each setting, from left to right."""
    points = []
    for setting in {row["setting"] for row in rows}:
        members = [row for row in rows if row["setting"] == setting]
        values = [row["value"] for row in members]
        points.append((mean(row[axis] for row in members), mean(values), stdev(values) if len(values) > 1 else 0.0))
    return sorted(points)


def _scale_places(axes: Axes, places: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks([2.0**n for n in range(-6, 13) if min(places) / 1.5 <= 2.0**n <= max(places) * 1.5])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _scale_values(axes: Axes, values: list[float]) -> None:
    """Of a row of panels, which share it: logarithmic where values are far apart."""
    if min(values) > 0 and max(values) > 3 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if max(values) > 30 * min(values) else (1, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
