"""Measured rows, each under a key of all that it depends on: nothing is measured twice, nothing stale is shown."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from g2lstm.errors import UserError
from g2lstm.files import read_json, write_atomically

Row = dict[str, Any]
# Of what type a value has to be, in a row that has it.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("key", "run", "gate", "weights", "setting", "variant", "split", "metric", "kind", "mode"), str),
    **dict.fromkeys(("gates", "matrices", "layers", "layer", "block", "size"), str),
    **dict.fromkeys(("seed", "value", "bits_per_gate_parameter", "mean", "binary", "entropy"), int | float),
    **dict.fromkeys(("difference", "rank"), int | float | None),
    "histogram": list,
}


def key_of(*parts: Any) -> str:
    """Names a measurement by all that its result depends on, as weights, data and settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


class Store:
    """The rows of a JSON file, a list with a row a line. A row has its "key"; several rows may share one.

    Args:
        path: the file; one that does not exist yet has no rows.
        needed: what each row must have; a UserError where the file holds something else.
        upgrade: makes rows of what an earlier version wrote, and checks what the file holds.
    """

    def __init__(self, path: Path, needed: Iterable[str] = (), upgrade: Callable[[Any], list[Row]] | None = None) -> None:
        self.path, self._needed, self._upgrade = path, {"key", *needed}, upgrade
        self._rows = self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def rows(self, key: str) -> list[Row]:
        """The rows of one measurement."""
        return self._rows[key]

    def add(self, key: str, rows: list[Row]) -> list[Row]:
        """Takes a measurement in and writes the file, with what another process wrote meanwhile. The rows with their key."""
        kept = [row | {"key": key} for row in rows]
        self._rows = self._read() | self._rows | {key: kept}
        self._write()
        return kept

    def keep(self, keys: Iterable[str], stale: Iterable[Row] = ()) -> None:
        """Writes the file with the rows of `keys` first, in this order, and without the rows that are `stale`; as `add`."""
        self._rows = self._read() | self._rows
        first = [key for key in dict.fromkeys(keys) if key in self._rows]
        dropped = {row["key"] for row in stale} - set(first)
        self._rows = {key: self._rows[key] for key in [*first, *self._rows] if key not in dropped}
        self._write()

    def all(self) -> list[Row]:
        """Every row."""
        return [row for rows in self._rows.values() for row in rows]

    def _write(self) -> None:
        lines = ",\n ".join(json.dumps(row, ensure_ascii=False) for row in self.all())
        write_atomically(self.path, f"[\n {lines}\n]\n" if lines else "[]\n")

    def _read(self) -> dict[str, list[Row]]:
        if not self.path.exists():
            return {}
        advice = "remove it, or set out=..."
        content = self._upgrade(read_json(self.path, Any, advice)) if self._upgrade else read_json(self.path, list, advice)
        found: dict[str, list[Row]] = {}
        for row in content:
            whole = isinstance(row, dict) and row.keys() >= self._needed
            if not whole or not all(isinstance(row[name], _TYPES[name]) for name in row.keys() & _TYPES.keys()):
                raise UserError(f"{self.path} is not what this command wrote: remove it, or set out=...")
            found.setdefault(row["key"], []).append(row)
        return found
