"""A page in one file: elements whose texts are escaped, tables, figures and sections. Well-formed XML as well as HTML."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.resources import files

VOID = ("meta", "img", "rect", "line", "path", "polyline", "circle")
# What the browser is told to refuse: everything from elsewhere. The page brings its own style, script and images.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# No character of these may stand in XML.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Markup:
    """Text that is markup already; plain strings are escaped where they are put into it."""

    text: str


Child = Markup | str
Attribute = str | float | bool | None


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: its heading, and what the page's contents call it.
        body: what stands under it.
    """

    title: str
    body: tuple[Child, ...]

    @property
    def id(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element. `class_` and `data_value` name the attributes class and data-value; None and False leave one out."""
    given = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
        text = key if value is True else f"{value:g}" if isinstance(value, float) else str(value)
        given.append(f' {key}="{escape(_clean(text))}"')
    inner = "".join(child.text if isinstance(child, Markup) else escape(_clean(child), quote=False) for child in children)
    if name in VOID and not inner:
        return Markup(f"<{name}{''.join(given)}/>")
    return Markup(f"<{name}{''.join(given)}>{inner}</{name}>")


def _clean(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def grid(children: Iterable[Child], kind: str = "") -> Markup:
    """As many beside each other as the screen is wide."""
    return tag("div", *children, class_=f"grid {kind}".strip())


def figure(caption: str, *children: Child) -> Markup:
    return tag("figure", *children, tag("figcaption", caption))


def details(summary: str, *children: Child) -> Markup:
    """Folded away until it is asked for."""
    return tag("details", tag("summary", summary), *children)


def table(head: list[str], rows: Iterable[list[str]], caption: str, texts: int = 1) -> Markup:
    """A table that scrolls by itself where the screen is narrow.

    Args:
        head: of the columns.
        rows: the cells below.
        caption: what the table is about, read aloud and not shown.
        texts: how many columns from the left are texts; the others are numbers.
    """
    side = ["" if place < texts else "number" for place in range(len(head))]
    top = tag("tr", *(tag("th", text, scope="col", class_=kind or None) for text, kind in zip(head, side, strict=True)))
    body = []
    for row in rows:
        cells = [tag("td", text, class_=kind or None) for text, kind in zip(row[1:], side[1:], strict=True)]
        body.append(tag("tr", tag("th", row[0], scope="row"), *cells))
    inner = tag("table", tag("caption", caption, class_="unseen"), tag("thead", top), tag("tbody", *body))
    return scrolling(inner, caption)


def scrolling(inner: Markup, label: str) -> Markup:
    """What may be wider than the screen: it can be focused, so that arrow keys scroll it."""
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)


def from_markdown(text: str, caption: str) -> list[Markup]:
    """The paragraphs and tables of Markdown that holds nothing else."""
    parts = []
    for number, block in enumerate(text.strip().split("\n\n")):
        lines = block.splitlines()
        if not lines[0].startswith("|"):
            parts.append(tag("p", " ".join(lines)))
            continue
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        texts = sum(not rule.endswith(":") for rule in cells[1])
        parts.append(table(cells[0], cells[2:], f"{caption} ({number + 1})" if number else caption, texts))
    return parts


def page(title: str, introduction: list[str], sections: list[Section]) -> str:
    """The whole file.

    Args:
        title: its heading.
        introduction: the paragraphs below.
        sections: of different titles.

    Raises:
        ValueError: two sections have the same title.
    """
    if len({section.id for section in sections}) < len(sections):
        raise ValueError(f"sections must have different titles, got {', '.join(section.title for section in sections)}")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_own("report.css"))),
    )
    contents = tag("ul", *(tag("li", tag("a", s.title, href=f"#{s.id}")) for s in sections))
    main = [
        tag("section", tag("h2", s.title, id=f"{s.id}-title"), *s.body, id=s.id, aria_labelledby=f"{s.id}-title")
        for s in sections
    ]
    body = tag(
        "body",
        tag("a", "Skip to the contents", href="#main", class_="skip"),
        tag(
            "header",
            tag("h1", title),
            *(tag("p", text) for text in introduction),
            tag("nav", contents, aria_label="Sections"),
        ),
        tag("main", *main, id="main"),
        tag("script", Markup(f"/*<![CDATA[*/\n{_own('report.js')}/*]]>*/")),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en').text}\n"


def _own(name: str) -> str:
    return (files("g2lstm.reporting") / name).read_text(encoding="utf-8")
