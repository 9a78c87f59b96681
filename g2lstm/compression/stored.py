"""Compressed models that come from a run: making one, and evaluating it again from its file alone."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.methods import Method
from g2lstm.compression.model_file import load_model
from g2lstm.compression.targets import Target
from g2lstm.data.text import Vocabulary
from g2lstm.errors import UserError
from g2lstm.models import MODELS
from g2lstm.runs.config import Config
from g2lstm.runs.device import build_device
from g2lstm.runs.run import Overrides, Run, load_weights
from g2lstm.training.checkpoint import load_checkpoint


def deploy_run(run: Run, method: Method, target: Target | None = None, *, rest: str = "float32") -> Deployed:
    """A run's best weights, compressed, with all that evaluating them again takes: its config and what its task saved.

    Args:
        run: the run.
        method, target, rest: as in `deploy`.
    """
    _ = run.weights  # says where there are none
    content = load_checkpoint(run.folder.best)
    if content.get("kind") in MODELS:
        model = MODELS[content["kind"]](**content["options"], gate=run.config.gate)
    else:  # an older record doesn't tell, and a task from elsewhere has a model of its own
        model = run.task().build_model()
    model = load_weights(model, run.folder.best, run.identity)
    notes = {"config": run.own_config.anywhere(), "files": run.files}
    return deploy(model, method, target, rest=rest, notes=notes)


def origin(deployed: Deployed, path: Path) -> tuple[Config, dict[str, str]]:
    """The config of the run that a compressed model comes from, and what its task saved.

    Args:
        deployed: the model.
        path: of its file, for the message.

    Raises:
        UserError: it does not come from a run.
    """
    config, files = deployed.notes.get("config"), deployed.notes.get("files")
    if files is None and "vocabulary" in deployed.notes:  # as an earlier version wrote it
        files = {"vocabulary.json": Vocabulary(tuple(deployed.notes["vocabulary"])).text()}
    if not isinstance(config, dict) or not isinstance(files, dict):
        raise UserError(f"{path} does not say what it was trained on: only models made from a run can be evaluated")
    return Config.parse(config, where=str(path)), files


@dataclass(frozen=True)
class StoredModel:
    """The file of a compressed model, to be evaluated as a `Run` is."""

    path: Path  # of the file
    overrides: Overrides = field(default_factory=dict)  # what is put over the config of its run

    @cached_property
    def deployed(self) -> Deployed:
        return load_model(self.path)

    @cached_property
    def own_config(self) -> Config:
        """Of the run that it comes from."""
        return origin(self.deployed, self.path)[0]

    @cached_property
    def config(self) -> Config:
        """The same with `overrides`."""
        return self.own_config.with_values(self.overrides)

    def task(self) -> Any:
        """The task of its run, on its data."""
        return self.config.build_task(build_device(self.config.run.device), origin(self.deployed, self.path)[1])

    def model(self, task: Any) -> nn.Module:
        """The model as it is stored, in eval mode on the task's device."""
        like = None if self.deployed.kind != "other" else task.build_model()
        return self.deployed.model(like).to(build_device(self.config.run.device))
