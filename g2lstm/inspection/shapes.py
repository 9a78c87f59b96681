"""A model as tensors: the shapes that each layer reads and gives on one batch of its task, its parameters and its work.

T time, B batch, D input, H hidden units, P projection, L layers times directions, V vocabulary, O outputs of a linear layer,
N positions (time and batch flattened); of attention S source steps, M memory, A keys.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from g2lstm import layout
from g2lstm.layers.attention import Attention
from g2lstm.training.task import LossModule, Task

Shape = tuple[tuple[str, int], ...]  # as (("T", 70), ("B", 20), ("D", 400))
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """What one layer is and does; a layer that is called with several shapes is one for each.

    Attributes:
        name, kind: in the model, and its class.
        inputs, outputs: shapes without states; of packed sequences those before packing.
        states: of h and c.
        parameters: shapes of those that it uses, by their names in the model.
        multiply_adds: for one position, which is a step of a sequence.
        positions: of all calls.
        calls: with these shapes, in one batch.
        count: numbers in parameters that no layer before it uses.
        blocks: of an LSTM, the numbers of one gate's block in each of its parameters.
        batch_first, directions: of an LSTM.
    """

    name: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    states: tuple[Shape, ...]
    parameters: dict[str, Shape]
    multiply_adds: int
    positions: int
    calls: int = 1
    count: int = 0
    blocks: dict[str, int] = field(default_factory=dict)
    batch_first: bool = False
    directions: int = 0


@dataclass(frozen=True)
class Explanation:
    """A task's model on its first batch.

    Attributes:
        task, unit: its name, and what it counts.
        layers: in the order in which their first calls end.
        parameters: numbers in those of the model, each once.
        rest: shapes of those that no layer uses.
        count: units in the batch.
        multiply_adds: of a forward pass, for one unit.
    """

    task: str
    unit: str
    layers: tuple[Layer, ...]
    parameters: int
    rest: dict[str, Sizes]
    count: float
    multiply_adds: float

    def values(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Explanation":
        """Of `values` as JSON gives them back."""
        return cls(**{**values, "layers": tuple(Layer(**layer) for layer in values["layers"])})


class _Call(NamedTuple):
    name: str
    module: nn.Module
    given: tuple[Any, ...]
    options: dict[str, Any]
    found: Any


def explained(name: str, task: Task, model: nn.Module) -> Explanation:
    """Watches the model of the task called `name` in the loss of the first batch that the task plans."""
    calls: list[_Call] = []

    def watch(place: str) -> Callable[..., None]:
        return lambda *call: calls.append(_Call(place, *call))

    with ExitStack() as stack, torch.no_grad():
        for place, module in model.named_modules():
            stack.callback(module.register_forward_hook(watch(place), with_kwargs=True).remove)
        result = LossModule(task, model.train())(task.plan(torch.Generator().manual_seed(1))[0], None)
    names, read = {id(one): key for key, one in model.named_parameters()}, _read(calls)
    layers: dict[Any, Layer] = {}
    counted: set[int] = set()
    for call in calls:
        borrowed = [one for one in tree_leaves((call.given, call.options)) if isinstance(one, nn.Parameter)]
        used = {names[id(one)]: one for one in (*call.module.parameters(recurse=False), *borrowed)}
        whole = not call.name and any(True for _ in call.module.children())
        if whole or not (used or isinstance(call.module, Attention)):
            continue
        layer = _layer(call, used, read)
        layer = replace(layer, count=sum(one.numel() for one in used.values() if id(one) not in counted))
        counted.update(map(id, used.values()))
        key = layer.name, layer.inputs, layer.outputs
        if (before := layers.get(key)) is not None:
            layer = replace(before, calls=before.calls + 1, positions=before.positions + layer.positions)
        layers[key] = layer
    rest = {key: tuple(one.shape) for key, one in model.named_parameters() if id(one) not in counted}
    total = sum(map(Tensor.numel, model.parameters()))
    work = sum(layer.multiply_adds * layer.positions for layer in layers.values())
    return Explanation(name, task.metric.unit, tuple(layers.values()), total, rest, result.count, work / result.count)


def _layer(call: _Call, used: dict[str, nn.Parameter], read: dict[Sizes, str]) -> Layer:
    """One call; its parameters are not counted yet."""
    module, kind = call.module, type(call.module).__name__
    parameters = {name: _parameter(module, name, one) for name, one in used.items()}
    # Each entry of a matrix is one multiply-add for a position; a table is looked up.
    work = sum(one.numel() for one in used.values() if one.dim() == 2) * (not isinstance(module, nn.Embedding))
    if isinstance(module, layout.LSTMModule):
        x, lead = call.given[0], _leading(module, call.given[0])
        positions = len(x.data) if isinstance(x, PackedSequence) else math.prod(size for _, size in lead)
        output, state = (call.found[0], call.found) if isinstance(module, nn.LSTMCell) else call.found
        states = tuple(_state(one, hidden) for one, hidden in zip(state, (_projected(module), "H"), strict=True))
        directions = 2 if getattr(module, "bidirectional", False) else 1
        last = (directions * "2")[1:] + _projected(module), output.data.shape[-1]
        return Layer(
            call.name, kind, ((*lead, ("D", module.input_size)),), ((*lead, last),), states, parameters, work, positions,
            blocks=_blocks(module), batch_first=getattr(module, "batch_first", False), directions=directions,
        )  # fmt: skip
    if isinstance(module, Attention):
        (queries, memory), weights = call.given, call.found[1]
        time, rows, source = ("T", len(queries)), ("B", queries.shape[1]), ("S", weights.shape[2])
        memory_size, keys = ("M", memory.values.shape[2]), ("A", memory.keys.shape[2])
        reads = (time, rows, ("H", queries.shape[2])), (rows, source, memory_size), (rows, source, keys)
        gives = (time, rows, memory_size), (time, rows, source)
        work = source[1] * (keys[1] + memory_size[1])
        return Layer(call.name, kind, reads, gives, (), parameters, work, time[1] * rows[1])
    given = [one for one in tree_leaves((call.given, call.options)) if isinstance(one, Tensor)]
    inputs = tuple(_named(one, read, "D") for one in given if not isinstance(one, nn.Parameter))
    size = "D" if isinstance(module, nn.Embedding) else "O"
    outputs = tuple(_named(one, read, size) for one in tree_leaves(call.found) if isinstance(one, Tensor))
    positions = math.prod(size for name, size in inputs[0] if name != "D")
    return Layer(call.name, kind, inputs, outputs, (), parameters, work, positions)


def _leading(module: layout.LSTMModule, x: Any) -> Shape:
    """The dimensions of an LSTM's or a cell's input before D."""
    if isinstance(x, PackedSequence):
        return ("T", len(x.batch_sizes)), ("B", int(x.batch_sizes[0]))
    names = "B" if isinstance(module, nn.LSTMCell) else "BT" if module.batch_first and x.dim() == 3 else "TB"
    return tuple(zip(names, x.shape[:-1], strict=False))


def _read(calls: list[_Call]) -> dict[Sizes, str]:
    """What dimensions before the last one are, by their sizes, as LSTMs read them: {(70, 20): "TB", (20,): "B"}."""
    found: dict[Sizes, str] = {}
    for call in calls:
        if isinstance(call.module, layout.LSTMModule):
            lead = dict(_leading(call.module, call.given[0]))
            found[tuple(lead.values())] = "".join(lead)
            found[lead.get("B", 1),] = "B"
    return found


def _named(x: Tensor, read: dict[Sizes, str], last: str) -> Shape:
    """The shape of what a layer reads or gives that is no LSTM."""
    lead = tuple(x.shape[:-1] if x.is_floating_point() else x.shape)
    otherwise = {1: "N", 2: "BT" if lead[:1] in read else "TB"}
    names = read.get(lead) or otherwise.get(len(lead), "-" * len(lead))
    return (*zip(names, lead, strict=True), *((last, size) for size in x.shape[len(lead) :]))


def _projected(module: layout.LSTMModule) -> str:
    return "P" if getattr(module, "proj_size", 0) else "H"


def _state(state: Tensor, last: str) -> Shape:
    return tuple(zip(("L", "B", last)[-state.dim() :] if state.dim() != 2 else ("B", last), state.shape, strict=True))


def _parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> Shape:
    if isinstance(module, layout.LSTMModule):
        last = "D" if "weight_ih" in name else "H" if "weight_hr" in name else _projected(module)
        names = ("P" if "weight_hr" in name else "4H", last)
    elif isinstance(module, Attention):
        names = ("A", "-")
    else:  # what it does not own is an output layer's
        owned = any(parameter is one for one in module.parameters(recurse=False))
        names = ("O" if owned and not isinstance(module, nn.Embedding) else "V", "D")
    return tuple(zip((*names, "-", "-"), parameter.shape, strict=False))


def _blocks(module: layout.LSTMModule) -> dict[str, int]:
    found: dict[str, int] = {}
    for end in (end for ends in layout.endings(module) for end in ends):
        weights = layout.weights(module, end)
        named = {"W_ih": weights.ih, "W_hh": weights.hh, "b_ih": weights.bias_ih, "b_hh": weights.bias_hh}
        for name, tensor in named.items():
            if tensor is not None:
                found[name] = found.get(name, 0) + tensor.numel() // len(layout.BLOCKS)
    return found
