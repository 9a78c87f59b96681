"""What was measured: rows, their tables on the screen and in Markdown, and the figures that sum them up."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import Any

from rich.table import Table

from g2lstm.benchmark.cases import AUTO, LOOP, LSTM, Group

Row = dict[str, Any]
TABLES = ("train", "eval", "memory", "output_layer", "end_to_end", "evaluation", "deploy")
PTB_TEST_WORDS = 82_430
_TASKS = {"layer": "one token at a time", "ptb": "step of `task=ptb`", "loss": "output layer and loss"}


def rows_of(group: Group, times: Sequence[Sequence[float]], memory: Sequence[float | None]) -> list[Row]:
    """A row for each case of a group.

    Args:
        group: what was measured.
        times: milliseconds of each case's steps.
        memory: MB of each case's step at its peak, or None where it wasn't measured.
    """
    medians = dict(zip(group.cases, (median(values) for values in times), strict=True))
    megabytes = dict(zip(group.cases, memory, strict=True))
    peer = min(group.peers, key=medians.__getitem__)
    rows = []
    for case, values in zip(group.cases, times, strict=True):
        ms, own, peers = medians[case], megabytes[case], megabytes[peer]
        row: Row = {"section": case.section, "task": case.task, "size": list(case.size), "dtype": case.dtype}
        row |= {"mode": case.mode, "engine": case.engine, "ms": round(ms, 4), "ratio": round(ms / medians[peer], 4)}
        row |= {"memory_mb": None if own is None else round(own, 2)}
        row |= {"memory_ratio": round(own / peers, 4) if own and peers else None}
        row |= {"peer": f"{peer.engine} {peer.dtype}", "repeats": len(values), "spread": round(_spread(values), 4)}
        if case.task in ("ptb", "evaluation"):
            row["words_per_second"] = round(1000 * case.size[0] * case.size[1] / ms, 1)
        rows.append(row)
    return rows


def with_files(rows: list[Row], sizes: Sequence[int | None]) -> list[Row]:
    """The rows with the MB of each case's file and its share of the first one's."""
    first = sizes[0]
    assert first is not None
    return [
        row
        | {"file_mb": None if size is None else round(size / 1e6, 3)}
        | {"file_ratio": None if size is None else round(size / first, 4)}
        for row, size in zip(rows, sizes, strict=True)
    ]


def summary(rows: Iterable[Row]) -> dict[str, float]:
    """Geometric means over the float32 sizes of how many times as fast as the loop "auto" is, in training and evaluation."""
    found = {}
    chosen = [row for row in rows if row["section"] == "recurrence" and row["dtype"] == "float32"]
    for mode in ("train", "eval"):
        times = {(tuple(row["size"]), row["engine"]): row["ms"] for row in chosen if row["mode"] == mode}
        gains = [times[size, LOOP] / ms for (size, engine), ms in times.items() if engine == AUTO and (size, LOOP) in times]
        if gains:
            found[f"{mode}_speedup_over_loop"] = round(geometric_mean(gains), 3)
    return found


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
        cells = [f"{row['ms']:.2f}", f"{row['spread']:.0%}", f"{row['ratio']:.2f}"]
        size, share = ("file_mb", "file_ratio") if files else ("memory_mb", "memory_ratio")
        cells += [_number(row[size], 1), _number(row[share], 2)]
        cells += [f"{row['words_per_second']:,.0f}"] if "words_per_second" in row else []
        table.add_row(name, *cells)
    return table


def markdown(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of every measurement in `folder`.

    Raises:
        ValueError: there is no such table.
    """
    if kind not in TABLES:
        raise ValueError(f"the table must be one of {', '.join(TABLES)}, got {kind!r}")
    parts = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        lines = _lines(content["rows"], kind)
        if lines:
            names = 1 if kind in ("deploy", "evaluation") else 2
            lines.insert(1, ["---"] * names + ["---:"] * (len(lines[0]) - names))
            parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in lines))
            parts.append(_footnote(content, kind))
    return "\n\n".join(parts) or "(no measurement is recorded yet)"


