"""Matrix products for the CPU through oneDNN, which nn.LSTM uses too; elsewhere, and for other dtypes, torch's own.

torch.mm runs float32 products through MKL, which is the slower one on some processors.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

_WORTH_PACKING = 2**18  # numbers in a matrix
_ROWS = 1536  # that are turned at a time: memory for more comes fresh from the system, page by page
_WIDE = 1024  # columns from which on oneDNN sums over time faster than torch.mm, although it copies the turned factor


def fast_products(tensor: Tensor) -> bool:
    """Whether oneDNN's products, and the operators of torch that reach them without autograd, are there for this tensor.

    Who compiles or traces a graph has products of its own.
    """
    if tensor.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return fast_dtype(tensor.dtype)


def fast_dtype(dtype: torch.dtype) -> bool:
    """Whether they are there for tensors of this dtype on the CPU."""
    return dtype in _FAST_DTYPES and bool(torch.backends.mkldnn.enabled)


def _fast_dtypes() -> tuple[torch.dtype, ...]:
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


_FAST_DTYPES = _fast_dtypes()


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left @ right.mT + bias: (..., K), (N, K), (N,) -> (..., N), without a gradient of its own."""
    if left.numel() and right.numel() and fast_products(left):
        return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return torch.nn.functional.linear(left, right, bias)


def repeated(right: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """left -> left @ right.mT for many left factors of (rows, K), without a gradient; large right ones are packed once."""
    if not rows or right.numel() < _WORTH_PACKING or not fast_products(right):
        return right.mT.__rmatmul__
    packed = torch.ops.mkldnn._reorder_linear_weight(right, rows)
    return lambda left: torch.ops.mkldnn._linear_pointwise(left, packed, None, "none", [], "")


def over_time(left: Tensor, right: Tensor) -> Tensor:
    """The sum over steps and sequences of outer products: (T, B, M), (T, B, N) -> (M, N)."""
    left, right = left.flatten(0, 1), right.flatten(0, 1)
    if left.dtype != torch.float32 or right.shape[1] < _WIDE or not fast_products(left):
        return left.mT @ right
    pieces = max(1, -(-len(left) // _ROWS))
    chunks = zip(left.chunk(pieces), right.chunk(pieces), strict=True)
    return functools.reduce(Tensor.add_, (product(some.mT, others.mT) for some, others in chunks))
