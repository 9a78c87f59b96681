"""The recurrence as a small C++ kernel (native.cpp): weights packed once, a product and a fused pass a step, noise inside.

It is compiled when it is first needed and kept; without a compiler the tensor code of `bptt` takes its place.

T time, B batch, H hidden units.
"""

import functools
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from g2lstm.engines import compiled, layer
from g2lstm.engines.contract import UNSCALED, Options, Request
from g2lstm.engines.noise import taken_apart
from g2lstm.engines.products import fast_dtype

run = functools.partial(layer.run, sys.modules[__name__])


def lacks(request: Request) -> str | None:
    """Why this engine can't do what is asked, or None."""
    if request.device.type != "cpu":
        return f"runs on the CPU, not on {request.device.type}"
    if request.dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, not {str(request.dtype).removeprefix('torch.')}"
    if request.projected:
        return "has no projection"
    if request.dtype == torch.bfloat16 and request.size % 2:
        return f"takes an even hidden_size in bfloat16, not {request.size}"
    if not fast_dtype(request.dtype):
        return "needs oneDNN"
    return compiled.problem()


def forward(
    pre: Tensor, weight_hh: Tensor, _: None, h0: Tensor, c0: Tensor, options: Options, keep: bool
) -> tuple[Tensor, ...]:
    """As `g2lstm.engines.layer` says; it keeps gate values."""
    recipe, given = taken_apart(options.noise)
    reuse_pre = not torch.compiler.is_compiling()  # a graph has to know what is overwritten
    return torch.ops.g2lstm.forward(
        pre.contiguous(), weight_hh.float().contiguous(), h0, c0, options.scale or UNSCALED, given, recipe.seed_tensor(),
        recipe.threshold, recipe.eps, recipe.words, *recipe.place(pre.shape[1]), options.lengths, options.hard_blocks,
        *_masks(options), options.reverse, keep, reuse_pre,
    )  # fmt: skip


def backward(
    weight_hh: Tensor, _: None, hidden: Tensor, cell: Tensor, kept: Sequence[Tensor],
    grad_h: Tensor | None, grad_c: Tensor | None, options: Options,
) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    """As `g2lstm.engines.layer` says."""
    gradients = torch.ops.g2lstm.backward(
        weight_hh.float().contiguous(), kept[0], cell, None if grad_h is None else grad_h.contiguous(), grad_c,
        options.scale or UNSCALED, options.lengths, options.hard_blocks, *_masks(options), options.reverse, hidden.dtype,
    )  # fmt: skip
    return *gradients, None


def _masks(options: Options) -> list[Tensor | None]:
    """Each with the numbers of a row side by side; what is expanded stays so."""
    masks = (None if mask is None else mask.float() for mask in options.masks)
    return [mask if mask is None or mask.stride(-1) == 1 else mask.contiguous() for mask in masks]
