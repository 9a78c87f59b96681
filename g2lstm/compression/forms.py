"""The forms in which a compressed matrix is kept. Each says what it costs in bits and gives the matrix back.

N rows, M columns, K rank, Q values in a codebook. Numbers that are not codes count 32 bits.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOAT_BITS = 32
LARGEST_CODEBOOK = 2**16
Tree = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix, or any other tensor, as it is."""

    values: Tensor  # (N, M); bfloat16 comes back as float32

    def matrix(self) -> Tensor:
        return self.values.float() if self.values.dtype == torch.bfloat16 else self.values

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
    codebook: Tensor  # (Q,). With scales, whole numbers around 0, which need not be stored
    scales: Tensor | None = None  # (N,) or None

    def matrix(self) -> Tensor:
        if self.scales is None:
            return self.codebook[self.codes.long()]
        return (self.codes + self.codebook[0]).mul_(self.scales.unsqueeze(1))

    @property
    def bits(self) -> int:
        numbers = self.codebook if self.scales is None else self.scales
        return 8 * packed_bytes(len(self.codebook), self.codes.numel()) + FLOAT_BITS * numbers.numel()


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix of low rank, as the product of two thin ones."""

    left: "Form"  # forms of the (N, K) and the (K, M) factor
    right: "Form"

    def matrix(self) -> Tensor:
        return self.left.matrix() @ self.right.matrix()

    @property
    def bits(self) -> int:
        return self.left.bits + self.right.bits


Form = Dense | Sparse | Codes | Factors


def smallest(*forms: Form) -> Form:
    """The form of the fewest bits, of equal ones the first."""
    return min(forms, key=lambda form: form.bits)


def cheapest(matrix: Tensor) -> Form:
    """The form of the fewest bits that gives exactly this matrix back, low rank aside."""
    codebook, codes = matrix.unique(return_inverse=True)
    few = [Codes(codes.int(), codebook)] if len(codebook) <= LARGEST_CODEBOOK else []
    return smallest(Dense(matrix), Sparse(matrix), *few)


def scaled(form: Form, factor: float) -> Form:
    """The same form of the matrix times a factor."""
    if isinstance(form, Factors):
        return Factors(form.left, scaled(form.right, factor))
    if isinstance(form, Codes):
        if form.scales is None:
            return replace(form, codebook=form.codebook * factor)
        return replace(form, scales=form.scales * factor)
    return type(form)(form.values * factor)


def packed_bytes(levels: int, count: int) -> int:
    """Bytes that `count` numbers in [0, levels) take."""
    digits, width = _packing(levels)
    return math.ceil(math.ceil(count / digits) * width / 8)


def pack(codes: Tensor, levels: int) -> Tensor:
    """Whole numbers in [0, levels), levels from 1 to 65,536, as (packed_bytes(levels, codes.numel()),) uint8."""
    digits, width = _packing(levels)
    if (digits, width) == (1, 8):
        return codes.flatten().to(torch.uint8)
    flat = codes.flatten().numpy().astype(np.int64)
    groups = np.pad(flat, (0, -flat.size % digits)).reshape(-1, digits) @ levels ** np.arange(digits)
    bits = np.unpackbits(groups.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return torch.from_numpy(np.packbits(bits[:, :width], bitorder="little"))


def unpack(packed: Tensor, levels: int, shape: tuple[int, ...]) -> Tensor:
    """The codes that `pack` was given, as whole numbers of `shape`."""
    digits, width = _packing(levels)
    count = math.prod(shape)
    if width == 8:  # by table, without a detour over bits
        numbers = np.arange(256).reshape(-1, 1) // levels ** np.arange(digits) % levels
        flat = packed.numpy() if digits == 1 else numbers.astype(np.uint8)[packed.numpy()].reshape(-1)
        return torch.from_numpy(flat[:count].copy()).view(shape)
    size = math.ceil(count / digits)
    bits = np.unpackbits(packed.numpy(), count=size * width, bitorder="little").reshape(size, width)
    groups = np.packbits(np.pad(bits, ((0, 0), (0, 16 - width))), axis=1, bitorder="little").view("<u2")  # (size, 1)
    flat = groups.astype(np.int64) // levels ** np.arange(digits) % levels
    return torch.from_numpy(flat.reshape(-1)[:count].copy()).view(shape)


def pack_form(form: Form) -> Tree:
    """A form as a tree of a checkpoint."""
    if isinstance(form, Factors):
        return {"form": "factors", "left": pack_form(form.left), "right": pack_form(form.right)}
    if isinstance(form, Dense):
        return {"form": "dense", "values": form.values}
    if isinstance(form, Sparse):
        there = form.values != 0
        return {"form": "sparse", "shape": there.shape, "mask": pack(there, 2), "values": form.values[there]}
    tree = {"form": "codes", "shape": form.codes.shape, "levels": len(form.codebook)}
    tree["packed"] = pack(form.codes, len(form.codebook))
    return tree | ({"codebook": form.codebook} if form.scales is None else {"scales": form.scales})


def unpack_form(tree: Tree) -> Form:
    """The form that `pack_form` was given."""
    if tree["form"] == "factors":
        return Factors(unpack_form(tree["left"]), unpack_form(tree["right"]))
    if tree["form"] == "dense":
        return Dense(tree["values"])
    if tree["form"] == "sparse":
        there = unpack(tree["mask"], 2, tree["shape"]).bool()
        return Sparse(torch.zeros(tree["shape"]).masked_scatter_(there, tree["values"]))
    codes = unpack(tree["packed"], tree["levels"], tree["shape"])
    if "codebook" in tree:
        return Codes(codes, tree["codebook"])
    half = tree["levels"] // 2
    return Codes(codes, torch.arange(-half, half + 1.0), tree["scales"])


def _packing(levels: int) -> tuple[int, int]:
    """How many numbers share how many bits: a byte as digits of base Q (5 values: 3), or each its own ceil(log2 Q) bits."""
    width = (levels - 1).bit_length()
    digits = int(math.log(256, max(levels, 2)) + 1e-9)
    return (digits, 8) if digits * width > 8 else (1, width)
