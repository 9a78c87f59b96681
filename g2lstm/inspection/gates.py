"""Gate values, recomputed from what a layer read and what it gave: batched products, no loop over time, any LSTM layer.

A gate depends on the step's input and on the hidden state before it, and a layer's output is its hidden states (eq. 2-5).
So all of a layer's gates are one product with its inputs and one with its outputs, shifted by a step.

T time, B batch, D input, H hidden units, P proj_size or H, K directions, N steps of all sequences.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from g2lstm.engines.precision import accumulation_dtype
from g2lstm.gated import Gated
from g2lstm.gates import block_scale, hard_blocks, has_temperature, is_noisy, leading_blocks
from g2lstm.layout import BLOCKS, LSTMModule, State, Weights, endings, modules, rows, weights
from g2lstm.lstm import G2LSTM
from g2lstm.masks import Masked

GATES = ("i", "f", "o")
MASKS = ("weight_masks", "recurrent_masks", "recurrent_mask")  # that a pass may be given, and gates aren't recomputed with


@dataclass(frozen=True)
class GateRecord:
    """The gate values of one layer and direction in one forward pass."""

    name: str  # the module's in its model
    layer: int  # which of the module's stacked layers
    reverse: bool  # whether it is the reverse direction
    call: int  # how many forward passes of the module were recorded before, which is a cell's time step
    values: dict[str, Tensor]  # (T, B, H) of each gate, by input time and the caller's batch order; T = 1 for a cell
    mask: Tensor | None  # (T, B), false where a packed batch has no step; None where every step counts

    @property
    def layer_name(self) -> str:
        return layer_name(self.name, self.layer, self.reverse)

    def steps(self, gate: str) -> Tensor:
        """(N, H) values of the steps that count."""
        values = self.values[gate]
        return values.flatten(0, 1) if self.mask is None else values[self.mask]


def layer_name(module: str, layer: int, reverse: bool) -> str:
    """ "layers.0", "encoder.1.reverse": what a stacked layer of a module and a direction is called in tables and figures."""
    return ".".join([module or "lstm", *([str(layer)] if layer else []), *(["reverse"] if reverse else [])])


def lstm_layers(model: nn.Module) -> dict[str, LSTMModule]:
    """The LSTM layers and cells of a model by name, "" for a model that is one; a ValueError where there is none."""
    found = dict(modules(model))
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.LSTM, nn.LSTMCell, G2LSTM or G2LSTMCell to read gates of")
    return found


@contextmanager
def watched(model: nn.Module, consume: Callable[[GateRecord], None], gates: tuple[str, ...] = GATES) -> Iterator[None]:
    """Calls `consume` with the gate values of every forward pass of a model's LSTM layers and cells.

    Args:
        model: any with such layers, or one of them.
        consume: gets the records, in nn.LSTM's order of layers and directions.
        gates: which of "i", "f", "o".

    Raises:
        ValueError: there is no LSTM layer; or a forward pass is given one of `MASKS`; or as in `gate_values`.
    """
    names: dict[nn.Module, str] = {layer: name for name, layer in lstm_layers(model).items()}
    calls = dict.fromkeys(names, 0)

    @torch.no_grad()
    def record(layer: nn.Module, arguments: tuple, keywords: dict[str, Any], result: Any) -> None:
        given = dict(zip(("input", "hx"), arguments, strict=False)) | keywords
        x, hx, noise = given["input"], given.get("hx"), given.get("noise")
        masks = given.get("zoneout_masks")
        for mask in MASKS:
            if given.get(mask) is not None:
                raise ValueError(f"gates can't be recomputed with {mask}: pass {mask}=None")
        if isinstance(layer, nn.LSTMCell):
            found = [cell_values(layer, x, hx, noise=noise, gates=gates)]
        else:
            assert isinstance(layer, nn.LSTM)
            found = gate_values(layer, x, hx, result[0], noise=noise, zoneout_masks=masks, gates=gates)
        for one in found:
            consume(replace(one, name=names[layer], call=calls[layer]))
        calls[layer] += 1

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded_gates(model: nn.Module) -> Iterator[list[GateRecord]]:
    """Keeps all that `watched` finds, in the list it gives. For a whole corpus see `statistics.GateStatistics`."""
    records: list[GateRecord] = []
    with watched(model, records.append):
        yield records


def binary_share(records: list[GateRecord], gates: tuple[str, ...] = ("i", "f"), margin: float = 0.1) -> float:
    """The share of gate values outside [margin, 1 - margin]: how near to open or shut the gates are."""
    values = [record.steps(gate) for record in records for gate in gates]
    outside = sum(((v < margin) | (v > 1 - margin)).sum().item() for v in values)
    return outside / sum(v.numel() for v in values)


def gate_values(
    layer: nn.LSTM,
    input: Tensor | PackedSequence,
    hx: State | None,
    output: Tensor | PackedSequence,
    *,
    noise: list[Tensor] | None = None,
    zoneout_masks: list[Tensor] | None = None,
    gates: tuple[str, ...] = GATES,
) -> list[GateRecord]:
    """The gate values of a forward pass, a record for each layer and direction, in the layer's present mode and temperature.

    The layers below the last of a stacked one are run again, each by itself, because nobody sees what they give.

    Args:
        layer: nn.LSTM or G2LSTM with any options.
        input, hx, noise, zoneout_masks: what it was given.
        output: what it gave.
        gates: which of "i", "f", "o".

    Raises:
        ValueError: the layer drew something at random by itself, so that its gates can't be known.
    """
    given: dict[str, list[Tensor]] = {} if noise is None else {"noise": noise}
    given |= {} if zoneout_masks is None else {"zoneout_masks": zoneout_masks}
    _check_known(layer, given)
    size, directions = layer.hidden_size, 2 if layer.bidirectional else 1
    x, lengths = _time_major(layer, input)
    h0, c0 = _initial_state(layer, x, hx)
    mask = None if lengths is None else torch.arange(len(x), device=x.device).unsqueeze(1) < lengths  # (T, B)
    records = []
    for number, ends in enumerate(endings(layer)):
        mine = slice(number * directions, (number + 1) * directions)
        if number == layer.num_layers - 1:
            hidden = _time_major(layer, output)[0]  # (T, B, K * P)
        else:
            own = {name: parts[mine] for name, parts in given.items()}
            hidden = _run_layer(layer, number, x, lengths, (h0[mine], c0[mine]), own)
        for reverse, h in enumerate(hidden.chunk(directions, dim=-1)):
            index = number * directions + reverse
            before = _states_before(h, h0[index], lengths, bool(reverse))  # (T, B, P)
            added = None if noise is None else noise[index]
            values = _sigmoids(layer, x, before, weights(layer, ends[reverse]), added, size, gates)
            records.append(GateRecord("", number, bool(reverse), 0, values, mask))
        x = hidden
    return records


def cell_values(
    cell: nn.LSTMCell, input: Tensor, hx: State | None, *, noise: Tensor | None = None, gates: tuple[str, ...] = GATES
) -> GateRecord:
    """The gate values of one step of a cell, as `gate_values`: (1, B, H)."""
    _check_known(cell, {} if noise is None else {"noise": noise})
    batched = input.dim() == 2
    x = input if batched else input.unsqueeze(0)
    before = x.new_zeros(len(x), cell.hidden_size) if hx is None else hx[0] if batched else hx[0].unsqueeze(0)
    added = None if noise is None else noise.view(1, len(x), -1)  # (1, B, ·)
    values = _sigmoids(cell, x.unsqueeze(0), before.unsqueeze(0), weights(cell, ""), added, cell.hidden_size, gates)
    return GateRecord("", 0, False, 0, values, None)


def _check_known(layer: nn.Module, given: Mapping[str, object]) -> None:
    if not layer.training:
        return
    unknown = []
    if isinstance(layer, Gated) and is_noisy(layer.gate, layer.training) and "noise" not in given:
        unknown.append("noise (pass noise=)")
    if getattr(layer, "weight_dropout", 0):
        unknown.append("DropConnect masks (set weight_dropout = 0)")
    if getattr(layer, "recurrent_dropout", 0):
        unknown.append("masks of recurrent dropout (set recurrent_dropout = 0)")
    if isinstance(layer, nn.LSTM) and layer.num_layers > 1:
        if layer.dropout:
            unknown.append("dropout between its layers (set dropout = 0)")
        if isinstance(layer, Masked) and any(layer.zoneout) and "zoneout_masks" not in given:
            unknown.append("masks of zoneout (pass zoneout_masks=)")
    if unknown:
        raise ValueError(f"in training the layer draws {', '.join(unknown)}, so its gates can't be known; or call eval()")


def _time_major(layer: nn.LSTM, x: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
    """(T, B, ·) in the caller's batch order and the (B,) lengths of packed sequences."""
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x)
        return padded, lengths.to(padded.device)
    if x.dim() == 2:
        return x.unsqueeze(1), None
    return (x.transpose(0, 1) if layer.batch_first else x), None


