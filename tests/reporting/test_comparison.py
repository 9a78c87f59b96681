"""Intervals and tests against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest

from g2lstm.reporting.comparison import equivalence_test, loss_difference, mean_interval, sign_flip_test

DIFFERENCES = [-6.3, 4.3, 14.4, -3.5, 3.9]


def test_intervals_of_the_mean() -> None:
    half = math.tan(math.pi * 0.475) * 1.0  # t with one degree of freedom is Cauchy: its quantile is a tangent
    assert mean_interval([3.0, 5.0]) == pytest.approx((4 - half, 4 + half))
    half = 2.7764451052 * np.std(DIFFERENCES, ddof=1) / math.sqrt(5)  # from a table of t, 4 degrees of freedom
    assert mean_interval(DIFFERENCES) == pytest.approx((np.mean(DIFFERENCES) - half, np.mean(DIFFERENCES) + half))
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert mean_interval([2.0]) is None


def test_about_19_of_20_intervals_hold_the_true_mean() -> None:
    generator = np.random.default_rng(1)
    intervals = [mean_interval(generator.normal(7, 3, 4).tolist()) for _ in range(400)]
    assert 0.92 < sum(low < 7 < high for low, high in intervals) / 400 < 0.98


def test_signs_of_many_are_drawn_the_same_each_time() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 18).tolist()
    flips = np.array(list(itertools.product((-1, 1), repeat=18)), np.int8)
    exact = (np.abs(flips @ differences) >= abs(sum(differences)) - 1e-9).mean()
    assert sign_flip_test(differences) == sign_flip_test(differences) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("differences", [DIFFERENCES, [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [0.3, -0.2, 0.1, 5.0, 0.0, 0.7]])
def test_signs_are_flipped_in_all_ways(differences) -> None:
    n, observed = len(differences), abs(sum(differences))
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
    assert sign_flip_test(differences) == pytest.approx(np.mean([value >= observed - 1e-12 for value in sums]))


@pytest.mark.parametrize("margin", [0.5, 1.0, 2.0, 20.0])
def test_a_difference_is_equivalent_where_its_interval_lies_within_the_margin(margin) -> None:
    for differences in (DIFFERENCES, [0.4, 0.5, 0.6, 0.5, 0.3]):
        low, high = mean_interval(differences)
        assert (equivalence_test(differences, margin) < 0.025) == (-margin < low and high < margin)


def walk(n: int, seed: int) -> np.ndarray:
    """Losses that drift, as those of neighbouring words do."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=n)
    for place in range(1, n):
        noise[place] += 0.9 * noise[place - 1]
    return noise


def test_a_loss_difference_is_the_mean() -> None:
    theirs = walk(2050, 1).astype(np.float16)
    mean, interval = loss_difference((theirs + np.float16(0.25)), theirs, block=100, draws=200)
    assert mean == pytest.approx(0.25, abs=1e-3)  # float16
    assert interval == pytest.approx((0.25, 0.25), abs=1e-3)


def test_blocks_are_drawn_as_a_plain_loop_draws_them() -> None:
    difference, block = walk(1030, 2), 100  # the last block is shorter
    _, found = loss_difference(difference, np.zeros(1030), block=block, draws=4000)
    blocks = [difference[start : start + block] for start in range(0, 1030, block)]
    generator = np.random.default_rng(5)
    means = [
        np.concatenate([blocks[i] for i in generator.integers(len(blocks), size=len(blocks))]).mean() for _ in range(4000)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found == pytest.approx((low, high), abs=0.04 * (high - low))


def test_blocks_see_that_neighbours_are_alike() -> None:
    difference = walk(20_000, 3)
    widths = {}
    for size in (1, 500):
        _, (low, high) = loss_difference(difference, np.zeros(20_000), block=size, draws=500)
        widths[size] = high - low
    assert widths[500] > 3 * widths[1]


@pytest.mark.parametrize(("n", "m", "message"), [(900, 901, "of the same text"), (4500, 4500, "10 blocks of 500 tokens")])
def test_other_texts_and_short_ones_are_refused(n, m, message) -> None:
    with pytest.raises(ValueError, match=message):
        loss_difference(np.zeros(n), np.zeros(m))
