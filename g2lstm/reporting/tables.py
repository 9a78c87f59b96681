"""Tables in Markdown, and how their numbers are written."""

from collections.abc import Sequence
from statistics import mean, stdev

from rich.table import Table

SPREAD = "mean ± standard deviation"  # what `spread` shows of several values, for footnotes
Lines = list[list[str]]


def markdown(lines: Lines, footnote: str = "", *, texts: int = 1) -> str:
    """A table, the first line of which is its head.

    Args:
        lines: cells.
        footnote: a paragraph below.
        texts: how many columns from the left are texts; the others are numbers.
    """
    rule = ["---"] * texts + ["---:"] * (len(lines[0]) - texts)
    table = "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
    return f"{table}\n\n{footnote}" if footnote else table


def screen_table(title: str, lines: Lines, *, texts: int = 1) -> Table:
    """The same for the screen."""
    table = Table(title=title, title_justify="left")
    for column, name in enumerate(lines[0]):
        width = 0 if column < texts else max((len(line[column]) for line in lines[1:]), default=0)  # a number stays whole
        table.add_column(name, justify="left" if column < texts else "right", overflow="fold", min_width=width)
    for line in lines[1:]:
        table.add_row(*line)
    return table


def metric_label(name: str) -> str:
    """What people call a metric: "perplexity", "BLEU"."""
    return {"bleu": "BLEU", "chrf": "chrF", "rmse": "RMSE"}.get(name, name.replace("_", " "))


def metric_title(name: str) -> str:
    """The same at the start of a sentence: "Perplexity", "BLEU"."""
    label = metric_label(name)
    return label.capitalize() if label.islower() else label


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    """With commas between thousands; a dash for what was not measured."""
    return "-" if value is None else f"{value:{sign},.{digits}f}"


def spread(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """The mean, with the sample standard deviation where there are several values."""
    text = number(mean(values) if values else None, digits, sign)
    return f"{text} ± {number(stdev(values), digits)}" if len(values) > 1 else text


def interval(low: float, high: float, digits: int = 2, sign: str = "") -> str:
    """ "-0.03 to 0.10"."""
    return f"{number(low, digits, sign)} to {number(high, digits, sign)}"
