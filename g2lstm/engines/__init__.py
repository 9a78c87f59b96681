"""The recurrence, from pre-activations to hidden and cell states. An engine knows nothing about gates' noise or temperature.

Every engine is a function with this contract (T time, B batch, H hidden units, P = proj_size or H):

    run(pre, weight_hh, h0, c0, *, weight_hr=None, lengths=None, reverse=False, noise=None, hard=()) -> (h, c)

    pre        (T, B, 4H)  input part of the pre-activations with its bias, already scaled; blocks i, f, g, o
    weight_hh  (4H, P)     already scaled, and masked where DropConnect is used
    h0, c0     (B, P), (B, H)
    weight_hr  (P, H)      projection of the hidden state, or None
    lengths    (B,)        steps of each sequence; a sequence keeps its state in the steps beyond, or None
    reverse                runs from the last step to the first; everything stays indexed by input time
    noise      (T, B, K)   already scaled; added to the first K of the 4H columns, or None
    hard                   blocks whose sigmoid is the step a > 0
    returns    h (T, B, P) in pre's dtype and c (T, B, H), float32 where pre is float16 or bfloat16

An engine raises ValueError for what it can't do.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from g2lstm.engines import bptt, reference

Engine = Callable[..., tuple[Tensor, Tensor]]

ENGINES: dict[str, Engine] = {"reference": reference.run, "bptt": bptt.run}


def choose(name: str, *, hard: bool) -> Engine:
    """The engine called `name`; "auto" takes the fastest that can do what is asked, and `torch.export` the reference.

    Raises:
        ValueError: there is no such engine.
    """
    if name != "auto" and name not in ENGINES:
        raise ValueError(f"engine must be one of auto, {', '.join(ENGINES)}, got {name!r}")
    if torch.compiler.is_exporting():
        return ENGINES["reference"]
    if name == "auto":
        return ENGINES["reference" if hard else "bptt"]
    return ENGINES[name]
