"""The device and the threads that a run computes with."""

import torch

from g2lstm.errors import UserError

DEFAULT_THREADS = torch.get_num_threads()  # before any run changed it


def build_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one. A UserError where there is no such device."""
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


def set_threads(count: int | None) -> None:
    """CPU threads; the framework's own number without one, also after another run has set it."""
    torch.set_num_threads(count or DEFAULT_THREADS)
