"""The file of a measurement: fresh rows beside those that an equal machine measured before."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from g2lstm.benchmark.cases import Group
from g2lstm.benchmark.rows import Row, over_passes, replaced, rows_of_before, summary
from g2lstm.files import write_atomically
from g2lstm.training.environment import check_committed, environment


class SpeedFile:
    """Written whole after each group, so that an interrupted measurement keeps what it has, and says what it lacks.

    Attributes:
        content: what is written, machine and versions first.

    Args:
        path: where; None writes nothing.
        groups: what is to be measured.
        left_out: what is planned nowhere.
        device: where it is measured.
        quick: whether by fewer sizes and repeats, which replace no others.

    Raises:
        UserError: the file holds something else, or is a record and the code has uncommitted changes.
    """

    def __init__(
        self, path: Path | None, groups: Iterable[Group], left_out: Sequence[str], device: torch.device, *, quick: bool
    ) -> None:
        about = environment(device, "auto")
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self.content: dict[str, Any] = {
            key: about[key] for key in ("hardware", "torch", "threads", "g2lstm", "commit", "python")
        }
        self.content |= {"device": device.type, "tf32": device.type == "cuda", "load": round(load, 2), "quick": quick}
        self._path, self._rows, self._before = path, list[Row](), list[Row]()
        self._left_out, self._missing = left_out, dict.fromkeys(group.title for group in groups)
        if path is not None:
            check_committed(path)
            self._before = rows_of_before(path, self.content)
        self._save()

    def add(self, group: Group, rows: Sequence[Row]) -> None:
        """Rows of one pass."""
        self._rows += rows
        self._missing.pop(group.title, None)
        self._save()

    def _save(self) -> None:
        fresh = [row | {"commit": self.content["commit"]} for row in over_passes(self._rows)]
        rows = replaced(self._before, fresh)
        self.content |= {"left_out": [*self._left_out, *self._missing], "summary": summary(rows), "rows": rows}
        if self._path is not None:
            write_atomically(self._path, json.dumps(self.content, indent=1) + "\n")
