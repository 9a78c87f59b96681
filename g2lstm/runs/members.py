"""The paper's tables as data (`conf/reproduction.yaml`), the runs that stand for their cells, and how far those are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from g2lstm.errors import UserError
from g2lstm.files import conf_folder, read_text
from g2lstm.runs.config import experiment_name, given, run_name
from g2lstm.runs.device import build_device
from g2lstm.runs.run import Run
from g2lstm.runs.shards import Manifest, read_manifest
from g2lstm.schema import Count, checked, section
from g2lstm.training.environment import hardware
from g2lstm.training.folder import RunFolder

Row = tuple[float | None, ...]


@section
class Experiment:
    """Runs that differ in gate and seed alone; `smaller_than` names the experiment of the paper's size."""

    size: Literal["cpu", "paper"]
    options: tuple[str, ...]
    seeds: tuple[Count, ...]
    smaller_than: str | None = None


@section
class Table:
    """A table of the paper: its values by gate, and what experiments have in the place of each column."""

    title: str
    digits: int
    columns: tuple[str, ...]
    paper: dict[str, Row]
    ours: dict[str, tuple[str | None, ...]]
    compression: str | None = None  # the variant of evaluation, where it is about compressed gates


@section
class Plan:
    """All of it."""

    gates: tuple[str, ...]
    experiments: dict[str, Experiment]
    tables: dict[str, Table]

    @classmethod
    def load(cls, path: Path | None = None) -> "Plan":
        """What `conf/reproduction.yaml`, or another such file, says; a UserError where it does not."""
        path = path or conf_folder() / "reproduction.yaml"
        try:
            values = OmegaConf.to_container(OmegaConf.create(read_text(path)))
        except (YAMLError, OmegaConfBaseException, ValueError) as error:
            raise UserError(f"can't read {path} ({' '.join(str(error).split())}): mend its YAML") from None
        tables = values.get("tables") if isinstance(values, dict) else None
        if isinstance(tables, dict):
            values = values | {"tables": {str(name): table for name, table in tables.items()}}  # type: ignore[operator]
        plan = checked(values, cls, where=str(path))
        for name, table in plan.tables.items():
            rows = [*table.paper.values(), *table.ours.values()]
            if wrong := {*table.ours} - {*plan.experiments}:
                raise UserError(f"{path}: table {name} names {min(wrong)}, which is no experiment there: add it")
            if any(len(row) != len(table.columns) for row in rows):
                raise UserError(f"{path}: table {name} has {len(table.columns)} columns and a row of another length")
        return plan

    def members(self, experiment: str | None = None) -> list["Member"]:
        """The runs of one experiment, or of all."""
        return [
            Member(name, self.experiments[name], gate, seed)
            for name in ([experiment] if experiment else self.experiments)
            for seed in self.experiments[name].seeds
            for gate in self.gates
        ]

    def tables_of(self, experiment: str) -> list[str]:
        return [name for name, table in self.tables.items() if experiment in table.ours]


@dataclass(frozen=True)
class Member:
    """One run of an experiment."""

    experiment: str
    about: Experiment
    gate: str
    seed: int

    @property
    def overrides(self) -> list[str]:
        """What train.py is told."""
        return [*self.about.options, f"gate={self.gate}", f"seed={self.seed}"]

    @cached_property
    def name(self) -> str:
        """Of its folder under runs/ and results/, as "ptb_cpu/gumbel-seed1"."""
        experiment = experiment_name(given(self.overrides).get("task", ""), self.overrides)
        return f"{experiment}/{run_name(self.gate, self.seed, self.overrides)}"


@dataclass(frozen=True)
class Places:
    """Where members are looked for: records, runs, and shards where there are any."""

    results: Path = Path("results")
    runs: Path = Path("runs")
    shards: Path | None = None

    def manifest(self, member: Member) -> Manifest | None:
        """What its shards say; None where it has none."""
        return read_manifest(self.shards / member.name, member.name) if self.shards else None


@dataclass(frozen=True)
class State:
    """How far a member is."""

    name: Literal["done", "running", "missing"]
    share: float = 0.0  # of its epochs, while it is running
    seconds: float | None = None  # it took, or needs to its end on this machine; None where that was not measured


def state_of(member: Member, places: Places) -> State:
    """Found from its record, its folder and its shards; the time as measured on this machine, else None."""
    manifest, folder = places.manifest(member), RunFolder(places.runs / member.name)
    for path in (places.results / member.name, folder.path):
        if (path / "summary.json").is_file() and (summary := Run.open(path).summary).get("finished"):
            return State("done", 1.0, summary.get("seconds"))
    if manifest is not None and manifest.finished:
        return State("done", 1.0)
    if folder.config.is_file():
        return _running(folder.curve(), _last_hardware(folder))
    if manifest is not None:
        return _running(manifest.curve, manifest.hardware)
    return State("missing", 0.0, _measured(member, places))


def _running(curve: Sequence[Mapping[str, Any]], where: str) -> State:
    line: Mapping[str, Any] = next((line for line in reversed(curve) if line["kind"] == "train"), {})
    here = where == hardware(build_device("auto"))
    return State("running", line.get("progress", 0.0), line.get("eta") if here else None)


def _last_hardware(folder: RunFolder) -> str:
    found = folder.read_json("environment.json")
    return str([found, *found.get("resumed_on", [])][-1].get("hardware"))


def _measured(member: Member, places: Places) -> float | None:
    """The mean of finished runs of the same experiment on the same hardware, of the same gate where there are any."""
    here, found = hardware(build_device("auto")), []
    folder = Path(member.name).parent
    for path in sorted(path for place in (places.results, places.runs) for path in (place / folder).glob("*/summary.json")):
        run = Run.open(path.parent)
        if run.summary.get("finished") and run.summary.get("hardware") == here and not run.variant:
            found.append((run.gate, run.summary["seconds"]))
    times = [seconds for gate, seconds in found if gate == member.gate] or [seconds for _, seconds in found]
    return mean(times) if times else None
