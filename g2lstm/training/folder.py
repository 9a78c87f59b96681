"""A run's folder: everything that is needed to resume it bit for bit, to evaluate, compress and inspect it again."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from g2lstm.errors import UserError
from g2lstm.files import read_json, read_text, write_atomically, writing


class RunFolder:
    """The files of a run, written atomically.

    `config.yaml` the resolved config, `environment.json` versions and hardware, what the task saved, `metrics.jsonl` the
    curve, `best.safetensors` the best weights, `last.safetensors` all that resuming needs
    and `last-but-one.safetensors` the same a save earlier, `tracker.json` the tracker's
    run, `summary.json` the results, `losses.safetensors` the loss of each evaluated word as float16, in reading order;
    `trace.json.gz` and `profile.txt` where steps were profiled; `epoch-007.safetensors`, ... where epochs are kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics, self.summary = path / "config.yaml", path / "metrics.jsonl", path / "summary.json"
        self.best, self.last, self.losses = (path / f"{name}.safetensors" for name in ("best", "last", "losses"))
        self.last_but_one = path / "last-but-one.safetensors"
        self.best_before_finetune = path / "best-before-finetune.safetensors"

    @classmethod
    def at(cls, path: Path) -> "RunFolder":
        """A folder that is made where there is none; a UserError where it can't be."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"can't write to {path} ({error.strerror}): set run_dir=...") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """An existing run directory; a UserError where there is none."""
        if not (path / "config.yaml").is_file():
            why = "it has no config.yaml" if path.exists() else "there is no such folder"
            raise UserError(f"{path} is not a run directory ({why}): name a folder that a run wrote")
        return cls(path)

    @contextlib.contextmanager
    def keeping_last(self) -> Iterator[None]:
        """While another checkpoint takes its place: one whose file a disk damages later is not the only one."""
        link = self.path / f".{self.last_but_one.name}.{os.getpid()}"
        with contextlib.suppress(OSError):  # no checkpoint yet, or a file system without links
            os.link(self.last, link)
        try:
            yield
            if link.exists():
                link.replace(self.last_but_one)
        finally:
            link.unlink(missing_ok=True)

    def epochs(self) -> list[Path]:
        """The weights of the epochs that are kept, in order."""
        return sorted(self.path.glob("epoch-*.safetensors"), key=lambda path: (len(path.name), path.name))

    def remove_unfinished(self) -> None:
        """Removes what a killed process left half written."""
        for kind in ("safetensors", "json", "yaml", "txt"):
            for path in self.path.glob(f".*.{kind}.*"):
                path.unlink(missing_ok=True)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of this run; errors as in `g2lstm.files.read_json`."""
        return read_json(self.path / name, dict, "the run is not complete, or the file was edited")

    def curve(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`, none where there is no file yet; a UserError where a line is none.

        A last line without its end was being written, by a run that goes on or was killed, and is left out.
        """
        if not self.metrics.is_file():
            return []
        text = read_text(self.metrics)
        try:
            records = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.strip()]
            if not all({"kind", "step", "epoch"} <= record.keys() for record in records):
                raise ValueError("a line has no kind, step or epoch")
        except (ValueError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.metrics} is no curve of a run ({error}): it was edited; copy it again") from None
        return records

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to the curve."""
        with writing(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Drops what the curve got after a checkpoint that the run is resumed from."""
        if self.metrics_size() > size:
            with self.metrics.open("r+b") as file:
                file.truncate(size)
