"""The draw of a word, against the published sequence of numbers and the softmax itself."""

import re

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from g2lstm import runtime
from g2lstm.decoding.sampling import sample, splitmix64
from g2lstm.errors import UserError

LOGITS = np.array([0.5, 2.0, -1.0, 2.0, 0.0, 1.0], np.float32)


def test_the_bits_are_those_of_splitmix64() -> None:
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # of seed 0
    assert [splitmix64(step * 0x9E3779B97F4A7C15) for step in range(3)] == published


@pytest.mark.skipif(runtime.problem() is not None, reason="no compiler")
def test_the_runtime_draws_the_same_words() -> None:
    generator = np.random.default_rng(5)
    for step in range(300):
        logits = generator.normal(0, 3, 50).astype(np.float32).round(1)  # some are equal
        options = {"temperature": 0.1 + step / 100, "top_k": step % 60, "seed": 2**63 + step, "step": step}
        assert sample(logits, **options) == runtime.sample(torch.from_numpy(logits), **options)


@pytest.mark.parametrize("temperature", [0, 1e-50])  # which float32 doesn't tell from 0
def test_at_temperature_0_the_largest_is_taken_and_of_equal_ones_the_first(temperature: float) -> None:
    assert {sample(LOGITS, temperature=temperature, seed=seed) for seed in range(20)} == {1}
    if runtime.problem() is None:
        assert runtime.sample(torch.from_numpy(LOGITS), temperature=temperature) == 1


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"temperature": np.nan}, {"temperature": np.inf}, {"temperature": 1e39}, {"top_k": -1}]
)
def test_options_out_of_range_are_refused_in_both(wrong) -> None:
    ((name, value),) = wrong.items()
    line = rf"\A(the )?{name} must be a number >= 0"
    with pytest.raises(UserError, match=rf"{line}, got {re.escape(str(value))}\Z"):
        sample(LOGITS, **wrong)
    if runtime.problem() is None:
        with pytest.raises(UserError, match=line):
            runtime.sample(torch.from_numpy(LOGITS), **wrong)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.5, 3), (2.0, 6)])
def test_words_come_as_often_as_the_softmax_of_the_largest_says(temperature: float, top_k: int) -> None:
    draws = [sample(LOGITS, temperature=temperature, top_k=top_k, seed=7, step=step) for step in range(4000)]
    kept = sorted(range(6), key=lambda word: (-LOGITS[word], word))[: top_k or 6]
    weights = np.array([np.exp(float(LOGITS[word]) / temperature) if word in kept else 0.0 for word in range(6)])
    there = weights > 0
    counts = np.bincount(draws, minlength=6)
    assert not counts[~there].any()
    assert chisquare(counts[there], 4000 * weights[there] / weights.sum()).pvalue > 0.01


def test_one_word_is_the_likeliest_and_of_equal_ones_the_first() -> None:
    assert {sample(LOGITS, top_k=1, seed=1, step=step) for step in range(50)} == {1}
    assert {sample(LOGITS, top_k=2, seed=1, step=step) for step in range(50)} == {1, 3}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_refused_in_both_with_the_same_line(value) -> None:
    logits = LOGITS.copy()
    logits[2] = value
    with pytest.raises(UserError, match=r"\Aa logit is not finite\Z"):
        sample(logits)
    if runtime.problem() is None:
        with pytest.raises(UserError, match=r"\Aa logit is not finite\Z"):
            runtime.sample(torch.from_numpy(logits))
