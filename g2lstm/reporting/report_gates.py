"""A report's sections on gates: histograms, training against test, heat map and units. N words, H units."""

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from PIL import Image
from torch import Tensor

from g2lstm.inspection.clustering import cluster_order
from g2lstm.inspection.measure import BLOCK_NAMES, joined
from g2lstm.reporting.charts import bar_chart, legend, stairs_chart
from g2lstm.reporting.gate_tables import gate_table, text_read
from g2lstm.reporting.page import Child, Markup, Section, details, figure, from_markdown, grid, scrolling, tag

COLOURS = "cividis"  # made to be read alike with and without colour blindness
MODES = {"training": ("training: with noise and temperature", 5), "test": ("test", 0)}
MODES |= {"tempered": ("test at training's temperature", 6)}
MOST_CELLS = 200_000  # of all unit views; beyond it a row stands for several units that do alike
MOST_HEADS = 40  # words above a unit view
MOST_CLUSTERED = 1200  # units; the tree of more takes too long
Row = dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """What a model's gates did at each word of a text.

    Attributes:
        label: the model's.
        layer: whose gates these are.
        words: as they are shown, unknown ones with a star.
        gates: (N, H) of each gate.
    """

    label: str
    layer: str
    words: list[str]
    gates: dict[str, Tensor]


def histograms(content: Row, look: dict[str, int]) -> Section:
    """Figures 1 and 3 of the paper from what `gates.json` holds, in the look of each label."""
    rows, layer = _in_test(content), content["layer"]
    body: list[Child] = [tag("p", f"The {text_read(content).lower()}. Gate values of {layer}, all panels on the same axes.")]
    fine, coarse = _panels(rows, look, 50), _panels(rows, look, 10)
    body += fine
    body += [details("The same in 10 bins", *coarse)]
    body += from_markdown(gate_table(content, "binary"), "How binary the gates are in test")
    return Section("Gate histograms", tuple(body))


def training_and_test(content: Row) -> Section:
    """Whether gates are in test what they were in training, and what each mode does to the metric."""
    rows = [row for row in content["rows"] if row["layer"] == content["layer"]]
    labels = list(dict.fromkeys(row["label"] for row in rows if row["mode"] == "training"))
    noisy = [row for row in rows if row["label"] in labels]
    body: list[Child] = []
    if noisy:
        shares = [share for row in noisy for share in row["histogram"] if share > 0]
        low, high = max(min(shares), 1e-4), max(shares) * 1.2
        charts: list[Child] = []
        for label in labels:
            for block in ("i", "f"):
                curves = []
                for mode, (text, look) in MODES.items():
                    mine = [r["histogram"] for r in noisy if (r["label"], r["block"], r["mode"]) == (label, block, mode)]
                    if mine:
                        curves.append((text, [sum(values) / len(mine) for values in zip(*mine, strict=True)], look))
                name = f"{label}, {BLOCK_NAMES[block]}"
                drawn = stairs_chart(f"{name} of {content['layer']} in training and in test", curves, low, high)
                charts.append(figure(f"{name} of {content['layer']}, 50 bins", drawn))
        body += [legend(list(MODES.values()), marks=False), grid(charts)]
    else:
        body.append(tag("p", "None of these gates has noise, so they are in training as in test."))
    body += from_markdown(gate_table(content, "modes"), "Gates and metric in each mode, all layers")
    return Section("Training against test", tuple(body))


def heat_map(readings: list[Reading]) -> Section:
    """Figure 4 of the paper: the mean over units of each gate at each word."""
    words, layer = readings[0].words, readings[0].layer
    rows = [
        (f"{r.label}, {BLOCK_NAMES[gate]}", values.mean(1).tolist()) for r in readings for gate, values in r.gates.items()
    ]
    everything = [value for _, values in rows for value in values]
    low, high = np.floor(10 * min(everything)) / 10, np.ceil(10 * max(everything)) / 10
    heads = [tag("th", tag("span", word), scope="col", class_="word") for word in words]
    body = []
    for y, (name, values) in enumerate(rows):
        cells = [_cell(v, low, high, not x and not y) for x, v in enumerate(values)]
        body.append(tag("tr", tag("th", name, scope="row"), *cells))
    caption = f"Gates of {layer} at each word, mean over units"
    inner = tag(
        "table", tag("caption", caption, class_="unseen"), tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *body),
        class_="heat",
    )  # fmt: skip
    out = tag("p", "Point at a cell, or move there with Tab and the arrow keys.", class_="readout", aria_live="polite")
    return Section("Gates word by word", (_scale(low, high), figure(caption + _star(words), scrolling(inner, caption), out)))


