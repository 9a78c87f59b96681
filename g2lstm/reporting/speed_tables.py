"""Tables of what experiments/speed.py measured, on the screen and in Markdown."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich.table import Table

from g2lstm.benchmark.cases import AUTO, LSTM
from g2lstm.benchmark.rows import Row
from g2lstm.errors import UserError
from g2lstm.files import read_json
from g2lstm.reporting.tables import Lines, interval, markdown, number, screen_table

PTB_TEST_WORDS = 82_430
IDLE = 0.5  # a load above it comes of other work
WIDE = ("train", "eval", "memory", "recurrent_dropout")  # tables with a column for each engine
ONE_TEXT = ("evaluation", "deploy")  # tables with one column of texts
Columns = dict[str, Callable[[Row], str]]
_TASKS = {"layer": "one token at a time", "ptb": "step of `task=ptb`", "loss": "output layer and loss"}


def group_table(title: str, rows: list[Row]) -> Table:
    """One group's rows, for the screen."""
    kind = rows[0]["section"]
    return screen_table(title, _long(rows, _COLUMNS[kind] if kind in ONE_TEXT else _ENGINES))


def recorded(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of every measurement in `folder`."""
    parts = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path, dict)
        try:
            if chosen := _chosen(content["rows"], kind):
                lines = _wide(chosen, kind) if kind in WIDE else _long(chosen, _COLUMNS[kind])
                parts.append(markdown(lines, _footnote(content, kind, chosen), texts=1 if kind in ONE_TEXT else 2))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no measurement of speed ({error!r}): python experiments/speed.py writes one"
            ) from None
    return "\n\n".join(parts) or "(no measurement is recorded yet)"


def preparation_table(found: dict[str, Any]) -> str:
    """What `g2lstm.benchmark.preparation` measured."""
    memory, before, after = (found[key] for key in ("peak_memory_mib", "seconds_before_the_kill", "seconds_after_the_kill"))
    lines = [["pairs", "words", "text, MB", "prepared, MB", "processes", "minutes", "their memory, GiB", "seconds to open"]]
    sizes = [number(found[key], 0) for key in ("pairs", "words", "text_mb", "prepared_mb", "processes")]
    times = [number((before + after) / 60, 1), number(memory and memory / 1024), number(found["seconds_to_open"])]
    footnote = (
        f"Synthetic text that has tokens already, two vocabularies of {found['vocabulary_size']:,}; measured once, load "
        f"{found['load']}. Raw text is tokenised before, which is not in these minutes. Killed "
        f"when {found['shards_at_the_kill']} of {found['shards']} files were there, {found['shards_kept']} of which "
        f"stayed: {before:.0f} s before the kill, {after:.0f} s after it. Memory is the most that was seen of all processes "
        "together (proportional set size). Opened without the time of imports, the files in the system's cache. "
        f"{found['hardware']}."
    )
    return markdown([*lines, [*sizes, *times]], footnote, texts=0)


def _chosen(rows: list[Row], kind: str) -> list[Row]:
    """The rows that a table is made of."""
    if kind not in WIDE or kind == "recurrent_dropout":
        return [row for row in rows if row["section"] == kind]
    mode, ratio = ("train", "memory_ratio") if kind == "memory" else (kind, "ratio")
    return [row for row in rows if row["section"] == "recurrence" and row["mode"] == mode and row[ratio] is not None]


def _wide(rows: list[Row], kind: str) -> Lines:
    """A line for each size and dtype of a layer, a column for each engine: ratios to a peer, whose own value is first."""
    peer = AUTO if kind == "recurrent_dropout" else LSTM
    value, ratio, unit = ("memory_mb", "memory_ratio", "MB") if kind == "memory" else ("ms", "ratio", "ms")
    cells = {(row["dtype"], tuple(row["size"]), row["engine"]): row for row in rows}
    engines = [name for name in dict.fromkeys(row["engine"] for row in rows) if name != peer]
    lines = [["T, B, D -> H", "dtype", f"{peer}, {unit}", *engines]]
    for dtype, size in dict.fromkeys(name[:2] for name in sorted(cells, key=itemgetter(0), reverse=True)):
        shape = f"{size[0]}, {size[1]}, {size[2]} -> {size[3]}"
        ratios = [_measured(cells.get((dtype, size, engine), {}), ratio) for engine in engines]
        lines.append([shape, dtype, _measured(cells[dtype, size, peer], value, 1), *ratios])
    return lines


def _long(rows: list[Row], columns: Columns) -> Lines:
    """A line for each row."""
    return [list(columns), *([cell(row) for cell in columns.values()] for row in rows)]


def _measured(row: Row, name: str, digits: int = 2) -> str:
    """A row's value, with its range where the row is of several passes."""
    text, span = number(row.get(name), digits), row.get(f"{name}_range")
    return f"{text} ({interval(span[0], span[1], digits)})" if span else text


def _faster(row: Row) -> str:
    span = {"x_range": [1 / ratio for ratio in reversed(row["ratio_range"])]} if "ratio_range" in row else {}
    return _measured({"x": 1 / row["ratio"]} | span, "x")


def _ms_a_word(row: Row) -> float:
    return row["ms"] / (row["size"][0] * row["size"][1])


def _footnote(content: dict[str, Any], kind: str, rows: list[Row]) -> str:
    threads = f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}"
    text = f"{content['hardware']}, torch {content['torch']}, {threads}{', --quick' if content.get('quick') else ''}."
    passes = sorted({row.get("passes", 1) for row in rows})
    if passes[-1] > 1:
        text += f" Median and, in brackets, range over {' or '.join(map(str, passes))} whole passes."
    dirty = sum(row.get("commit", "").endswith("-dirty") for row in rows)
    text += f" {dirty} of the {len(rows)} rows are of uncommitted code." if dirty else ""
    latest = any(row.get("commit") == content.get("commit") for row in rows)  # which the load is of
    if latest and content.get("load", 0) > IDLE:
        text += f" The machine's load was {content['load']:.1f} when it began."
    gain = content.get("summary", {}).get(f"{kind}_speedup_over_loop")
    if gain is not None:
        text += f" Over the loop, float32, geometric mean: {gain:.2f} times as fast."
    return text


