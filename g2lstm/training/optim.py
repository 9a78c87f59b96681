"""Optimisation: optimizers by name, learning-rate schedules, and averaged weights with AWD-LSTM's trigger (NT-ASGD)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

OPTIMIZERS = ("sgd", "adamw")


class NonMonotoneTrigger:
    """Says when validation has stopped getting better (Merity et al. 2017, algorithm 1).

    Args:
        n: how many of the latest values a new one is not compared with.

    Raises:
        ValueError: if n < 1.
    """

    def __init__(self, n: int = 5) -> None:
        if n < 1:
            raise ValueError(f"the non-monotone interval must be at least 1, got {n}")
        self.n = n
        self.history: list[float] = []

    def update(self, value: float) -> bool:
        """Takes a validation loss; True if it is worse than the best of all but the last n before it."""
        # As the authors' released code has it, the value itself is not yet among the last n.
        fires = len(self.history) > self.n and value > min(self.history[: -self.n])
        self.history.append(value)
        return fires

    def state_dict(self) -> dict[str, Any]:
        return {"n": self.n, "history": list(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.n, self.history = int(state["n"]), [float(value) for value in state["history"]]


def average_of(model: nn.Module) -> AveragedModel:
    """A running mean of a model's weights, as yet without a value: `update_parameters(model)` after each step.

    With `t0 = 0` and `lambd = 0`, as AWD-LSTM calls it, torch.optim.ASGD is SGD that keeps the mean of its iterates
    and steers nothing by it. So the mean is kept here, beside any optimizer, and two of ASGD's ways are left behind:
    a changed learning rate takes effect one step late there, which breaks the scaling by each segment's length, and
    its mean leaves out the first iterate.

    Returns:
        An AveragedModel; `.module` has the mean, and until the first update the model's own weights. Buffers follow
        the model. Tied weights stay tied.
    """
    # deviation: a running mean beside the optimizer instead of torch.optim.ASGD
    return AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())


def constant(_progress: float, _warmup: float = 0.0, _final: float = 0.0) -> float:
    """1, whatever the progress."""
    return 1.0


def warmup_cosine(progress: float, warmup: float, final: float = 0.0) -> float:
    """Rises linearly from 0 to 1 over the share `warmup` of training, then falls to `final` along half a cosine."""
    if progress < warmup:
        return progress / warmup
    share = (progress - warmup) / (1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {"constant": constant, "warmup_cosine": warmup_cosine}


def learning_rate_factor(name: str, progress: float, *, warmup: float = 0.0, final: float = 0.0) -> float:
    """What the learning rate is multiplied with.

    Args:
        name: "constant" or "warmup_cosine".
        progress: share of training done; more than 1 counts as 1.
        warmup: share of training that warms up, in [0, 1).
        final: factor at the end, in [0, 1].

    Raises:
        ValueError: on an unknown name or a value out of range.
    """
    if name not in SCHEDULES:
        raise ValueError(f"the learning-rate schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be in [0, 1), got {warmup}")
    if not 0 <= final <= 1:
        raise ValueError(f"final must be in [0, 1], got {final}")
    if not progress >= 0:
        raise ValueError(f"progress must be >= 0, got {progress}")
    return SCHEDULES[name](min(progress, 1.0), warmup, final)


def build_optimizer(
    name: str,
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """An optimizer over a model's trainable parameters, tied ones once.

    Args:
        name: "sgd" or "adamw".
        model: whose parameters are trained.
        lr: learning rate.
        weight_decay: as AWD-LSTM has it, on all parameters for sgd; on matrices only, not on biases, for adamw.
        betas: decay rates of adamw's two moments.

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
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=(betas[0], betas[1]))
    raise ValueError(f"the optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
