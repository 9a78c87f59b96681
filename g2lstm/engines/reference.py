"""The specification: a loop over time that reads like the paper's equations. Every other engine is checked against it."""

from typing import Any

import torch
from torch import Tensor

from g2lstm.engines.noise import NoiseRecipe, as_tensor
from g2lstm.engines.precision import accumulation_dtype

Scale = tuple[float, float, float, float]


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
    reuse_pre: bool = False,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence step by step; arguments and results as `g2lstm.engines` says."""
    time = pre.shape[0]
    weight_hh = weight_hh.to(pre.dtype)
    weight_hr = None if weight_hr is None else weight_hr.to(pre.dtype)
    noise = as_tensor(noise, pre)
    h, c = h0.to(pre.dtype), c0.to(accumulation_dtype(pre.dtype))
    hidden: list[Tensor] = [h] * time
    cell: list[Tensor] = [c] * time
    for t in reversed(range(time)) if reverse else range(time):
        step_noise = None if noise is None else noise[t]
        h_new, c_new = step(pre[t], weight_hh, h, c, weight_hr=weight_hr, noise=step_noise, scale=scale, hard=hard)
        if lengths is None:
            h, c = h_new, c_new
        else:
            inside = (t < lengths).unsqueeze(1)
            h, c = torch.where(inside, h_new, h), torch.where(inside, c_new, c)
        hidden[t], cell[t] = h, c
    return torch.stack(hidden), torch.stack(cell)


def lacks(**_: Any) -> str | None:
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
) -> tuple[Tensor, Tensor]:
    """One time step: pre (B, 4H), h (B, P), c (B, H), noise (B, K) -> the next h and c."""
    a = pre.to(c.dtype) + (h @ weight_hh.mT).to(c.dtype)  # (B, 4H)
    if noise is not None:
        a = a + torch.nn.functional.pad(noise.to(c.dtype), (0, a.shape[-1] - noise.shape[-1]))
    a_i, a_f, a_g, a_o = a.chunk(4, dim=-1)
    if scale is not None:
        a_i, a_f, a_g, a_o = (block * factor for block, factor in zip((a_i, a_f, a_g, a_o), scale, strict=True))
    i = _gate(a_i, "i" in hard)  # eq. 11 once noise and scale are in the pre-activation, eq. 2 without them
    f = _gate(a_f, "f" in hard)  # eq. 12, eq. 3
    o = _gate(a_o, "o" in hard)  # eq. 13
    g = a_g.tanh()  # eq. 14
    c = f * c + i * g  # eq. 15
    h = (o * c.tanh()).to(h.dtype)  # eq. 16
    return h if weight_hr is None else h @ weight_hr.mT, c


def _gate(a: Tensor, hard: bool) -> Tensor:
    return (a > 0).to(a.dtype) if hard else a.sigmoid()
