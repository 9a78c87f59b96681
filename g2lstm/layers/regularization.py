"""The regularisation of AWD-LSTM (Merity et al. 2017, arXiv 1708.02182) that stands around the recurrence.

DropConnect on the recurrent matrices is the recurrence's own (``weight_dropout`` of ``G2LSTM``).

T time, B batch, D features, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from g2lstm import columns


def locked_dropout(x: Tensor, p: float, training: bool = True, *, generator: Generator | None = None) -> Tensor:
    """Variational dropout: one mask a sequence, the same at each time step (Gal & Ghahramani 2016, arXiv 1512.05287).

    Args:
        x: (T, B, D).
        p: probability in [0, 1) that a feature of a sequence is zero; the others are divided by 1 - p.
        training: off returns x itself, as p = 0 does.
        generator: source of the draws; None is torch's default generator.
    """
    _check_probability(p)
    if p == 0 or not training:
        return x
    keep = 1 - p

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return x.new_empty(shape).bernoulli_(keep, generator=generator).div_(keep)

    return x * columns.draw((1, *x.shape[1:]), 1, drawn)  # (1, B, D)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """Dropout with a mask of its own for each element, as torch.nn.functional.dropout; p is rounded to 1/65536 on a CPU.

    A word of 64 random bits serves four elements there.

    Args:
        x: (T, B, D).
        p, training: as in `locked_dropout`.
    """
    _check_probability(p)
    if p == 0 or not training:
        return x
    if x.device.type != "cpu":
        if columns.present() is None:
            return F.dropout(x, p)
        return x * columns.draw(x.shape, 1, lambda shape: F.dropout(x.new_ones(shape), p))  # the whole batch's own mask

    def kept(shape: tuple[int, ...]) -> Tensor:
        size = math.prod(shape)
        words = torch.empty(-(-size // 4), dtype=torch.int64, device="cpu").random_(-(2**63), None)
        return words.view(torch.int16)[:size].view(shape) >= round(p * 2**16) - 2**15

    return x * (columns.draw(x.shape, 1, kept).to(x.dtype) / (1 - p))


def embed(
    tokens: Tensor, table: nn.Embedding, p: float = 0.0, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """Embedding with word dropout: with probability p a word is zero wherever it occurs (Gal & Ghahramani 2016).

    AWD-LSTM multiplies the whole table with a (V, 1) mask; here the mask is gathered by word and multiplies only the
    rows in use: the same numbers, at the cost of the batch instead of the vocabulary.

    Args:
        tokens: any shape, int64, each in [0, V).
        table: with a weight of (V, D).
        p, training, generator: as in `locked_dropout`, of a word's row.

    Returns:
        tokens' shape + (D,).
    """
    _check_probability(p)
    vectors = table(tokens)
    if p == 0 or not training:
        return vectors
    mask = table.weight.new_empty(table.num_embeddings, 1).bernoulli_(1 - p, generator=generator).div_(1 - p)  # (V, 1)
    return vectors * F.embedding(tokens, mask)


def activation_regularization(x: Tensor, alpha: float) -> Tensor:
    """AR, alpha * mean(x^2), of the dropped output x (T, B, D): keeps activations small (Merity et al. 2017, section 4.6).

    A scalar, float32 at least; alpha is 2 for the Penn Treebank.
    """
    return alpha * _at_least_float32(x).pow(2).mean()


def temporal_activation_regularization(x: Tensor, beta: float) -> Tensor:
    """TAR, beta * mean((x_t+1 - x_t)^2), of the raw output x (T, B, D): keeps states slow (Merity et al. 2017, section 4.6).

    A scalar, float32 at least, 0 for a single time step; beta is 1 for the Penn Treebank.
    """
    x = _at_least_float32(x)
    change = x[1:] - x[:-1]  # (T - 1, B, D)
    return beta * (change.pow(2).mean() if len(change) else change.sum())


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_probability(p: float) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"dropout probability must be in [0, 1), got {p}")