def _lines(rows: list[Row], kind: str) -> list[list[str]]:
    if kind in ("deploy", "evaluation"):
        return _deployed(rows) if kind == "deploy" else _evaluated(rows)
    return _wide(rows, kind) if kind in ("train", "eval", "memory") else _long(rows, kind)


def _wide(rows: list[Row], kind: str) -> list[list[str]]:
    """A line for each size and dtype of a layer, a column for each engine: ratios to nn.LSTM, whose own value is first."""
    mode, key, unit = ("train", "memory", "MB") if kind == "memory" else (kind, "", "ms")
    value, ratio = ("memory_mb", "memory_ratio") if key else ("ms", "ratio")
    chosen = [row for row in rows if row["section"] == "recurrence" and row["mode"] == mode and row[ratio] is not None]
    cells = {(row["dtype"], tuple(row["size"]), row["engine"]): row for row in chosen}
    engines = [name for name in dict.fromkeys(row["engine"] for row in chosen) if name != LSTM]
    lines = [["T, B, D -> H", "dtype", f"nn.LSTM, {unit}", *engines]] if chosen else []
    for dtype, size in dict.fromkeys(name[:2] for name in sorted(cells, key=lambda name: name[0], reverse=True)):
        line = [f"{size[0]}, {size[1]}, {size[2]} -> {size[3]}", dtype, _number(cells[dtype, size, LSTM][value], 1)]
        line += [_number(cells.get((dtype, size, engine), {}).get(ratio), 2) for engine in engines]
        lines.append(line)
    return lines


def _long(rows: list[Row], section: str) -> list[list[str]]:
    """A line for each row of a section."""
    chosen = [row for row in rows if row["section"] == section]
    lines = [["what", "engine", "dtype", "ms", "ratio", "peak memory, ratio", "words/s"]] if chosen else []
    for row in chosen:
        line = [_TASKS[row["task"]], row["engine"], row["dtype"], _number(row["ms"], 2), _number(row["ratio"], 2)]
        line += [_number(row["memory_ratio"], 2), _number(row.get("words_per_second"), 0)]
        lines.append(line)
    return lines


def _deployed(rows: list[Row]) -> list[list[str]]:
    """A line for each model: its layers' time and its file."""
    chosen = [row for row in rows if row["section"] == "deploy"]
    lines = [["model", "ms a token", "times as fast as dense", "file, MB", "of the float32 file"]] if chosen else []
    for row in chosen:
        line = [row["engine"], _number(row["ms"], 2), _number(1 / row["ratio"], 2)]
        lines.append([*line, _number(row["file_mb"], 1), _number(row["file_ratio"], 3)])
    return lines


def _evaluated(rows: list[Row]) -> list[list[str]]:
    """A line for each way to evaluate: a word's time, and what that makes of a whole split."""
    chosen = [row for row in rows if row["section"] == "evaluation"]
    lines = [["what", "ms a word", "ratio", f"{PTB_TEST_WORDS:,} words of Penn Treebank test, s"]] if chosen else []
    for row in chosen:
        ms = row["ms"] / (row["size"][0] * row["size"][1])
        lines.append([row["engine"], f"{ms:.2f}", _number(row["ratio"], 2), f"{ms * PTB_TEST_WORDS / 1000:.0f}"])
    return lines


def _footnote(content: dict[str, Any], kind: str) -> str:
    threads = f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}"
    text = f"{content['hardware']}, torch {content['torch']}, {threads}{', --quick' if content.get('quick') else ''}."
    gain = content.get("summary", {}).get(f"{kind}_speedup_over_loop")
    if gain is not None:
        text += f" Over the loop, float32, geometric mean: {gain:.2f} times as fast."
    return text


def _spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / median(values)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
