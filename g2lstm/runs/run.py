"""A run as everything else sees it: its folder, what it was asked to do, and its task and model with the best weights."""

import glob
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from g2lstm.errors import UserError
from g2lstm.files import read_text
from g2lstm.gated import set_noise, set_temperature
from g2lstm.runs.config import Config, named_overrides
from g2lstm.runs.device import build_device
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.folder import RunFolder

LONGEST_LABEL = 40
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A run's folder, under runs/ or recorded under results/."""

    path: Path
    overrides: Overrides = field(default_factory=dict)  # what is put over its config here, as {"data.dir": ...}

    @classmethod
    def open(cls, path: Path | str, overrides: Overrides | None = None) -> "Run":
        """An existing run; a UserError where there is none, its config is not one, or has no such option."""
        run = cls(_short(RunFolder.open(Path(path)).path), dict(overrides or {}))
        with blamed(run):
            _ = run.config
        return run

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def own_config(self) -> Config:
        """How it was trained."""
        return Config.load(self.folder.config)

    @cached_property
    def config(self) -> Config:
        """How it was trained, with `overrides`."""
        return self.own_config.with_values(self.overrides)

    @property
    def gate(self) -> str:
        """Its gate's name."""
        return self.config.run.gate.name

    @property
    def seed(self) -> int:
        return self.config.run.seed

    @property
    def variant(self) -> tuple[str, ...]:
        """What it is called besides gate and seed, as ("p0.5",)."""
        if self.config.run.overrides:
            return tuple(named_overrides(self.config.run.overrides))
        rest = re.sub(r"-seed\d+$", "", self.config.run.run_name).removeprefix(self.gate).strip("-")  # of an older record
        return (rest,) if rest else ()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """`summary.json`, {} where the run has not ended."""
        return self.folder.read_json("summary.json") if self.folder.summary.is_file() else {}

    @cached_property
    def files(self) -> dict[str, str]:
        """What the task saved."""
        return {name: read_text(self.path / name) for name in self.config.task_class.FILES}

    @property
    def weights(self) -> str:
        """Digest of its best weights; a UserError where it has none."""
        return hashlib.sha256(self._best().read_bytes()).hexdigest()[:20]

    def task(self) -> Any:
        """Its task on its data."""
        with blamed(self):
            return self.config.build_task(build_device(self.config.run.device), self.files)

    def model(self, task: Any, *, average: int | None = None) -> nn.Module:
        """A model with its best weights and their temperature, in eval mode; a UserError where they are not its own.

        With `average` it has the mean of the weights after so many of its latest epochs, which the run must have kept.
        """
        model = task.build_model().to(build_device(self.config.run.device))
        if average is None:
            return load_weights(model, self._best(), self.identity)
        paths = self.folder.epochs()[-average:]
        if len(paths) < average:
            raise UserError(f"{self.path} kept the weights of {len(paths)} epochs: train with keep_epochs={average}")
        found = [{k: v.clone() for k, v in load_weights(model, path, self.identity).state_dict().items()} for path in paths]
        mean = {name: sum((one[name] for one in found[1:]), found[0][name]) / len(found) for name in found[0]}
        model.load_state_dict(mean)
        return model

    def bare_model(self, task: Any) -> nn.Module:
        """Its model without values, to look at its shapes."""
        with torch.device("meta"):
            return task.build_model()

    @property
    def identity(self) -> str:
        return self.own_config.identity(self.files)

    def _best(self) -> Path:
        path = self.folder.best
        if not path.is_file():
            text = "not every recorded run keeps its own, train it again"
            raise UserError(f"{self.path} has no weights ({path.name}): {text}")
        return path


def load_weights(model: nn.Module, path: Path, identity: str) -> nn.Module:
    """Gives `model` a checkpoint's weights, temperature and noise share, in eval mode; a UserError where they don't fit."""
    content = load_checkpoint(path)
    if content.get("identity", identity) != identity:  # older records have none
        raise UserError(f"{path} does not belong to the config and the files beside it: put back those of its own run")
    try:
        model.load_state_dict(content["model"])
        set_temperature(model, content["tau"])
        set_noise(model, content.get("noise_p"))  # None where it has no schedule; earlier files don't tell
    except (KeyError, RuntimeError, ValueError, TypeError):
        raise UserError(f"{path} does not fit the run's config.yaml: put back the one of its own run") from None
    return model.eval()


def find_runs(patterns: str | Sequence[str], overrides: Overrides | None = None) -> list[Run]:
    """The runs of comma-separated names and patterns, each once. A pattern passes over what is no run, but must find one."""
    found: list[Path] = []
    for pattern in patterns.split(",") if isinstance(patterns, str) else patterns:
        if not any(character in pattern for character in "*?["):
            found.append(Path(pattern))
        elif matches := [Path(path) for path in sorted(glob.glob(pattern)) if (Path(path) / "config.yaml").is_file()]:  # noqa: PTH207
            found += matches
        else:
            raise UserError(f"no run directory matches {pattern}: name folders that runs wrote")
    return [Run.open(path, overrides) for path in dict.fromkeys(map(_short, found))]


def labels(runs: Sequence[Run]) -> list[str]:
    """What each run is called beside the others: gate and what not all of them share, as "gumbel-p0.5", without the seed.

    With the experiment before it where there are runs of several.
    """
    full = [(run.gate, *run.variant) for run in runs]
    shared = set.intersection(*(set(parts[1:]) for parts in full))
    short = [tuple(part for part in parts if part not in shared) for parts in full]
    long = max(len("-".join(parts)) for parts in full) > LONGEST_LABEL
    chosen = short if len(set(short)) == len(set(full)) and (long or len(set(full)) > 1) else full
    several = len({run.config.run.experiment_name for run in runs}) > 1
    names = ["-".join(parts) for parts in chosen]
    return [f"{run.config.run.experiment_name}/{name}" if several else name for run, name in zip(runs, names, strict=True)]


def default_folder(runs: Sequence[Run], kind: str) -> Path:
    """results/<kind>/<experiment> for recorded runs of one experiment, else runs/<kind>."""
    parent, *others = {run.path.parent for run in runs}
    recorded = not others and parent.parent == Path("results")
    return Path("results", kind, parent.name) if recorded else Path("runs", kind)


@contextmanager
def blamed(run: Any) -> Iterator[None]:
    """A mistake is told with the run, or whatever has a path, that it is about."""
    try:
        yield
    except UserError as error:
        text = str(error)
        raise UserError(text if str(run.path) in text else f"{run.path}: {text}") from error


def _short(path: Path) -> Path:
    """Relative to the present folder where it lies in it."""
    full, here = path.absolute(), Path.cwd()
    return full.relative_to(here) if full.is_relative_to(here) else full
