"""The output layer and its loss in one step, without ever holding all logits.

A plain ``cross_entropy(linear(x))`` holds several copies of a language model's largest tensor until the backward pass.
Here rows are taken in chunks, and the gradients, which need nothing but the chunk's own softmax, are computed on the spot;
the backward pass only multiplies them with the incoming one:

    loss_n     = log sum_v exp(l_nv) - l_n,target        l = x W^T + b
    dloss/dl   = softmax(l) - onehot(target)             dx = dl W,   dW = dl^T x,   db = sum_n dl

With label smoothing e (Szegedy et al. 2016, arXiv 1512.00567) the target is (1 - e) onehot + e/V, in both lines.

N rows (time and batch flattened), D input, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from g2lstm.engines import compiled
from g2lstm.engines.products import fast_dtype

# One chunk of logits: 16 MB in float32. Smaller ones add up the weight gradient more often than they save in cache.
CHUNK_ELEMENTS = 2**22
REDUCTIONS = ("mean", "sum", "none")


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    chunk: int | None = None,
    reduction: str = "mean",
    smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy of ``x @ weight.T + bias`` against ``targets``, exact, in memory for one chunk of rows.

    The products run in the autocast dtype where autocast is on, else in the dtype of the arguments. The log-sum-exp,
    the losses and the weight gradient's sum over chunks are float32 (float64 for float64 arguments). The gradient
    cannot be differentiated again. Rows that should not count (padding) are left out by the caller, which also saves
    their work: ``linear_cross_entropy(x[keep], weight, bias, targets[keep])``.

    Args:
        x: (N, D) floating point.
        weight: (V, D).
        bias: (V) or None.
        targets: (N) int64, each in [0, V).
        chunk: rows at a time; None takes about 4 million logits at a time, in chunks of equal size.
        reduction: "mean" or "sum" over the rows, or "none" for the loss of each row. "none" has no gradient.
        smoothing: share in [0, 1) of the target that is spread evenly over the vocabulary.

    Returns:
        A scalar, or (N) for "none"; float32, or float64 for float64 arguments.

    Raises:
        ValueError: on shapes that do not fit, an unknown reduction, a chunk below 1, smoothing outside [0, 1), a
            gradient of "none".
    """
    _check(x, weight, bias, targets, chunk, reduction)
    if not 0 <= smoothing < 1:
        raise ValueError(f"label smoothing must be in [0, 1), got {smoothing}")
    rows = chunk or _balanced_chunk(x.shape[0], weight.shape[0])
    dtype = _product_dtype(x, weight)
    wants_gradient = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    if reduction == "none" and wants_gradient:
        raise ValueError("reduction='none' has no gradient: call it under torch.no_grad(), or use 'mean' or 'sum'")
    if wants_gradient:
        loss: Tensor = _LinearCrossEntropy.apply(x, weight, bias, targets, rows, dtype, reduction, smoothing)
        return loss
    losses, *_ = _losses_and_gradients(x, weight, bias, targets, rows, dtype, smoothing, (False, False, False))
    return _reduce(losses, reduction)


