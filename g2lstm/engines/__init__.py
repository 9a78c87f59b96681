"""The recurrence: a specification, `reference`, and faster engines of the same contract (`contract`), checked against it."""

from types import ModuleType

import torch

from g2lstm.engines import bptt, framework, native, reference, triton
from g2lstm.engines.contract import Masks, Options, Request

__all__ = [
    "DRAW_THEMSELVES",
    "ENGINES",
    "FASTEST_FIRST",
    "Masks",
    "Options",
    "Request",
    "check_name",
    "choose",
    "is_vmapped",
]

ENGINES: dict[str, ModuleType] = {
    "reference": reference, "bptt": bptt, "native": native, "triton": triton, "framework": framework,
}  # fmt: skip
FASTEST_FIRST = ("native", "triton", "framework", "bptt", "reference")
DRAW_THEMSELVES = ("native", "triton")  # engines that draw noise from a recipe faster than it could be handed to them


def choose(name: str, request: Request) -> str:
    """The name of the engine to use; "auto" takes the fastest that can do what is asked.

    An evaluation that is an LSTM's is the framework's own. For another single step, and under torch.vmap, it is the
    reference, which `torch.export` has whatever was named.

    Raises:
        ValueError: there is no such engine, or it lacks what is asked.
    """
    check_name(name)
    if torch.compiler.is_exporting():
        return "reference"
    if name != "auto":
        if reason := ENGINES[name].lacks(request):
            raise ValueError(f"the {name} engine {reason}: use engine='auto'")
        return name
    if is_vmapped():
        return "reference"
    own = ("framework",) if request.plain and not request.training else ()
    others = ("reference",) if request.steps == 1 else FASTEST_FIRST
    return next(engine for engine in (*own, *others) if ENGINES[engine].lacks(request) is None)


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is "auto" or an engine."""
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}, got {name!r}")


def is_vmapped() -> bool:
    """Whether this happens under torch.vmap."""
    if torch.compiler.is_compiling():
        return False
    stack = torch._C._functorch.get_interpreter_stack()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in stack or ())
