"""Compressed models that come from a run: making one, and evaluating it again from its file alone."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.methods import Method
from g2lstm.compression.model_file import load_model
from g2lstm.compression.targets import Target
from g2lstm.errors import UserError
from g2lstm.models import MODELS
from g2lstm.runs.config import Config
from g2lstm.runs.device import build_device
from g2lstm.runs.run import Overrides, Run, load_weights
from g2lstm.training.checkpoint import load_checkpoint


def deploy_run(run: Run, method: Method, target: Target | None = None, *, rest: str = "float32") -> Deployed:
    """A run's best weights, compressed as by `deploy`, with all that evaluating them again takes: its config and files."""
    _ = run.weights  # says where there are none
    content = load_checkpoint(run.folder.best)
    if content.get("kind") in MODELS:
        model = MODELS[content["kind"]](**content["options"], gate=run.config.gate)
    else:  # an older record doesn't tell, and a task from elsewhere has a model of its own
        model = run.task().build_model()
    model = load_weights(model, run.folder.best, run.identity)
    notes = {"config": run.own_config.anywhere(), "files": run.files, "summary": run.summary}
    try:
        return deploy(model, method, target, rest=rest, notes=notes)
    except ValueError as error:
        raise UserError(str(error)) from None


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
        """Of the run that it comes from; a UserError where it comes from none."""
        if "config" not in self.deployed.notes:
            raise UserError(f"{self.path} does not say what it was trained on: only models made from a run can be evaluated")
        return Config.parse(self.deployed.notes["config"], where=str(self.path))

    @cached_property
    def config(self) -> Config:
        """The same with `overrides`."""
        return self.own_config.with_values(self.overrides)

    def task(self) -> Any:
        """The task of its run, on its data."""
        return self.config.build_task(build_device(self.config.run.device), self.deployed.notes["files"])

    def model(self, task: Any) -> nn.Module:
        """The model as it is stored, in eval mode on the task's device."""
        return running(self.deployed, task, build_device(self.config.run.device))


def running(deployed: Deployed, task: Any, device: torch.device) -> nn.Module:
    """A deployed model of a task in eval mode on a device, in the compiled runtime where it is a CPU."""
    like = None if deployed.kind in MODELS else task.build_model()
    return deployed.model(like, engine="auto" if device.type == "cpu" else "torch").to(device)
