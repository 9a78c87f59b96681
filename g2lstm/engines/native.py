"""The recurrence as a small C++ kernel (native.cpp): weights packed once, a product and a fused pass a step, noise inside.

It is compiled when it is first needed and kept; without a compiler the tensor code of `bptt` takes its place.

T time, B batch, H hidden units.
"""

from typing import Any

import torch
from torch import Tensor

from g2lstm.engines import compiled
from g2lstm.engines.noise import NoiseRecipe
from g2lstm.engines.products import fast_dtype, over_time
from g2lstm.engines.reference import Scale

_UNSCALED = (1.0, 1.0, 1.0, 1.0)
_NO_RECIPE = NoiseRecipe(seed=0, p=0.0, blocks=())


def lacks(*, device: torch.device, dtype: torch.dtype, size: int, projected: bool, hard: bool) -> str | None:
    """Why this engine can't do what is asked, or None."""
    if device.type != "cpu":
        return f"runs on the CPU, not on {device.type}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"takes float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if hard or projected:
        return "has no hard gates" if hard else "has no projection"
    if dtype == torch.bfloat16 and size % 2:
        return f"takes an even hidden_size in bfloat16, not {size}"
    if not fast_dtype(dtype):
        return "needs oneDNN"
    return compiled.problem()


def run(
    pre: Tensor,
    weight_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
    *,
    weight_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    noise: Tensor | NoiseRecipe | None = None,
    scale: Scale | None = None,
    hard: tuple[str, ...] = (),
    reuse_pre: bool = False,
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence; arguments and results as `g2lstm.engines` says.

    Raises:
        ValueError: for what `lacks` names.
    """
    reason = lacks(device=pre.device, dtype=pre.dtype, size=c0.shape[-1], projected=weight_hr is not None, hard=bool(hard))
    if reason:
        raise ValueError(f"the native engine {reason}: use engine='auto'")
    lengths = None if lengths is None else lengths.to(torch.int64)
    recipe, given = (noise, None) if isinstance(noise, NoiseRecipe) else (_NO_RECIPE, noise)
    options = scale or _UNSCALED, recipe, lengths, reverse, reuse_pre
    return _Recurrence.apply(pre, weight_hh, h0.to(pre.dtype), c0.float(), given, options, torch.is_grad_enabled())


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        c0: Tensor,
        noise: Tensor | None,
        options: tuple[Scale, NoiseRecipe, Tensor | None, bool, bool],
        keep_gates: bool,
    ) -> tuple[Tensor, Tensor]:
        scale, recipe, lengths, reverse, reuse_pre = options
        keep_gates = keep_gates and any(ctx.needs_input_grad)
        given = None if noise is None else noise.float().contiguous()
        hidden, cell, gates = torch.ops.g2lstm.forward(
            pre.detach().contiguous(), _master(weight_hh), h0, c0, scale, given,
            recipe.seed, recipe.threshold, recipe.eps, recipe.words, lengths, reverse, keep_gates, reuse_pre,
        )  # fmt: skip
        ctx.options = scale, lengths, reverse
        ctx.noise_width, ctx.noise_dtype = (0, None) if noise is None else (noise.shape[-1], noise.dtype)
        ctx.save_for_backward(weight_hh, hidden, cell, gates)
        ctx.set_materialize_grads(False)
        if len(cell) > 1:
            cell = cell[:-1] if reverse else cell[1:]
        return hidden[:-1] if reverse else hidden[1:], cell

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native engine has no second derivatives (create_graph=True): use engine='reference'")
        weight_hh, hidden, cell, gates = ctx.saved_tensors
        scale, lengths, reverse = ctx.options
        d_pre, d_h0, d_c0 = torch.ops.g2lstm.backward(
            _master(weight_hh), gates, cell, None if grad_hidden is None else grad_hidden.contiguous(),
            None if grad_cell is None else grad_cell.contiguous(), scale, lengths, reverse, hidden.dtype,
        )  # fmt: skip
        d_weight_hh = d_noise = None
        if ctx.needs_input_grad[1]:
            d_weight_hh = over_time(d_pre, hidden[1:] if reverse else hidden[:-1]).to(weight_hh.dtype)
        if ctx.needs_input_grad[4]:
            d_noise = d_pre[..., : ctx.noise_width].to(ctx.noise_dtype, copy=True)
        return d_pre, d_weight_hh, d_h0.to(hidden.dtype), d_c0, d_noise, None, None


def _master(weight: Tensor) -> Tensor:
    return weight.float().contiguous()
