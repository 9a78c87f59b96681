"""What was measured, as rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import Any

from g2lstm.benchmark.cases import AUTO, LOOP, Group
from g2lstm.errors import UserError
from g2lstm.files import read_json

Row = dict[str, Any]
MEASURED = ("ms", "ratio", "memory_mb", "memory_ratio", "words_per_second")  # what differs from pass to pass


def rows_of(
    group: Group, times: Sequence[Sequence[float]], memory: Sequence[float | None], files: Sequence[int | None]
) -> list[Row]:
    """A row for each case of a group: the milliseconds of its steps, MB at a step's peak, and bytes of its file.

    None stands for what was not measured; files are told of compressed models alone.
    """
    medians = list(map(median, times))
    peer = min(map(group.cases.index, group.peers), key=medians.__getitem__)
    rows = []
    for case, values, ms, mb, size in zip(group.cases, times, medians, memory, files, strict=True):
        row = asdict(case) | {"size": list(case.size), "ms": round(ms, 4), "ratio": _share(ms, medians[peer])}
        row |= {"memory_mb": _share(mb, 1, 2), "memory_ratio": _share(mb or None, memory[peer])}
        row |= {"peer": f"{group.cases[peer].engine} {group.cases[peer].dtype}"}
        row |= {"repeats": len(values), "spread": round(_spread(values), 4)}
        if case.task in ("ptb", "evaluation", "translation"):
            row["words_per_second"] = round(1000 * case.size[0] * case.size[1] / ms, 1)
        if case.task == "deploy":
            row |= {"file_mb": _share(size, 1e6, 3), "file_ratio": _share(size, files[0])}
        rows.append(row)
    return rows


def _share(value: float | None, whole: float | None, digits: int = 4) -> float | None:
    return round(value / whole, digits) if value is not None and whole else None


def _spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (0, 0, 0)
    return (high - low) / median(values)


def over_passes(rows: Iterable[Row]) -> list[Row]:
    """A row for each case: of several passes the medians, and lowest and highest as `<name>_range`."""
    passes: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        passes.setdefault(_case(row), []).append(row)
    return [_joined(of_case) for of_case in passes.values()]


def _joined(passes: list[Row]) -> Row:
    found = dict(passes[0])
    for name in MEASURED if len(passes) > 1 else ():
        if values := [row[name] for row in passes if row.get(name) is not None]:
            found |= {name: round(median(values), 4), f"{name}_range": [min(values), max(values)]}
    return found | {"passes": len(passes), "spread": median(row["spread"] for row in passes)}


def rows_of_before(file: Path, about: dict[str, Any]) -> list[Row]:
    """What the file, where there is one, holds from an equal machine, each row with the commit that it was measured at.

    Raises:
        UserError: the file holds something else.
    """
    if not file.exists():
        return []
    old = read_json(file, dict, "choose another file")
    try:
        same = all(old.get(key) == about[key] for key in ("hardware", "torch", "threads", "device", "quick"))
        rows = replaced([{"commit": old["commit"]} | row for row in old["rows"]], [])
        summary(rows)
        return rows if same else []
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no measurement of speed ({error!r}): choose another file") from None


def replaced(rows: list[Row], fresh: list[Row]) -> list[Row]:
    """The rows with fresh ones in the place of those of the same case."""
    measured = {_case(row) for row in fresh}
    return [row for row in rows if _case(row) not in measured] + fresh


def _case(row: Row) -> tuple[Any, ...]:
    return (row["section"], row["task"], *row["size"], row["dtype"], row["mode"], row["engine"])


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
