"""Figures 1 and 3 of the paper: how gate values are spread over [0, 1], and the same in training and in test."""

from statistics import mean
from textwrap import wrap

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from g2lstm.inspection.measure import BLOCK_NAMES, joined
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.gate_tables import text_read
from g2lstm.runs.store import Row

# Blue and vermilion of Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS = {"i": "#0072B2", "f": "#D55E00"}
CURVES = {
    "training": ("#E69F00", "-", "training: with noise and temperature"),
    "test": ("#0072B2", "--", "test"),
    "tempered": ("#000000", ":", "test at training's temperature"),
}
MOST_COLUMNS = 6


def draw_histograms(rows: list[Row], layer: str, bins: int) -> Figure:
    """One column a model, one row each for input and forget gates; of several seeds the mean and a band over the range.

    Args:
        rows: as `inspection.measure` gives them, of one text.
        layer: whose values are shown.
        bins: how many.
    """
    chosen = [row for row in rows if row["kind"] == "gates" and row["layer"] == layer and row["mode"] == "test"]
    titles = _titles(chosen)
    figure, panels = _grid(list(titles.values()))
    for gate, pair in zip(titles, panels, strict=False):
        for axes, block in zip(pair, ("i", "f"), strict=True):
            runs = [joined(r["histogram"], bins) for r in chosen if (r["gate"], r["block"]) == (gate, block)]
            _bars(axes, runs, COLOURS[block])
        pair[0].set_title(titles[gate], fontsize="medium")
    _finish(panels, len(titles))
    figure.suptitle(f"Gate values of {layer} in test, {bins} bins\n{text_read(chosen[0])}", fontsize="medium")
    return figure


def draw_modes(rows: list[Row], layer: str) -> Figure | None:
    """Training against test: a curve a mode, for the gates that are trained with noise; None where there are none."""
    rows = [row for row in rows if row["kind"] == "gates" and row["layer"] == layer]
    titles = _titles([row for row in rows if row["mode"] == "training"])
    if not titles:
        return None
    figure, panels = _grid(list(titles.values()))
    for gate, pair in zip(titles, panels, strict=False):
        for axes, block in zip(pair, ("i", "f"), strict=True):
            chosen = [row for row in rows if (row["gate"], row["block"]) == (gate, block)]
            for mode, (colour, dashes, text) in CURVES.items():
                runs = [row["histogram"] for row in chosen if row["mode"] == mode]
                if runs:
                    shares = [mean(values) for values in zip(*runs, strict=True)]
                    edges = [place / len(shares) for place in range(len(shares) + 1)]
                    axes.stairs(shares, edges, color=colour, linestyle=dashes, linewidth=1.6, label=text)
        pair[0].set_title(titles[gate], fontsize="medium")
    _finish(panels, len(titles))
    for pair in panels[: len(titles)]:
        for axes in pair:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    handles, texts = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=1 if len(titles) < 2 else 3, frameon=False)
    figure.suptitle(f"Gate values of {layer}, 50 bins\n{text_read(rows[0])}", fontsize="medium")
    return figure


def _grid(titles: list[str]) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure and its (input gate, forget gate) panels; more than `MOST_COLUMNS` models go on below."""
    starts = range(0, len(titles), MOST_COLUMNS)
    columns, lines = min(len(titles), MOST_COLUMNS), len(starts)
    above = sum(max(title.count("\n") + 1 for title in titles[start : start + MOST_COLUMNS]) for start in starts)
    size = (1.0 + 2.6 * max(columns, 1.5), 1.0 + 4.2 * lines + 0.17 * above)  # inches
    figure, axes = plt.subplots(
        2 * lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    panels = [(axes[2 * line][column], axes[2 * line + 1][column]) for line in range(lines) for column in range(columns)]
    return figure, panels


def _bars(axes: Axes, runs: list[list[float]], colour: str) -> None:
    bins = len(runs[0])
    edges = [place / bins for place in range(bins + 1)]
    means = [mean(values) for values in zip(*runs, strict=True)]
    axes.stairs(means, edges, fill=True, color=colour)  # one path: a small file
    if len(runs) > 1:
        low, high = [min(v) for v in zip(*runs, strict=True)], [max(v) for v in zip(*runs, strict=True)]
        axes.stairs(high, edges, baseline=low, fill=True, color="black", alpha=0.5)


def _finish(panels: list[tuple[Axes, Axes]], count: int) -> None:
    for number, pair in enumerate(panels):
        for axes, block in zip(pair, ("i", "f"), strict=True):
            if number >= count:
                axes.set_visible(False)
            axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
            if number % MOST_COLUMNS == 0:
                axes.set_ylabel(f"{BLOCK_NAMES[block]}\nshare of values in a bin")
        pair[1].set_xlabel("gate value (0 shut, 1 open)")


def _titles(rows: list[Row]) -> dict[str, str]:
    """Each gate's label in lines that fit a panel, with the number of its seeds."""
    titles = {}
    for gate in dict.fromkeys(row["gate"] for row in rows):
        lines = [line for part in gate_label(gate).replace(" (", "\n(").splitlines() for line in wrap(part, 24)]
        seeds = len({row["run"] for row in rows if row["gate"] == gate})
        titles[gate] = "\n".join([*lines, *([f"{seeds} seeds"] if seeds > 1 else [])])
    return titles
