"""A layer on the framework's unmodified LSTM, which is cuDNN on a CUDA device: exact, for any gate but the hard one.

cuDNN starts from the layer's input and lets nothing be added to the pre-activations. So noise comes in as K more columns of
the input, whose weights are an identity on the noisy blocks, and the scale goes into the weights, s being that of each row:

    (x W_ih^T + b + h W_hh^T + noise) * s  =  [x, noise * s] [W_ih * s, I]^T + b * s + h (W_hh * s)^T

The products of the input grow from D to D + K columns. The identity is exact in every dtype; the noise is rounded like every
input: to 11 bits of precision where products run in TF32 (torch.backends.cudnn's default for float32) and in float16, to 8
bits in bfloat16, which is at most 5e-4 and 4e-3 of its size. Noise that is 0 stays 0.

The framework gives the cell state of the last step alone, so this engine has `run_input` in place of `run`. In float16 and
bfloat16 cuDNN also keeps the cell state in that dtype from step to step: "auto" leaves those to other engines.

Speed is unmeasured on a GPU; the numbers are tested on the CPU, where the framework's LSTM computes the same.

T time, B batch, D input, H hidden units, P projection or H, K noisy columns.
"""

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm.engines.noise import NoiseRecipe
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.engines.reference import Scale


def lacks(*, device: torch.device, dtype: torch.dtype, hard: bool, **_: Any) -> str | None:
    """Why this engine can't do what is asked, or None."""
    if device.type != "cuda":
        return f"runs on CUDA, not on {device.type}"
    if hard:
        return "has no hard gates"
    if dtype != accumulation_dtype(dtype):
        return f"keeps the cell state in {str(dtype).removeprefix('torch.')}"
    return None if torch.backends.cudnn.is_available() and torch.backends.cudnn.enabled else "needs cuDNN"


def run(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Raises ValueError: there is no way into cuDNN's LSTM for pre-activations."""
    raise ValueError("the cudnn engine starts from a layer's input, not from its pre-activations: use run_input()")


def run_input(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    *,
    weight_hr: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    noise: Tensor | NoiseRecipe | None = None,
    scale: Scale | None = None,
    hard: tuple[str, ...] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs one layer in one direction. Options are those of `run` in `g2lstm.engines`; any device will do.

    Args:
        x: (T, B, D), whose dtype everything runs in.
        weight_ih, weight_hh, bias: (4H, D), (4H, P), the sum of both biases (4H,) or None; in any floating dtype. They
            are scaled before they are cast.
        h0, c0: (B, P), (B, H).

    Returns:
        h (T, B, P) of all steps by input time, 0 beyond a sequence's length; h (B, P) and c (B, H) after the last step,
        c float32 where x is float16 or bfloat16.

    Raises:
        ValueError: for hard gates.
    """
    if hard:
        raise ValueError("the cudnn engine has no hard gates: use engine='auto'")
    size = c0.shape[-1]
    if isinstance(noise, NoiseRecipe):
        noise = noise.draw(x.shape[0], x.shape[1], size, dtype=accumulation_dtype(x.dtype), device=x.device)
    if scale is not None:
        rows = weight_ih.new_tensor(scale).repeat_interleave(size)  # (4H,)
        weight_ih, weight_hh = weight_ih * rows.unsqueeze(1), weight_hh * rows.unsqueeze(1)
        bias = None if bias is None else bias * rows
        noise = None if noise is None else noise * rows[: noise.shape[-1]]
    if noise is not None:
        identity = torch.eye(4 * size, noise.shape[-1], dtype=weight_ih.dtype, device=x.device)
        x = torch.cat([x, noise.to(x.dtype)], dim=-1)  # (T, B, D + K)
        weight_ih = torch.cat([weight_ih, identity], dim=-1)  # (4H, D + K)
    biases = [] if bias is None else [bias, torch.zeros_like(bias)]
    weights = [weight_ih, weight_hh, *biases, *([] if weight_hr is None else [weight_hr])]
    h, h_n, c_n = _lstm(x, lengths, reverse, h0, c0, [weight.to(x.dtype) for weight in weights], has_bias=bias is not None)
    return h, h_n, c_n.to(accumulation_dtype(x.dtype))


def _lstm(
    x: Tensor, lengths: Tensor | None, reverse: bool, h0: Tensor, c0: Tensor, weights: list[Tensor], *, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The framework's LSTM, forwards, on sequences that are turned round before and after where `reverse`."""
    state = [h0.to(x.dtype).unsqueeze(0), c0.to(x.dtype).unsqueeze(0)]
    options = has_bias, 1, 0.0, torch.is_grad_enabled(), False  # layers, dropout, training (keeps what backward needs), ...
    x = _turned(x, lengths) if reverse else x
    with warnings.catch_warnings():  # the weights were made for this pass: there is nothing to compact beforehand
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        if lengths is None:
            h, h_n, c_n = torch.lstm(x, state, weights, *options, False)
        else:
            packed = pack_padded_sequence(x, lengths.cpu(), enforce_sorted=False)
            order, back = packed.sorted_indices, packed.unsorted_indices
            state = [part[:, order] for part in state]
            data, h_n, c_n = torch.lstm(packed.data, packed.batch_sizes, state, weights, *options)
            h, _ = pad_packed_sequence(packed._replace(data=data), total_length=x.shape[0])
            h_n, c_n = h_n[:, back], c_n[:, back]
    return _turned(h, lengths) if reverse else h, h_n.squeeze(0), c_n.squeeze(0)


def _turned(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(T, B, ...) with each sequence's own steps in the other order."""
    if lengths is None:
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)  # (T, 1)
    steps = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x.gather(0, steps.unsqueeze(-1).expand_as(x))
