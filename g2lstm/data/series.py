"""Series as tables of numbers: CSV files, whose faults are repaired and counted, and the built-in Mackey-Glass series.

N rows, F columns.
"""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from g2lstm.data.sources import read_lines
from g2lstm.errors import UserError

SEPARATORS = (";", "\t", "|", ",")
MISSING = {"", "-", "?", "na", "n/a", "#n/a", "nan", "null", "none"}
TIME_NAMES = {"time", "timestamp", "date", "datetime", "ds", "t", "year", "step", "index"}  # of a column of numbers
_DATES = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y-%m")
_FORMATS = (None, *(date + clock for date in _DATES for clock in ("", " %H:%M", " %H:%M:%S")))  # None is ISO 8601
_NUMBER = re.compile(r"[+-]?(?=[.,]?\d)(\d{1,3}([.,]\d{3})+|\d*)([.,]\d*)?([eE][+-]?\d+)?")  # in shape
# What is put right, as it is counted and said.
REPAIRS = {
    "filled_cells": "gaps filled with the value before",
    "filled_rows": "missing rows filled with the row before",
    "sorted_rows": "rows put in the order of time",
    "repeated_rows": "rows left out whose time stands again further down",
    "incomplete_rows": "rows left out before the first complete one",
    "decimal_commas": "numbers read with a decimal comma",
    "irregular_steps": "longer steps of time read as steps like the others",
}


@dataclass(frozen=True)
class Series:
    """Rows in the order of time.

    Attributes:
        columns: the names of the F columns.
        values: (N, F) finite numbers.
        times: (N,) ascending, as datetime64[us] or float64; the number of each row where the file has none.
        time_name: what the column of times is called, None where there is none.
        repairs: how often each of `REPAIRS` was needed, where it was.
        left_out: columns that hold no numbers.
    """

    columns: tuple[str, ...]
    values: np.ndarray
    times: np.ndarray
    time_name: str | None = None
    repairs: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def with_columns(self, columns: Sequence[str]) -> "Series":
        """These columns alone, in their order."""
        places = [self.columns.index(name) for name in columns]
        return replace(self, columns=tuple(columns), values=self.values[:, places])

    def labels(self, times: np.ndarray | None = None) -> list[str]:
        """Times, all rows' without them, as files and figures show them."""
        times = self.times if times is None else times
        if times.dtype.kind == "f":
            return [f"{time:.15g}" for time in times]
        unit: Any = next((unit for unit in "Dm" if (self.times == self.times.astype(f"datetime64[{unit}]")).all()), "s")
        return [text.replace("T", " ") for text in np.datetime_as_string(times, unit=unit)]

    def times_after(self, count: int) -> np.ndarray:
        """The times of the next `count` rows: the usual step further, or as many months."""
        ahead = np.arange(1, count + 1)
        if self.times.dtype.kind == "M":
            months = self.times.astype("datetime64[M]")
            into, apart = self.times - months, np.unique(np.diff(months).astype(int))
            if len(apart) == 1 and apart[0] > 0 and (into == into[0]).all():
                return (months[-1] + ahead * apart[0]).astype(self.times.dtype) + into[0]
            day = 86_400e6  # microseconds
            step = np.median(np.diff(self.times).astype(float)) if len(self) > 1 else day
            return self.times[-1] + (ahead * step).astype("timedelta64[us]")
        return self.times[-1] + ahead * (np.median(np.diff(self.times)) if len(self) > 1 else 1.0)

    def said(self) -> str:
        """Rows, columns and repairs in a line."""
        parts = [f"{len(self):,} rows of {', '.join(self.columns[:6])}{', ...' if len(self.columns) > 6 else ''}"]
        parts += [f"{count:,} {REPAIRS[name]}" for name, count in self.repairs.items()]
        return "; ".join([*parts, *([f"left out, as no numbers: {', '.join(self.left_out)}"] if self.left_out else [])])


