"""How sure a difference is: over seeds, and over the words of one text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from types import ModuleType

import numpy as np

from g2lstm.errors import UserError

LEVEL = 0.95
BLOCK = 500  # tokens: longer than sentences and most articles, whose losses are alike
FEWEST_BLOCKS = 10
DRAWS = 10_000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Values of n runs that differ in their seed, or paired differences of them.

    Attributes:
        n, mean: how many, and their mean.
        sd: sample standard deviation; None for n = 1, as the interval.
        interval: 95% t-interval of the mean.
    """

    n: int
    mean: float
    sd: float | None
    interval: Interval | None


def sample(values: Sequence[float]) -> Sample:
    """Mean, sample standard deviation and 95% t-interval of at least one value."""
    n = len(values)
    if n < 2:
        return Sample(n, mean(values), None, None)
    half = float(_stats().t.ppf((1 + LEVEL) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Sample(n, mean(values), stdev(values), (mean(values) - half, mean(values) + half))


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences under all 2^n flips of their signs, enumerated for n up to 16, else drawn."""
    found = _stats().permutation_test(
        (np.asarray(differences, float),), np.mean, permutation_type="samples", vectorized=True, n_resamples=2**16
    )
    return float(found.pvalue)


def equivalence_test(differences: Sequence[float], margin: float) -> float:
    """p of "the mean difference is `margin` or more, this way or that": two one-sided t-tests, the larger p of both.

    Below 0.025 where the 95% t-interval lies within the margin.

    Raises:
        ValueError: there are fewer than two differences.
    """
    if len(differences) < 2:
        raise ValueError("a test of equivalence takes at least two differences")
    test = _stats().ttest_1samp
    sides = ((-margin, "greater"), (margin, "less"))
    return max(float(test(differences, side, alternative=direction).pvalue) for side, direction in sides)


@dataclass(frozen=True)
class LossDifference:
    """The mean loss of one run less that of another over the same tokens, in nats.

    Attributes:
        tokens: how many.
        mean, interval: of the difference, with its 95% bootstrap interval.
    """

    tokens: int
    mean: float
    interval: Interval

    @property
    def perplexity_ratio(self) -> float:
        """How many times as high the first run's perplexity is."""
        return math.exp(self.mean)

    @property
    def ratio_interval(self) -> Interval:
        return math.exp(self.interval[0]), math.exp(self.interval[1])


def loss_difference(
    ours: np.ndarray, theirs: np.ndarray, *, block: int = BLOCK, draws: int = DRAWS, seed: int = 0
) -> LossDifference:
    """Compares two runs word by word. Blocks of tokens are resampled: neighbours are no independent witnesses.

    Args:
        ours, theirs: (N,) losses of the same tokens, in reading order.
        block: tokens of a block; the last one may be shorter.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: the texts are of different lengths, or too short for `FEWEST_BLOCKS`.
    """
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise ValueError(f"the losses must be of the same text, got {ours.shape} and {theirs.shape} of them")
    difference = ours.astype(np.float64) - theirs.astype(np.float64)
    starts = np.arange(0, len(difference), block)
    if len(starts) < FEWEST_BLOCKS:
        raise ValueError(f"an interval takes {FEWEST_BLOCKS} blocks of {block} tokens, got {len(difference)} tokens")
    sums, sizes = np.add.reduceat(difference, starts), np.diff(np.append(starts, len(difference)))

    def of_blocks(sums: np.ndarray, sizes: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis) / sizes.sum(axis)

    found = _stats().bootstrap(
        (sums, sizes), of_blocks, paired=True, n_resamples=draws, batch=1000, confidence_level=LEVEL, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = found.confidence_interval
    return LossDifference(len(difference), float(difference.mean()), (float(low), float(high)))


def _stats() -> ModuleType:
    try:
        from scipy import stats
    except ImportError:
        raise UserError("intervals and tests need scipy: pip install 'g2lstm[train]'") from None
    return stats
