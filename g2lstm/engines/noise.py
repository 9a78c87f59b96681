"""Noise as a recipe: what a kernel needs to draw a layer's noise by itself, and draw it again, with nothing stored.

Each unit of each step and sequence has one counter of Philox 4x32-10 (Salmon et al. 2011), (t * B + b) * H + j; the k-th
perturbed gate reads the k-th of its four words. Every engine draws the same numbers from the same recipe, up to rounding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from g2lstm.columns import Columns
from g2lstm.engines.precision import accumulation_dtype

LEVELS = 2**30  # equally likely values of a uniform draw


@dataclass(frozen=True)
class NoiseRecipe:
    """Logistic noise on a share of the gate values, fresh at every step (eq. 11).

    Args:
        seed: of the generator, in [0, 2^63), a number or an int64 tensor of no dimension.
        p: share of gate values that are perturbed.
        eps: as in `g2lstm.gates.GumbelGate`.
        blocks: which of the blocks i, f, g, o are perturbed, as indices.
        columns: of which batch the sequences are, b and B of the counter; None where they are all of it.
    """

    seed: int | Tensor
    p: float
    eps: float = 0.0
    blocks: tuple[int, ...] = (0, 1)
    columns: Columns | None = None

    @property
    def threshold(self) -> int:
        """A draw u of `LEVELS` perturbs where u < threshold; u / threshold is then uniform again."""
        return round(self.p * LEVELS)

    @property
    def words(self) -> list[int]:
        """For each of the four blocks the word it reads, or -1."""
        return [self.blocks.index(block) if block in self.blocks else -1 for block in range(4)]

    def place(self, batch: int) -> tuple[int, int]:
        """The first sequence's number, and how many there are of which `batch` are here."""
        return (0, batch) if self.columns is None else (self.columns.first, self.columns.total)

    def seed_tensor(self) -> Tensor:
        """The seed as an operator takes it, which a graph doesn't hold as a constant."""
        return self.seed if isinstance(self.seed, Tensor) else torch.tensor(self.seed, device="cpu")

    def draw(self, time: int, batch: int, size: int, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The noise in plain tensor operations: (T, B, 2H), or (T, B, 4H) where the output gate is perturbed."""
        first, total = self.place(batch)
        sequences = torch.arange(time, device=device).unsqueeze(1) * total + torch.arange(batch, device=device) + first
        counter = (sequences.flatten().unsqueeze(1) * size + torch.arange(size, device=device)).flatten()
        words = philox(int(self.seed), counter)
        noise = torch.zeros(time * batch, 4, size, dtype=dtype, device=device)
        for block, word in zip(self.blocks, words, strict=False):
            noise[:, block] = self._logistic(word >> 2, dtype).view(time * batch, size)
        width = 4 if 3 in self.blocks else 2
        return noise[:, :width].reshape(time, batch, width * size)

    def _logistic(self, u: Tensor, dtype: torch.dtype) -> Tensor:
        shift = self.eps * self.threshold + 0.5
        perturbed = u < self.threshold
        below, above = u.double() + shift, (self.threshold - u - 1).double() + shift
        return torch.where(perturbed, (below / above.where(perturbed, 1.0)).log(), 0.0).to(dtype)


NO_NOISE = NoiseRecipe(seed=0, p=0.0, blocks=())


def taken_apart(noise: Tensor | NoiseRecipe | None) -> tuple[NoiseRecipe, Tensor | None]:
    """A recipe, or one for nothing, and the noise that was given as a tensor, contiguous float32, or None."""
    if isinstance(noise, NoiseRecipe):
        return noise, None
    return NO_NOISE, None if noise is None else noise.float().contiguous()


def as_tensor(noise: Tensor | NoiseRecipe | None, like: Tensor, size: int) -> Tensor | None:
    """The noise of H units as a tensor, drawn where it is a recipe for a pass over `like` (T, B, ...)."""
    if not isinstance(noise, NoiseRecipe):
        return noise
    return noise.draw(like.shape[0], like.shape[1], size, dtype=accumulation_dtype(like.dtype), device=like.device)


def philox(seed: int, counter: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10: four words in [0, 2^32) for each counter, as int64 tensors of its shape."""
    mask = 0xFFFFFFFF
    c0, c1 = counter & mask, counter >> 32
    c2, c3 = torch.zeros_like(c0), torch.zeros_like(c0)
    k0, k1 = seed & mask, seed >> 32
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high2, low2 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of a 32 x 32 bit product, without leaving the range of int64."""
    upper, lower = a * (b >> 16), a * (b & 0xFFFF)  # each below 2^48
    total = (upper << 16) + lower  # below 2^64: the sign bit may be set
    return (total >> 32) & 0xFFFFFFFF, total & 0xFFFFFFFF
