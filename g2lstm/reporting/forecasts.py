"""Forecasts over a split, with the band in which errors are expected, and how they grow by steps ahead."""

import re
from typing import Any

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from g2lstm.reporting.figures import COLOURS, DASHES, grid
from g2lstm.training.findings import Forecast

CLOSE = 200  # forecasts that are shown in detail
STYLES = {"model": "gumbel", "naive": "sigmoid", "seasonal naive": "sharpened"}  # whose colours and dashes they have


def draw_forecast(found: Forecast, model: str) -> dict[str, Figure]:
    """ "forecast-<name>": the split, its beginning in detail, errors in their band, and how they grow by steps ahead."""
    steps = len(found.by_step["model"])
    panels = 3 + (steps > 1)
    figure, places = grid(panels, 1, (9, 0.6 + 2.4 * panels))
    for axes, count in ((places[0, 0], len(found.times)), (places[1, 0], min(CLOSE, len(found.times)))):
        _draw_span(axes, found, count)
    places[0, 0].set_title("all of it", fontsize="small", loc="left")
    places[1, 0].set_title(f"the first {min(CLOSE, len(found.times)):,}", fontsize="small", loc="left")
    figure.legend(*places[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    errors, (low, high) = found.forecast - found.truth, found.band
    held = ((errors >= low) & (errors <= high)).double().mean().item()
    _draw_errors(places[2, 0], found)
    if steps > 1:
        _draw_growth(places[3, 0], found)
    ahead = f"{steps:,} steps ahead" if steps > 1 else "a step ahead"
    figure.suptitle(
        f"{model}: {found.name} on {found.split}, {ahead}\nthe band held {found.within:.0%} of the errors on valid,"
        f" and holds {held:.0%} of those on {found.split}",
        fontsize="medium", parse_math=False,
    )  # fmt: skip
    name = re.sub(r"[^\w.-]+", "_", found.name)  # letters of any language, or two columns would share a file
    return {f"forecast-{name}": figure}


def _draw_span(axes: Any, found: Forecast, count: int) -> None:
    times, forecast = found.times[:count], found.forecast[:count].numpy()
    low, high = found.band
    # An error is the forecast less the truth, so that the truth is the forecast less an error.
    axes.fill_between(times, forecast - high, forecast - low, color=COLOURS["gumbel"], alpha=0.25, linewidth=0,
                      label=f"band of {found.within:.0%} of the errors on valid")  # fmt: skip
    axes.plot(times, found.truth[:count], color="black", linewidth=0.9, label="truth")
    axes.plot(times, forecast, color=COLOURS["gumbel"], linewidth=0.9, linestyle="--", label="forecast")
    axes.set_ylabel(found.name, parse_math=False)
    _mark_times(axes, times)


def _draw_errors(axes: Any, found: Forecast) -> None:
    axes.axhspan(*found.band, color=COLOURS["gumbel"], alpha=0.25, linewidth=0)
    axes.plot(found.times, found.forecast - found.truth, color="black", linewidth=0.9)
    axes.set_title("forecast less truth", fontsize="small", loc="left")
    axes.set_ylabel("error")
    _mark_times(axes, found.times)


def _mark_times(axes: Any, times: np.ndarray) -> None:
    axes.margins(x=0.01)
    if times.dtype.kind == "M":
        places = AutoDateLocator(maxticks=8)
        axes.xaxis.set_major_locator(places)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(places))


def _draw_growth(axes: Any, found: Forecast) -> None:
    for name, errors in found.by_step.items():
        style = STYLES[name]
        axes.plot(np.arange(1, len(errors) + 1), errors, color=COLOURS[style], linestyle=DASHES[style], label=name)
    axes.set(xlabel="steps ahead", ylabel="root mean square error", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
