"""Charts as SVG that takes its colours from the page's style, so that one drawing serves light and dark."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from g2lstm.reporting.page import Markup, tag

WIDTH, HEIGHT = 400, 270  # about a telephone's width, so that texts keep their size there
LOOKS = 8  # colours and dashes of report.css; with the marks they make 4 * LOOKS looks that differ
MARKS = ("circle", "square", "triangle", "diamond")
MOST_MARKS = 30  # of a line, and lines with marks in a chart of runs
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line or some marks.

    Attributes:
        label: what it is about.
        points: (x, y) from left to right.
        look: which colour, dashes and mark.
        marks: whether each point of a line has a mark, as long as they are few.
        hollow: whether there are hollow marks and no line.
        names: what each point is called where one hovers over it.
    """

    label: str
    points: Points
    look: int = 0
    marks: bool = True
    hollow: bool = False
    names: list[str] | None = None


@dataclass(frozen=True)
class Axis:
    """A range of values on a range of pixels.

    Attributes:
        low, high: of the values.
        start, end: of the pixels.
        base: 0 for a linear axis, else that of the logarithm.
    """

    low: float
    high: float
    start: float
    end: float
    base: int = 0

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.base else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values in the range."""
        if self.base == 2:
            powers = range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)
            if len(powers) > 1:
                return [2.0**n for n in powers]
        elif self.base:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for digits in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                found = [m * 10.0**n for n in range(first, last + 1) for m in digits]
                found = [value for value in found if self.low * 0.999 <= value <= self.high * 1.001]
                if 3 <= len(found) <= most:
                    return found
            if len(found) > most:
                return found[:: math.ceil(len(found) / most)]
        step = 10.0 ** math.floor(math.log10((self.high - self.low) / most or 1))
        step *= next((m for m in (1, 2, 5, 10) if (self.high - self.low) / (m * step) <= most), 10)
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def line_chart(title: str, series: list[Series], x_label: str, y_label: str, *, x_base: int = 0, y_base: int = 0) -> Markup:
    """Lines over a common pair of axes.

    Args:
        title: what is read aloud instead of the drawing.
        series: at least one point in all.
        x_label, y_label: the axes', with units.
        x_base, y_base: of logarithmic axes, 0 for linear ones.
    """
    xs, ys = ([point[place] for one in series for point in one.points] for place in (0, 1))
    x_low, x_high = (min(xs), max(xs)) if x_base else (min(0, *xs, xs[0]), max(xs))
    if x_base:
        x_low, x_high = x_low / 1.1, x_high * 1.1
    y_low, y_high = (min(ys) / 1.03, max(ys) * 1.03) if min(ys) > 0 else (min(ys), max(ys) or 1.0)
    frame = _frame(title, (x_low, x_high, x_base), (y_low, y_high, y_base), x_label, y_label, short)
    drawn = []
    for one in series:
        if len(one.points) > 1 and not one.hollow:
            path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in one.points)
            drawn.append(tag("polyline", tag("title", one.label), points=path, class_=f"curve {look_classes(one.look)}"))
        if one.hollow or len(one.points) == 1 or (one.marks and len(one.points) <= MOST_MARKS):
            names = [f", {name}" for name in one.names] if one.names else [""] * len(one.points)
            for (x, y), name in zip(one.points, names, strict=True):
                text = f"{one.label}{name}: {y_label} {y:.5g} at {x_label} {x:.5g}"
                drawn.append(mark(frame.x(x), frame.y(y), one.look, text, one.hollow))
    return frame.closed(drawn)


def bar_chart(title: str, shares: list[float], spans: list[tuple[float, float]] | None, top: float, look: int) -> Markup:
    """A histogram over [0, 1].

    Args:
        title: what is read aloud instead of the drawing.
        shares: of each bin.
        spans: the lowest and highest share of several runs.
        top: of the axis.
        look: which colour.
    """
    frame = _frame(title, (0, 1, 0), (0, top, 0), "gate value (0 shut, 1 open)", "share of values", percent, height=235)
    bars, count = [], len(shares)
    lines = ""
    for place, share in enumerate(shares):
        left, right = frame.x(place / count), frame.x((place + 1) / count)
        text = tag("title", f"{place / count:.2f} to {(place + 1) / count:.2f}: {share:.2%}")
        bar = {"x": f"{left:.1f}", "y": f"{frame.y(share):.1f}", "width": f"{max(right - left - 0.6, 0.5):.1f}"}
        bars.append(tag("rect", text, **bar, height=f"{frame.y(0) - frame.y(share):.1f}"))
        if spans is not None:
            low, high = (f"{frame.y(value):.1f}" for value in spans[place])
            lines += f"M{(left + right) / 2:.1f} {low}V{high}"
    group = tag("g", *bars, class_=f"bar {look_classes(look)}")
    return frame.closed([group, tag("path", d=lines, class_="span")] if lines else [group])


def stairs_chart(title: str, curves: list[tuple[str, list[float], int]], low: float, high: float) -> Markup:
    """Histograms over [0, 1] as outlines on a logarithmic axis from `low` to `high`: (label, shares, look) each."""
    frame = _frame(title, (0, 1, 0), (low, high, 10), "gate value (0 shut, 1 open)", "share of values", percent, height=250)
    drawn = []
    for label, shares, look in curves:
        edges = [(edge / len(shares), share) for place, share in enumerate(shares) for edge in (place, place + 1)]
        path = " ".join(f"{frame.x(x):.1f},{frame.y(max(y, low)):.1f}" for x, y in edges)
        drawn.append(tag("polyline", tag("title", label), points=path, class_=f"curve {look_classes(look)}"))
    return frame.closed(drawn)


def legend(items: list[tuple[str, int]], marks: bool = True) -> Markup:
    """What each colour means: (label, look)."""
    entries = []
    for label, look in items:
        line = tag("line", x1="1", x2="31", y1="7", y2="7", class_=f"curve {look_classes(look)}")
        sample = [line, mark(16, 7, look, None)] if marks else [line]
        drawn = tag("svg", *sample, viewBox="0 0 32 14", width="32", height="14", aria_hidden="true")
        entries.append(tag("li", drawn, label))
    return tag("ul", *entries, class_="legend")


def look_classes(look: int) -> str:
    """The colour and dashes of a look: those of a colour's second turn differ from those of its first."""
    return f"look-{look % LOOKS} dash-{(look + look // LOOKS) % LOOKS}"


