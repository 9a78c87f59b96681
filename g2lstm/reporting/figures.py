"""How tables and figures show gates, their names, order and looks, and how a figure is written."""

import io
import re
import warnings
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from g2lstm.files import write_atomically

NAMES = {"sigmoid": "plain LSTM", "sharpened": "sharpened sigmoid", "gumbel": "G2-LSTM"}
# Okabe and Ito's palette, told apart by colour-blind readers; dashes and markers do it in print.
COLOURS = {"sigmoid": "#0072B2", "sharpened": "#E69F00", "gumbel": "#009E73"}
DASHES = {"sigmoid": "--", "sharpened": ":", "gumbel": "-"}
MARKERS = {"sigmoid": "o", "sharpened": "s", "gumbel": "^"}
# Colour and marker of what is no gate, and of variants of one: the rest of the palette.
MORE_LINES = (("#CC79A7", "v"), ("#56B4E9", "D"), ("#D55E00", "P"), ("#000000", "X"), ("#F0E442", "*"))

# Options of which runs are named whose values are words, and what others are called.
WORDED = ("noise_p_schedule", "noise_scope", "tau_schedule", "hard", "gates", "order")
OPTIONS = {"dropout": "dropouts x"}
LEGEND_INCHES, LETTERS_AN_INCH = 0.7, 13  # of a text in a legend: beside its letters, and how wide these are


def looks(gates: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each: the paper's three have their own, others the rest in turn, then mixed."""
    colours, markers = zip(*MORE_LINES, strict=True)
    count = len(MORE_LINES)
    more = cycle((colours[n % count], markers[(n + n // count) % count]) for n in range(count * count))
    return {gate: (COLOURS[gate], MARKERS[gate]) if gate in COLOURS else next(more) for gate in gates}


def gate_kind(gate: str) -> str:
    """ "ptb_cpu/gumbel-p0.5" -> "gumbel"."""
    return gate.rpartition("/")[2].partition("-")[0]


def gate_order(gate: str) -> tuple[int, str]:
    """The paper's three gates first, each followed by its variants."""
    names, kind = list(NAMES), gate_kind(gate)
    return (names.index(kind) if kind in names else len(names), gate)


def gate_label(gate: str) -> str:
    """ "gumbel-tau1-tau_schedulecosine" -> "G2-LSTM (tau 1, tau_schedule cosine)"."""
    kind = gate_kind(gate)
    prefix, _, rest = gate.partition(kind)
    options = [_spaced(part) for part in re.split("-(?=[a-z])", rest.strip("-")) if part]  # "lr1e-3" is one
    extra = ", ".join(part for part in (prefix.strip("/"), *options) if part)
    return NAMES.get(kind, kind) + (f" ({extra})" if extra else "")


def _spaced(option: str) -> str:
    """An option as a run's name has it, "p0.5" -> "p 0.5"."""
    key, value = re.fullmatch(f"((?:{'|'.join(WORDED)})(?=.)|[a-z_]+(?=[-+.]?[0-9])|)(.*)", option, re.DOTALL).groups()  # type: ignore[union-attr]
    if key in WORDED:
        value = value.replace("_", " ")
    return f"{OPTIONS.get(key, key)} {value}".strip()


def lacking(texts: Iterable[str]) -> str:
    """A line on the characters that figures show as boxes because the font has no sign for them; "" where it has all."""
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in FontProperties().get_family()]
    signs = dict.fromkeys(sign for text in texts for sign in text)
    boxes = "".join(sign for sign in signs if not any(font.get_char_index(ord(sign)) for font in fonts))
    return f"the font lacks {boxes}: set font.family in a matplotlibrc to one that has them" if boxes else ""


def grid(lines: int, columns: int, size: tuple[float, float], **shared: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its (lines, columns) axes."""
    return plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", **shared)


def legend_below(figure: Figure, handles: Iterable[Any], texts: Iterable[str], most: int) -> None:
    """A legend under all panels, of `most` columns, or as many as have room."""
    texts, columns = list(texts), most
    while columns > 1 and _legend_inches(texts, columns) > figure.get_figwidth():
        columns -= 1
    figure.legend(list(handles), texts, loc="outside lower center", ncols=columns, frameon=False)


def _legend_inches(texts: list[str], columns: int) -> float:
    lengths = [max(map(len, part)) for part in np.array_split(texts, min(columns, len(texts)))]  # column by column
    return sum(LEGEND_INCHES + length / LETTERS_AN_INCH for length in lengths)


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes the files of a figure, PNG and SVG, the same bytes for the same figure. On missing signs see `lacking`."""
    files = {
        folder / f"{name}.{kind}": content
        for kind, content in zip(("png", "svg"), _drawn(figure, "png", "svg"), strict=True)
    }
    for path, content in files.items():
        write_atomically(path, content)
    return list(files)


def svg(figure: Figure) -> str:
    """A figure as `save_figure` writes it."""
    return _drawn(figure, "svg")[0].decode()


def _drawn(figure: Figure, *kinds: str) -> list[bytes]:
    """What is to be written; the figure is closed."""
    files = [io.BytesIO() for _ in kinds]
    with plt.rc_context({"svg.hashsalt": "g2lstm"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
        for file, kind in zip(files, kinds, strict=True):
            figure.savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)
    return [file.getvalue() for file in files]
