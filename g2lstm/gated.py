"""What `G2LSTM` and `G2LSTMCell` share: a gate, its present temperature, and the weights as the gate scales them."""

import torch
from torch import Tensor

from g2lstm import gates
from g2lstm.gates import Gate, GumbelGate, HardGate


class Gated:
    """The gate of a module and its present temperature, which starts at the gate's own."""

    training: bool
    _gate: Gate
    _tau: float

    @property
    def gate(self) -> Gate:
        """The gate; it can be replaced at any time, which also sets `tau` to the new gate's."""
        return self._gate

    @gate.setter
    def gate(self, gate: Gate) -> None:
        if not isinstance(gate, Gate):
            raise ValueError(f"gate must be one of {', '.join(c.__name__ for c in gates.GATES.values())}, got {gate!r}")
        self._gate, self._tau = gate, gate.tau

    @property
    def tau(self) -> float:
        """The temperature of the next step: assign to it to anneal. Not part of the `state_dict`."""
        return self._tau

    @tau.setter
    def tau(self, tau: float) -> None:
        if not gates.has_temperature(self._gate):
            raise ValueError(f"{type(self._gate).__name__} has no temperature: tau can't be set to {tau}")
        self._tau = gates.checked_temperature(float(tau))

    def _hard_blocks(self) -> tuple[str, ...]:
        if not isinstance(self._gate, HardGate):
            return ()
        if self.training:
            raise ValueError("a hard gate has no gradient: call eval(), or train with GumbelGate()")
        return self._gate.gates

    def _expected_noise_gate(self) -> GumbelGate:
        if not self.training:
            raise ValueError("noise is for training: in eval mode a gate is deterministic, pass noise=None")
        if not isinstance(self._gate, GumbelGate):
            raise ValueError(f"{type(self._gate).__name__} takes no noise: pass noise=None, or use GumbelGate()")
        return self._gate

    def _scaled(
        self, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor | None, hidden_size: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The weights with each row times its gate's 1/tau, in the master precision, before any cast."""
        scale = gates.scale_rows(self._gate, self._tau, hidden_size, self.training, like=weight_hh)
        if scale is None:
            return weight_ih, weight_hh, bias
        rows = scale.unsqueeze(1)
        return weight_ih * rows, weight_hh * rows, None if bias is None else bias * scale

    def _engine_noise(self, noise: Tensor | None, hidden_size: int) -> Tensor | None:
        """The noise as engines add it: divided by tau, in columns of the leading pre-activation blocks."""
        return None if noise is None else gates.leading_blocks(noise / self._tau, self._gate.gates, hidden_size)


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """The dtype autocast runs products in on this tensor's device, or None where autocast is off."""
    kind = like.device.type
    if not torch.is_autocast_enabled(kind) or like.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(kind)