def _initial_state(layer: nn.LSTM, x: Tensor, hx: State | None) -> State:
    """(L * K, B, P) and (L * K, B, H)."""
    if hx is None:
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        h0 = x.new_zeros(count, x.shape[1], layer.proj_size or layer.hidden_size)
        return h0, x.new_zeros(count, x.shape[1], layer.hidden_size)
    h0, c0 = hx
    return (h0, c0) if h0.dim() == 3 else (h0.unsqueeze(1), c0.unsqueeze(1))


def _states_before(h: Tensor, h0: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """The (T, B, P) hidden state each step started from, given the one it ended with."""
    first = h0.to(h.dtype).unsqueeze(0)
    if not reverse:
        return torch.cat([first, h[:-1]])
    before = torch.cat([h[1:], first])
    if lengths is not None:  # a shorter sequence starts at its own last step
        before[lengths - 1, torch.arange(len(lengths), device=h.device)] = first[0]
    return before


def _sigmoids(
    layer: nn.Module, x: Tensor, before: Tensor, tensors: Weights, noise: Tensor | None, size: int, gates: tuple[str, ...]
) -> dict[str, Tensor]:
    """(T, B, H) of each gate from (T, B, D) inputs and the (T, B, P) states before, in float32 or float64."""
    dtype, bias = accumulation_dtype(tensors.ih.dtype), tensors.bias()
    scale: tuple[float, ...] | None = None
    hard: tuple[str, ...] = ()
    if isinstance(layer, Gated):
        scale = block_scale(layer.gate, layer.tau, layer.training)
        hard = hard_blocks(layer.gate, layer.training)
        if noise is not None:
            noise = leading_blocks(noise, layer.gate.gates, size).to(dtype)  # (T, B, 2H) or (T, B, 4H)
    values = {}
    with torch.autocast(x.device.type, enabled=False):
        for gate in gates:
            block, place = BLOCKS.index(gate), rows(gate, size)
            a = linear(x.to(dtype), tensors.ih[place].to(dtype), None if bias is None else bias[place].to(dtype))
            a.view(-1, size).addmm_(before.to(dtype).reshape(-1, before.shape[-1]), tensors.hh[place].to(dtype).mT)
            if noise is not None and place.stop <= noise.shape[-1]:
                a += noise[..., place]
            if gate in hard:
                values[gate] = (a > 0).to(dtype)
            else:
                values[gate] = (a if scale is None else a.mul_(scale[block])).sigmoid_()
    return values


def _run_layer(
    layer: nn.LSTM, number: int, x: Tensor, lengths: Tensor | None, hx: State, given: Mapping[str, list[Tensor]]
) -> Tensor:
    """(T, B, D) -> the (T, B, K * P) output of one of the stacked layers, by a layer of its own with the same weights."""
    ours = ("gate", "zoneout", "engine") if isinstance(layer, G2LSTM) else ()
    names = ("hidden_size", "bias", "bidirectional", "proj_size", *ours)
    cls = G2LSTM if isinstance(layer, G2LSTM) else nn.LSTM
    single = cls(x.shape[-1], **{name: getattr(layer, name) for name in names}, device="meta").train(layer.training)
    if isinstance(layer, G2LSTM) and isinstance(single, G2LSTM) and has_temperature(layer.gate):
        single.tau = layer.tau
    own = {name: getattr(layer, name.replace("_l0", f"_l{number}")) for name in single.state_dict()}
    single.load_state_dict(own, assign=True)
    packed = x if lengths is None else pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
    output, _ = single(packed, hx, **given)
    return output if lengths is None else pad_packed_sequence(output)[0]
