"""A compressed model as it is stored and as it runs: every matrix in the form of the fewest bits, factors left as factors.

H hidden units, V vocabulary, E embedding.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm import gates, layout
from g2lstm.compression.inference import GATES, InferenceLSTM, options_of
from g2lstm.compression.methods import Method
from g2lstm.compression.quantization import quantize
from g2lstm.compression.storage import FLOAT_BITS, Dense, Form
from g2lstm.compression.targets import Target, compress
from g2lstm.gated import Gated
from g2lstm.gates import HardGate, SigmoidGate
from g2lstm.models import MODELS

REST = ("float32", "bf16", "int8")


@dataclass(frozen=True)
class LSTMPart:
    """An LSTM module of a model."""

    options: dict[str, Any]  # nn.LSTM's arguments
    # a factor of the pre-activations of i, f, g and o: 1/tau where a gate is sharpened
    scale: tuple[float, ...] = (1.0,) * GATES


@dataclass(frozen=True, eq=False)
class Deployed:
    """A model in its compressed form."""

    kind: str  # of `g2lstm.models.MODELS`, "lstm", or "other" for a module that only its own code can build
    options: dict[str, Any]  # what builds it, but for its gate
    lstms: dict[str, LSTMPart]  # its LSTM modules by name
    # how each entry of the `state_dict` is kept: the four gates' blocks of W_ih and W_hh, one form for others
    forms: dict[str, list[Form]]
    notes: dict[str, Any] = field(default_factory=dict)  # of where it comes from: JSON

    @property
    def parameters(self) -> int:
        return sum(form.matrix().numel() for forms in self.forms.values() for form in forms)

    @property
    def float32_bytes(self) -> int:
        """What all parameters take in float32."""
        return self.parameters * FLOAT_BITS // 8

    def weights_of(self, lstm: str) -> dict[str, list[Form]]:
        """The forms of one LSTM's parameters, under nn.LSTM's names."""
        prefix = f"{lstm}." if lstm else ""
        found = {name.removeprefix(prefix): forms for name, forms in self.forms.items() if name.startswith(prefix)}
        return {name: forms for name, forms in found.items() if "." not in name}

    def state(self) -> dict[str, Tensor]:
        """The `state_dict` of the model that computes the same with dense weights, under the model's own gates."""
        return {name: _tensor(forms) for name, forms in self.forms.items()}

    def model(self, model: nn.Module | None = None) -> nn.Module:
        """The model that runs in the compressed form, in eval mode.

        Where the kind is "other" it takes a `model` of the same architecture, which stays as it is.
        """
        return self._assemble(model, lambda part, weights: InferenceLSTM(part.options, weights, part.scale))

    def dense_model(self, model: nn.Module | None = None) -> nn.Module:
        """The same with an nn.LSTM of dense weights in the place of each LSTM, sharpened gates folded in."""
        return self._assemble(model, _dense_lstm)

    def _assemble(self, model: nn.Module | None, build: Callable[[LSTMPart, dict[str, list[Form]]], nn.Module]) -> nn.Module:
        if model is not None:
            self._check_fits(model)
        result = self._skeleton() if model is None else copy.deepcopy(model)
        inside: set[str] = set()
        for name, part in self.lstms.items():
            weights = self.weights_of(name)
            inside |= {f"{name}.{parameter}" for parameter in weights}
            if not name:
                return build(part, weights).eval().requires_grad_(False)
            result.set_submodule(name, build(part, weights))
        others = {name: _tensor(forms) for name, forms in self.forms.items() if name not in inside}
        result.load_state_dict(others, strict=False, assign=True)
        return result.eval().requires_grad_(False)

    def _check_fits(self, model: nn.Module) -> None:
        ours, theirs = ({n: tuple(t.shape) for n, t in state.items()} for state in (self.state(), model.state_dict()))
        for name in [*ours, *theirs]:
            if ours.get(name) != theirs.get(name):
                sizes = f"{ours.get(name)} in what was compressed, {theirs.get(name)} in it"
                raise ValueError(f"the given model has another architecture: {name} is {sizes}")

    def _skeleton(self) -> nn.Module:
        """The model without values."""
        if self.kind in MODELS:
            with torch.device("meta"):
                return MODELS[self.kind](**self.options, gate=SigmoidGate())
        if self.kind == "lstm":
            return nn.Module()
        raise ValueError(
            f"this file holds the weights of a {self.options.get('class')}: pass model=, one built by its own code"
        )


