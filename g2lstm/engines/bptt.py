"""Back-propagation through time written by hand, in tensor code: no autograd graph per step.

The forward pass keeps every gate value; the backward pass multiplies them into the derivative factors of all steps at once,
and walks back with one recurrent product a step. Of a hard gate the sigmoid is kept, negative where the gate is 0.

T time, B batch, H hidden units, P projection or H. Gate buffers are (T, B, 4, H) in the order i, f, g, o.
"""

import functools
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from g2lstm.engines import layer
from g2lstm.engines.contract import Options, Request, Scale
from g2lstm.engines.noise import as_tensor
from g2lstm.engines.products import over_time, repeated
from g2lstm.engines.reference import zoned_out
from g2lstm.layout import BLOCKS, rows_of

run = functools.partial(layer.run, sys.modules[__name__])
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input  # grad * out * (1 - out), into a given buffer
_tanh_backward = torch.ops.aten.tanh_backward.grad_input  # grad * (1 - out^2)


def lacks(request: Request) -> str | None:  # noqa: ARG001
    """Why this engine can't do what is asked: it can do everything."""
    return None


def forward(
    pre: Tensor, weight_hh: Tensor, weight_hr: Tensor | None, h0: Tensor, c0: Tensor, options: Options,
    keep: bool,  # noqa: ARG001
) -> tuple[Tensor, ...]:  # fmt: skip
    """As `g2lstm.engines.layer` says; it keeps gate values, tanh(c) and, where there is a projection, o * tanh(c)."""
    time, batch, rows = pre.shape
    size, reverse, hard, masks = rows // 4, options.reverse, options.hard, options.masks
    inside = _inside(options.lengths, time)
    noise = as_tensor(options.noise, pre, size)
    gates = pre.to(c0.dtype).contiguous()  # becomes the gate values, in place
    if noise is not None:
        gates[..., : noise.shape[-1]].add_(noise)
    _scale(gates, options.scale)
    hidden, cell = _with_initial(h0, time, reverse), _with_initial(c0, time, reverse)
    tanh_cell = torch.empty_like(cell[1:])
    # o * tanh(c), before projection
    emitted = hidden if weight_hr is None else pre.new_empty(time + 1, batch, size)
    weight_hr = None if weight_hr is None else weight_hr.to(pre.dtype)
    recurrent = repeated(_scaled(weight_hh, options.scale).to(pre.dtype), batch)

    blocks = gates.view(time, batch, 4, size)
    step_rows, step_if = gates.unbind(), gates[..., : 2 * size].unbind()
    i, f, g, o = (block.unbind() for block in blocks.unbind(2))
    h, c, tanh_c, m = hidden.unbind(), cell.unbind(), tanh_cell.unbind(), emitted.unbind()
    for t, before, after in _walk(time, reverse):
        step_rows[t].add_(recurrent(h[before] if masks.h is None else (masks.h * h[before]).to(h[before].dtype)))
        step_if[t].sigmoid_()
        g[t].tanh_()
        o[t].sigmoid_()
        value_i, value_f, value_o = (
            _cut(block[t]) if name in hard else block[t] for name, block in (("i", i), ("f", f), ("o", o))
        )
        torch.mul(value_f, c[before], out=c[after])
        c[after].addcmul_(value_i, g[t] if masks.g is None else masks.g[t] * g[t])
        torch.tanh(c[after], out=tanh_c[t])
        torch.mul(value_o, tanh_c[t], out=m[after])
        if weight_hr is not None:
            torch.mm(m[after], weight_hr.mT, out=h[after])
        for kept, states in ((masks.kept_h, h), (masks.kept_c, c)):
            if kept is not None:
                states[after].copy_(zoned_out(kept[t], states[before], states[after]))
        if inside is not None:
            h[after].copy_(torch.where(inside[t], h[after], h[before]))
            c[after].copy_(torch.where(inside[t], c[after], c[before]))
    return (hidden, cell, blocks, tanh_cell) if weight_hr is None else (hidden, cell, blocks, tanh_cell, emitted)