class OutputLayer(nn.Module):
    """`linear_cross_entropy` as a layer that hooks see. It owns no weight: that may be an embedding's."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, **options: Any) -> Tensor:
        return linear_cross_entropy(x, weight, bias, targets, **options)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
        rows: int, dtype: torch.dtype, reduction: str, smoothing: float,
    ) -> Tensor:  # fmt: skip
        needs = ctx.needs_input_grad[:3]
        losses, *gradients = _losses_and_gradients(x, weight, bias, targets, rows, dtype, smoothing, needs)
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [None if t is None else t.dtype for t in (x, weight, bias)]
        # The mean's 1/N comes last, so that half-precision probabilities do not underflow in the products.
        ctx.scale = 1.0 / max(losses.numel(), 1) if reduction == "mean" else 1.0
        return _reduce(losses, reduction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scale, saved = grad * ctx.scale, zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        gradients = [None if tensor is None else (tensor * scale).to(dtype) for tensor, dtype in saved]
        return (*gradients, None, None, None, None, None)


@torch.no_grad()
def _losses_and_gradients(
    x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    rows: int, dtype: torch.dtype, smoothing: float, needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Losses (N) and the gradients of their sum, None where not needed: x (N, D), weight (V, D), bias (V)."""
    exact = torch.promote_types(dtype, torch.float32)
    x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    size, vocabulary = x.shape[0], weight.shape[0]
    fused = x.device.type == "cpu" and fast_dtype(dtype) and compiled.problem() is None
    losses = x.new_empty(size, dtype=exact)
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_weight = torch.zeros_like(weight, dtype=exact) if needs[1] else None
    grad_bias = weight.new_zeros(vocabulary, dtype=exact) if needs[2] else None
    # Buffers are shared by all chunks: fresh pages are a large part of the cost of a big tensor on a CPU.
    logits = x.new_empty(min(rows, size), vocabulary)
    wide = logits if exact == dtype or fused else torch.empty_like(logits, dtype=exact)
    buffer = torch.empty_like(weight) if needs[1] and exact != dtype else None

    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, size, rows):
            part = slice(start, min(start + rows, size))
            low, high = logits[: part.stop - start], wide[: part.stop - start]
            if bias is None:
                torch.mm(x[part], weight.mT, out=low)
            else:
                torch.addmm(bias, x[part], weight.mT, out=low)
            if fused:
                chosen = targets[part].contiguous()
                losses[part] = torch.ops.g2lstm.softmax_loss(low, chosen, any(needs), grad_bias, smoothing)
            else:
                losses[part] = _losses_in_place(high.copy_(low), targets[part], smoothing, gradient=any(needs))
                if grad_bias is not None:
                    grad_bias += high.sum(0)
                low.copy_(high)
            if grad_x is not None:
                torch.mm(low, weight, out=grad_x[part])
            if grad_weight is not None and buffer is None:
                grad_weight.addmm_(low.mT, x[part])
            elif grad_weight is not None:
                grad_weight += torch.mm(low.mT, x[part], out=buffer)
    return losses, grad_x, grad_weight, grad_bias


def _losses_in_place(logits: Tensor, targets: Tensor, smoothing: float, *, gradient: bool) -> Tensor:
    """Losses (n) of logits (n, V), which are overwritten, with the gradient where it is wanted."""
    target = targets.unsqueeze(1)
    target_logit = logits.gather(1, target)  # (n, 1)
    if smoothing:
        target_logit = (1 - smoothing) * target_logit + smoothing * logits.mean(1, keepdim=True)
    maximum = logits.amax(1, keepdim=True)
    total = logits.sub_(maximum).exp_().sum(1, keepdim=True)
    if gradient:
        logits.mul_(total.reciprocal())
        logits.scatter_add_(1, target, torch.full_like(target_logit, smoothing - 1.0))
        if smoothing:
            logits.sub_(smoothing / logits.shape[1])
    return (total.log() + maximum - target_logit).squeeze(1)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _product_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    dtype = torch.promote_types(x.dtype, weight.dtype)
    under_autocast = dtype != torch.float64 and torch.is_autocast_enabled(x.device.type)
    return torch.get_autocast_dtype(x.device.type) if under_autocast else dtype


def _balanced_chunk(rows: int, vocabulary: int) -> int:
    limit = max(CHUNK_ELEMENTS // max(vocabulary, 1), 1)
    chunks = max(-(-rows // limit), 1)
    return max(-(-rows // chunks), 1)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int | None, reduction: str) -> None:
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"x (N, D) must fit weight (V, D), got {tuple(x.shape)} and {tuple(weight.shape)}")
    if targets.shape != x.shape[:1]:
        raise ValueError(f"targets must be ({x.shape[0]},) as x has rows, got {tuple(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},) as weight has rows, got {tuple(bias.shape)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
