"""LSTM layers that only run forward, on weights in the form they are kept in: factors stay two thin matrices.

One token of one sequence at a time, a step costs what reading the weights costs. They are held as one (D, H) matrix a
gate, and a batched product deals the gates to the threads, each reading its matrix from end to end: for a single row this
is the fastest of torch's products. Codes are unpacked once, when a layer is built.

T time, B batch, D input, H hidden units, P proj_size or H, K rank, L layers.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.compression.storage import Factors, Form
from g2lstm.layout import BIASES, BLOCKS, MATRICES, PROJECTION, layer_endings

State = tuple[Tensor, Tensor]
Weights = Mapping[str, Sequence[Form]]
GATES = len(BLOCKS)
# The first gate, G, and the factors: (G, D, K) and (G, K, H), or (G, D, H) alone
Product = tuple[int, int, list[Tensor]]


class GateProducts(nn.Module):
    """What x is multiplied with for x W^T: the forms of W's four blocks (H, D), i, f, g, o, each times its `scale`."""

    def __init__(self, blocks: Sequence[Form], scale: Sequence[float]) -> None:
        super().__init__()
        matrices = [_matrices(form, factor) for form, factor in zip(blocks, scale, strict=True)]
        self.runs: list[tuple[int, int, list[str]]] = []
        start = 0
        for _, members in groupby(matrices, key=lambda parts: [part.shape for part in parts]):
            alike, names = list(members), []  # neighbours of one shape are one batched product
            for index, parts in enumerate(zip(*alike, strict=True)):
                names.append(f"gates{start}_{index}")
                self.register_buffer(names[-1], torch.stack(parts).contiguous())
            self.runs.append((start, len(alike), names))
            start += len(alike)

    def products(self) -> list[Product]:
        """Of each run of gates."""
        return [(start, count, [getattr(self, name) for name in names]) for start, count, names in self.runs]


class Direction(nn.Module):
    """One layer in one direction, of weights as {"weight_ih": blocks, "weight_hh": blocks, "bias_ih": ..., ...}."""

    bias: Tensor
    projection: Tensor | None

    def __init__(self, weights: Weights, scale: Sequence[float]) -> None:
        super().__init__()
        self.input, self.recurrent = (GateProducts(weights[name], scale) for name in MATRICES.values())
        hidden = weights["weight_ih"][0].matrix().shape[0]
        bias = torch.zeros(GATES, 1, hidden)
        for name in BIASES:
            if name in weights:
                bias += weights[name][0].matrix().float().view(GATES, 1, hidden)
        self.register_buffer("bias", bias * torch.tensor(scale).view(GATES, 1, 1))
        projection = weights[PROJECTION][0].matrix().float().mT if PROJECTION in weights else None
        self.register_buffer("projection", projection)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, reverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, B, D), h (B, P), c (B, H) -> hidden states (T, B, P), and h and c after the last step."""
        time, batch, _ = x.shape
        pre = self.bias.repeat(1, time * batch, 1)  # (4, T * B, H)
        _add_products(pre, x.reshape(time * batch, -1), self.input.products())
        steps = pre.view(GATES, time, batch, -1).unbind(1) if time > 1 else (pre,)
        recurrent, projection, outputs = self.recurrent.products(), self.projection, []
        for step in reversed(steps) if reverse else steps:
            _add_products(step, h, recurrent)
            i, f, g, o = step.unbind()
            step.narrow(0, 0, 2).sigmoid_()
            c = torch.addcmul(i * g.tanh_(), f, c)
            h = o.sigmoid_() * c.tanh()
            if projection is not None:
                h = h @ projection
            outputs.append(h)
        return _stacked(outputs[::-1] if reverse else outputs), h, c


class InferenceLSTM(nn.Module):
    """nn.LSTM in eval mode without gradients: its inputs, outputs and numbers, but for packed sequences.

    Args:
        options: nn.LSTM's arguments, as `options_of` gives them.
        weights: the forms of each parameter, under nn.LSTM's names: those of the four gates' blocks for `weight_ih` and
            `weight_hh`, a single one for the others.
        scale: a factor of the pre-activations of i, f, g and o.
    """

    def __init__(self, options: Mapping[str, Any], weights: Weights, scale: Sequence[float] | None = None) -> None:
        super().__init__()
        self.input_size, self.hidden_size = options["input_size"], options["hidden_size"]
        self.num_layers, self.proj_size = options["num_layers"], options["proj_size"]
        self.batch_first, self.bidirectional = options["batch_first"], options["bidirectional"]
        ends = [end for ends in layer_endings(self.num_layers, self.bidirectional) for end in ends]
        own = [{name.removesuffix(end): forms for name, forms in weights.items() if name.endswith(end)} for end in ends]
        self.directions = nn.ModuleList(Direction(forms, scale or [1.0] * GATES) for forms in own)

    @torch.no_grad()
    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        if not isinstance(input, Tensor):
            raise ValueError(f"a compressed LSTM takes tensors, got {type(input).__name__}: pad the sequences")
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if self.batch_first and batched else x  # (T, B, D)
        h_0, c_0 = self._state(x, hx, batched)
        ways, h_n, c_n = 2 if self.bidirectional else 1, [], []
        for layer in range(self.num_layers):
            outputs = []
            for way in range(ways):
                index = layer * ways + way
                y, h, c = self.directions[index](x, h_0[index], c_0[index], way == 1)
                outputs.append(y)
                h_n.append(h)
                c_n.append(c)
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        state = _stacked(h_n), _stacked(c_n)
        if not batched:
            return x.squeeze(1), (state[0].squeeze(1), state[1].squeeze(1))
        return x.transpose(0, 1) if self.batch_first else x, state

    def _state(self, x: Tensor, hx: State | None, batched: bool) -> State:
        if x.dim() != 3 or x.shape[2] != self.input_size or x.shape[0] < 1:
            raise ValueError(f"input must be (T, B, {self.input_size}) with T >= 1, got {tuple(x.shape)}")
        count, batch = len(self.directions), x.shape[1]
        sizes = [(count, batch, size) for size in (self.proj_size or self.hidden_size, self.hidden_size)]
        if hx is None:
            return x.new_zeros(sizes[0]), x.new_zeros(sizes[1])
        h, c = hx if batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        if [tuple(h.shape), tuple(c.shape)] != sizes:
            raise ValueError(f"h_0 and c_0 must be {sizes[0]} and {sizes[1]}, got {tuple(h.shape)} and {tuple(c.shape)}")
        return h, c

    def flatten_parameters(self) -> None:
        """Does nothing: for modules that call nn.LSTM's."""

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


def options_of(lstm: nn.LSTM) -> dict[str, Any]:
    """The arguments that make an nn.LSTM like this one."""
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional", "proj_size")
    return {name: getattr(lstm, name) for name in names}


def _add_products(pre: Tensor, x: Tensor, products: list[Product]) -> None:
    """pre (4, N, H) grows by the products with x (N, D)."""
    for start, count, factors in products:
        operand = x.expand(count, *x.shape)
        for factor in factors[:-1]:
            operand = torch.bmm(operand, factor)  # (G, N, K)
        (pre if count == GATES else pre.narrow(0, start, count)).baddbmm_(operand, factors[-1])


def _stacked(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def _matrices(form: Form, scale: float) -> tuple[Tensor, ...]:
    """What x is multiplied with from the right, one after the other: (D, K) and (K, H), or (D, H) alone."""
    if isinstance(form, Factors):
        return form.right.matrix().float().mT, form.left.matrix().float().mT * scale
    return (form.matrix().float().mT * scale,)