def backward(
    weight_hh: Tensor, weight_hr: Tensor | None, hidden: Tensor, cell: Tensor, kept: Sequence[Tensor],
    grad_hidden: Tensor | None, grad_cell: Tensor | None, options: Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """As `g2lstm.engines.layer` says."""
    gates, tanh_cell = kept[:2]
    time, batch, _, size = gates.shape
    reverse, mixed, masks = options.reverse, hidden.dtype != cell.dtype, options.masks
    inside = _inside(options.lengths, time)
    grad_hidden = torch.zeros_like(hidden[1:]) if grad_hidden is None else grad_hidden
    factors, through_output, keep = _derivative_factors(gates, cell, tanh_cell, inside, options)
    handed_on = _handed_on(masks.kept_h, inside, cell.dtype)
    low = torch.empty_like(factors, dtype=hidden.dtype) if mixed else factors  # what the products read
    weight_hr = None if weight_hr is None else weight_hr.to(hidden.dtype)
    projected = None if weight_hr is None else torch.empty_like(hidden[1:])

    d_h = torch.zeros(batch, hidden.shape[-1], dtype=cell.dtype, device=cell.device)  # from later steps
    d_c = torch.zeros_like(cell[0]) if grad_cell is None else grad_cell.clone()
    recurrent = repeated(_scaled(weight_hh, options.scale).to(hidden.dtype).mT, batch)
    d_candidate, d_output = factors[:, :, :3].unbind(), factors[:, :, 3].unbind()
    low_rows, low_steps, steps = low.view(time, batch, 4 * size).unbind(), low.unbind(), factors.unbind()
    grad_h, keep_c, to_c = grad_hidden.unbind(), keep.unbind(), through_output.unbind()
    for t, _, _ in _walk(time, not reverse):
        d_h.add_(grad_h[t])
        d_m = d_h if handed_on is None else d_h * (1 - handed_on[t])
        if projected is not None and weight_hr is not None:
            projected[t].copy_(d_m)
            d_m = (projected[t] @ weight_hr).to(cell.dtype)
        d_kept = None if masks.kept_c is None else masks.kept_c[t] * d_c
        if d_kept is not None:
            d_c.sub_(d_kept)
        d_c.addcmul_(d_m, to_c[t])
        d_candidate[t].mul_(d_c.unsqueeze(1))
        d_output[t].mul_(d_m)
        d_c.mul_(keep_c[t])
        if d_kept is not None:
            d_c.add_(d_kept)
        if mixed:
            low_steps[t].copy_(steps[t])
        passed = None if handed_on is None else handed_on[t] * d_h
        d_h = recurrent(low_rows[t]).to(cell.dtype)
        if masks.h is not None:
            d_h = masks.h * d_h
        if passed is not None:
            d_h = d_h + passed

    d_pre = low.view(time, batch, 4 * size)
    _scale(d_pre, options.scale)
    d_weight_hr = None if projected is None else over_time(projected, kept[2][:-1] if reverse else kept[2][1:])
    return d_pre, d_h, d_c, d_weight_hr


def _derivative_factors(
    gates: Tensor, cell: Tensor, tanh_cell: Tensor, inside: Tensor | None, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """What a step's incoming gradients are multiplied by, for all steps at once.

    Returns:
        (T, B, 4, H) dc/da for i, f and g, dh/da for o; (T, B, H) dh/dc; (T, B, H) dc/dc_previous.
    """
    i, f, g, o = gates.unbind(2)
    soft = {"i": i, "f": f, "o": o}
    value, masked = dict(soft), options.masks.g
    for block in options.hard:
        soft[block], value[block] = soft[block].abs(), (soft[block] > 0).to(gates.dtype)
    through_output = torch.empty_like(tanh_cell)
    factors = torch.empty_like(gates)
    _sigmoid_backward(g if masked is None else masked * g, soft["i"], grad_input=factors[:, :, 0])
    _sigmoid_backward(cell[1:] if options.reverse else cell[:-1], soft["f"], grad_input=factors[:, :, 1])
    _tanh_backward(value["i"] if masked is None else masked * value["i"], g, grad_input=factors[:, :, 2])
    _sigmoid_backward(tanh_cell, soft["o"], grad_input=factors[:, :, 3])
    _tanh_backward(value["o"], tanh_cell, grad_input=through_output)
    if inside is None:
        return factors, through_output, value["f"]
    return factors.mul_(inside.unsqueeze(-1)), through_output.mul_(inside), value["f"].masked_fill(~inside, 1)


def _handed_on(kept_h: Tensor | None, inside: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(T, B, P or 1) share of h that a step leaves as it was: by zoneout, and all of it where a sequence is finished."""
    if inside is None:
        return kept_h
    return (~inside).to(dtype) if kept_h is None else kept_h.where(inside, 1)


def _cut(soft: Tensor) -> Tensor:
    """The 0 or 1 of a sigmoid, which becomes negative where that is 0; NaN stays NaN."""
    is_open = soft > 0.5
    soft.copy_(torch.where(is_open, soft, -soft))
    return torch.where(is_open, 1.0, soft - soft)


def _inside(lengths: Tensor | None, time: int) -> Tensor | None:
    """(T, B, 1), true in the steps of each sequence."""
    return None if lengths is None else (torch.arange(time, device=lengths.device).unsqueeze(1) < lengths).unsqueeze(-1)


def _scaled(weight_hh: Tensor, scale: Scale | None) -> Tensor:
    return weight_hh if scale is None else weight_hh * rows_of(scale, len(weight_hh) // 4, weight_hh).unsqueeze(1)


def _scale(rows: Tensor, scale: Scale | None) -> None:
    """Multiplies the four blocks of (T, B, 4H), in place."""
    for block, factor in zip(rows.chunk(len(BLOCKS), dim=-1), scale or (), strict=False):
        if factor != 1:
            block.mul_(factor)


def _walk(time: int, reverse: bool) -> Iterator[tuple[int, int, int]]:
    """(step, slot of the state before it, slot of the state after it), in the order of the recurrence."""
    for t in reversed(range(time)) if reverse else range(time):
        yield (t, t + 1, t) if reverse else (t, t, t + 1)


def _with_initial(state: Tensor, time: int, reverse: bool) -> Tensor:
    """(T + 1, ...) slots for the states of all steps."""
    slots = state.new_empty(time + 1, *state.shape)
    slots[-1 if reverse else 0] = state
    return slots
