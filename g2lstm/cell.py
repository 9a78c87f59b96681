"""`G2LSTMCell`: the framework's LSTM cell, trained through a gate of `g2lstm.gates`. B batch, D input, H hidden units."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from g2lstm import gates
from g2lstm.engines import reference
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.gated import Gated, autocast_dtype, can_meet, traced
from g2lstm.gates import Gate, GumbelGate
from g2lstm.layout import State
from g2lstm.spans import span


class G2LSTMCell(Gated, nn.LSTMCell):
    """`torch.nn.LSTMCell` with a gate of `g2lstm.gates`: one step of `G2LSTM`, for loops that live outside.

    Args:
        input_size, hidden_size, bias, device, dtype: as in nn.LSTMCell.
        gate: as in `G2LSTM`. Each call is one step, so noise that is fixed for a sequence has to be passed by the caller.

    Inputs:
        input, hx: as in nn.LSTMCell: (B, D) or (D,), with hx = (h, c).
        noise: (B, len(gate.gates) * H) or (len(gate.gates) * H,), as in `G2LSTM`.
        generator: source of the noise; torch's default generator without it.

    Outputs:
        the next (h, c), as in nn.LSTMCell. Under autocast c is float32.

    Raises:
        ValueError: a bad gate; noise in eval mode or of the wrong shape; no noise for a gate whose noise outlasts a step.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        gate: Gate | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.gate = GumbelGate() if gate is None else gate

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gate={self.gate}"

    def forward(
        self,
        input: Tensor,
        hx: State | None = None,
        *,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> State:
        if (leaf := traced(self, input, hx)) is not None:
            return leaf  # type: ignore[return-value]
        if noise is not None:
            self._expected_noise_gate()
        if not self._fits(input, hx):
            super().forward(input, hx)  # raises the framework's own error
        if gates.is_plain(self.gate, self.training) and autocast_dtype(input) is None:
            return super().forward(input, hx)  # under autocast it would return what dtypes its states promote to
        if hx is None:
            hx = (input.new_zeros(*input.shape[:-1], self.hidden_size),) * 2
        if input.dim() == 2:
            return self._step(input, *hx, noise, generator)
        h, c = self._step(input.unsqueeze(0), hx[0].unsqueeze(0), hx[1].unsqueeze(0), noise, generator)
        return h.squeeze(0), c.squeeze(0)

    def _fits(self, input: Tensor, hx: State | None) -> bool:
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            return False
        return can_meet(input, self.weight_ih, hx, [(*input.shape[:-1], self.hidden_size)] * 2)

    def _step(self, x: Tensor, h: Tensor, c: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> State:
        cast = autocast_dtype(x)
        dtype = x.dtype if cast is None else cast
        working = accumulation_dtype(dtype)
        noise = self._noise(x.shape[0], noise, working, generator)
        bias = self.bias_ih + self.bias_hh if self.bias else None
        with span("input product"):
            pre = linear(x.to(dtype), self.weight_ih.to(dtype), None if bias is None else bias.to(dtype))  # (B, 4H)
        h, c = reference.step(
            pre, self.weight_hh.to(dtype), h.to(dtype), c.to(working),
            noise=noise, scale=self._block_scale(), hard=self._hard_blocks(),
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