def units(readings: list[Reading]) -> Section:
    """Every unit's gate at every word, units that do alike beside each other."""
    panels = [(f"{r.label}, {BLOCK_NAMES[gate]}", values, r.words) for r in readings for gate, values in r.gates.items()]
    cells = sum(values.numel() for _, values, _ in panels)
    width = -(-cells // MOST_CELLS)  # units a row
    layer, hint = readings[0].layer, "Point at a cell, or focus the picture and use the arrow keys (with Shift ten rows)."
    drawn: list[Child] = [_units(name, layer, values, words, width) for name, values, words in panels]
    text = "Rows are units, ordered by an average-linkage tree over their values; columns are the words of the text."
    if width > 1:
        text += f" A row is the mean of {width} units that stand beside each other."
    return Section(
        "Unit by unit",
        (
            tag("p", f"{text} {hint}"),
            _scale(0.0, 1.0),
            tag("div", *drawn, class_="grid wide", data_words=json.dumps(readings[0].words, ensure_ascii=False)),
        ),
    )


def _units(name: str, layer: str, values: Tensor, words: list[str], width: int) -> Markup:
    order = cluster_order(values.T) if values.shape[1] <= MOST_CLUSTERED else values.mean(0).argsort().tolist()
    parts = [order[start : start + width] for start in range(0, len(order), width)]
    rows = np.stack([values[:, part].mean(1).numpy() for part in parts])  # (units, N)
    levels = (rows * 255).round().clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(levels).convert("P")
    picture.putpalette((matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    alt = f"{name} of {layer}: {values.shape[1]} units at {len(words)} words, from 0 (dark) to 1 (bright)"
    image = tag("img", src=f"data:image/png;base64,{_base64(file.getvalue())}", alt=alt)
    view = tag(
        "div", image, tag("span", class_="cross"), class_="units", tabindex="0", role="group", aria_label=alt,
        data_values=_base64(levels.tobytes()), data_units=json.dumps(parts, separators=(",", ":")),
    )  # fmt: skip
    summary = f"{name}: {len(words)} words from left to right, {values.shape[1]} units from top to bottom"
    heads = tag("div", *(tag("span", word) for word in words), class_="above", aria_hidden="true")
    shown = [heads, view] if len(words) <= MOST_HEADS else [view]
    return figure(summary, *shown, tag("p", "", class_="readout", aria_live="polite"))


def _panels(rows: list[Row], look: dict[str, int], bins: int) -> list[Child]:
    """For each gate a heading and a histogram a model."""
    labels = list(dict.fromkeys(row["label"] for row in rows))
    top = max(share for row in rows for share in joined(row["histogram"], bins)) * 1.05
    parts: list[Child] = []
    for block in ("i", "f"):
        charts = []
        for label in labels:
            runs = [joined(r["histogram"], bins) for r in rows if (r["label"], r["block"]) == (label, block)]
            shares = [sum(values) / len(runs) for values in zip(*runs, strict=True)]
            spans = [(min(values), max(values)) for values in zip(*runs, strict=True)] if len(runs) > 1 else None
            ends = f"{sum(shares[: bins // 10]):.1%} below 0.1, {sum(shares[-(bins // 10) :]):.1%} above 0.9"
            drawn = bar_chart(f"{label}, {BLOCK_NAMES[block]}: {ends}", shares, spans, top, look[label])
            seeds = f"; mean of {len(runs)} seeds, lines from the lowest to the highest" if spans else ""
            charts.append(figure(f"{label}: {ends}{seeds}", drawn))
        parts += [tag("h3", f"{BLOCK_NAMES[block].capitalize()}, {bins} bins"), grid(charts)]
    return parts


def _in_test(content: Row) -> list[Row]:
    return [row for row in content["rows"] if row["mode"] == "test" and row["layer"] == content["layer"]]


def _cell(value: float, low: float, high: float, first: bool) -> Markup:
    red, green, blue, _ = matplotlib.colormaps[COLOURS]((value - low) / ((high - low) or 1))
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "#fff"
    colour = f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
    shown = f"{value:.2f}"[1:] if value < 0.995 else "1"
    style = f"background:{colour};color:{ink}"
    return tag("td", shown, style=style, data_value=f"{value:.4f}", tabindex="0" if first else None)


def _scale(low: float, high: float) -> Markup:
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 9))
    stops = ",".join(f"rgb({round(255 * r)},{round(255 * g)},{round(255 * b)})" for r, g, b, _ in colours)
    ramp = tag("span", class_="ramp", style=f"background:linear-gradient(to right,{stops})")
    return tag("p", f"gate {low:g} (shut)" if low == 0 else f"gate {low:g}", ramp,
               f"{high:g} (open)" if high == 1 else f"{high:g}", class_="scale")  # fmt: skip


def _star(words: list[str]) -> str:
    return "; * unknown to the models, read as <unk>" if any(word.endswith("*") for word in words) else ""


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
