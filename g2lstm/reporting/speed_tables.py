"""Tables of what experiments/speed.py measured, on the screen and in Markdown."""

from pathlib import Path
from typing import Any

from rich.table import Table

from g2lstm.benchmark.cases import LSTM, Group
from g2lstm.benchmark.rows import Row
from g2lstm.errors import UserError
from g2lstm.files import read_json
from g2lstm.reporting.tables import Lines, interval, markdown, number

TABLES = ("train", "eval", "memory", "output_layer", "end_to_end", "evaluation", "deploy")
PTB_TEST_WORDS = 82_430
_TASKS = {"layer": "one token at a time", "ptb": "step of `task=ptb`", "loss": "output layer and loss"}


def screen_table(group: Group, rows: list[Row]) -> Table:
    """One group's rows."""
    table = Table(title=group.title, title_justify="left")
    several = len({row["dtype"] for row in rows}) > 1
    table.add_column("engine")
    files = "file_mb" in rows[0]
    last = ["words/s"] if "words_per_second" in rows[0] else []
    for name in ("ms", "spread", "ratio", *(("file MB",) if files else ("peak MB",)), "ratio of it", *last):
        table.add_column(name, justify="right")
    for row in rows:
        name = f"{row['engine']} {row['dtype']}" if several else row["engine"]
        cells = [number(row["ms"]), f"{row['spread']:.0%}", _measured(row, "ratio")]
        size, share = ("file_mb", "file_ratio") if files else ("memory_mb", "memory_ratio")
        cells += [number(row[size], 1), number(row[share])]
        cells += [number(row["words_per_second"], 0)] if "words_per_second" in row else []
        table.add_row(name, *cells)
    return table


def recorded(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of every measurement in `folder`.

    Raises:
        ValueError: there is no such table.
    """
    if kind not in TABLES:
        raise ValueError(f"the table must be one of {', '.join(TABLES)}, got {kind!r}")
    parts = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path, dict)
        texts = 1 if kind in ("deploy", "evaluation") else 2
        try:
            if chosen := _chosen(content["rows"], kind):
                parts.append(markdown(_LINES[kind](chosen, kind), _footnote(content, kind, chosen), texts=texts))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no measurement of speed ({error!r}): python experiments/speed.py writes one"
            ) from None
    return "\n\n".join(parts) or "(no measurement is recorded yet)"


def _chosen(rows: list[Row], kind: str) -> list[Row]:
    """The rows that a table is made of."""
    if kind not in ("train", "eval", "memory"):
        return [row for row in rows if row["section"] == kind]
    mode, ratio = ("train", "memory_ratio") if kind == "memory" else (kind, "ratio")
    return [row for row in rows if row["section"] == "recurrence" and row["mode"] == mode and row[ratio] is not None]


def _wide(rows: list[Row], kind: str) -> Lines:
    """A line for each size and dtype of a layer, a column for each engine: ratios to nn.LSTM, whose own value is first."""
    value, ratio, unit = ("memory_mb", "memory_ratio", "MB") if kind == "memory" else ("ms", "ratio", "ms")
    cells = {(row["dtype"], tuple(row["size"]), row["engine"]): row for row in rows}
    engines = [name for name in dict.fromkeys(row["engine"] for row in rows) if name != LSTM]
    lines = [["T, B, D -> H", "dtype", f"nn.LSTM, {unit}", *engines]]
    for dtype, size in dict.fromkeys(name[:2] for name in sorted(cells, key=lambda name: name[0], reverse=True)):
        line = [f"{size[0]}, {size[1]}, {size[2]} -> {size[3]}", dtype, _measured(cells[dtype, size, LSTM], value, 1)]
        line += [_measured(cells.get((dtype, size, engine), {}), ratio) for engine in engines]
        lines.append(line)
    return lines


def _long(rows: list[Row], _: str) -> Lines:
    """A line for each row of a section."""
    lines = [["what", "engine", "dtype", "ms", "ratio", "peak memory, ratio", "words/s"]]
    for row in rows:
        line = [_TASKS[row["task"]], row["engine"], row["dtype"], _measured(row, "ms"), _measured(row, "ratio")]
        lines.append([*line, _measured(row, "memory_ratio"), _measured(row, "words_per_second", 0)])
    return lines


def _deployed(rows: list[Row], _: str) -> Lines:
    """A line for each model: its layers' time and its file."""
    lines = [["model", "ms a token", "times as fast as dense", "file, MB", "of the float32 file"]]
    for row in rows:
        low, high = row.get("ratio_range", (0.0, 0.0))
        faster = {"x": 1 / row["ratio"]} | ({"x_range": (1 / high, 1 / low)} if high else {})
        line = [row["engine"], _measured(row, "ms"), _measured(faster, "x")]
        lines.append([*line, number(row["file_mb"], 1), number(row["file_ratio"], 3)])
    return lines


def _evaluated(rows: list[Row], _: str) -> Lines:
    """A line for each way to evaluate: a word's time, and what that makes of a whole split."""
    lines = [["what", "ms a word", "ratio", f"{PTB_TEST_WORDS:,} words of Penn Treebank test, s"]]
    for row in rows:
        ms = row["ms"] / (row["size"][0] * row["size"][1])
        lines.append([row["engine"], number(ms), _measured(row, "ratio"), f"{ms * PTB_TEST_WORDS / 1000:.0f}"])
    return lines


_LINES = {"train": _wide, "eval": _wide, "memory": _wide, "output_layer": _long, "end_to_end": _long}
_LINES |= {"evaluation": _evaluated, "deploy": _deployed}


def _measured(row: Row, name: str, digits: int = 2) -> str:
    """A row's value, with its range where the row is of several passes."""
    text, span = number(row.get(name), digits), row.get(f"{name}_range")
    return f"{text} ({interval(span[0], span[1], digits)})" if span else text


def _footnote(content: dict[str, Any], kind: str, rows: list[Row]) -> str:
    threads = f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}"
    text = f"{content['hardware']}, torch {content['torch']}, {threads}{', --quick' if content.get('quick') else ''}."
    passes = sorted({row.get("passes", 1) for row in rows})
    if passes[-1] > 1:
        text += f" Median and, in brackets, range over {' or '.join(map(str, passes))} whole passes."
    gain = content.get("summary", {}).get(f"{kind}_speedup_over_loop")
    if gain is not None:
        text += f" Over the loop, float32, geometric mean: {gain:.2f} times as fast."
    return text
