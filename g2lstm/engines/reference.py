"""The specification: a loop over time that reads like the paper's equations. Every other engine is checked against it."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from g2lstm.engines.contract import NO_MASKS, Masks, Options, Request, Scale
from g2lstm.engines.noise import as_tensor
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.layout import State, Weights
from g2lstm.spans import span


def run(x: Tensor, state: State, weights: Weights, options: Options) -> tuple[Tensor, State]:
    """Runs a layer step by step; arguments and results as `g2lstm.engines.contract` says."""
    time, bias, masks = len(x), weights.bias(), options.masks
    with span("input product"):
        pre = linear(x, weights.ih.to(x.dtype), None if bias is None else bias.to(x.dtype))  # (T, B, 4H)
    weight_hh, weight_hr = weights.hh.to(x.dtype), None if weights.hr is None else weights.hr.to(x.dtype)
    noise = as_tensor(options.noise, pre, pre.shape[-1] // 4)
    h, c = state[0].to(x.dtype), state[1].to(accumulation_dtype(x.dtype))
    hidden = [h] * time
    for t in reversed(range(time)) if options.reverse else range(time):
        step_noise = None if noise is None else noise[t]
        h_new, c_new = step(
            pre[t], weight_hh, h, c, weight_hr=weight_hr, noise=step_noise, scale=options.scale, hard=options.hard,
            masks=Masks(masks.h, *(None if mask is None else mask[t] for mask in masks[1:])),
        )  # fmt: skip
        if options.lengths is None:
            h, c = h_new, c_new
        else:
            inside = (t < options.lengths).unsqueeze(1)
            h, c = torch.where(inside, h_new, h), torch.where(inside, c_new, c)
        hidden[t] = h
    return torch.stack(hidden), (h, c)


def lacks(request: Request) -> str | None:  # noqa: ARG001
    """Why this engine can't do what is asked: it can do everything."""
    return None


def step(
    pre: Tensor,
    weight_hh: Tensor,
    h: Tensor,
    c: Tensor,
    *,
    weight_hr: Tensor | None = None,
    noise: Tensor | None = None,
    scale: Scale | None = None,
    hard: tuple[str, ...] = (),
    masks: Masks = NO_MASKS,
) -> State:
    """One time step: pre (B, 4H), h (B, P), c (B, H), noise (B, K), masks of the step -> the next h and c."""
    read = h if masks.h is None else (masks.h * h).to(h.dtype)
    a = pre.to(c.dtype) + (read @ weight_hh.mT).to(c.dtype)  # (B, 4H)
    if noise is not None:
        a = a + torch.nn.functional.pad(noise.to(c.dtype), (0, a.shape[-1] - noise.shape[-1]))
    a_i, a_f, a_g, a_o = a.chunk(4, dim=-1)
    if scale is not None:
        a_i, a_f, a_g, a_o = (block * factor for block, factor in zip((a_i, a_f, a_g, a_o), scale, strict=True))
    i = _gate(a_i, "i" in hard)  # eq. 11 once noise and scale are in the pre-activation, eq. 2 without them
    f = _gate(a_f, "f" in hard)  # eq. 12, eq. 3
    o = _gate(a_o, "o" in hard)  # eq. 13
    g = a_g.tanh()  # eq. 14
    if masks.g is not None:
        g = masks.g * g
    c_new = f * c + i * g  # eq. 15
    h_new = (o * c_new.tanh()).to(h.dtype)  # eq. 16
    if weight_hr is not None:
        h_new = h_new @ weight_hr.mT
    return zoned_out(masks.kept_h, h, h_new), zoned_out(masks.kept_c, c, c_new)


def zoned_out(kept: Tensor | None, old: Tensor, new: Tensor) -> Tensor:
    """What zoneout makes of an old state and a new one, given the share of the old one that is kept."""
    return new if kept is None else (kept * old + (1 - kept) * new).to(new.dtype)


def _gate(a: Tensor, hard: bool) -> Tensor:
    soft = a.sigmoid()
    return (a > 0).to(a.dtype) + (soft - soft.detach()) if hard else soft  # straight-through: the last sum is 0
