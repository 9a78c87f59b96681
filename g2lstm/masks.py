"""Recurrent dropout and zoneout: masks on what an LSTM hands from step to step.

With gates of x and of m_h * h, and old states h and c:

    c_new = f * c + i * (m_g * g)        c' = z_c * c + (1 - z_c) * c_new
    h_new = o * tanh(c_new)              h' = z_h * h + (1 - z_h) * h_new

Recurrent dropout is m_h, one mask for all steps of a sequence (Gal & Ghahramani 2016), or m_g, one for each step or one for
all (Semeniuta et al. 2016); entries are 0 or 1 / (1 - p), so that in evaluation there is none. Zoneout (Krueger et al. 2017)
is z, 0 or 1 for each unit at each step, and in evaluation its probability.

T time, B batch, H hidden units, P proj_size or H.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from g2lstm import columns
from g2lstm.engines import compiled
from g2lstm.engines.contract import Masks
from g2lstm.engines.precision import accumulation_dtype

RecurrentDropoutKind = Literal["h", "g", "g_sequence"]


class Masked:
    """Recurrent dropout and zoneout of a `G2LSTM` or a `G2LSTMCell`."""

    training: bool
    hidden_size: int
    recurrent_dropout: float
    recurrent_dropout_kind: str

    def _set_masks(self, recurrent_dropout: float, kind: str, zoneout: float | Sequence[float]) -> None:
        self.recurrent_dropout, self.recurrent_dropout_kind = recurrent_dropout, kind
        if not 0 <= recurrent_dropout < 1:
            raise ValueError(f"recurrent_dropout must be in [0, 1), got {recurrent_dropout}")
        if kind not in get_args(RecurrentDropoutKind):
            raise ValueError(f"recurrent_dropout_kind must be one of h, g, g_sequence, got {kind!r}")
        self.zoneout = zoneout

    @property
    def zoneout(self) -> tuple[float, float]:
        """Probabilities of c and of h; a number that is assigned is both. Raises ValueError for others than in [0, 1)."""
        return self._zoneout

    @zoneout.setter
    def zoneout(self, zoneout: float | Sequence[float]) -> None:
        pair = [zoneout] * 2 if isinstance(zoneout, int | float) else list(zoneout)
        if len(pair) != 2 or not all(0 <= p < 1 for p in pair):
            raise ValueError(f"zoneout must be a share in [0, 1) or one for c and one for h, got {zoneout}")
        self._zoneout = pair[0], pair[1]

    def _masks_repr(self) -> str:
        dropped = f", recurrent_dropout={self.recurrent_dropout} on {self.recurrent_dropout_kind}"
        return (dropped if self.recurrent_dropout else "") + (f", zoneout={self.zoneout}" if any(self.zoneout) else "")

    def _is_masked_by(self, recurrent: object, kept: object) -> bool:
        """Whether a pass that is given these, or None, has masks."""
        drawn = any(self.zoneout) or bool(self.training and self.recurrent_dropout)
        return drawn or recurrent is not None or kept is not None

    @property
    def _widths(self) -> tuple[int, int]:
        """H and P."""
        return self.hidden_size, getattr(self, "proj_size", 0) or self.hidden_size

    def _recurrent_shape(self, time: int, batch: int) -> tuple[int, ...]:
        size, width = self._widths
        return {"h": (batch, width), "g": (time, batch, size), "g_sequence": (batch, size)}[self.recurrent_dropout_kind]

    def draw_recurrent_mask(self, time: int, batch: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The mask of recurrent dropout for a layer and direction, with entries 0 and 1 / (1 - recurrent_dropout).

        Returns:
            (B, P) where it is on h, (T, B, H) on g, (B, H) on g for the whole sequence.
        """
        return self._drawn_recurrent(time, batch, generator, self._like())

    def draw_zoneout_mask(self, time: int, batch: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The mask of zoneout for a layer and direction: (T, B, H + P), c first then h, 1 where the old value is kept."""
        like = self._like()
        drawn = self._drawn_zoneout(time, batch, generator, like)
        pairs = zip(drawn, self._widths, strict=True)
        return torch.cat([like.new_zeros(time, batch, size) if kept is None else kept for kept, size in pairs], -1)

    def _like(self) -> Tensor:
        assert isinstance(self, torch.nn.Module)
        weight = next(self.parameters())
        return weight.new_empty(0, dtype=accumulation_dtype(weight.dtype))

    def _drawn_recurrent(self, time: int, batch: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
        p = self.recurrent_dropout
        return _bernoulli(p, 0.0, 1 / (1 - p), self._recurrent_shape(time, batch), generator, like)

    def _drawn_zoneout(self, time: int, batch: int, generator: torch.Generator | None, like: Tensor) -> list[Tensor | None]:
        pairs = zip(self.zoneout, self._widths, strict=True)
        return [_bernoulli(p, 1.0, 0.0, (time, batch, size), generator, like) if p else None for p, size in pairs]

    def _masks(
        self, time: int, batch: int, like: Tensor, recurrent: Tensor | None, kept: Tensor | None,
        generator: torch.Generator | None,
    ) -> Masks:  # fmt: skip
        """What an engine is told of T steps, with the given masks or drawn ones, in the dtype of `like`."""
        if recurrent is None and self.training and self.recurrent_dropout:
            recurrent = self._drawn_recurrent(time, batch, generator, like)
        if kept is not None:
            kept_c, kept_h = kept.detach().to(like).expand(time, batch, -1).split(self._widths, dim=-1)
        elif self.training:
            kept_c, kept_h = self._drawn_zoneout(time, batch, generator, like)
        else:  # the expectation
            pairs = zip(self.zoneout, self._widths, strict=True)
            kept_c, kept_h = (like.new_full((size,), p).expand(time, batch, size) if p else None for p, size in pairs)
        if recurrent is None:
            return Masks(None, None, kept_c, kept_h)
        recurrent = recurrent.detach().to(like)
        if self.recurrent_dropout_kind == "h":
            return Masks(recurrent, None, kept_c, kept_h)
        return Masks(None, recurrent.expand(time, batch, -1), kept_c, kept_h)


def _bernoulli(
    p: float, low: float, high: float, shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor
) -> Tensor:
    """Independent entries (..., B, H), `low` with probability p, else `high`; drawn by the compiled kernel where it is."""

    def drawn(shape: tuple[int, ...]) -> Tensor:
        if like.device.type == "cpu" and like.dtype == torch.float32 and compiled.problem() is None:
            seed = torch.randint(2**63 - 1, (), generator=generator, device="cpu")
            found: Tensor = torch.ops.g2lstm.bernoulli(shape, seed, p, low, high)
            return found
        below = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device).lt_(p)
        return below.mul_(low - high).add_(high)

    return columns.draw(shape, len(shape) - 2, drawn)
