"""`G2LSTMCell`: the framework's LSTM cell, trained through a gate of `g2lstm.gates`. B batch, D input, H hidden units."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from g2lstm import gates
from g2lstm.engines import Masks, reference
from g2lstm.engines.contract import NO_MASKS
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.gated import Gated, autocast_dtype, can_meet, traced
from g2lstm.gates import Gate, GumbelGate
from g2lstm.layout import State
from g2lstm.masks import Masked, RecurrentDropoutKind
from g2lstm.spans import span


class G2LSTMCell(Gated, Masked, nn.LSTMCell):
    """`torch.nn.LSTMCell` with a gate of `g2lstm.gates`: one step of `G2LSTM`, for loops that live outside.

    Args:
        input_size, hidden_size, bias, device, dtype: as in nn.LSTMCell.
        gate, recurrent_dropout, recurrent_dropout_kind, zoneout: as in `G2LSTM`. Each call is one step, so noise and masks
            that are fixed for a sequence have to be passed by the caller.

    Inputs:
        input, hx: as in nn.LSTMCell: (B, D) or (D,), with hx = (h, c).
        noise: (B, len(gate.gates) * H) or (len(gate.gates) * H,), as in `G2LSTM`.
        recurrent_mask: (B, H) or (H,), as in `G2LSTM`; what `draw_recurrent_mask` gives, of "g" a step of it.
        zoneout_mask: (B, 2H) or (2H,), c first, then h; a step of what `draw_zoneout_mask` gives.
        generator: source of what is drawn; torch's default generator without it.

    Outputs:
        the next (h, c), as in nn.LSTMCell. Under autocast c is float32.

    Raises:
        ValueError: a bad gate, dropout or zoneout; noise or masks in eval mode or of the wrong shape; none given of those
            that outlast a step.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        gate: Gate | None = None,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: RecurrentDropoutKind = "h",
        zoneout: float | Sequence[float] = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.gate = GumbelGate() if gate is None else gate
        self._set_masks(recurrent_dropout, recurrent_dropout_kind, zoneout)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gate={self.gate}{self._masks_repr()}"

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        noise: Tensor | None = None,
        recurrent_mask: Tensor | None = None,
        zoneout_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        if (leaf := traced(self, input, hx)) is not None:
            return leaf  # type: ignore[return-value]
        if noise is not None:
            self._expected_noise_gate()
        if not self._fits(input, hx):
            super().forward(input, hx)  # raises the framework's own error
        masked = self._is_masked_by(recurrent_mask, zoneout_mask)
        if gates.is_plain(self.gate, self.training) and not masked and autocast_dtype(input) is None:
            # Where dtypes differ, as under autocast, it would return what they promote to.
            return super().forward(input, None if hx is None else (hx[0], hx[1].to(input.dtype)))
        if hx is None:
            hx = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * 2
        masks = self._masks_of(input, recurrent_mask, zoneout_mask, generator) if masked else NO_MASKS
        if input.dim() == 2:
            return self._step(input, *hx, noise, masks, generator)
        h, c = self._step(input.unsqueeze(0), hx[0].unsqueeze(0), hx[1].unsqueeze(0), noise, masks, generator)
        return h.squeeze(0), c.squeeze(0)

    def _fits(self, input: Tensor, hx: State | None) -> bool:
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            return False
        return can_meet(input, self.weight_ih, hx, [(*input.shape[:-1], self.hidden_size)] * 2)

    def _masks_of(
        self, x: Tensor, recurrent: Tensor | None, kept: Tensor | None, generator: torch.Generator | None
    ) -> Masks:
        """The masks of this step."""
        if recurrent is None and self.training and self.recurrent_dropout and self.recurrent_dropout_kind != "g":
            raise ValueError(
                f"recurrent_dropout_kind={self.recurrent_dropout_kind!r} outlasts a cell's call: draw it once with"
                " draw_recurrent_mask and pass recurrent_mask= at each step"
            )
        batch, size = len(x) if x.dim() == 2 else 1, self.hidden_size
        given = []
        for name, mask, width in (("recurrent_mask", recurrent, size), ("zoneout_mask", kept, 2 * size)):
            if mask is not None and not self.training:
                raise ValueError(f"{name} is for training: it is off in eval mode, pass {name}=None")
            if mask is not None and mask.shape != (*x.shape[:-1], width):
                raise ValueError(f"{name} must have shape {(*x.shape[:-1], width)}, got {tuple(mask.shape)}")
            given.append(None if mask is None else mask.reshape(batch, width))
        like = x.new_empty(0, dtype=accumulation_dtype(autocast_dtype(x) or x.dtype))
        h, *of_steps = self._masks(1, batch, like, given[0], given[1], generator)
        return Masks(h, *(None if mask is None else mask[0] for mask in of_steps))

    def _step(
        self, x: Tensor, h: Tensor, c: Tensor, noise: Tensor | None, masks: Masks, generator: torch.Generator | None
    ) -> State:
        cast = autocast_dtype(x)
        dtype = x.dtype if cast is None else cast
        working = accumulation_dtype(dtype)
        noise = self._noise(x.shape[0], noise, working, generator)
        bias = self.bias_ih + self.bias_hh if self.bias else None
        with span("input product"):
            pre = linear(x.to(dtype), self.weight_ih.to(dtype), None if bias is None else bias.to(dtype))  # (B, 4H)
        h, c = reference.step(
            pre, self.weight_hh.to(dtype), h.to(dtype), c.to(working),
            noise=noise, scale=self._block_scale(), hard=self._hard_blocks(), masks=masks,
        )  # fmt: skip
        return h, c if cast is not None else c.to(dtype)

    def _noise(
        self, batch: int, noise: Tensor | None, dtype: torch.dtype, generator: torch.Generator | None
    ) -> Tensor | None:
        """(B, 2H) or (B, 4H) noise on the pre-activations, before the division by tau, or None."""
        gate, size = self.gate, self.hidden_size
        if not isinstance(gate, GumbelGate) or (noise is None and not gates.is_noisy(gate, self.training)):
            return None
        if noise is None:
            if gate.noise_scope != "step":
                raise ValueError(
                    f"noise_scope={gate.noise_scope!r} outlasts a cell's call: draw it once with"
                    " g2lstm.gates.draw_noise and pass each step's noise="
                )
            noise = gates.draw_noise(
                gate, 1, batch, size, generator=generator, dtype=dtype, device=self.weight_hh.device
            ).squeeze(0)
        noise = noise if noise.dim() == 2 else noise.unsqueeze(0)
        if noise.shape != (batch, len(gate.gates) * size):
            raise ValueError(f"noise must have shape {(batch, len(gate.gates) * size)}, got {tuple(noise.shape)}")
        return gates.leading_blocks(noise, gate.gates, size)
