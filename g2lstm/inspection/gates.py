"""Gate values, recomputed from a layer's inputs and outputs: one batched product, no loop over time, any LSTM layer.

T time, B batch, D input, H hidden units.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from g2lstm.gates import BLOCKS, HardGate, scale_rows
from g2lstm.lstm import G2LSTM


def gate_values(lstm: nn.LSTM, x: Tensor, hidden: Tensor, h0: Tensor) -> dict[str, Tensor]:
    """The test-time gates `sigmoid(W_ih x + b + W_hh h_previous)` of a layer (eq. 2, 3 and 5), sharpened ones included.

    Args:
        lstm: one unidirectional time-major layer, without projection.
        x: (T, B, D) its input.
        hidden: (T, B, H) its output.
        h0: (B, H) the state it started from.

    Returns:
        "i", "f" and "o", (T, B, H) each.

    Raises:
        ValueError: the layer is stacked, bidirectional, batch-first or projected, trains, or has hard gates.
    """
    if lstm.training or (isinstance(lstm, G2LSTM) and isinstance(lstm.gate, HardGate)):
        raise ValueError(f"gate values are read in eval mode and from gates that are not hard, got {lstm}")
    if lstm.num_layers != 1 or lstm.bidirectional or lstm.batch_first or lstm.proj_size:
        raise ValueError(f"gate values are read from one time-major unidirectional layer without projection, got {lstm}")
    before = torch.cat([h0.unsqueeze(0), hidden[:-1]])  # (T, B, H)
    weights = dict(lstm.named_parameters())
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"] if lstm.bias else None
    pre = linear(x, weights["weight_ih_l0"], bias) + linear(before, weights["weight_hh_l0"])  # (T, B, 4H)
    if isinstance(lstm, G2LSTM):
        scale = scale_rows(lstm.gate, lstm.tau, lstm.hidden_size, training=False, like=pre)
        pre = pre if scale is None else pre * scale
    blocks = dict(zip(BLOCKS, pre.chunk(4, dim=-1), strict=True))
    return {block: blocks[block].sigmoid() for block in ("i", "f", "o")}


@contextmanager
def recorded_gates(layers: list[nn.LSTM]) -> Iterator[list[dict[str, Tensor]]]:
    """Records the gate values of every forward pass of `layers` in eval mode, in call order, in the list it gives."""
    records: list[dict[str, Tensor]] = []

    def record(layer: nn.Module, arguments: tuple, keywords: dict, result: tuple) -> None:
        assert isinstance(layer, nn.LSTM)
        named = dict(zip(("input", "hx"), arguments, strict=False)) | keywords
        x, hx = named["input"], named.get("hx")
        hidden = result[0]
        h0 = hidden.new_zeros(hidden.shape[1:]) if hx is None else hx[0][0]
        records.append(gate_values(layer, x.float(), hidden.float(), h0.float()))

    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def binary_share(records: list[dict[str, Tensor]], gates: tuple[str, ...] = ("i", "f"), margin: float = 0.1) -> float:
    """The share of gate values outside [margin, 1 - margin]: how near to open or shut the gates are."""
    outside = sum(((r[g] < margin) | (r[g] > 1 - margin)).sum().item() for r in records for g in gates)
    return outside / sum(r[g].numel() for r in records for g in gates)
