"""The recurrence, from pre-activations to hidden and cell states. An engine knows nothing about what a gate is.

Every engine is a module with a function of this contract (T time, B batch, H hidden units, P = proj_size or H):

    run(pre, weight_hh, h0, c0, *, weight_hr=None, lengths=None, reverse=False, noise=None, scale=None, hard=(),
        reuse_pre=False) -> (h, c)

    pre        (T, B, 4H)  input part of the pre-activations with its bias; blocks i, f, g, o
    weight_hh  (4H, P)     in any floating dtype, masked where DropConnect is used; products run in pre's dtype
    h0, c0     (B, P), (B, H)
    weight_hr  (P, H)      projection of the hidden state, or None
    lengths    (B,)        steps of each sequence; a sequence keeps its state in the steps beyond, or None
    reverse                runs from the last step to the first; everything stays indexed by input time
    noise      (T, B, K)   added to the first K of the 4H columns; or a `NoiseRecipe` to draw it from; or None
    scale      4 numbers   what the sum of pre, recurrent part and noise is multiplied by in each block, or None
    hard                   blocks whose sigmoid is the step a > 0
    reuse_pre              the engine may overwrite pre, which saves a copy
    returns    h (T, B, P) in pre's dtype and c (T, B, H), float32 where pre is float16 or bfloat16; in a pass without
               gradients c may be that of the last step alone, (1, B, H)

and a function `lacks(*, device, dtype, size, projected, hard)` that says why the engine can't do what is asked, or None.
`run` raises ValueError with that reason. An engine that wants the input itself has `run_input(x, weight_ih, weight_hh, bias,
h0, c0, ...)` instead, which returns h of all steps, the last h and the last c.
"""

from types import ModuleType

import torch

from g2lstm.engines import bptt, cudnn, native, reference, triton

ENGINES: dict[str, ModuleType] = {
    "reference": reference, "bptt": bptt, "native": native, "triton": triton, "cudnn": cudnn,
}  # fmt: skip
FASTEST_FIRST = ("native", "triton", "cudnn", "bptt", "reference")
DRAW_THEMSELVES = ("native", "triton")  # engines that draw noise from a recipe faster than it could be handed to them


def choose(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    size: int,
    steps: int = 2,
    projected: bool = False,
    hard: bool = False,
) -> str:
    """The name of the engine to use; "auto" takes the fastest that can do what is asked, `torch.export` the reference.

    For a single step the reference is the fastest: nothing that others prepare is used twice.

    Args:
        name: "auto" or a key of `ENGINES`.
        device, dtype: of the pre-activations.
        size: H.
        steps: T.
        projected: whether the hidden state is projected.
        hard: whether gates are cut to 0 or 1.

    Raises:
        ValueError: there is no such engine.
    """
    check_name(name)
    if torch.compiler.is_exporting() or (name == "auto" and steps == 1):
        return "reference"
    if name != "auto":
        return name  # which raises for what it can't do
    asked = {"device": device, "dtype": dtype, "size": size, "projected": projected, "hard": hard}
    return next(engine for engine in FASTEST_FIRST if ENGINES[engine].lacks(**asked) is None)


def check_name(name: str) -> None:
    """Raises ValueError unless `name` is "auto" or an engine."""
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}, got {name!r}")