def mackey_glass(rows: int, *, tau: int = 17, substeps: int = 10, washout: int = 500) -> Series:
    """The chaotic series of Mackey and Glass (Science 197, 1977): dx/dt = 0.2 x(t-tau) / (1 + x(t-tau)^10) - 0.1 x(t).

    x = 1.2 up to t = 0. Classical fourth-order Runge-Kutta, `substeps` steps a unit of time, with the mean of two neighbours
    for the delayed value between them; a value a unit of time is kept, after the first `washout`.
    """
    step, delay = 1 / substeps, tau * substeps
    x = [1.2] * (delay + 1)
    drives = [0.2 * x[0] / (1 + x[0] ** 10)] * (delay + 1)  # of the delayed values
    for place in range((rows + washout) * substeps):
        now, early, late = x[-1], drives[place], drives[place + 1]
        middle = (early + late) / 2
        k1 = early - 0.1 * now
        k2 = middle - 0.1 * (now + step / 2 * k1)
        k3 = middle - 0.1 * (now + step / 2 * k2)
        k4 = late - 0.1 * (now + step * k3)
        x.append(now + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        drives.append(0.2 * x[-1] / (1 + x[-1] ** 10))
    values = np.array(x[delay + 1 :])[substeps - 1 :: substeps][washout:]
    return Series(("x",), values[:, None], np.arange(rows, dtype=float))


def read_csv(
    path: Path, *, columns: Sequence[str] | None = None, time: str | None = None,
    separator: str | None = None, decimal: str | None = None,
) -> Series:  # fmt: skip
    """Reads a CSV file with or without a header, and puts right what can be put right.

    Args:
        path: UTF-8, with or without a byte-order mark.
        columns: the names of those that are read; all that hold numbers without them.
        time: the name of the column of times, "none" where there is none; looked for without it.
        separator: the one that the first line has most without it.
        decimal: "." or ","; found without it.

    Raises:
        UserError: there is no such column, a cell is no number or no time, lines of other lengths, ...
    """
    table = _Table.read(path, separator)
    decimal = decimal or table.decimal()
    place = table.time_column(time, decimal)
    for name in columns or ():
        if name not in table.names:
            raise UserError(f"{path} has no column {name!r}: it has {', '.join(table.names)}")
    wanted = [number for number, name in enumerate(table.names) if number != place and name in (columns or table.names)]
    numbers = {number: table.numbers(number, decimal, asked=columns is not None) for number in wanted}
    kept = {number: values for number, values in numbers.items() if values is not None}
    if not kept:
        raise UserError(f"{path} has no column of numbers: it has {', '.join(table.names)}")
    times = np.arange(len(table.rows), dtype=float) if place is None else table.times(place, decimal)
    series = Series(
        tuple(table.names[number] for number in kept), np.stack(list(kept.values()), 1), times,
        None if place is None else table.names[place],
        {"decimal_commas": sum("," in row[number] for row in table.rows for number in kept)} if decimal == "," else {},
        tuple(table.names[number] for number in wanted if number not in kept),
    )  # fmt: skip
    return _in_order(_without_gaps(_sorted(series, path)))


@dataclass(frozen=True)
class _Table:
    """The cells of a file, white space around them cut off."""

    path: Path
    separator: str
    names: list[str]
    rows: list[list[str]]
    lines: list[int]  # the line of the file in which each row ends

    @classmethod
    def read(cls, path: Path, separator: str | None) -> "_Table":
        texts = read_lines(path)
        head = next(text for text in texts if text.strip())
        separator = separator or max(SEPARATORS, key=lambda sign: len(next(csv.reader([head], delimiter=sign))))
        reader, rows, lines = csv.reader(texts, delimiter=separator, strict=True), list[list[str]](), list[int]()
        try:
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append([cell.strip() for cell in row])
                    lines.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}: correct it") from None
        for row, line in zip(rows, lines, strict=True):
            if len(row) != len(rows[0]):
                way = "correct it, or set data.separator=..."
                raise UserError(f"{path}, line {line} has {len(row)} cells and the first line {len(rows[0])}: {way}")
        if all(_NUMBER.fullmatch(cell) or _date(cell) or cell.lower() in MISSING for cell in rows[0]):
            names = [f"c{number}" for number in range(1, len(rows[0]) + 1)]  # no header
        else:
            names = [name or ("index" if number == 1 else f"c{number}") for number, name in enumerate(rows.pop(0), 1)]
            lines.pop(0)
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{path} has two columns {twice!r}: give each a name of its own")
        if not rows:
            raise UserError(f"{path} has a header and no rows: put the values below it")
        return cls(path, separator, names, rows, lines)

    def decimal(self) -> str:
        """A comma where numbers have one that is not there to part thousands."""
        commas = [cell for row in self.rows for cell in row if "," in cell and _NUMBER.fullmatch(cell)]
        last = [cell for cell in commas if cell.rfind(",") > cell.rfind(".") and cell.count(",") == 1]
        parts = self.separator == "," and all(re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", cell) for cell in last)
        return "," if last and len(last) == len(commas) and not parts else "."

    def time_column(self, asked: str | None, decimal: str) -> int | None:
        if asked == "none":
            return None
        if asked is not None:
            if asked not in self.names:
                raise UserError(f"{self.path} has no column {asked!r} for data.time: it has {', '.join(self.names)}")
            return self.names.index(asked)
        for place, (name, cell) in enumerate(zip(self.names, self.rows[0], strict=True)):
            if _date(cell) or (name.lower() in TIME_NAMES and _number(cell, decimal) is not None):
                return place
        return None

    def times(self, place: int, decimal: str) -> np.ndarray:
        """The column as numbers, or as dates in the first format that all cells have, if there are two, in order."""
        cells, found = [row[place] for row in self.rows], list[np.ndarray]()
        numbers = [_number(cell, decimal) for cell in cells]
        if None not in numbers:
            return np.array(numbers, dtype=float)
        wrong = 0
        for form in _FORMATS:
            dates = [_date(cell, form) for cell in cells] if _date(cells[0], form) else [None]
            wrong = max(wrong, dates.index(None) if None in dates else 0)
            if None not in dates:
                found.append(np.array(dates, dtype="datetime64[us]"))
        if not found:
            way = "correct it, or set data.time to another column, or to none"
            name, line = self.names[place], self.lines[wrong]
            raise UserError(f"{self.path}, line {line}: {name} is {cells[wrong]!r}, which is no time: {way}")
        return next((times for times in found if (np.diff(times) > np.timedelta64(0, "us")).all()), found[0])

    def numbers(self, place: int, decimal: str, *, asked: bool) -> np.ndarray | None:
        """A column with nan where a cell is empty; None where most is text and nobody asked for it."""
        name, cells = self.names[place], [row[place] for row in self.rows]
        found = [math.nan if cell.lower() in MISSING else _number(cell, decimal) for cell in cells]
        missing, wrong = sum(cell.lower() in MISSING for cell in cells), found.count(None)
        if not asked and 2 * wrong >= len(cells) - missing:
            return None
        if wrong:
            first, way = found.index(None), "correct it, or name the columns to read by data.columns=[...]"
            line, cell = self.lines[first], cells[first]
            raise UserError(f"{self.path}, line {line}: {name} is {cell!r}, which is no number (of {wrong:,} so): {way}")
        if 2 * missing > len(cells):
            text = f"{name} is empty in {missing:,} of {len(cells):,} rows"
            raise UserError(f"{self.path}: {text}: name the columns to read by data.columns=[...]")
        return np.array(found, dtype=float)


def _date(cell: str, form: str | None = "any") -> datetime | None:
    """In a format, or in any; in UTC where it has an offset. A number is no date."""
    if form == "any":
        return None if _NUMBER.fullmatch(cell) else next((date for form in _FORMATS if (date := _date(cell, form))), None)
    try:
        if form is not None:
            return datetime.strptime(cell, form)
        date = datetime.fromisoformat(cell[:-1] + "+00:00" if cell.endswith("Z") else cell)  # Python 3.10 knows no Z
        return date if date.tzinfo is None else date.astimezone(timezone.utc).replace(tzinfo=None)
    except ValueError:
        return None


def _number(cell: str, decimal: str) -> float | None:
    """With thousands parted or not; None where it is none, or not finite."""
    parting = "," if decimal == "." else "."
    if re.fullmatch(rf"[+-]?\d{{1,3}}(\{parting}\d{{3}})+(\{decimal}\d*)?", cell):
        cell = cell.replace(parting, "")
    if parting in cell or "_" in cell:
        return None
    try:
        value = float(cell.replace(decimal, "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _sorted(series: Series, path: Path) -> Series:
    """In the order of time; of rows of one time the last one."""
    times, repairs = series.times, dict(series.repairs)
    if late := int((times < np.maximum.accumulate(times)).sum()):
        repairs["sorted_rows"] = late
    order = np.argsort(times, kind="stable")
    times, values = times[order], series.values[order]
    last = np.append(times[1:] != times[:-1], True)
    if again := int((~last).sum()):
        if 10 * again > len(times):
            text = f"{again:,} of {len(times):,} rows have the time ({series.time_name}) of another row"
            raise UserError(f"{path}: {text}: keep one series, or set data.time=none")
        repairs["repeated_rows"] = again
    return replace(series, times=times[last], values=values[last], repairs=repairs)


def _without_gaps(series: Series) -> Series:
    """Empty cells have the value before, which a forecast could have known."""
    present, repairs = ~np.isnan(series.values), dict(series.repairs)
    start = int(present.argmax(0).max())
    if start:
        repairs["incomplete_rows"] = start
    if gaps := int((~present[start:]).sum()):
        repairs["filled_cells"] = gaps
    before = np.maximum.accumulate(np.where(present, np.arange(len(series))[:, None], 0))
    values = np.take_along_axis(series.values, before, 0)
    return replace(series, values=values[start:], times=series.times[start:], repairs=repairs)


def _in_order(series: Series) -> Series:
    """With rows where steps of time are missing, as long as those are few and whole."""
    steps, repairs = np.diff(series.times).astype(float), dict(series.repairs)
    usual = float(np.median(steps)) if len(steps) else 0.0
    long = steps > 1.5 * usual
    if not long.any():
        return series
    lengths = np.append(np.where(long, np.rint(steps / usual), 1), 1).astype(int)
    added = int((lengths - 1).sum())
    whole = np.abs(steps / usual - lengths[:-1])[long] < 0.01
    if not whole.all() or 20 * long.sum() > len(steps) or 2 * added > len(series):
        return replace(series, repairs=repairs | {"irregular_steps": int(long.sum())})
    rows = np.repeat(np.arange(len(series)), lengths)
    into = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # 0 at rows that were there
    ahead = (into * usual).astype(float if series.times.dtype.kind == "f" else "timedelta64[us]")
    return replace(
        series, values=series.values[rows], times=series.times[rows] + ahead, repairs=repairs | {"filled_rows": added}
    )
