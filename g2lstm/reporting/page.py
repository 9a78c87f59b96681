"""A page in one file that loads nothing: sections of paragraphs, tables, drawings and heat maps in a Jinja2 template."""

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

COLOURS = "cividis"  # made to be read alike with and without colour blindness
# No character of these may stand in HTML.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
Part = dict[str, Any]  # "kind" names the macro of report.html that shows it


@dataclass(frozen=True)
class Section:
    """A titled part of a page; None among the parts is left out."""

    title: str
    parts: Sequence[Part | None]

    @property
    def id(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(title: str, introduction: str, sections: Iterable[Section]) -> str:
    """The whole file: its heading, the paragraph below, and sections of different titles."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    content = environment.get_template("report.html").render(title=title, introduction=introduction, sections=list(sections))
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", content)


def heading(text: str) -> Part:
    return {"kind": "heading", "text": text}


def paragraph(text: str) -> Part:
    return {"kind": "paragraph", "text": text}


def folded(summary: str, *parts: Part | None) -> Part:
    """Folded away until it is asked for."""
    return {"kind": "folded", "summary": summary, "parts": parts}


def beside(*parts: Part) -> Part:
    """Beside each other where the screen is wide."""
    return {"kind": "beside", "parts": parts}


def table(lines: Sequence[Sequence[str]], caption: str, texts: int = 1) -> Part:
    """Cells under a head, scrolling where the screen is narrow; `texts` columns from the left are texts, the others numbers.

    The caption says what the table is about; it is read aloud and not shown.
    """
    return {"kind": "table", "head": lines[0], "rows": lines[1:], "caption": caption, "texts": texts}


def from_markdown(text: str, caption: str) -> list[Part]:
    """The paragraphs and tables of Markdown that holds nothing else."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if not lines[0].startswith("|"):
            parts.append(paragraph(" ".join(lines)))
            continue
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        texts = sum(not rule.endswith(":") for rule in cells[1])
        parts.append(table([cells[0], *cells[2:]], caption, texts))
    return parts


def drawing(svg: str, caption: str) -> Part:
    """A figure of matplotlib's, inline; its identifiers are made the caption's own, for a page has several."""
    prefix = f"f{zlib.crc32(caption.encode()):x}"
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", re.sub(r">\s+<", "><", body))
    body = body.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return {"kind": "drawing", "svg": Markup(body), "caption": caption}


def heat(words: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], caption: str) -> Part:
    """A heat map as a table, in which the arrow keys walk and whose cells say their value.

    Args:
        words: N heads.
        rows: a name and N values in [0, 1] each.
    """
    everything = [value for _, values in rows for value in values]
    low, high = min(everything), max(everything)
    cells = [(name, [_cell(value, low, high) for value in values]) for name, values in rows]
    ramp = ", ".join(_colour(place / 8) for place in range(9))
    return {"kind": "heat", "words": words, "rows": cells, "caption": caption, "low": low, "high": high, "ramp": ramp}


def _cell(value: float, low: float, high: float) -> dict[str, str]:
    place = (value - low) / ((high - low) or 1)
    red, green, blue, _ = matplotlib.colormaps[COLOURS](place)
    ink = "#000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "#fff"
    shown = f"{value:.2f}"[1:] if value < 0.995 else "1"
    return {"shown": shown, "value": f"{value:.4f}", "style": f"background:{_colour(place)};color:{ink}"}


def _colour(place: float) -> str:
    return matplotlib.colors.to_hex(matplotlib.colormaps[COLOURS](place))
