"""LSTM layers that only run forward, on weights in the form they are kept in: factors stay two thin matrices.

`NativeRunner` is the compiled runtime. `TorchRunner` takes its place without a compiler and on a GPU, and is what it is
checked against: weights in float32, codes unpacked once, one (D, H) matrix a gate, so that a batched product deals the gates
to the threads, each reading its matrix from end to end; for a single row this is the fastest of torch's products.

T time, B batch, D input, H hidden units, P proj_size or H, K rank, L layers.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from g2lstm import runtime
from g2lstm.compression.forms import Factors, Form
from g2lstm.errors import UserError
from g2lstm.layout import BIASES, BLOCKS, MATRICES, PROJECTION, State, endings

Weights = Mapping[str, Sequence[Form]]  # of a parameter: one form, or those of the blocks i, f, g, o
GATES = len(BLOCKS)


class GateProducts(nn.Module):
    """What x is multiplied with for x W^T: the forms of W's four blocks (H, D)."""

    def __init__(self, blocks: Sequence[Form]) -> None:
        super().__init__()
        # The first gate, G alike and their factors: (G, D, K) and (G, K, H), or (G, D, H) alone.
        self.runs: list[tuple[int, int, nn.ParameterList]] = []
        start = 0
        for _, members in groupby(map(_matrices, blocks), key=lambda parts: [part.shape for part in parts]):
            alike = list(members)  # neighbours of one shape are one batched product
            factors = nn.ParameterList(torch.stack(parts).contiguous() for parts in zip(*alike, strict=True))
            self.add_module(f"gates{start}", factors.requires_grad_(False))
            self.runs.append((start, len(alike), factors))
            start += len(alike)

    def add_to(self, pre: Tensor, x: Tensor) -> None:
        """pre (4, N, H) grows by the products with x (N, D)."""
        for start, count, (*thin, last) in self.runs:
            operand = x.expand(count, *x.shape)
            for factor in thin:
                operand = torch.bmm(operand, factor)  # (G, N, K)
            (pre if count == GATES else pre.narrow(0, start, count)).baddbmm_(operand, last)


