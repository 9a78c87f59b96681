"""Figure 4 of the paper: the gates at each word of a sentence. Also unit by unit, and which words shut the forget gate."""

from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from g2lstm.inspection.measure import BLOCK_NAMES
from g2lstm.inspection.reading import Reading, cluster_order
from g2lstm.inspection.words import CLASSES
from g2lstm.reporting.figures import gate_label, grid
from g2lstm.runs.store import Row

WORDS_A_LINE = 28
WORDS_AN_END = 20
MOST_HEADS = 40  # words above each view of units; more stand above the first alone
MOST_CELLS = 120_000  # of all views of units; beyond it a row stands for several units that do alike
COLOURS = "cividis"  # made to be read alike with and without colour blindness
# Okabe and Ito's palette and a marker each, told apart by colour-blind readers and in print.
CLASS_STYLES = {
    "sentence end": ("#000000", "X"),
    "punctuation": ("#CC79A7", "D"),
    "function": ("#D55E00", "o"),
    "content": ("#0072B2", "s"),
    "other": ("#999999", "^"),
}


def draw_heatmap(readings: list[Reading]) -> Figure:
    """Words along the top, one row a model and gate with the mean over units in each cell; long texts go on below.

    Below the gates of its words what each model looked at to say the next, if it did: a row a source sub-word.
    """
    words, labels = readings[0].words, _labels(readings, 44)
    looking = [reading for reading in readings if reading.attention is not None]
    values = np.array([row for _, row in rows_of(readings)])  # (rows, N)
    low, high = np.floor(10 * values.min()) / 10, np.ceil(10 * values.max()) / 10  # the colours' range
    starts, widest, longest = range(0, len(words), WORDS_A_LINE), min(len(words), WORDS_A_LINE), max(map(len, words))
    broad = max(len(line) for label in labels for line in label.splitlines())
    high_row = 0.17 * max(2, *(label.count("\n") + 1 for label in labels)) + 0.02  # inches
    slanted = longest > 4
    above = 0.35 + (0.085 * longest if slanted else 0.1)  # inches for the words
    heights = [high_row * len(labels), *(0.17 * len(reading.source) for reading in looking)]
    tall = sum(heights) + above + 0.4 * len(looking)
    wide = 0.44 * max(widest, 6)  # inches of the panels
    size = (1.6 + 0.085 * broad + wide, 0.7 + tall * len(starts))
    figure, panels = grid(len(heights) * len(starts), 1, size, height_ratios=heights * len(starts))
    lines = panels.reshape(len(starts), len(heights))
    for (axes, *below), start in zip(lines, starts, strict=True):
        shown = values[:, start : start + widest]
        image = axes.imshow(_widened(shown, widest), vmin=low, vmax=high, cmap=COLOURS, aspect="auto")
        _words_above(axes, words[start : start + widest], slanted)
        axes.set_yticks(range(len(labels)), labels)
        axes.spines[:].set_visible(False)
        for (y, x), value in np.ndenumerate(shown):
            colour = "white" if value < (low + high) / 2 else "black"
            axes.text(x, y, short(value), ha="center", va="center", fontsize=7, color=colour)
        for place, reading in zip(below, looking, strict=True):
            assert reading.attention is not None
            weights = reading.attention[start : start + widest].T.numpy()  # (S, words)
            grey = place.imshow(_widened(weights, widest), vmin=0, vmax=1, cmap="Greys", aspect="auto")
            looks = f"{gate_label(reading.gate)} looks at, to say the next {reading.unit}"
            title = wrap(looks, int(wide / 0.08), break_on_hyphens=False)
            place.set_title("\n".join(title), fontsize="small", loc="left")
            place.set_xticks([])
            place.set_yticks(range(len(reading.source)), reading.source, fontsize=7, parse_math=False)
    aspect = max(8, 4 * len(labels))
    first = lines[:1] if looking else lines  # two colour bars can't both go along all lines
    label = "mean gate" if looking else "gate, mean over units"
    figure.colorbar(image, ax=first[:, 0].tolist(), label=label, pad=0.01, aspect=aspect)
    if looking:
        figure.colorbar(grey, ax=first[0, 1:].tolist(), label="attention", pad=0.01, aspect=20)
    _head(figure, f"Gates of {readings[0].layer} at each {readings[0].unit}{note(readings)}")
    return figure


