"""A compressed model as it is kept and as it runs: every matrix in the form of the fewest bits, factors left as factors."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm import gates, layout, runtime
from g2lstm.compression.forms import FLOAT_BITS, Dense, Form, pack_form, scaled
from g2lstm.compression.inference import InferenceLSTM, NativeRunner, TorchRunner
from g2lstm.compression.methods import Method
from g2lstm.compression.operators import quantize
from g2lstm.compression.targets import Target, compress
from g2lstm.gated import Gated
from g2lstm.gates import HardGate, SigmoidGate
from g2lstm.masks import Masked
from g2lstm.models import MODELS
from g2lstm.training.checkpoint import Kind, checkpoint_bytes

REST = ("float32", "bf16", "int8")
ENGINES = ("auto", "native", "torch")
MODEL_FILE = Kind(
    "g2lstm-model-2",
    "compressed model",
    missing="python experiments/compress.py writes one",
    foreign="write one with experiments/compress.py",
    damaged="if it is a compressed model at all, write it again with experiments/compress.py",
)
_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size")  # of nn.LSTM


@dataclass(frozen=True, eq=False)
class Deployed:
    """A model in its compressed form. Its LSTM modules are nn.LSTM's: a sharpened gate's 1/tau is in the weights."""

    kind: str  # of `g2lstm.models.MODELS`, else the name of a class that only its own code can build
    options: dict[str, Any]  # what builds it, but for its gate
    lstms: dict[str, dict[str, Any]]  # nn.LSTM's arguments for its LSTM modules, by name; "" is the model itself
    # how each entry of the `state_dict` is kept: the blocks i, f, g, o of what has them in an LSTM, one form for others
    forms: dict[str, list[Form]]
    notes: dict[str, Any] = field(default_factory=dict)  # of where it comes from: JSON

    @property
    def float32_bytes(self) -> int:
        """What all parameters take in float32."""
        return sum(form.matrix().numel() for forms in self.forms.values() for form in forms) * FLOAT_BITS // 8

    def state(self) -> dict[str, Tensor]:
        """The `state_dict` of dense weights, in float32."""
        return {name: _tensor(forms) for name, forms in self.forms.items()}

    def dense_model(self, model: nn.Module | None = None) -> nn.Module:
        """The model with an nn.LSTM of dense weights in the place of each LSTM, in eval mode.

        Where only its own code can build it, it takes a `model` of the same architecture, which stays as it is.
        """
        result, state = self._skeleton() if model is None else copy.deepcopy(model), self.state()
        if model is not None:
            _check_fits(state, model.state_dict())
        for name, options in self.lstms.items():
            result = _replaced(result, name, nn.LSTM(**options, device="meta"))
        for module in result.modules():
            if isinstance(module, Gated):  # a cell, whose own gate is folded into its weights
                module.gate = SigmoidGate()
            if isinstance(module, Masked):
                module.zoneout = (0.0, 0.0)
        result.load_state_dict(state, assign=True)
        return result.eval().requires_grad_(False)

    def model(self, model: nn.Module | None = None, *, engine: str = "auto") -> nn.Module:
        """The same, running in the compressed form.

        Args:
            model: as in `dense_model`.
            engine: "native" is the compiled runtime, which quantises what int8 weights read; "torch" reads it in float32.
                "auto" takes the runtime where it can be compiled. The runtime is of the CPU alone: a GPU needs "torch".
        """
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        result = self.dense_model(model)
        native = engine == "native" or (engine == "auto" and runtime.problem() is None)
        opened = self.open() if native and self.lstms else None
        for number, name in enumerate(self.lstms):
            lstm, prefix = result.get_submodule(name), f"{name}." if name else ""
            assert isinstance(lstm, nn.LSTM)
            weights = {parameter: self.forms[f"{prefix}{parameter}"] for parameter in lstm.state_dict()}
            runner = TorchRunner(lstm, weights) if opened is None else NativeRunner(opened, number)
            result = _replaced(result, name, InferenceLSTM(lstm, runner))
        return result.eval()

    def open(self) -> runtime.Model:
        """It in the runtime, which reads words of a language model one after the other."""
        return runtime.Model(self.file())

    def file(self) -> bytes:
        """What `save_model` writes."""
        forms = {name: [pack_form(form) for form in forms] for name, forms in self.forms.items()}
        return checkpoint_bytes(vars(self) | {"forms": forms}, MODEL_FILE)

    def _skeleton(self) -> nn.Module:
        """The model without values."""
        if "" in self.lstms:
            return nn.Module()
        if self.kind not in MODELS:
            raise ValueError(f"this file holds the weights of a {self.kind}: pass model=, one built by its own code")
        with torch.device("meta"):
            return MODELS[self.kind](**self.options, gate=SigmoidGate())


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
        ValueError: as `compress`; an unknown `rest`; a hard gate; zoneout; an LSTM that stands in two places.
    """
    if rest not in REST:
        raise ValueError(f"rest must be one of {', '.join(REST)}, got {rest!r}")
    method, target = method or Method(), target or Target()
    model = copy.deepcopy(model).cpu().float()
    modules = dict(layout.modules(model, remove_duplicate=False))
    scales = {name: _scale(module) for name, module in modules.items()}
    lstms = {name: module for name, module in modules.items() if isinstance(module, nn.LSTM)}
    for name, module in lstms.items():
        if other := next((other for other in lstms if other != name and lstms[other] is module), ""):
            raise ValueError(f"{name} and {other} are one module: put a copy.deepcopy of it in one place before")
    compressed = compress(model, method, target)
    targeted = {(block.parameter, block.start): form for block, form in compressed.forms.items() if method.steps}
    forms: dict[str, list[Form]] = {}
    for name, tensor in compressed.state.items():
        owner, _, parameter = name.rpartition(".")
        if owner in modules and layout.has_blocks(parameter):
            forms[name] = []
            for place, (part, scale) in enumerate(zip(layout.blocks(tensor), scales[owner], strict=True)):
                form = targeted.get((name, place * len(part)))
                forms[name].append(_rest(part * scale, rest) if form is None else scaled(form, scale))
        else:
            forms[name] = [_rest(tensor, rest)]
    own: Any = model
    kind, options = (own.kind, own.options) if type(model) in MODELS.values() else (type(model).__name__, {})
    arguments = {name: {option: getattr(module, option) for option in _OPTIONS} for name, module in lstms.items()}
    settings = {"method": str(method), "target": str(target), "rest": rest}
    return Deployed(kind, options, arguments, forms, settings | (notes or {}))


