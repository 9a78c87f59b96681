"""Small numbers packed into bytes: at most 3 bits for one of 5 values, and exactly the same numbers back.

Numbers below Q are packed as digits of base Q, as many as a byte holds (5 values: 3 in a byte), or as ceil(log2 Q) bits
each, whichever takes less.
"""

import math

import numpy as np
import torch
from torch import Tensor

LARGEST_CODEBOOK = 2**16


def packed_bytes(levels: int, count: int) -> int:
    """Bytes that `count` numbers in [0, levels) take."""
    digits, width = _digits(levels), _width(levels)
    return -(-count // digits) if digits else -(-count * width // 8)


def pack(codes: Tensor, levels: int) -> Tensor:
    """Packs whole numbers in [0, levels), levels from 1 to 65,536, to (packed_bytes(levels, codes.numel()),) uint8.

    Raises:
        ValueError: levels or a code is out of range.
    """
    _check(levels)
    flat = codes.flatten().cpu().numpy().astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < levels:
        raise ValueError(f"codes must be in [0, {levels}), got {flat.min()} to {flat.max()}")
    digits, width = _digits(levels), _width(levels)
    if width == 8:
        packed = flat.astype(np.uint8)
    elif digits:
        padded = np.pad(flat, (0, -flat.size % digits)).reshape(-1, digits)
        packed = (padded @ levels ** np.arange(digits)).astype(np.uint8)
    else:
        bits = (flat[:, None] >> np.arange(width) & 1).astype(np.uint8)
        packed = np.packbits(bits, bitorder="little")
    return torch.from_numpy(packed)


def unpack(packed: Tensor, levels: int, shape: tuple[int, ...]) -> Tensor:
    """The codes that `pack` was given, as int64 of `shape`.

    Raises:
        ValueError: levels is out of range, or `packed` is not as long as `shape` asks for.
    """
    _check(levels)
    count = math.prod(shape)
    if packed.numel() != (expected := packed_bytes(levels, count)):
        raise ValueError(f"{count} codes of {levels} levels take {expected} bytes, got {packed.numel()}")
    raw, digits, width = packed.cpu().numpy(), _digits(levels), _width(levels)
    if width == 8:
        flat = raw.astype(np.int64)
    elif digits:
        flat = raw[:, None].astype(np.int64) // levels ** np.arange(digits) % levels
    else:
        bits = np.unpackbits(raw, count=count * width, bitorder="little").reshape(count, width)
        flat = bits.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))
    return torch.from_numpy(flat.reshape(-1)[:count].copy()).view(shape)


def _width(levels: int) -> int:
    return (levels - 1).bit_length()


def _digits(levels: int) -> int:
    """Numbers a byte holds as digits of base `levels`, or 0 where plain bits take no more."""
    if levels < 2:
        return 0
    digits = int(math.log(256, levels) + 1e-9)
    return digits if digits * _width(levels) > 8 else 0


def _check(levels: int) -> None:
    if not 1 <= levels <= LARGEST_CODEBOOK:
        raise ValueError(f"levels must be from 1 to {LARGEST_CODEBOOK}, got {levels}")
