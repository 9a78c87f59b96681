"""The device and the threads that a run computes with."""

import os
import re

import torch

from g2lstm.errors import UserError
from g2lstm.training import workers

DEFAULT_THREADS = torch.get_num_threads()  # before any run changed it


def build_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one. A UserError where there is no such device."""
    if name in ("auto", "cuda") and torch.cuda.is_available() and workers.started():
        return _gpu_of_worker()
    if workers.started() and re.fullmatch(r"cuda:\d+", name):
        raise UserError(f"device={name} would be of all workers: device=cuda or auto gives each its own")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:100]
        reason = "there is no such device" if reason.startswith("Expected one of") else reason
        raise UserError(f"device={name} can't be used ({reason}): use device=cpu or device=auto") from None
    return device


def _gpu_of_worker() -> torch.device:
    """One for each of the workers on this machine."""
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(f"worker {number} of this machine has no GPU, it has {gpus}: set --nproc-per-node={gpus}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def set_threads(count: int | None) -> None:
    """CPU threads; the framework's own number without one, also after another run has set it."""
    torch.set_num_threads(count or DEFAULT_THREADS)
