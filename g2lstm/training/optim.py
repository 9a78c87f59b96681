"""Optimisation: optimizers by name, learning-rate schedules, and averaged weights with AWD-LSTM's trigger (NT-ASGD)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn


@dataclass
class NonMonotoneTrigger:
    """Says when validation has stopped getting better (Merity et al. 2017, algorithm 1).

    Args:
        n: how many of the latest values, at least 1, a new one is not compared with.
        history: the values so far.
    """

    n: int = 5
    history: list[float] = field(default_factory=list)

    def update(self, value: float) -> bool:
        """Takes a validation loss; True if it is worse than the best of all but the last n before it."""
        # As the authors' released code has it, the value itself is not yet among the last n.
        fires = len(self.history) > self.n and value > min(self.history[: -self.n])
        self.history.append(value)
        return fires


def average_of(model: nn.Module) -> AveragedModel:
    """A running mean of a model's weights, as yet without a value: `update_parameters(model)` after each step.

    `.module` has the mean, and until the first update the model's own weights. Tied weights stay tied.
    """
    # deviation: a running mean beside the optimizer instead of torch.optim.ASGD, which as AWD-LSTM calls it steers nothing
    # by its mean, leaves out the first iterate, and takes a changed learning rate one step late: not each segment's own.
    return AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())


def learning_rate_factor(schedule: str, progress: float, *, warmup: float = 0.0) -> float:
    """What the learning rate is multiplied with when a share `progress` of training is done; more than 1 counts as 1.

    It rises linearly from 0 to 1 over the share `warmup`. Then "constant" stays 1, and "warmup_cosine" falls to 0 along half
    a cosine.
    """
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    share = (min(progress, 1.0) - warmup) / (1 - warmup)
    return 0.5 * (1 + math.cos(math.pi * share))


def build_optimizer(
    name: str, model: nn.Module, *, lr: float, weight_decay: float = 0.0, betas: Sequence[float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """An optimizer over a model's trainable parameters, tied ones once.

    Args:
        name: "sgd", "adamw" or "adadelta".
        weight_decay: as AWD-LSTM has it, on all parameters for sgd; on matrices only, not on biases, for adamw.
        betas: decay rates of adamw's two moments; the first is adadelta's rho.

    Raises:
        ValueError: on an unknown name.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay)
    if name == "adamw":
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        given = [group for group in groups if group["params"]]
        return torch.optim.AdamW(given, lr=lr, betas=(betas[0], betas[1]), fused=True)  # one pass over the weights
    if name == "adadelta":  # eps as the paper's translation code has it
        return torch.optim.Adadelta(parameters, lr=lr, rho=betas[0], eps=1e-7, weight_decay=weight_decay)
    raise ValueError(f"the optimizer must be sgd, adamw or adadelta, got {name!r}")
