"""What is done to a matrix: rounding, clipping, uniform quantisation, ternary weights, pruning, low rank. Pure functions.

N rows, M columns, K rank; a ValueError says which value is out of range.
"""

import math

import torch
from torch import Tensor

from g2lstm.compression.forms import Codes


def round_to(matrix: Tensor, step: float) -> Tensor:
    """Rounds each entry to a multiple of `step` > 0: round(x / r) * r (eq. 17). Halves go to the even multiple."""
    _check_positive("round", step)
    return torch.round(matrix / step) * step + 0.0  # no negative zeros


def clip_to(matrix: Tensor, limit: float) -> Tensor:
    """Clips each entry to [-limit, limit] (eq. 18), limit > 0."""
    _check_positive("clip", limit)
    return matrix.clamp(-limit, limit)


def quantize(matrix: Tensor, bits: int) -> Codes:
    """Uniform, symmetric, one scale a row: multiples of max |row| / (2^(bits-1) - 1), 2^bits - 1 of them, 2 to 8 bits."""
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits}")
    largest = 2 ** (bits - 1) - 1
    scales = matrix.abs().amax(dim=1) / largest  # (N,)
    units = torch.round(matrix / scales.where(scales > 0, 1).unsqueeze(1)).clamp(-largest, largest)
    return _signed_codes(units, largest, scales)


def ternarize(matrix: Tensor) -> Codes:
    """-s, 0 or s, with one s a row: entries below 0.7 of the row's mean |x| become 0 (Li and Liu 2016, arXiv 1605.04711)."""
    magnitude = matrix.abs()
    kept = magnitude > 0.7 * magnitude.mean(dim=1, keepdim=True)  # (N, M)
    scales = (magnitude * kept).sum(dim=1) / kept.sum(dim=1).clamp_min(1)
    return _signed_codes(matrix.sign() * kept, 1, scales)


def prune(matrix: Tensor, share: float) -> Tensor:
    """Sets the `share` in [0, 1) of entries that are smallest in magnitude to 0, of equal ones the first."""
    if not 0 <= share < 1:
        raise ValueError(f"prune must be a share in [0, 1), got {share:g}")
    order = matrix.abs().flatten().argsort(stable=True)
    pruned = matrix.flatten().clone()
    pruned[order[: round(share * len(order))]] = 0
    return pruned.view_as(matrix)


def factorize(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a rank in the Frobenius norm (Eckart and Young 1936), as two factors of equal norm.

    Of an (N, M) matrix and K from 1 to min(N, M), left (N, K) and right (K, M): U sqrt(S) and sqrt(S) V^T of the singular
    value decomposition U S V^T.
    """
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root.unsqueeze(1) * vh[:rank]).to(matrix.dtype)


def _signed_codes(units: Tensor, largest: int, scales: Tensor) -> Codes:
    """Codes of whole numbers in [-largest, largest]."""
    codebook = torch.arange(-largest, largest + 1, dtype=scales.dtype, device=scales.device)
    return Codes((units + largest).int(), codebook, scales)


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number > 0, got {value:g}")
