"""Names for what runs, which a profiler shows."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.profiler import record_function

PHASES = ("input product", "recurrence", "point-wise", "recurrence backward", "products backward")
_UNHEARD = nullcontext()


def span(name: str) -> AbstractContextManager[Any]:
    """Gives what runs inside a name in a trace; does nothing where no profiler listens, and for who compiles a graph."""
    if torch.compiler.is_compiling() or not torch.autograd._profiler_enabled():
        return _UNHEARD
    return record_function(name)