_MS, _RATIO = partial(_measured, name="ms"), partial(_measured, name="ratio")
_STEPS: Columns = {
    "dtype": itemgetter("dtype"),
    "ms": _MS,
    "ratio": _RATIO,
    "peak memory, ratio": partial(_measured, name="memory_ratio"),
    "words/s": partial(_measured, name="words_per_second", digits=0),
}
_ENGINES: Columns = {"engine": itemgetter("engine"), **_STEPS}
_WORK: Columns = {"what": lambda row: _TASKS[row["task"]], **_ENGINES}
_COLUMNS: dict[str, Columns] = {
    "output_layer": _WORK,
    "end_to_end": _WORK,
    "evaluation": {
        "what": itemgetter("engine"),
        "ms a word": lambda row: number(_ms_a_word(row)),
        "ratio": _RATIO,
        f"{PTB_TEST_WORDS:,} words of Penn Treebank test, s": lambda row: f"{_ms_a_word(row) * PTB_TEST_WORDS / 1000:.0f}",
    },
    "deploy": {
        "model": itemgetter("engine"),
        "sequences": lambda row: str(row["size"][1]),
        "ms a step": _MS,
        "times as fast as dense": _faster,
        "file, MB": lambda row: number(row["file_mb"], 1),
        "of the float32 file": lambda row: number(row["file_ratio"], 3),
    },
    "translation": {
        "decoder": itemgetter("engine"),
        **{title.replace("words", "sub-words"): cell for title, cell in _STEPS.items()},
        "peak memory, MB": partial(_measured, name="memory_mb", digits=0),
    },
}
TABLES = (*WIDE, *_COLUMNS)
