"""The norm of d h_T / d h_t over t, before and after training: the figure and the table of `docs/background.md`."""

from itertools import product
from statistics import mean

import numpy as np
from matplotlib.figure import Figure

from g2lstm.inspection.jacobians import MEASURED, STATES
from g2lstm.reporting.figures import DASHES, NAMES, grid, looks
from g2lstm.reporting.tables import SPREAD, markdown, spread
from g2lstm.runs.store import Row

LABELS = {"rnn": "plain RNN"} | NAMES
TIMES = {"before": "before training", "after": "after training"}


def by_model(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each model, one a seed."""
    return {name: [row for row in rows if row["model"] == name] for name in dict.fromkeys(row["model"] for row in rows)}


def draw(rows: list[Row]) -> Figure:
    """Before training beside after it, h above c: the geometric mean over seeds, a band from the lowest to the highest."""
    figure, places = grid(2, 2, (9, 6.4), sharex=True, sharey="row")
    colours = looks(by_model(rows))
    for axes, (state, time) in zip(places.flat, product(STATES, TIMES), strict=True):
        for name, mine in by_model(rows).items():
            if state in mine[0][time]:
                logs = np.array([row[time][state] for row in mine])  # (seeds, T - 1)
                t = np.arange(1, logs.shape[1] + 1)
                look = {"color": colours[name][0], "linestyle": DASHES.get(name, "-.")}
                axes.plot(t, 10 ** logs.mean(0), label=LABELS[name], **look)
                axes.fill_between(t, 10 ** logs.min(0), 10 ** logs.max(0), color=look["color"], alpha=0.2, linewidth=0)
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.axhline(1, color="black", linewidth=0.6)
        if time == "before":
            axes.set_ylabel(f"norm of $\\partial h_T / \\partial {state}_t$")
        if state == "h":
            axes.set_title(TIMES[time], fontsize="medium")
        else:
            axes.set_xlabel("t (1: the symbol has just been read)")
    handles, texts = places[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
    seeds = len({row["seed"] for row in rows})
    title = f"How much of a change at t is left at T = {rows[0]['delay'] + 1}, {seeds} seed{'s' if seeds > 1 else ''}"
    figure.suptitle(title, fontsize="medium")
    return figure


def table(rows: list[Row]) -> str:
    """A line a model: test accuracy after training, and the norms over the whole delay before and after."""
    first = rows[0]
    titles = [f"d h_T / d {state}_1, {time}" for state, time in product(STATES, TIMES)]
    lines = [["model", "accuracy, %", *titles, "seeds"]]
    for name, mine in by_model(rows).items():
        cells = [spread([100 * row["after"]["accuracy"] for row in mine], 1)]
        for state, time in product(STATES, TIMES):
            cells.append(_norm([row[time][state][0] for row in mine]) if state in mine[0][time] else "-")
        lines.append([LABELS[name], *cells, str(len(mine))])
    footnote = (
        f"T = {first['delay'] + 1}, {first['steps']:,} batches of training. Accuracy in test, {SPREAD} over seeds; by chance"
        f" 12.5. Norms: spectral, in training mode, the geometric mean over {MEASURED} sequences and the seeds and, in"
        f" brackets, the lowest and the highest seed. {first['hardware']}, torch {first['torch']}."
    )
    return markdown(lines, footnote)


def _norm(logs: list[float]) -> str:
    """ "2.1e-09 (1.0e-09 to 4.3e-09)" of logarithms to base 10."""
    text = f"{10 ** mean(logs):.1e}"
    return f"{text} ({10 ** min(logs):.1e} to {10 ** max(logs):.1e})" if len(logs) > 1 else text
