"""Curves of runs: the metric in training and validation."""

import math
from collections.abc import Callable
from statistics import mean
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from g2lstm.reporting.figures import COLOURS, DASHES, gate_kind, gate_label, grid, looks
from g2lstm.reporting.run_tables import Groups, metric_of
from g2lstm.reporting.tables import metric_label
from g2lstm.runs.run import Run

MOST_POINTS = 150  # of a curve of training; beyond it neighbours are joined
MOST_INSIDE = 6  # names among the lines; more stand beside them
Points = list[tuple[float, float]]


def draw_curves(groups: Groups, title: str) -> Figure | None:
    """The metric on valid over epochs, one line a run; None where no run was validated twice."""
    metric, how = metric_of(groups), next(iter(groups.values()))[0].config.task_class.epoch_variant

    def curve(run: Run) -> Points:
        return [(one["epoch"], one[metric.name]) for one in _records(run, "valid", metric.name)]

    curves = {name: list(map(curve, runs)) for name, runs in groups.items()}
    label = f"validation {metric_label(metric.name)}" + (f" ({how})" if how else "")
    return _drawn(curves, "epoch", label, title, metric.lower_is_better)


def draw_training(groups: Groups, title: str) -> Figure | None:
    """The same in training over steps, or the loss where no metric is made of it: with dropout and the gates' noise."""
    metric = metric_of(groups)
    curves = {name: [training(run, metric.of_loss or float) for run in runs] for name, runs in groups.items()}
    name = metric_label(metric.name) if metric.of_loss else "loss"
    return _drawn(curves, "step", f"training {name}", title, metric.lower_is_better or not metric.of_loss)


def training(run: Run, of_loss: Callable[[float], float] = float) -> Points:
    """(step, what `of_loss` makes of the loss in training) of a run."""
    records = _records(run, "train", "loss")
    width = -(-len(records) // MOST_POINTS) or 1
    parts = [records[start : start + width] for start in range(0, len(records), width)]
    return [(mean(one["step"] for one in part), of_loss(mean(one["loss"] for one in part))) for part in parts]


def _records(run: Run, kind: str, name: str) -> list[dict[str, Any]]:
    """Those of a kind that have a number."""
    found = [record for record in run.folder.curve() if record["kind"] == kind]
    return [one for one in found if isinstance(one.get(name), int | float) and math.isfinite(one[name])]


def _drawn(curves: dict[str, list[Points]], x: str, y: str, title: str, lower_is_better: bool) -> Figure | None:
    shown = {name: [points for points in lines if points] for name, lines in curves.items()}
    every = [[value for _, value in points] for lines in shown.values() for points in lines]
    if max(map(len, every), default=0) < 2:
        return None
    beside = len(shown) > MOST_INSIDE
    figure, ((axes,),) = grid(1, 1, (11 if beside else 7, max(4.0, 0.4 * len(shown)) if beside else 4))
    for name, (colour, marker) in looks(shown).items():
        for index, points in enumerate(shown[name]):
            axes.plot(
                *zip(*points, strict=True), color=colour, linestyle=DASHES.get(gate_kind(name), "-"), markersize=4,
                marker=("." if name in COLOURS else marker) if len(points) < 40 else None,
                label=fill(gate_label(name), 44) if index == 0 else None,
            )  # fmt: skip
    axes.set(xlabel=x, ylabel=y, title=title)
    if lower_is_better and (low := min(map(min, every))) > 0:  # the start is far above what runs differ in
        axes.set_ylim(0.97 * low, 2 * max(values[-1] for values in every))
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)
    if beside:
        figure.legend(loc="outside right upper", frameon=False)
    else:
        axes.legend()
    return figure
