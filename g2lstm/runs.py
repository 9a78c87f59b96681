"""Finished runs as commands name them: folders and patterns on a command line, their configs, tasks and best weights."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from g2lstm import build
from g2lstm.config import check_values, load_config
from g2lstm.errors import UserError
from g2lstm.results import load_best
from g2lstm.training.rundir import RunDirectory
from g2lstm.training.tasks import LanguageModelTask

Overrides = dict[str, str | None]


@dataclass(frozen=True)
class NamedRun:
    """A run with weights.

    Attributes:
        path: where it is.
        gate: its name without the seed and without what all runs share, as "gumbel-p0.5"; with its experiment's where
            runs of several are together.
        seed: its seed.
        config: how it was trained, with the command's overrides.
    """

    path: Path
    gate: str
    seed: int
    config: DictConfig


def find_runs(patterns: str) -> list[Path]:
    """The run directories of comma-separated names and patterns. A pattern passes over what is no run."""
    found: list[Path] = []
    for pattern in patterns.split(","):
        if any(character in pattern for character in "*?["):
            matches = [Path(path) for path in sorted(glob.glob(pattern)) if (Path(path) / "config.yaml").is_file()]  # noqa: PTH207
            if not matches:
                raise UserError(f"no run directory matches {pattern}: name folders that runs wrote")
            found += matches
        else:
            found.append(RunDirectory.open(Path(pattern)).path)
    return list(dict.fromkeys(_short(path) for path in found))


def run_config(path: Path, overrides: Overrides) -> DictConfig:
    """A run's config with the values that are not None put over it."""
    config = load_config(RunDirectory.open(path).config)
    for name, value in overrides.items():
        if value is not None:
            OmegaConf.update(config, name, value)
    check_values(config)
    return config


def named_runs(patterns: str, overrides: Overrides) -> list[NamedRun]:
    """The runs of comma-separated names and patterns.

    Raises:
        UserError: a folder is no run, or a run has no weights.
    """
    configs = {path: run_config(path, overrides) for path in find_runs(patterns)}
    several = len({config.experiment_name for config in configs.values()}) > 1
    gates = _short_names(list(configs.values()))
    runs = []
    for (path, config), gate in zip(configs.items(), gates, strict=True):
        check_weights(path)
        runs.append(NamedRun(path, f"{config.experiment_name}/{gate}" if several else gate, config.seed, config))
    return runs


@contextmanager
def blamed(run: NamedRun) -> Iterator[None]:
    """A mistake is told with the run that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{run.path}: {error}") from error


def check_weights(path: Path) -> Path:
    """The file of a run's best weights.

    Raises:
        UserError: there is none.
    """
    best = RunDirectory(path).best
    if not best.is_file():
        raise UserError(f"{path} has no weights ({best.name}): not every recorded run keeps its own, train it again")
    return best


def load_run(path: Path, config: DictConfig) -> tuple[LanguageModelTask, nn.Module]:
    """A run's task and its model with the best weights, in eval mode."""
    device = build.build_device(config.device)
    task = build.build_task(config, build.build_corpus(config.data, build.vocabulary_of(path)), device)
    return task, load_best(RunDirectory.open(path), task.build_model().to(device))


def default_folder(paths: list[Path], kind: str) -> Path:
    """results/<kind>/<experiment> for recorded runs of one experiment, else runs/<kind>."""
    parents = {path.parent for path in paths}
    parent = parents.pop()
    if not parents and parent.parent == Path("results"):
        return Path("results") / kind / parent.name
    return Path("runs") / kind


def _short_names(configs: list[DictConfig]) -> list[str]:
    """The names of runs without seed, and without the overrides that all of them have, where these names stay distinct."""
    names = [re.sub(r"-seed\d+$", "", config.run_name) for config in configs]
    # A value may hold a "-" as well (lr1e-05): only what starts like an option is an override.
    options = {option for config in configs for option in re.findall(r"(?m)^ *(\w+):", OmegaConf.to_yaml(config))}
    start = re.compile(rf"-(?=(?:{'|'.join(sorted(options))})|p[\d.])")
    parts = {name: start.split(name) for name in names}
    shared = set.intersection(*(set(found[1:]) for found in parts.values()))
    short = {
        name: "-".join([first, *(part for part in more if part not in shared)]) for name, (first, *more) in parts.items()
    }
    return [short[name] for name in names] if len(set(short.values())) == len(short) > 1 else names


def _short(path: Path) -> Path:
    """Relative to the present folder where it lies in it."""
    full, here = path.absolute(), Path.cwd()
    return full.relative_to(here) if full.is_relative_to(here) else full
