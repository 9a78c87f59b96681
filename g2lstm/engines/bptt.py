"""Back-propagation through time written by hand: no autograd graph per step, and no weight gradient inside the loop.

The forward pass keeps every gate value; the backward pass multiplies them into the derivative factors of all steps at once,
walks back with one recurrent product a step, and ends with one product over all steps for each weight.

T time, B batch, H hidden units, P projection or H. Gate buffers are (T, B, 4, H) in the order i, f, g, o.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from g2lstm.engines.noise import NoiseRecipe, as_tensor
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.engines.products import over_time, repeated
from g2lstm.engines.reference import Scale

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input  # grad * out * (1 - out), into a given buffer
_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # grad * (1 - out^2)


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
    if reason := lacks(hard=bool(hard)):
        raise ValueError(f"the bptt engine {reason}: use engine='reference' or 'auto'")
    inside = None
    if lengths is not None:
        inside = (torch.arange(pre.shape[0], device=pre.device).unsqueeze(1) < lengths).unsqueeze(-1)  # (T, B, 1)
    h0, c0 = h0.to(pre.dtype), c0.to(accumulation_dtype(pre.dtype))
    if scale is not None:
        weight_hh = weight_hh * weight_hh.new_tensor(scale).repeat_interleave(c0.shape[-1]).unsqueeze(1)
    weight_hr = None if weight_hr is None else weight_hr.to(pre.dtype)
    noise = as_tensor(noise, pre)
    return _Recurrence.apply(pre, weight_hh.to(pre.dtype), h0, c0, weight_hr, inside, reverse, noise, scale, reuse_pre)


def lacks(*, hard: bool, **_: Any) -> str | None:
    """Why this engine can't do what is asked, or None: hard gates have no derivative."""
    return "has no hard gates" if hard else None


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        pre: Tensor,
        weight_hh: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_hr: Tensor | None,
        inside: Tensor | None,
        reverse: bool,
        noise: Tensor | None,
        scale: Scale | None,
        reuse_pre: bool,
    ) -> tuple[Tensor, Tensor]:
        time, batch, rows = pre.shape
        size = rows // 4
        gates = pre.detach().to(c0.dtype, copy=not reuse_pre)  # becomes the gate values, in place
        if noise is not None:
            gates[..., : noise.shape[-1]].add_(noise)
        _scale(gates, scale)
        hidden, cell = _with_initial(h0, time, reverse), _with_initial(c0, time, reverse)
        tanh_cell = torch.empty_like(cell[1:])
        emitted = hidden if weight_hr is None else pre.new_empty(time + 1, batch, size)  # o * tanh(c), before projection
        recurrent = repeated(weight_hh, batch)

        blocks = gates.view(time, batch, 4, size)
        step_rows, step_if, (i, f, g, o) = gates.unbind(), gates[..., : 2 * size].unbind(), _per_step(blocks)
        h, c, tanh_c, m = hidden.unbind(), cell.unbind(), tanh_cell.unbind(), emitted.unbind()
        for t, before, after in _walk(time, reverse):
            step_rows[t].add_(recurrent(h[before]))
            step_if[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(f[t], c[before], out=c[after])
            c[after].addcmul_(i[t], g[t])
            torch.tanh(c[after], out=tanh_c[t])
            torch.mul(o[t], tanh_c[t], out=m[after])
            if weight_hr is not None:
                torch.mm(m[after], weight_hr.mT, out=h[after])
            if inside is not None:
                h[after].copy_(torch.where(inside[t], h[after], h[before]))
                c[after].copy_(torch.where(inside[t], c[after], c[before]))

        ctx.scale, ctx.reverse, ctx.noise_dtype = scale, reverse, None if noise is None else noise.dtype
        ctx.noise_width = 0 if noise is None else noise.shape[-1]
        ctx.save_for_backward(
            weight_hh, weight_hr, inside, hidden, cell, blocks, tanh_cell, None if weight_hr is None else emitted
        )
        ctx.set_materialize_grads(False)
        return _steps(hidden, reverse), _steps(cell, reverse)

    @staticmethod
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_cell: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            # once_differentiable would let second derivatives through, wrong ones, where grad_hidden is a constant.
            raise RuntimeError("the bptt engine has no second derivatives (create_graph=True): use engine='reference'")
        weight_hh, weight_hr, inside, hidden, cell, gates, tanh_cell, emitted = ctx.saved_tensors
        time, batch, _, size = gates.shape
        reverse, mixed = ctx.reverse, hidden.dtype != cell.dtype
        if grad_hidden is None:
            grad_hidden = torch.zeros_like(hidden[1:])
        factors, through_output, keep = _derivative_factors(gates, cell, tanh_cell, inside, reverse)
        low = torch.empty_like(factors, dtype=hidden.dtype) if mixed else factors  # what the products read
        projected = None if weight_hr is None else torch.empty_like(hidden[1:])

        d_h = torch.zeros(batch, hidden.shape[-1], dtype=cell.dtype, device=cell.device)  # from later steps
        d_c = torch.zeros_like(cell[0])
        recurrent = repeated(weight_hh.mT, batch)
        d_candidate, d_output = factors[:, :, :3].unbind(), factors[:, :, 3].unbind()
        low_rows, low_steps, steps = low.view(time, batch, 4 * size).unbind(), low.unbind(), factors.unbind()
        grad_h, keep_c, to_c = grad_hidden.unbind(), keep.unbind(), through_output.unbind()
        for t, _, _ in _walk(time, not reverse):
            d_h.add_(grad_h[t])
            if grad_cell is not None:
                d_c.add_(grad_cell[t])
            d_m = d_h
            if projected is not None:
                projected[t].copy_(d_h if inside is None else d_h * inside[t])
                d_m = (projected[t] @ weight_hr).to(cell.dtype)
            d_c.addcmul_(d_m, to_c[t])
            d_candidate[t].mul_(d_c.unsqueeze(1))
            d_output[t].mul_(d_m)
            d_c.mul_(keep_c[t])
            if mixed:
                low_steps[t].copy_(steps[t])
            passed = None if inside is None else d_h.masked_fill(inside[t], 0)  # a finished sequence hands its state on
            d_h = recurrent(low_rows[t]).to(cell.dtype)
            if passed is not None:
                d_h.add_(passed)

        d_pre = low.view(time, batch, 4 * size)
        d_weight_hh = d_weight_hr = d_noise = None
        if ctx.needs_input_grad[1]:
            d_weight_hh = over_time(d_pre, _before(hidden, reverse))
        if projected is not None and ctx.needs_input_grad[4]:
            d_weight_hr = over_time(projected, _steps(emitted, reverse))
        _scale(d_pre, ctx.scale)
        if ctx.needs_input_grad[7]:
            d_noise = d_pre[..., : ctx.noise_width].to(ctx.noise_dtype, copy=True)
        return d_pre, d_weight_hh, d_h.to(hidden.dtype), d_c, d_weight_hr, None, None, d_noise, None, None


def _derivative_factors(
    gates: Tensor, cell: Tensor, tanh_cell: Tensor, inside: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """What a step's incoming gradients are multiplied by, for all steps at once.

    Returns:
        (T, B, 4, H) dc/da for i, f and g, dh/da for o; (T, B, H) dh/dc; (T, B, H) dc/dc_previous.
    """
    i, f, g, o = gates.unbind(2)
    through_output = torch.empty_like(tanh_cell)
    factors = torch.empty_like(gates)
    _sigmoid_backward(g, i, grad_input=factors[:, :, 0])
    _sigmoid_backward(_before(cell, reverse), f, grad_input=factors[:, :, 1])
    _tanh_backward(i, g, grad_input=factors[:, :, 2])
    _sigmoid_backward(tanh_cell, o, grad_input=factors[:, :, 3])
    _tanh_backward(o, tanh_cell, grad_input=through_output)
    if inside is None:
        return factors, through_output, f
    return factors.mul_(inside.unsqueeze(-1)), through_output.mul_(inside), f.masked_fill(~inside, 1)


def _scale(blocks: Tensor, scale: Scale | None) -> None:
    """Multiplies the four blocks of (T, B, 4H), in place."""
    for block, factor in zip(blocks.chunk(4, dim=-1), scale or (), strict=False):
        if factor != 1:
            block.mul_(factor)


def _walk(time: int, reverse: bool) -> Iterator[tuple[int, int, int]]:
    """(step, slot of the state before it, slot of the state after it), in the order of the recurrence."""
    for t in reversed(range(time)) if reverse else range(time):
        yield (t, t + 1, t) if reverse else (t, t, t + 1)


def _with_initial(state: Tensor, time: int, reverse: bool) -> Tensor:
    """(T + 1, ...) slots for the states of all steps; the initial state is in the first, or in the last when reversed."""
    slots = state.new_empty(time + 1, *state.shape)
    slots[-1 if reverse else 0] = state
    return slots


def _steps(slots: Tensor, reverse: bool) -> Tensor:
    """The states after each step."""
    return slots[:-1] if reverse else slots[1:]


def _before(slots: Tensor, reverse: bool) -> Tensor:
    """The states before each step."""
    return slots[1:] if reverse else slots[:-1]


def _per_step(blocks: Tensor) -> list[tuple[Tensor, ...]]:
    """(T, B, 4, H) -> for each of the four blocks, its (B, H) views of all steps."""
    return [block.unbind() for block in blocks.unbind(2)]
