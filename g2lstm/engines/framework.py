"""A layer on the framework's unmodified LSTM, cuDNN on a CUDA device and oneDNN on a CPU: exact, for any gate but hard ones.

It starts from the layer's input and lets nothing be added to the pre-activations. So noise comes in as K more columns of the
input, whose weights are an identity on the noisy blocks, and the scale goes into the weights, s being that of each row:

    (x W_ih^T + b + h W_hh^T + noise) * s  =  [x, noise * s] [W_ih * s, I]^T + b * s + h (W_hh * s)^T

The products of the input grow from D to D + K columns, which pays on CUDA alone. The identity is exact in every dtype; the
noise is rounded like every input: to 11 bits of precision where products run in TF32 (torch.backends.cudnn's default for
float32), which is at most 5e-4 of its size. Noise that is 0 stays 0.

In float16 and bfloat16 the framework also keeps the cell state in that dtype from step to step: only a module of that dtype
that is evaluated as an LSTM runs here.

The numbers are tested on a GPU and on the CPU; docs/performance.md has the speed with noise.

T time, B batch, D input, H hidden units, P projection or H, K noisy columns.
"""

import contextlib
import warnings

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm.engines.contract import Options, Request
from g2lstm.engines.noise import as_tensor
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.layout import State, Weights, rows_of


def lacks(request: Request) -> str | None:
    """Why this engine can't do what is asked, or None."""
    if request.hard:
        return "has no hard gates"
    if request.masked:
        return "has no recurrent dropout and no zoneout"
    if (request.autocast or not request.plain or request.training) and request.dtype != accumulation_dtype(request.dtype):
        return f"keeps the cell state in {str(request.dtype).removeprefix('torch.')}"
    if (request.noisy or request.scaled or request.training) and request.device.type != "cuda":
        return f"has noise, temperatures and training on CUDA alone, not on {request.device.type}"
    return None


def runs_whole(request: Request) -> bool:
    """Whether a pass is nn.LSTM's own, over all layers and directions at once.

    For a single step on a CPU it would first reorder all its weights: that is left to `run`, layer by layer.
    """
    return request.plain and (request.steps > 1 or request.projected or request.device.type != "cpu")


def run(x: Tensor, state: State, weights: Weights, options: Options) -> tuple[Tensor, State]:
    """Runs a layer; arguments and results as `g2lstm.engines.contract` says. Any device will do."""
    h0, c0 = state
    plain = options.noise is None and options.scale is None
    if plain and len(x) == 1 and options.lengths is None and weights.hr is None and x.device.type == "cpu":
        h, c = torch.lstm_cell(x[0], (h0.to(x.dtype), c0.to(x.dtype)), *weights[:4])
        return h.unsqueeze(0), (h, c)
    if not plain:
        x, weights = _folded(x, weights, options)
    tensors = [tensor.to(x.dtype) for tensor in weights if tensor is not None]
    h, h_n, c_n = _lstm(x, options, (h0.to(x.dtype), c0.to(x.dtype)), tensors, has_bias=weights.bias_ih is not None)
    return h, (h_n, c_n.to(accumulation_dtype(x.dtype)))


def _folded(x: Tensor, weights: Weights, options: Options) -> tuple[Tensor, Weights]:
    """Input and weights with noise and scale in them; weights are scaled before they are cast."""
    ih, hh, bias = weights.ih, weights.hh, weights.bias()
    size = len(ih) // 4
    noise = as_tensor(options.noise, x, size)
    if options.scale is not None:
        rows = rows_of(options.scale, size, ih)  # (4H,)
        ih, hh, bias = ih * rows.unsqueeze(1), hh * rows.unsqueeze(1), None if bias is None else bias * rows
        noise = None if noise is None else noise * rows[: noise.shape[-1]]
    if noise is not None:
        identity = torch.eye(4 * size, noise.shape[-1], dtype=ih.dtype, device=x.device)
        x = torch.cat([x, noise.to(x.dtype)], dim=-1)  # (T, B, D + K)
        ih = torch.cat([ih, identity], dim=-1)  # (4H, D + K)
    return x, Weights(ih, hh, bias, None if bias is None else torch.zeros_like(bias), weights.hr)


def _lstm(
    x: Tensor, options: Options, state: State, weights: list[Tensor], *, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The framework's LSTM, forwards, on sequences that are turned round before and after where `reverse`."""
    lengths, hx = options.lengths, [part.unsqueeze(0).contiguous() for part in state]  # cuDNN takes no others
    arguments = has_bias, 1, 0.0, torch.is_grad_enabled(), False  # layers, dropout, training (keeps for backward), two ways
    x = _turned(x, lengths) if options.reverse else x
    with _quiet() if x.is_cuda else contextlib.nullcontext():
        if lengths is None:
            h, h_n, c_n = torch.lstm(x, hx, weights, *arguments, False)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
            order, back = packed.sorted_indices, packed.unsorted_indices
            hx = [part[:, order] for part in hx]
            data, h_n, c_n = torch.lstm(packed.data, packed.batch_sizes, hx, weights, *arguments)
            h, _ = pad_packed_sequence(packed._replace(data=data), total_length=len(x))
            h_n, c_n = h_n[:, back], c_n[:, back]
    return _turned(h, lengths) if options.reverse else h, h_n.squeeze(0), c_n.squeeze(0)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The weights of one layer are no contiguous chunk, and nobody could compact them beforehand."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        yield


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, ...) with each sequence's own steps in the other order."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)  # (T, 1)
    steps = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x.gather(0, steps.unsqueeze(-1).expand_as(x))
