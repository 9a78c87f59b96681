"""What `G2LSTM` and `G2LSTMCell` share: a gate, its present temperature, and what an engine is told of them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm import gates
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.gates import Gate, GumbelGate, HardGate

AUTOCAST_TAKES = (torch.float32, torch.float16, torch.bfloat16)


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

    def set_noise(self, noise_p: float) -> None:
        """Gives a `GumbelGate` another `noise_p`, at its present temperature; other gates have none to set."""
        if isinstance(self._gate, GumbelGate):
            self._gate = replace(self._gate, noise_p=noise_p)

    def _hard_blocks(self) -> tuple[str, ...]:
        if isinstance(self._gate, HardGate) and self.training:
            raise ValueError("HardGate is for evaluation: call eval(), or train with GumbelGate(hard=True)")
        return gates.hard_blocks(self._gate, self.training)

    def _expected_noise_gate(self) -> GumbelGate:
        if not self.training:
            raise ValueError("noise is for training: in eval mode a gate is deterministic, pass noise=None")
        if not isinstance(self._gate, GumbelGate):
            raise ValueError(f"{type(self._gate).__name__} takes no noise: pass noise=None, or use GumbelGate()")
        return self._gate

    def _block_scale(self) -> tuple[float, float, float, float] | None:
        return gates.block_scale(self._gate, self._tau, self.training)


def traced(module: torch.nn.Module, *inputs: Any) -> torch.fx.Proxy | None:
    """The call of a module that torch.fx traces, as a leaf of its graph, which the framework's own layers are; or None."""
    proxy = inputs[0]
    if not isinstance(proxy, torch.fx.Proxy) or not isinstance(proxy.tracer, torch.fx.Tracer):
        return None
    return proxy.tracer.create_proxy("call_module", proxy.tracer.path_of_module(module), inputs, {})


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """The dtype autocast runs products of this tensor in, or None where it is off or leaves the tensor alone."""
    kind = like.device.type
    try:
        enabled = torch.is_autocast_enabled(kind)
    except RuntimeError:  # a kind that has none, as "meta"; in torch 2.9 asking whether it has breaks a compiled graph
        return None
    if not enabled:
        return None
    return torch.get_autocast_dtype(kind) if like.dtype in AUTOCAST_TAKES else None


def can_meet(x: Tensor, weight: Tensor, hx: tuple[Tensor, Tensor] | None, sizes: list[tuple[int, ...]]) -> bool:
    """Whether the states have these sizes, and input, weights and states one device and dtype.

    Autocast also unites dtypes up to float32. A cell state may always have the precision it is kept in inside, as an
    earlier pass under autocast returned it.
    """
    if hx is not None and (not isinstance(hx, (tuple, list)) or [tuple(part.shape) for part in hx] != sizes):
        return False
    h, c = (x, x) if hx is None else hx
    if not x.device == weight.device == h.device == c.device:
        return False
    if autocast_dtype(x) is not None:
        return all(tensor.dtype in AUTOCAST_TAKES for tensor in (weight, h, c))
    return x.dtype == weight.dtype == h.dtype and c.dtype in (x.dtype, accumulation_dtype(x.dtype))


def set_temperature(model: nn.Module, tau: float | None) -> None:
    """Gives every gated layer of `model` the temperature `tau`; None leaves them as they are."""
    if tau is not None:
        for module in model.modules():
            if isinstance(module, Gated):
                module.tau = tau


def set_noise(model: nn.Module, noise_p: float | None) -> None:
    """Gives every gated layer of `model` that has noise the share `noise_p`; None leaves them as they are."""
    if noise_p is not None:
        for module in model.modules():
            if isinstance(module, Gated):
                module.set_noise(noise_p)