def draw_units(readings: list[Reading]) -> Figure:
    """Every unit's gate at every word, units that do alike beside each other."""
    words = readings[0].words
    gates = [values.T[cluster_order(values.T)] for reading in readings for values in reading.gates.values()]  # (H, N) each
    width = -(-sum(units.numel() for units in gates) // MOST_CELLS)  # units a row
    columns = 1 if len(words) > 30 else min(2, len(gates))
    lines = -(-len(gates) // columns)
    wide = 0.24 * max(len(words), 8)  # inches
    labels = _labels(readings, int(wide / 0.085))
    below = 0.17 * max(label.count("\n") for label in labels)
    size = (1.2 + columns * (1.0 + wide), 0.7 + lines * (3.2 + 0.085 * max(map(len, words)) + below))
    figure, axes = grid(lines, columns, size)
    for number, (place, label, units) in enumerate(zip(axes.flat, labels, gates, strict=False)):
        values = [part.mean(0).numpy() for part in units.split(width)]
        image = place.imshow(values, vmin=0, vmax=1, cmap=COLOURS, aspect="auto", interpolation="none")
        _words_above(place, words if len(words) <= MOST_HEADS or number < columns else [], True)
        place.set_xlabel(label)
        place.set_ylabel(f"{len(units)} units, like beside like" + (f"\na row: {width} units" if width > 1 else ""))
        place.set_yticks([])
    for place in axes.flat[len(gates) :]:
        place.set_visible(False)
    figure.colorbar(image, ax=axes.ravel().tolist(), label="gate value (0 shut, 1 open)", pad=0.01, aspect=40,
                    shrink=min(1.0, 3 / lines), anchor=(0.0, 1.0))  # fmt: skip
    _head(figure, f"Units of {readings[0].layer} at each {readings[0].unit}{note(readings)}")
    return figure


def rows_of(readings: list[Reading]) -> list[tuple[str, list[float]]]:
    """What a row of the heat map is called, and its N means over units, of each model and gate."""
    return [
        (f"{gate_label(reading.gate)}, {BLOCK_NAMES[gate]}", values.mean(1).tolist())
        for reading in readings
        for gate, values in reading.gates.items()
    ]


def short(value: float) -> str:
    """A gate value as a cell shows it: ".57"."""
    return f"{value:.2f}"[1:] if value < 0.995 else "1"


def note(readings: list[Reading]) -> str:
    """What a star at a word means, where one has it."""
    return " (* unknown to the model)" if any(reading.unknown for reading in readings) else ""


def draw_words(row: Row, count: int = WORDS_AN_END) -> Figure:
    """The `count` word types with the lowest and with the highest mean gate, with counts and 95% confidence intervals."""
    rows, types = row["lowest_and_highest"], row["types"]
    kinds = [kind for kind in CLASSES if any(word["kind"] == kind for word in rows)]
    unit, of_unit = ("label", "labels") if kinds == ["other"] else ("word", "word types")
    ends = [("lowest", rows[:count]), ("highest", rows[-count:])] if len(rows) > 2 * count else [("all", rows)]
    size = (5.4 * len(ends), 1.6 + 0.21 * min(count, len(rows)) * (3 - len(ends)))
    figure, panels = grid(1, len(ends), size, sharex=True)
    for axes, (name, chosen) in zip(panels[0], ends, strict=True):
        for kind in kinds:
            colour, marker = CLASS_STYLES[kind]
            mine = [
                (place, word["mean"], word["low"], word["high"]) for place, word in enumerate(chosen) if word["kind"] == kind
            ]
            ys, means, lows, highs = np.array(mine).reshape(-1, 4).T
            widths = [means - lows, highs - means]
            axes.errorbar(means, ys, xerr=widths, fmt=marker, color=colour, markersize=5, linewidth=1.2, label=kind)
        axes.set_yticks(range(len(chosen)), [f"{word['word']}  ({word['count']:,})" for word in chosen], parse_math=False)
        axes.invert_yaxis()
        axes.set_title(f"{name} {len(chosen)} of {types:,} {of_unit}", fontsize="medium")
        axes.set_xlabel("forget gate, mean over units; bars: 95% interval;\n(n) occurrences")
        axes.grid(axis="x", alpha=0.3)
    if unit == "word":
        handles, texts = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=3 if len(ends) == 1 else len(kinds), frameon=False)
    where = f"{row['split']}, seen {row['min_count']} times or more"
    _head(figure, f"Forget gate of {row['layer']}, {gate_label(row['gate'])}, by {unit} ({where})")
    return figure


def _widened(values: np.ndarray, width: int) -> np.ndarray:
    """With empty columns behind, up to so many."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=np.nan)


def _words_above(axes: Any, words: list[str], slanted: bool) -> None:
    axes.xaxis.tick_top()
    turned = {"rotation": 90, "ha": "center", "va": "bottom"} if slanted else {}
    axes.set_xticks(range(len(words)), words, parse_math=False, **turned)
    axes.tick_params(length=0)


def _head(figure: Figure, title: str) -> None:
    figure.suptitle("\n".join(wrap(title, int(figure.get_figwidth() / 0.085))), fontsize="medium")


def _labels(readings: list[Reading], width: int) -> list[str]:
    """ "model, gate" of each; where one is longer than `width`, the gate has a line of its own below the model's lines."""
    names = [name for name, _ in rows_of(readings)]
    if all(len(name) <= width for name in names):
        return names
    return ["\n".join([*wrap(f"{model},", width), gate]) for model, _, gate in (name.rpartition(", ") for name in names)]
