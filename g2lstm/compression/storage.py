"""The forms in which a compressed matrix is kept. Each says what it costs in bits and gives the matrix back.

N rows, M columns, K rank, Q values in a codebook. Numbers that are not codes count 32 bits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from g2lstm.compression.packing import LARGEST_CODEBOOK, packed_bytes

FLOAT_BITS = 32


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix as it is."""

    values: Tensor  # (N, M)

    def matrix(self) -> Tensor:
        return self.values

    @property
    def bits(self) -> int:
        return FLOAT_BITS * self.values.numel()


@dataclass(frozen=True, eq=False)
class Sparse:
    """A matrix with zeros: one bit an entry says where the others are."""

    values: Tensor  # (N, M), zeros included

    def matrix(self) -> Tensor:
        return self.values

    @property
    def bits(self) -> int:
        return self.values.numel() + FLOAT_BITS * int(self.values.count_nonzero())


@dataclass(frozen=True, eq=False)
class Codes:
    """A matrix of few values: `codebook[codes]`, its rows times `scales` where there are any."""

    codes: Tensor  # (N, M) whole numbers in [0, Q)
    codebook: Tensor  # (Q,). With scales, whole numbers in sequence, which need not be stored
    scales: Tensor | None = None  # (N,) or None

    def matrix(self) -> Tensor:
        values = self.codebook[self.codes.long()]
        return values if self.scales is None else values * self.scales.unsqueeze(1)

    @property
    def levels(self) -> int:
        return len(self.codebook)

    @property
    def bits(self) -> int:
        numbers = self.codebook if self.scales is None else self.scales
        return 8 * packed_bytes(self.levels, self.codes.numel()) + FLOAT_BITS * numbers.numel()


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix of low rank, as the product of two thin ones."""

    left: "Form"  # forms of the (N, K) and the (K, M) factor
    right: "Form"

    def matrix(self) -> Tensor:
        return self.left.matrix() @ self.right.matrix()

    @property
    def rank(self) -> int:
        return self.left.matrix().shape[1]

    @property
    def bits(self) -> int:
        return self.left.bits + self.right.bits


Form = Dense | Sparse | Codes | Factors


def few_valued(matrix: Tensor) -> Codes | None:
    """The matrix as codes into a codebook of its own values, or None where it has more than 65,536."""
    codebook, codes = matrix.unique(return_inverse=True)
    return Codes(codes.int(), codebook) if len(codebook) <= LARGEST_CODEBOOK else None


def cheapest(matrix: Tensor) -> Form:
    """The form of the fewest bits that gives exactly this matrix back, low rank aside."""
    forms: list[Form] = [Dense(matrix), Sparse(matrix)]
    if (codes := few_valued(matrix)) is not None:
        forms.append(codes)
    return min(forms, key=lambda form: form.bits)


def is_finite(matrix: Tensor) -> bool:
    return bool(torch.isfinite(matrix).all())
