"""A run directory: everything that is needed to resume a run bit for bit, to evaluate, compress and inspect it again."""

import json
from pathlib import Path
from typing import Any

from g2lstm.errors import UserError
from g2lstm.files import write_atomically


class RunDirectory:
    """The files of a run, written atomically.

    `config.yaml` the resolved config, `environment.json` versions and hardware, `vocabulary.json`, `metrics.jsonl` the
    curve, `best.safetensors` the best weights, `last.safetensors` all that resuming needs, `tracker.json` the tracker's
    run, `summary.json` the results, `losses.safetensors` the loss of each evaluated word as float16, in reading order;
    `trace.json.gz` and `profile.txt` where steps were profiled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> "RunDirectory":
        """Makes a new directory at `path`, or beside it with -2, -3, ... appended where it exists: no run is overwritten."""
        number, free = 1, path
        while True:
            try:
                free.mkdir(parents=True)
                return cls(free)
            except FileExistsError:
                number += 1
                free = path.with_name(f"{path.name}-{number}")
            except OSError as error:
                raise UserError(f"can't write to {free} ({error.strerror}): set run_dir=...") from None

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run directory.

        Raises:
            UserError: there is none at `path`.
        """
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not a run directory (it has no config.yaml): name a folder that a run wrote")
        return cls(path)

    def remove_unfinished(self) -> None:
        """Removes what a killed process left half written."""
        for kind in ("safetensors", "json", "yaml", "txt"):
            for path in self.path.glob(f".*.{kind}.*"):
                path.unlink(missing_ok=True)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def vocabulary(self) -> Path:
        return self.path / "vocabulary.json"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def losses(self) -> Path:
        return self.path / "losses.safetensors"

    @property
    def best_before_finetune(self) -> Path:
        return self.path / "best-before-finetune.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """The content of a JSON file of this run.

        Raises:
            UserError: the file is missing or is not JSON.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"can't read {self.path / name} ({error}): the run is not complete") from None

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to the curve."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics_size(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Drops what the curve got after a checkpoint that the run is resumed from."""
        if self.metrics_size() > size:
            with self.metrics.open("r+b") as file:
                file.truncate(size)
