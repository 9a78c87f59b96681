"""A page in one file that loads nothing: sections of paragraphs, tables, drawings and heat maps, written by page.html."""

import re
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from g2lstm.reporting.figures import svg
from g2lstm.reporting.heatmap import COLOURS, short

# No character of these may stand in HTML.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
# The macros of page.html: heading, paragraph, beside, folded and table are used as they are.
html: Any = (
    Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    ).get_template("page.html").module
)  # fmt: skip


def page(title: str, introduction: str, sections: Mapping[str, Sequence[Markup]]) -> str:
    """The whole file: its heading, the paragraph below, and the parts of sections by their title."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", html.page(title, introduction, sections).lstrip())


def from_markdown(text: str, caption: str) -> list[Markup]:
    """The paragraphs and tables of Markdown that holds nothing else; the caption is read aloud and not shown."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if not lines[0].startswith("|"):
            parts.append(html.paragraph(" ".join(lines)))
            continue
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        texts = sum(not rule.endswith(":") for rule in cells[1])
        parts.append(html.table([cells[0], *cells[2:]], caption, texts))
    return parts


def drawing(figure: Figure, caption: str) -> Markup:
    """A figure of matplotlib's, inline; its identifiers are made the caption's own, for a page has several."""
    drawn, prefix = svg(figure), f"f{zlib.crc32(caption.encode()):x}"
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", re.sub(r">\s+<", "><", body))
    body = body.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return html.drawing(Markup(body), caption)


def heat(words: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], caption: str) -> Markup:
    """A heat map as a table, in which the arrow keys walk and whose cells say their value.

    Args:
        words: N heads.
        rows: a name and N values in [0, 1] each.
    """
    everything = [value for _, values in rows for value in values]
    low, high = min(everything), max(everything)
    cells = [(name, [_cell(value, (value - low) / ((high - low) or 1)) for value in values]) for name, values in rows]
    return html.heat(words, cells, caption, low, high, [_colour(place / 8) for place in range(9)])


def _cell(value: float, place: float) -> dict[str, str]:
    red, green, blue, _ = matplotlib.colormaps[COLOURS](place)
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "#fff"
    return {"shown": short(value), "value": f"{value:.4f}", "style": f"background:{_colour(place)};color:{ink}"}


def _colour(place: float) -> str:
    return matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](place))
