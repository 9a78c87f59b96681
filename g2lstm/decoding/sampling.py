"""Drawing the next word from logits, the same from the same seed in Python and in C (`g2_sample` of the runtime).

V vocabulary.
"""

import numpy as np

from g2lstm.errors import UserError

_MASK = 2**64 - 1


def sample(logits: np.ndarray, *, temperature: float = 1.0, top_k: int = 0, seed: int = 0, step: int = 0) -> int:
    """One of V words, drawn from the softmax of logits / temperature over the largest `top_k`.

    Args:
        logits: (V,) float32.
        temperature: from 0 on, taken as float32; 0 takes the largest logit, of equal ones the first.
        top_k: of equal logits the lower numbers come first; 0, and V and more, leave none out.
        seed, step: the draw is a function of these two, as of the seed of a text and the word's place in it.

    Raises:
        UserError: a logit is not finite, or an option is out of range.
    """
    with np.errstate(over="ignore"):  # infinite then
        heat = np.float32(temperature)
    if not 0 <= heat < np.inf:
        raise UserError(f"the temperature must be a number >= 0, got {temperature}")
    if top_k < 0:
        raise UserError(f"top_k must be a number >= 0, got {top_k}")
    if not np.isfinite(logits).all():
        raise UserError("a logit is not finite")
    if heat == 0:
        return int(np.argmax(logits))
    count = min(top_k or len(logits), len(logits))
    kept = np.sort(np.argsort(-logits, kind="stable")[:count])
    chosen = logits[kept].astype(np.float64)
    sums = np.cumsum(np.exp((chosen - chosen.max()) / np.float64(heat)))
    drawn = (splitmix64(splitmix64(seed) ^ step) >> 11) / 2**53 * sums[-1]
    return int(kept[min(np.searchsorted(sums, drawn, side="right"), count - 1)])


def splitmix64(number: int) -> int:
    """64 bits that look drawn by chance, of 64 bits (Steele et al. 2014)."""
    z = (number + 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)
