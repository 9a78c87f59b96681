"""A run's config: its schema, what it means as objects, and what the run is called."""

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field
from yaml import YAMLError

from g2lstm.cli import LARGEST_SEED, MOST_THREADS
from g2lstm.errors import UserError
from g2lstm.gates import GATES, Gate, TemperatureSchedule, has_temperature
from g2lstm.schema import Count, Folder, NotNegative, Positive, Share, checked, names_of, section, values_of
from g2lstm.tasks import task_class
from g2lstm.training.settings import Settings

SCHEDULES = Literal["constant", "linear", "exponential", "cosine"]
# What doesn't change a run's numbers, but for rounding; what more does not change its name; and what more may differ between
# a run and its checkpoints.
NO_NUMBERS = (
    *("run_dir", "device", "threads", "tracker", "record", "record_weights", "record_unfinished"),
    *("checkpoint_minutes", "log_every", "keep_epochs", "profile"),
)
_NAMELESS = (*NO_NUMBERS, "experiment", "task", "gate", "seed", "data.dir", "data.files", "data.file", "data.download")
_NO_IDENTITY = (*NO_NUMBERS, "max_steps", "overrides", "experiment_name", "run_name")
LONGEST_NAME = 160
_INSTEAD = {"data.dir": "files", "data.files": "dir"}  # a text has one place
_PLACES = ("data.dir=", "data.files=", "data.file=", "run_dir=")  # on this machine
_SHORT = {"gate.noise_p": "p", "gate.tau": "tau", "model.dropout_scale": "dropout"}


@section
class TaskSection:
    """`task`: its name, the class of one that is not ours, and an option that makes it small enough for a laptop."""

    name: str
    source: str | None = None
    smaller: str | None = None


@section
class GateSection:
    """`gate`: of each gate the options of its class, and how its temperature changes over the run."""

    name: Literal["sigmoid", "sharpened", "gumbel"]
    tau: float | None = None
    tau_schedule: SCHEDULES = "constant"
    tau_end: float | None = None
    noise_p: float | None = None
    noise_p_schedule: Literal["constant", "last_third"] = "constant"
    noise_scope: str | None = None
    eps: float | None = None
    gates: tuple[str, ...] | None = None
    hard: bool | None = None


@section
class OptimizerSection:
    """`optimizer`: as `g2lstm.training.optim` has them; clip may be infinite."""

    name: Literal["sgd", "adamw", "adadelta"]
    lr: Positive
    weight_decay: NotNegative
    betas: tuple[Share, Share]
    schedule: Literal["constant", "warmup_cosine"]
    warmup: Share
    clip: Annotated[float, Field(gt=0)]
    average: Literal["none", "nonmonotone"]
    nonmonotone: Count


@section
class TrackerSection:
    """`tracker`: an experiment tracker; None leaves an option to it."""

    name: Literal["none", "wandb", "trackio", "tensorboard"]
    project: str = "g2lstm"
    mode: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()


