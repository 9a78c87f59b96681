"""Figures 1 and 3 of the paper: how gate values are spread over [0, 1], and the same in training and in test."""

from collections.abc import Callable
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from g2lstm.inspection.measure import BLOCK_NAMES, joined
from g2lstm.reporting.figures import gate_label, grid, legend_below
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
    """One column a model, one row each for input and forget gates; of several seeds the mean and a band over the range."""
    chosen = [row for row in rows if row["kind"] == "gates" and row["layer"] == layer and row["mode"] == "test"]

    def bars(axes: Axes, block: str, mine: list[Row]) -> None:
        shares = np.array([joined(row["histogram"], bins) for row in mine])  # (seeds, bins)
        edges = np.arange(bins + 1) / bins
        axes.stairs(shares.mean(0), edges, fill=True, color=COLOURS[block])  # one path: a small file
        if len(shares) > 1:
            axes.stairs(shares.max(0), edges, baseline=shares.min(0), fill=True, color="black", alpha=0.5)

    figure, _ = _drawn(chosen, _titles(chosen, ", dark: their range"), bars)
    figure.suptitle(f"Gate values of {layer} in test, {bins} bins\n{text_read(chosen[0])}", fontsize="medium")
    return figure


def draw_modes(rows: list[Row], layer: str) -> Figure | None:
    """Training against test: a curve a mode, for the gates that are trained with noise; None where there are none."""
    rows = [row for row in rows if row["kind"] == "gates" and row["layer"] == layer]
    titles = _titles([row for row in rows if row["mode"] == "training"])
    if not titles:
        return None

    def curves(axes: Axes, _: str, mine: list[Row]) -> None:
        for mode, (colour, dashes, text) in CURVES.items():
            if runs := [row["histogram"] for row in mine if row["mode"] == mode]:
                shares = np.mean(runs, 0)
                edges = np.arange(len(shares) + 1) / len(shares)
                axes.stairs(shares, edges, color=colour, linestyle=dashes, linewidth=1.6, label=text)

    figure, panels = _drawn(rows, titles, curves)
    for axes in panels:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    legend_below(figure, *panels[0].get_legend_handles_labels(), 3)
    figure.suptitle(f"Gate values of {layer}, 50 bins\n{text_read(rows[0])}", fontsize="medium")
    return figure


def _drawn(
    rows: list[Row], titles: dict[str, str], draw: Callable[[Axes, str, list[Row]], None]
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, input above forget gates; more than `MOST_COLUMNS` models go on below."""
    columns, lines = min(len(titles), MOST_COLUMNS), -(-len(titles) // MOST_COLUMNS)
    texts = list(titles.values())
    parts = [texts[start : start + MOST_COLUMNS] for start in range(0, len(texts), MOST_COLUMNS)]
    highest = [max(title.count("\n") + 1 for title in part) for part in parts]
    size = (1.0 + 2.6 * max(columns, 1.5), 1.0 + 4.2 * lines + 0.17 * sum(highest))  # inches
    figure, places = grid(2 * lines, columns, size, sharex=True, sharey=True)
    panels = []
    for (line, column), axes in np.ndenumerate(places):
        number, block = line // 2 * MOST_COLUMNS + column, ("i", "f")[line % 2]
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if column == 0:
            axes.set_ylabel(f"{BLOCK_NAMES[block]}\nshare of values in a bin")
        if block == "f":
            axes.set_xlabel("gate value (0 shut, 1 open)")
        if number >= len(titles):
            axes.set_visible(False)
            continue
        gate = list(titles)[number]
        draw(axes, block, [row for row in rows if (row["gate"], row["block"]) == (gate, block)])
        if block == "i":
            axes.set_title(titles[gate], fontsize="medium")
        panels.append(axes)
    return figure, panels


def _titles(rows: list[Row], of_seeds: str = "") -> dict[str, str]:
    """Each gate's label in lines that fit a panel, with the number of its seeds and what is said of several."""
    titles = {}
    for gate in dict.fromkeys(row["gate"] for row in rows):
        lines = [line for part in gate_label(gate).replace(" (", "\n(").splitlines() for line in wrap(part, 24)]
        seeds = len({row["run"] for row in rows if row["gate"] == gate})
        titles[gate] = "\n".join([*lines, *([f"{seeds} seeds{of_seeds}"] if seeds > 1 else [])])
    return titles
