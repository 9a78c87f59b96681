"""A callback of Hydra under which the process of one job is killed, as by a system without memory."""

import os
import signal
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_class
from joblib.externals.loky.backend.context import set_start_method
from omegaconf import DictConfig


class Killed(Callback):
    """Kills the job with that gate when its first epoch is over."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        if "submitit" in config.hydra.launcher._target_:
            get_class("submitit.core.core.Job")._results_timeout_s = 1  # for what a killed job does not write
        else:
            set_start_method("fork")  # which spares joblib's processes the imports

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.gate.name == self.gate:
            get_class("copying.Copying").evaluate = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