@section
class RunConfig:
    """The options of any run; a task's own `Config` has the others."""

    task: TaskSection
    gate: GateSection
    optimizer: OptimizerSection
    tracker: TrackerSection
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)]
    device: str
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None
    precision: Literal["auto", "float32", "bfloat16"]  # a run that has started has no "auto"
    epochs: Count
    finetune: bool
    finetune_epochs: Count
    max_steps: Count | None
    accumulate: Count
    run_dir: Folder | None
    record: bool
    record_weights: bool = True
    record_unfinished: bool = False
    checkpoint_minutes: NotNegative
    log_every: Count
    keep_epochs: Annotated[int, Field(ge=0)] = 0
    profile: bool = False
    experiment_name: str = ""
    run_name: str = ""
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """A checked config."""

    values: dict[str, Any]  # all of it, as plain dictionaries and lists
    run: RunConfig  # what any run knows
    task: Any  # what its task adds, an instance of `task_class.Config`
    task_class: Any

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "") -> "Config":
        """Checks plain values; `where` names the file they come from.

        Raises:
            UserError: an option is unknown, missing, of another type or out of range, or does not go with another.
        """
        of_any = {name: values[name] for name in values.keys() & names_of(RunConfig)}
        run = checked(of_any, RunConfig, where=where)
        chosen = task_class(run.task.name, run.task.source)
        task = checked({name: value for name, value in values.items() if name not in of_any}, chosen.Config, where=where)
        config = cls(dict(values), run, task, chosen)
        _ = config.gate, config.temperature  # their own checks
        return config

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> "Config":
        """The config that a run wrote, with `overrides` as in `with_values`; errors as in `parse`."""
        try:
            values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        except (OSError, ValueError, YAMLError, OmegaConfBaseException, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"can't read {path} ({reason}): name a folder that a run wrote") from None
        if not isinstance(values, dict) or "experiment_name" not in values:
            raise UserError(f"{path} is not the config of a run: name a folder that a run wrote")
        return cls.parse({str(key): value for key, value in values.items()}, where=str(path)).with_values(overrides or {})

    def with_values(self, overrides: Mapping[str, Any]) -> "Config":
        """A copy with other values: {"data.dir": ...}. A UserError where there is no such option.

        `data.dir` takes the place of the run's `data.files`, and the other way round; what describes the run's own files
        (`data.tokenised`) goes with them.
        """
        changed = copy.deepcopy(self.values)
        for name, value in overrides.items():
            *parents, last = name.split(".")
            section: Any = changed
            for parent in parents:
                section = section.get(parent) if isinstance(section, dict) else None
            if not isinstance(section, dict) or last not in section:
                raise UserError(f"a run of task={self.run.task.name} has no option {name}: leave it out")
            section[last] = value
            replaced = (_INSTEAD[name], "tokenised") if name in _INSTEAD and value is not None else ()
            for other in replaced:
                if other in section and f"data.{other}" not in overrides:
                    section[other] = None
        return self if json.dumps(changed) == json.dumps(self.values) else Config.parse(changed)  # 1 is not true

    @cached_property
    def gate(self) -> Gate:
        kind = GATES[self.run.gate.name]
        options = {field.name: getattr(self.run.gate, field.name, None) for field in fields(kind)}
        try:
            return kind(**{name: value for name, value in options.items() if value is not None})
        except ValueError as error:
            raise UserError(f"gate: {error}") from None

    @cached_property
    def temperature(self) -> TemperatureSchedule | None:
        """The gate's temperature over the run, or None where the gate has none."""
        gate, options = self.gate, self.run.gate
        if not has_temperature(gate):
            return None
        if (options.tau_schedule == "constant") != (options.tau_end is None):
            both = f"gate.tau_schedule={options.tau_schedule} and gate.tau_end={options.tau_end}"
            raise UserError(f"{both} do not go together: set both, or neither")
        try:
            return TemperatureSchedule(gate.tau, options.tau_end, options.tau_schedule)
        except ValueError as error:
            raise UserError(f"gate: {error}") from None

    @property
    def settings(self) -> Settings:
        """How the loop trains."""
        run = self.run
        if run.precision == "auto":
            raise UserError("precision=auto is settled by a run that starts: name float32 or bfloat16 here")
        values = values_of(run) | values_of(run.optimizer) | {"optimizer": run.optimizer.name}
        values |= {"finetune_epochs": run.finetune_epochs if run.finetune else 0, "temperature": self.temperature}
        values |= {"bfloat16": run.precision == "bfloat16", "noise_p": getattr(self.gate, "noise_p", None)}
        values |= {"noise_p_schedule": run.gate.noise_p_schedule}
        return Settings(**{field.name: values[field.name] for field in fields(Settings)})

    def build_task(self, device: torch.device, files: Mapping[str, str] | None = None) -> Any:
        """The task on its data; `files` is what an earlier run saved."""
        return self.task_class.from_config(self.task, gate=self.gate, device=device, files=files)

    @property
    def places(self) -> dict[str, Any]:
        """Where its data lie, however that is spelt; seen from the present working directory."""
        names = [name.removeprefix("data.").removesuffix("=") for name in _PLACES if name.startswith("data.")]
        data = self.values.get("data")
        return {name: _resolved(data.get(name)) for name in names} if isinstance(data, dict) else {}

    def anywhere(self) -> dict[str, Any]:
        """The values without what only this machine knows."""
        overrides = [text for text in self.run.overrides if not text.startswith(_PLACES)]
        values = self.values | {"run_dir": None, "overrides": overrides}
        if isinstance(data := values.get("data"), dict):
            values["data"] = {name: None if f"data.{name}=" in _PLACES else value for name, value in data.items()}
        return values

    def identity(self, files: Mapping[str, str]) -> str:
        """Binds config, what the task saved and weights to each other."""
        values = {name: value for name, value in self.anywhere().items() if name not in _NO_IDENTITY}
        content = json.dumps([values, dict(files)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:20]

    def dump(self) -> str:
        """As YAML."""
        return OmegaConf.to_yaml(OmegaConf.create(self.values))


def _resolved(place: Any) -> Any:
    """A path, or those in a list or mapping, without links, ~ and what depends on the working directory."""
    if isinstance(place, Mapping):
        return {name: _resolved(part) for name, part in place.items()}
    if isinstance(place, list | tuple):
        return [_resolved(part) for part in place]
    return None if place is None else str(Path(f"{place}").expanduser().resolve())


def value_of(name: str, text: str) -> Any:
    """What the text given for an option means in YAML; a UserError where it means nothing."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
    except (YAMLError, OmegaConfBaseException, ValueError):
        raise UserError(f"{name}={text} does not parse: quote text that has brackets or braces") from None


def run_name(gate: str, seed: int, overrides: Sequence[str]) -> str:
    """<gate>[-overrides]-seed<N>, for example gumbel-p0.5-seed1."""
    name = "-".join([gate, *named_overrides(overrides)])
    if len(name) > LONGEST_NAME:  # a folder's name has its limit
        name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{name}-seed{seed}"


def named_overrides(overrides: Sequence[str]) -> list[str]:
    """What overrides add to a run's name, as ["p0.5", "epochs3"]."""
    return [
        _SHORT.get(key, key.split(".")[-1]) + re.sub(r"[^\w.+-]+", "_", value).strip("_")
        for key, value in given(overrides).items()
        if key not in _NAMELESS and not key.startswith(("eval.", "tracker.", "hydra."))
    ]


def experiment_name(task: str, overrides: Sequence[str]) -> str:
    """The experiment chosen on the command line, unless on another task; else the task."""
    chosen = given(overrides)
    experiment = chosen.get("experiment", "null")
    return task if experiment == "null" or "task" in chosen else experiment


def given(overrides: Sequence[str]) -> dict[str, str]:
    """The texts of a command line's options by name."""
    return {key.lstrip("+~"): value for key, _, value in (text.partition("=") for text in overrides)}
