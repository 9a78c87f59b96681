"""Low rank: a matrix as the product of two thin ones, by truncating its singular value decomposition.

N rows, M columns, K rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rank:
    """A rank, or a share of H: the rows of a gate's block are the layer's hidden units."""

    number: int  # the rank, or what H is divided by
    of_hidden: bool = False  # whether it is the latter

    def __post_init__(self) -> None:
        if self.number < 1:
            raise ValueError(f"a rank must be a whole number >= 1 or H divided by one, got {self}")

    def __str__(self) -> str:
        return f"H/{self.number}" if self.of_hidden else str(self.number)

    def of(self, rows: int) -> int:
        """The rank for a block of H = `rows`, at least 1."""
        return max(1, rows // self.number) if self.of_hidden else self.number


def factorize(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of a rank in the Frobenius norm (Eckart and Young 1936), as two factors of equal norm.

    Of an (N, M) matrix and K from 1 to min(N, M), else a ValueError, left (N, K) and right (K, M): U sqrt(S) and sqrt(S) V^T
    of the decomposition U S V^T.
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank must be from 1 to {min(matrix.shape)} for a matrix of {tuple(matrix.shape)}, got {rank}")
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).to(matrix.dtype), (root.unsqueeze(1) * vh[:rank]).to(matrix.dtype)
