"""How a task is trained, as plain values."""

from dataclasses import dataclass

from g2lstm.gates import TemperatureSchedule


@dataclass(frozen=True)
class Settings:
    """How a task is trained.

    Attributes:
        epochs: epochs of the main stage.
        finetune_epochs: the most epochs of the finetune stage, which averages from its start and begins at the best weights.
        max_steps: optimiser steps after which the run ends, whatever the epoch.
        optimizer: "sgd" or "adamw".
        lr, weight_decay, betas: the optimiser's.
        schedule: "constant" or "warmup_cosine", over the main stage.
        warmup: share of the main stage in which the learning rate rises.
        clip: largest norm of the gradient.
        average: "none", or "nonmonotone": average the weights once validation stops getting better (NT-ASGD).
        nonmonotone: n of the trigger: epochs without a gain before it fires.
        accumulate: batches whose gradients make one step.
        bfloat16: run products in bfloat16 (autocast).
        seed: of everything random in the run.
        checkpoint_minutes: how often the state is saved within an epoch.
        temperature: of the gates over the main stage, or None where the gate has none.
        log_every: steps between two lines of the curve.
    """

    epochs: int
    finetune_epochs: int
    max_steps: int | None
    optimizer: str
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    schedule: str
    warmup: float
    clip: float
    average: str
    nonmonotone: int
    accumulate: int
    bfloat16: bool
    seed: int
    checkpoint_minutes: float
    temperature: TemperatureSchedule | None
    log_every: int