def deploy(
    model: nn.Module,
    method: Method | None = None,
    target: Target | None = None,
    *,
    rest: str = "float32",
    notes: dict[str, Any] | None = None,
) -> Deployed:
    """Compresses a trained model. It stays as it is.

    Args:
        model: any with LSTM layers or cells; cells are stored in their compressed form and run on dense weights.
        method, target: as in `compress`; without a method nothing but the rest is compressed.
        rest: one of `REST` ("int8" has one scale a row) for matrices that are no targets, the embedding among them.
        notes: JSON to keep with it.

    Raises:
        ValueError: as `compress`; an unknown `rest`; a hard gate; an LSTM that stands in two places.
    """
    if rest not in REST:
        raise ValueError(f"rest must be one of {', '.join(REST)}, got {rest!r}")
    method, target = method or Method(), target or Target()
    lstms = {name: _part(module) for name, module in _lstms(model)}
    if any(tensor.device.type != "cpu" for tensor in model.state_dict().values()):
        model = copy.deepcopy(model).cpu()
    compressed = compress(model, method, target)
    targeted = {(block.parameter, block.start): form for block, form in compressed.forms.items() if method.steps}
    gated = {name for layer in layout.matrices(model).values() for names in layer.values() for name in names}
    forms: dict[str, list[Form]] = {}
    for name, tensor in compressed.state.items():
        tensor = tensor.detach().cpu()
        parts = layout.blocks(tensor) if name in gated else [tensor]
        size = len(parts[0]) if name in gated else 0
        forms[name] = [targeted.get((name, index * size)) or _rest(part, rest) for index, part in enumerate(parts)]
    kind, options = _architecture(model)
    settings = {"method": str(method), "target": str(target), "rest": rest}
    return Deployed(kind, options, lstms, forms, settings | (notes or {}))


def _rest(tensor: Tensor, rest: str) -> Form:
    tensor = tensor.float() if tensor.is_floating_point() else tensor
    if tensor.dim() != 2 or rest == "float32" or not tensor.is_floating_point():
        return Dense(tensor)
    return Dense(tensor.bfloat16()) if rest == "bf16" else quantize(tensor, 8)


def _tensor(forms: list[Form]) -> Tensor:
    parts = [form.matrix() for form in forms]
    parts = [part.float() if part.is_floating_point() else part for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _lstms(model: nn.Module) -> Iterator[tuple[str, nn.LSTM]]:
    """The LSTM modules and their names."""
    first: dict[nn.Module, str] = {}
    for name, module in layout.modules(model, remove_duplicate=False):
        if isinstance(module, nn.LSTM):  # a cell runs as it is, on dense weights
            if first.setdefault(module, name) != name:
                raise ValueError(f"{first[module]} and {name} are one module: put a copy.deepcopy of it in one place before")
            yield name, module


def _part(module: nn.LSTM) -> LSTMPart:
    if not isinstance(module, Gated):
        return LSTMPart(options_of(module))
    if isinstance(module.gate, HardGate):
        raise ValueError("a hard gate can't be deployed: assign rnn.gate = SigmoidGate() first")
    scale = gates.block_scale(module.gate, module.tau, False)
    return LSTMPart(options_of(module), scale or (1.0,) * GATES)


def _architecture(model: nn.Module) -> tuple[str, dict[str, Any]]:
    if isinstance(model, nn.LSTM):
        return "lstm", {}
    if type(model) not in MODELS.values():
        return "other", {"class": type(model).__name__}
    return model.kind, model.options  # type: ignore[return-value]


def _dense_lstm(part: LSTMPart, weights: dict[str, list[Form]]) -> nn.LSTM:
    lstm = nn.LSTM(**part.options)
    lstm.load_state_dict(layout.scale_blocks({name: _tensor(forms) for name, forms in weights.items()}, part.scale))
    return lstm
