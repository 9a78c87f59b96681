"""The continuous cache against its definition, one position at a time."""

import math

import pytest
import torch
from torch import Tensor

from g2lstm.decoding.cache import ContinuousCache


def stream(length=40, batch=3, width=5, words=6, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(length, batch, width, generator=generator, dtype=dtype)
    targets = torch.randint(words, (length, batch), generator=generator)
    model = torch.randn(length, batch, words, generator=generator, dtype=dtype).log_softmax(-1)
    return hidden, targets, model.gather(2, targets.unsqueeze(2)).squeeze(2)


@pytest.mark.parametrize(("window", "weight"), [(0, 0.1), (5, 1.0), (5, -0.1), (5, math.nan)])
def test_options_out_of_range_are_quoted(window, weight):
    with pytest.raises(ValueError, match=rf"window must be at least 1 and weight in \[0, 1\), got {window} and {weight}"):
        ContinuousCache(window, weight=weight)


def oracle(hidden: Tensor, targets: Tensor, window: int, theta: float) -> Tensor:
    """Word by word, in plain numbers."""
    out = torch.zeros(targets.shape, dtype=torch.float64)
    for b in range(targets.shape[1]):
        for t in range(1, targets.shape[0]):
            past = range(max(0, t - window), t)
            scores = [theta * float(hidden[t, b] @ hidden[i, b]) for i in past]
            weights = [math.exp(score - max(scores)) for score in scores]
            hits = [w for w, i in zip(weights, past, strict=True) if targets[i, b] == targets[t, b]]
            out[t, b] = sum(hits) / sum(weights)
    return out


@pytest.mark.parametrize("window", [1, 7, 39, 500])
@pytest.mark.parametrize("theta", [0.0, 0.7])
def test_probabilities_match_a_loop_over_positions(window, theta):
    hidden, targets, _ = stream()
    ours = ContinuousCache(window, theta).probabilities(hidden, targets)
    torch.testing.assert_close(ours, oracle(hidden, targets, window, theta))


@pytest.mark.parametrize("blocks", [[1] * 40, [3] * 13 + [1], [20, 20], [1, 38, 1], [40]])
@pytest.mark.parametrize("window", [1, 8, 500])
def test_the_length_of_blocks_does_not_change_the_result(blocks, window):
    hidden, targets, model = stream()
    cache = ContinuousCache(window, 0.7, 0.3)
    parts = zip(hidden.split(blocks), targets.split(blocks), model.split(blocks), strict=True)
    ours = torch.cat([cache.mix(*part) for part in parts])
    expected = ((0.7 * model.exp()) + 0.3 * oracle(hidden, targets, window, 0.7)).log()
    expected[0] = model[0]
    torch.testing.assert_close(ours, expected)
    assert len(cache._words) == min(window, 40)


def test_long_blocks_are_cut_without_changing_the_result(monkeypatch):
    monkeypatch.setattr("g2lstm.decoding.cache.MIN_PIECE", 4)
    hidden, targets, _ = stream()
    ours = ContinuousCache(3, 0.7).probabilities(hidden, targets)
    torch.testing.assert_close(ours, oracle(hidden, targets, 3, 0.7))


def test_probabilities_of_all_words_sum_to_one_once_something_is_remembered():
    hidden, targets, _ = stream(words=6)
    total = torch.zeros(3, dtype=torch.float64)
    for word in range(6):
        cache = ContinuousCache(10, 1.0)
        cache.probabilities(hidden[:-1], targets[:-1])
        total += cache.probabilities(hidden[-1:], torch.full((1, 3), word))[0]
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_first_word_of_a_text_is_the_models_alone():
    hidden, targets, model = stream()
    cache = ContinuousCache(weight=0.5)
    mixed = cache.mix(hidden, targets, model)
    assert torch.equal(mixed[0], model[0])
    assert not torch.isclose(mixed[1:], model[1:]).any()


def test_a_weight_of_zero_is_the_model():
    hidden, targets, model = stream()
    assert torch.equal(ContinuousCache(weight=0.0).mix(hidden, targets, model), model)


def test_huge_scores_and_tiny_model_probabilities_stay_finite():
    hidden, targets, _ = stream(dtype=torch.float32)
    cache = ContinuousCache(7, 1.0, 0.1)
    model = torch.full(targets.shape, -500.0)
    mixed = cache.mix(hidden * 1e4, targets, model)
    assert mixed.isfinite().all()
    assert (mixed > -3).any()  # where the cache is sure
    assert (mixed <= 0).all()


def test_half_precision_states_under_autocast_are_scored_in_float32():
    hidden, targets, _ = stream(length=30, width=64, dtype=torch.float32)
    hidden = hidden.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = ContinuousCache(10, 0.3).probabilities(hidden, targets)
    assert ours.dtype == torch.float32
    expected = oracle(hidden.double(), targets, 10, 0.3).float()
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)
