"""How sure a difference is: over seeds, and over the words of one text."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

import numpy as np
import scipy

LEVEL = 0.95
BLOCK = 500  # tokens: longer than sentences and most articles, whose losses are alike
FEWEST_BLOCKS = 10
DRAWS = 10_000
Interval = tuple[float, float]


def mean_interval(values: Sequence[float]) -> Interval | None:
    """95% t-interval of the mean of n runs that differ in their seed, or of paired differences; None for n = 1."""
    if len(values) < 2:
        return None
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences under all 2^n flips of their signs; beyond n = 16 under 2^16 that are drawn,
    the same each time."""
    found = scipy.stats.permutation_test(
        (np.asarray(differences, float),), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**16,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(found.pvalue)


def equivalence_test(differences: Sequence[float], margin: float) -> float:
    """p of "the mean difference is `margin` or more, this way or that": two one-sided t-tests, the larger p of both.

    Below 0.025 where the 95% t-interval of two or more differences lies within the margin.
    """
    sides = ((-margin, "greater"), (margin, "less"))
    return max(float(scipy.stats.ttest_1samp(differences, side, alternative=way).pvalue) for side, way in sides)


def loss_difference(
    ours: np.ndarray, theirs: np.ndarray, *, block: int = BLOCK, draws: int = DRAWS, seed: int = 0
) -> tuple[float, Interval]:
    """The mean loss of one run less that of another over the same tokens, in nats, and its 95% bootstrap interval.

    Blocks of tokens are resampled: neighbours are no independent witnesses.

    Args:
        ours, theirs: (N,) losses of the same tokens, in reading order.
        block: tokens of a block; the last one may be shorter.
        draws, seed: of the bootstrap.

    Raises:
        ValueError: the texts are of different lengths, or too short for `FEWEST_BLOCKS`.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"the losses must be of the same text, got {ours.shape} and {theirs.shape} of them")
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    starts = np.arange(0, len(difference), block)
    if len(starts) < FEWEST_BLOCKS:
        raise ValueError(f"an interval takes {FEWEST_BLOCKS} blocks of {block} tokens, got {len(difference)} tokens")
    sums, sizes = np.add.reduceat(difference, starts), np.diff(np.append(starts, len(difference)))
    low, high = scipy.stats.bootstrap(
        (sums, sizes), lambda sums, sizes, axis=-1: sums.sum(axis) / sizes.sum(axis), paired=True, n_resamples=draws,
        batch=1000, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(difference.mean()), (float(low), float(high))
