"""A trained model's gates in other modes than evaluation: as they were in training, at a temperature, or cut to 0 and 1."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from g2lstm import gates
from g2lstm.cell import G2LSTMCell
from g2lstm.gated import Gated
from g2lstm.gates import Gate, GumbelGate, HardGate, SharpenedGate, has_temperature
from g2lstm.lstm import G2LSTM

MODES = {
    "training": "training: noise and temperature",
    "test": "test",
    "tempered": "test at the temperature of training",
    "hard": "test, gates cut to 0 or 1",
}


def modes_of(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """The modes in which a trained model's gates are worth a look, each with what switches it on.

    A gate without noise is in training as in test, so a plain or sharpened model has only "test" and "hard".
    """
    device = next(model.parameters()).device
    noisy = next((layer for layer in gated_layers(model) if isinstance(layer.gate, GumbelGate)), None)
    if noisy is not None:
        yield "training", training_gates(model, torch.Generator(device).manual_seed(seed))
    yield "test", nullcontext()
    if noisy is not None:
        yield "tempered", with_gate(model, SharpenedGate(noisy.tau, noisy.gate.gates))
    own = next((layer.gate.gates for layer in gated_layers(model)), ())
    yield "hard", with_gate(model, HardGate(own) if own else HardGate())


def gated_layers(model: nn.Module) -> list[Gated]:
    """The layers and cells of a model that have a gate, first to last."""
    return [module for module in model.modules() if isinstance(module, Gated)]


@contextmanager
def with_gate(model: nn.Module, gate: Gate) -> Iterator[None]:
    """Every gated layer of `model` has `gate` here, and its own gate and temperature again afterwards."""
    layers = gated_layers(model)
    before = [(layer.gate, layer.tau) for layer in layers]
    try:
        for layer in layers:
            layer.gate = gate
        yield
    finally:
        for layer, (own, tau) in zip(layers, before, strict=True):
            layer.gate = own
            if has_temperature(own):
                layer.tau = tau


@contextmanager
def training_gates(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """The gates are noisy and tempered as in training, while every dropout is off and the model else evaluates.

    The noise is drawn here, by a generator on the model's device, and handed to each layer, so that who watches it knows it:
    at each call anew, so that a layer that is called step by step (a conditional decoder's, any in a search) has
    noise_scope="step" whatever its gate has.
    """

    def hand_over(layer: Any, arguments: tuple, keywords: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        x = arguments[0] if arguments else keywords["input"]
        given = {"noise": _noise(layer, x, generator)} if gates.is_noisy(layer.gate, layer.training) else {}
        return arguments, keywords | given | (_expected_zoneout(layer, x) if any(layer.zoneout) else {})

    layers = [module for module in model.modules() if isinstance(module, G2LSTM | G2LSTMCell)]
    during = {"dropout": 0.0, "weight_dropout": 0.0, "recurrent_dropout": 0.0, "training": True}
    before = [{name: getattr(layer, name) for name in during if hasattr(layer, name)} for layer in layers]
    handles = [layer.register_forward_pre_hook(hand_over, with_kwargs=True) for layer in layers]
    try:
        for layer, values in zip(layers, before, strict=True):
            vars(layer).update({name: during[name] for name in values})
        yield
    finally:
        for layer, values, handle in zip(layers, before, handles, strict=True):
            handle.remove()
            vars(layer).update(values)


def _noise(layer: G2LSTM | G2LSTMCell, x: Any, generator: torch.Generator) -> Any:
    if isinstance(layer, G2LSTMCell):
        assert isinstance(layer.gate, GumbelGate)
        batch = len(x) if x.dim() == 2 else 1
        drawn = gates.draw_noise(
            layer.gate, 1, batch, layer.hidden_size,
            generator=generator, dtype=layer.weight_hh.dtype, device=layer.weight_hh.device,
        )[0]  # fmt: skip
        return drawn if x.dim() == 2 else drawn[0]
    return layer.draw_noise(*_steps(layer, x), generator=generator)


def _expected_zoneout(layer: G2LSTM | G2LSTMCell, x: Any) -> dict[str, Any]:
    """Zoneout as in evaluation, as what `layer` is to be given."""
    weight = next(layer.parameters())
    sizes = layer.hidden_size, getattr(layer, "proj_size", 0) or layer.hidden_size
    kept = torch.cat([weight.new_full((size,), p) for size, p in zip(sizes, layer.zoneout, strict=True)])
    if isinstance(layer, G2LSTMCell):
        return {"zoneout_mask": kept.expand(*x.shape[:-1], -1)}
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    return {"zoneout_masks": [kept.expand(*_steps(layer, x), -1)] * count}


def _steps(layer: G2LSTM, x: Any) -> tuple[int, int]:
    """T and B."""
    if isinstance(x, PackedSequence):
        return len(x.batch_sizes), int(x.batch_sizes[0])
    if x.dim() == 2:
        return len(x), 1
    return (x.shape[1], x.shape[0]) if layer.batch_first else (x.shape[0], x.shape[1])
