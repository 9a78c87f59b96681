"""Intervals and tests against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest

from g2lstm.reporting.comparison import equivalence_test, loss_difference, sample, sign_flip_test

DIFFERENCES = [-6.3, 4.3, 14.4, -3.5, 3.9]


def test_an_interval_of_two_values_is_their_distance_times_the_quantile_of_a_cauchy() -> None:
    found = sample([3.0, 5.0])  # t with one degree of freedom is Cauchy: its quantile is a tangent
    half = math.tan(math.pi * 0.475) * 1.0
    assert found.interval == pytest.approx((4 - half, 4 + half))
    assert found.sd == pytest.approx(math.sqrt(2))


def test_an_interval_of_five_values() -> None:
    found = sample(DIFFERENCES)
    half = 2.7764451052 * np.std(DIFFERENCES, ddof=1) / math.sqrt(5)  # from a table of t, 4 degrees of freedom
    assert found.interval == pytest.approx((np.mean(DIFFERENCES) - half, np.mean(DIFFERENCES) + half))
    assert found.n == 5


def test_equal_values_have_an_interval_of_no_width_and_one_value_none() -> None:
    assert sample([2.0, 2.0, 2.0]).interval == (2.0, 2.0)
    assert (sample([2.0]).sd, sample([2.0]).interval) == (None, None)


def test_about_19_of_20_intervals_hold_the_true_mean() -> None:
    generator = np.random.default_rng(1)
    intervals = [sample(generator.normal(7, 3, 4).tolist()).interval for _ in range(400)]
    assert 0.92 < sum(low < 7 < high for low, high in intervals) / 400 < 0.98


@pytest.mark.parametrize("differences", [DIFFERENCES, [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [0.3, -0.2, 0.1, 5.0, 0.0, 0.7]])
def test_signs_are_flipped_in_all_ways(differences) -> None:
    n, observed = len(differences), abs(sum(differences))
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
    assert sign_flip_test(differences) == pytest.approx(np.mean([value >= observed - 1e-12 for value in sums]))


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0, 20.0])
def test_a_difference_is_equivalent_where_its_interval_lies_within_the_margin(margin) -> None:
    for differences in (DIFFERENCES, [0.4, 0.5, 0.6, 0.5, 0.3]):
        low, high = sample(differences).interval
        assert (equivalence_test(differences, margin) < 0.025) == (-margin < low and high < margin)


def test_equivalence_takes_two_differences() -> None:
    with pytest.raises(ValueError, match="at least two"):
        equivalence_test([1.0], 1.0)


def walk(n: int, seed: int) -> np.ndarray:
    """Losses that drift, as those of neighbouring words do."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=n)
    for place in range(1, n):
        noise[place] += 0.9 * noise[place - 1]
    return noise


def test_a_loss_difference_is_the_mean() -> None:
    theirs = walk(2050, 1).astype(np.float16)
    found = loss_difference((theirs + np.float16(0.25)), theirs, block=100, draws=200)
    assert found.tokens == 2050
    assert found.mean == pytest.approx(0.25, abs=1e-3)  # float16
    assert found.interval == pytest.approx((0.25, 0.25), abs=1e-3)


def test_blocks_are_drawn_as_a_plain_loop_draws_them() -> None:
    difference, block = walk(1030, 2), 100  # the last block is shorter
    found = loss_difference(difference, np.zeros(1030), block=block, draws=4000)
    blocks = [difference[start : start + block] for start in range(0, 1030, block)]
    generator = np.random.default_rng(5)
    means = [
        np.concatenate([blocks[i] for i in generator.integers(len(blocks), size=len(blocks))]).mean() for _ in range(4000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.interval == pytest.approx((low, high), abs=0.04 * (high - low))


def test_blocks_see_that_neighbours_are_alike() -> None:
    difference = walk(20_000, 3)
    alone, blocks = (loss_difference(difference, np.zeros(20_000), block=size, draws=500) for size in (1, 500))
    assert (blocks.interval[1] - blocks.interval[0]) > 3 * (alone.interval[1] - alone.interval[0])


@pytest.mark.parametrize(("n", "m", "message"), [(900, 901, "of the same text"), (4500, 4500, "10 blocks of 500 tokens")])
def test_other_texts_and_short_ones_are_refused(n, m, message) -> None:
    with pytest.raises(ValueError, match=message):
        loss_difference(np.zeros(n), np.zeros(m))
