"""How a task is trained, as plain values."""

from dataclasses import dataclass

from g2lstm.gates import TemperatureSchedule


@dataclass(frozen=True)
class Settings:
    """How a task is trained; an option of a run that has the same name says the same."""

    epochs: int  # of the main stage
    finetune_epochs: int  # at most, of the finetune stage, which averages from its start and begins at the best weights
    max_steps: int | None  # optimiser steps after which the run ends, whatever the epoch
    optimizer: str  # "sgd", "adamw" or "adadelta"
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    schedule: str  # "constant" or "warmup_cosine", over the main stage
    warmup: float  # share of the main stage in which the learning rate rises
    clip: float  # largest norm of the gradient
    average: str  # "none", or "nonmonotone": average the weights once validation stops getting better (NT-ASGD)
    nonmonotone: int  # n of the trigger: epochs without a gain before it fires
    accumulate: int  # batches whose gradients make one step
    bfloat16: bool  # run products in bfloat16 (autocast)
    seed: int  # of everything random in the run
    checkpoint_minutes: float  # how often the state is saved within an epoch
    temperature: TemperatureSchedule | None  # of the gates over the main stage, None where the gate has none
    noise_p: float | None  # share of noise of the gates, None where they have none
    noise_p_schedule: str  # "constant" or "last_third", over the main stage
    keep_epochs: int  # of the latest epochs whose weights are kept, to be averaged
    log_every: int  # steps between two lines of the curve