class Direction(nn.Module):
    """One layer in one direction, of weights as {"weight_ih": blocks, "weight_hh": blocks, "bias_ih": ..., ...}."""

    bias: Tensor
    projection: Tensor | None

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.input, self.recurrent = (GateProducts(weights[name]) for name in MATRICES.values())
        biases = [torch.stack([form.matrix() for form in weights[name]]) for name in BIASES if name in weights]
        hidden = weights["weight_ih"][0].matrix().shape[0]
        self.register_buffer("bias", sum(biases, torch.zeros(GATES, hidden)).unsqueeze(1))  # (4, 1, H)
        self.register_buffer("projection", weights[PROJECTION][0].matrix().mT if PROJECTION in weights else None)

    def forward(
        self, x: Tensor, h: Tensor, c: Tensor, inside: Tensor | None, reverse: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (T, B, D), h (B, P), c (B, H) -> hidden states (T, B, P), and h and c after the last step.

        A step that is not `inside` (T, B, 1) changes no state.
        """
        time, batch, _ = x.shape
        pre = self.bias.repeat(1, time * batch, 1)  # (4, T * B, H)
        self.input.add_to(pre, x.flatten(0, 1))
        steps, outputs = pre.unflatten(1, (time, batch)).unbind(1), []
        for t in reversed(range(time)) if reverse else range(time):
            step, before = steps[t], (h, c)
            self.recurrent.add_to(step, h)
            i, f, g, o = step.unbind()
            step.narrow(0, 0, 2).sigmoid_()
            c = torch.addcmul(i * g.tanh_(), f, c)
            h = o.sigmoid_() * c.tanh()
            if self.projection is not None:
                h = h @ self.projection
            if inside is not None:
                h, c = h.where(inside[t], before[0]), c.where(inside[t], before[1])
            outputs.append(h)
        return torch.stack(outputs[::-1] if reverse else outputs), h, c


class TorchRunner(nn.Module):
    """All layers in tensor code.

    Args:
        lstm: whose arguments it has.
        weights: the forms of each parameter, under nn.LSTM's names.
    """

    def __init__(self, lstm: nn.LSTM, weights: Weights) -> None:
        super().__init__()
        ends = [end for ends in endings(lstm) for end in ends]
        own = [{name.removesuffix(end): forms for name, forms in weights.items() if name.endswith(end)} for end in ends]
        self.directions = nn.ModuleList(map(Direction, own))
        self.ways = 2 if lstm.bidirectional else 1

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """x (T, B, D), h and c (L * ways, B, ·), lengths (B,) on any device -> (T, B, ways * P), and the state after."""
        inside, ends = None, []
        if lengths is not None:
            steps = torch.arange(len(x), device=x.device).unsqueeze(1)
            inside = (steps < lengths.to(x.device)).unsqueeze(-1)  # (T, B, 1)
        for layer in range(len(self.directions) // self.ways):
            outputs = []
            for way in range(self.ways):
                index = layer * self.ways + way
                y, *end = self.directions[index](x, state[0][index], state[1][index], inside, way == 1)
                outputs.append(y)
                ends.append(end)
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
        h_n, c_n = (torch.stack(states) for states in zip(*ends, strict=True))
        return x, (h_n, c_n)


class NativeRunner(nn.Module):
    """The same in the runtime: module `number` of an open model."""

    def __init__(self, model: runtime.Model, number: int) -> None:
        super().__init__()
        self.model, self.number = model, number

    def forward(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """As `TorchRunner`'s, on the CPU.

        Raises:
            UserError: x is elsewhere; or it is traced, and a trace would hold today's numbers, not what computes them.
        """
        if torch.jit.is_tracing():
            raise UserError('the compiled runtime can\'t be traced: take Deployed.model(engine="torch")')
        if not x.is_cpu:
            raise UserError(f'the compiled runtime can\'t run on {x.device}: take Deployed.model(engine="torch")')
        return self.model.run_lstm(self.number, x, state, lengths)


class InferenceLSTM(nn.Module):
    """nn.LSTM in eval mode without gradients: its inputs, outputs and numbers.

    Args:
        lstm: whose arguments it has.
        runner: runs its layers.
    """

    def __init__(self, lstm: nn.LSTM, runner: TorchRunner | NativeRunner) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.proj_size = lstm.input_size, lstm.hidden_size, lstm.proj_size
        self.num_layers, self.batch_first, self.bidirectional = lstm.num_layers, lstm.batch_first, lstm.bidirectional
        self.runner = runner

    @torch.no_grad()
    def forward(self, input: Tensor | PackedSequence, hx: State | None = None) -> tuple[Tensor | PackedSequence, State]:
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(input)
            y, end = self.runner(x, self._state(x) if hx is None else hx, lengths)
            if input.sorted_indices is not None:
                y, lengths = y[:, input.sorted_indices], lengths[input.sorted_indices.cpu()]
            return input._replace(data=pack_padded_sequence(y, lengths).data), end
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if self.batch_first and batched else x  # (T, B, D)
        if x.dim() != 3 or x.shape[2] != self.input_size or x.shape[0] < 1:
            raise ValueError(f"input must be (T, B, {self.input_size}) with T >= 1, got {tuple(x.shape)}")
        if hx is not None and not batched:
            hx = hx[0].unsqueeze(1), hx[1].unsqueeze(1)
        x, (h_n, c_n) = self.runner(x, self._state(x) if hx is None else hx, None)
        if not batched:
            return x.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return x.transpose(0, 1) if self.batch_first else x, (h_n, c_n)

    def _state(self, x: Tensor) -> State:
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)
        layers = self.num_layers * (2 if self.bidirectional else 1)
        h, c = (x.new_zeros(layers, x.shape[1], size) for size in sizes)
        return h, c

    def flatten_parameters(self) -> None:
        """Does nothing: for modules that call nn.LSTM's."""


def _matrices(form: Form) -> tuple[Tensor, ...]:
    """What x is multiplied with from the right, one after the other: (D, K) and (K, H), or (D, H) alone."""
    return (form.right.matrix().mT, form.left.matrix().mT) if isinstance(form, Factors) else (form.matrix().mT,)