def mark(x: float, y: float, look: int, text: str | None, hollow: bool = False) -> Markup:
    """A mark of the look's shape, with a text to hover over."""
    inside = [] if text is None else [tag("title", text)]
    shape, r = MARKS[(look + look // LOOKS) % len(MARKS)], 3.6
    kind = f"mark look-{look % LOOKS}{' hollow' if hollow else ''}"
    if shape == "circle":
        return tag("circle", *inside, cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{r}", class_=kind)
    shapes: dict[str, Points] = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(0, -1.3), (1.2, 1), (-1.2, 1)],
        "diamond": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    }
    path = "M" + "L".join(f"{x + r * dx * 0.9:.1f} {y + r * dy * 0.9:.1f}" for dx, dy in shapes[shape]) + "Z"
    return tag("path", *inside, d=path, class_=kind)


def short(value: float) -> str:
    """ "30k" for 30,000."""
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def percent(value: float) -> str:
    return f"{100 * value:.4g}%"


@dataclass(frozen=True)
class Frame:
    """Axes that wait for what is drawn between them."""

    title: str
    x: Axis
    y: Axis
    height: int
    parts: list[Markup]

    def closed(self, drawn: list[Markup]) -> Markup:
        size = {"viewBox": f"0 0 {WIDTH} {self.height}"}
        return tag("svg", *self.parts, *drawn, **size, role="img", aria_label=self.title, class_="chart")


Range = tuple[float, float, int]


def _frame(
    title: str, xs: Range, ys: Range, x_label: str, y_label: str, shown: Callable[[float], str], height: int = HEIGHT
) -> Frame:
    """Axes with ticks, lines and labels; `shown` writes the vertical axis's ticks."""
    bottom, top = height - 42, 12
    y = Axis(ys[0], ys[1], bottom, top, ys[2])
    rises = y.ticks(5)
    left = 30 + 7.8 * max((len(shown(value)) for value in rises), default=1)
    x = Axis(xs[0], xs[1], left, WIDTH - 14, xs[2])
    parts = []
    for value in rises:
        at = f"{y(value):.1f}"
        parts.append(tag("line", x1=f"{left:.1f}", x2=str(WIDTH - 14), y1=at, y2=at, class_="rule"))
        parts.append(tag("text", shown(value), x=f"{left - 5:.1f}", y=f"{y(value) + 4:.1f}", class_="tick right"))
    for value in x.ticks():
        parts.append(tag("text", short(value), x=f"{x(value):.1f}", y=str(bottom + 17), class_="tick middle"))
        parts.append(
            tag("line", x1=f"{x(value):.1f}", x2=f"{x(value):.1f}", y1=str(bottom), y2=str(bottom + 4), class_="axis")
        )
    parts.append(tag("line", x1=f"{left:.1f}", x2=str(WIDTH - 14), y1=str(bottom), y2=str(bottom), class_="axis"))
    middle = (left + WIDTH - 14) / 2
    parts.append(tag("text", x_label, x=f"{middle:.1f}", y=str(height - 6), class_="label middle"))
    turned = f"translate(12 {(bottom + top) / 2:.0f}) rotate(-90)"
    parts.append(tag("text", y_label, transform=turned, class_="label middle"))
    return Frame(title, x, y, height, parts)