def _rest(tensor: Tensor, rest: str) -> Form:
    if tensor.dim() != 2 or rest == "float32":
        return Dense(tensor)
    return Dense(tensor.bfloat16()) if rest == "bf16" else quantize(tensor, 8)


def _scale(module: layout.LSTMModule) -> tuple[float, ...]:
    """What a gate multiplies the pre-activations of each block with."""
    if not isinstance(module, Gated):
        return (1.0,) * len(layout.BLOCKS)
    if isinstance(module, Masked) and any(module.zoneout):
        raise ValueError(f"zoneout={module.zoneout} can't be deployed, for no LSTM computes it: keep the model itself")
    if isinstance(module.gate, HardGate):
        raise ValueError("a hard gate can't be deployed: assign rnn.gate = SigmoidGate() first")
    return gates.block_scale(module.gate, module.tau, False) or (1.0,) * len(layout.BLOCKS)


def _tensor(forms: list[Form]) -> Tensor:
    parts = [form.matrix() for form in forms]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _replaced(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """The model with a module in the place of another, or that module itself where the name is ""."""
    if not name:
        return module
    model.set_submodule(name, module)
    return model


def _check_fits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    shapes = [{name: tuple(tensor.shape) for name, tensor in state.items()} for state in (ours, theirs)]
    for name in [*ours, *theirs]:
        if shapes[0].get(name) != shapes[1].get(name):
            sizes = f"{shapes[0].get(name)} in what was compressed, {shapes[1].get(name)} in it"
            raise ValueError(f"the given model has another architecture: {name} is {sizes}")
