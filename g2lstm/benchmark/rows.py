"""What was measured, as rows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean, median, quantiles
from typing import Any

from g2lstm.benchmark.cases import AUTO, LOOP, Group
from g2lstm.errors import UserError
from g2lstm.files import read_json

Row = dict[str, Any]
MEASURED = ("ms", "ratio", "memory_mb", "memory_ratio", "words_per_second")  # what differs from pass to pass


def rows_of(
    group: Group,
    times: Sequence[Sequence[float]],
    memory: Sequence[float | None],
    files: Sequence[int | None] | None = None,
) -> list[Row]:
    """A row for each case of a group.

    Args:
        group: what was measured.
        times: milliseconds of each case's steps.
        memory: MB of each case's step at its peak, or None where it wasn't measured.
        files: bytes of each case's file, where the cases have some.
    """
    medians = dict(zip(group.cases, map(median, times), strict=True))
    megabytes = dict(zip(group.cases, memory, strict=True))
    peer = min(group.peers, key=medians.__getitem__)
    rows = []
    for number, (case, values) in enumerate(zip(group.cases, times, strict=True)):
        ms, own = medians[case], megabytes[case]
        row: Row = {"section": case.section, "task": case.task, "size": list(case.size), "dtype": case.dtype}
        row |= {"mode": case.mode, "engine": case.engine, "ms": round(ms, 4), "ratio": round(ms / medians[peer], 4)}
        row |= {"memory_mb": _rounded(own, 2), "memory_ratio": _rounded(_share(own or None, megabytes[peer]), 4)}
        row |= {"peer": f"{peer.engine} {peer.dtype}", "repeats": len(values), "spread": round(_spread(values), 4)}
        if case.task in ("ptb", "evaluation"):
            row["words_per_second"] = round(1000 * case.size[0] * case.size[1] / ms, 1)
        if files is not None:
            row |= {"file_mb": _rounded(_share(files[number], 1e6), 3)}
            row |= {"file_ratio": _rounded(_share(files[number], files[0]), 4)}
        rows.append(row)
    return rows


def _share(value: float | None, whole: float | None) -> float | None:
    return value / whole if value is not None and whole else None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def over_passes(passes: Sequence[Row]) -> Row:
    """One row of those that whole passes have of a case: medians, and lowest and highest as `<name>_range`."""
    found = dict(passes[0])
    for name in MEASURED if len(passes) > 1 else ():
        values = [row[name] for row in passes if row.get(name) is not None]
        if values:
            found |= {name: round(median(values), 4), f"{name}_range": [min(values), max(values)]}
    return found | {"passes": len(passes), "spread": median(row["spread"] for row in passes)}


def rows_of_before(file: Path | None, about: dict[str, Any]) -> list[Row]:
    """What the file holds from an equal machine, each row with the commit that it was measured at.

    Raises:
        UserError: the file holds something else.
    """
    if file is None or not file.exists():
        return []
    old = read_json(file, dict, "choose another file")
    try:
        same = all(old.get(key) == about[key] for key in ("hardware", "torch", "threads", "device", "quick"))
        rows = [{"commit": old["commit"]} | row for row in old["rows"]]
        summary(rows)
        return replaced(rows, []) if same else []
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


def _spread(values: Sequence[float]) -> float:
    """The interquartile range as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4, method="inclusive")
    return (high - low) / median(values)
