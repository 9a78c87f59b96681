"""Locked and word dropout, AR and TAR against their definitions."""

import pytest
import torch

from g2lstm.layers.regularization import (
    activation_regularization,
    dropout,
    embed,
    locked_dropout,
    temporal_activation_regularization,
)


def table(weight: torch.Tensor) -> torch.nn.Embedding:
    return torch.nn.Embedding.from_pretrained(weight, freeze=False)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_locked_dropout_keeps_one_mask_for_the_whole_sequence():
    x = torch.rand(7, 3, 50) + 0.5
    out = locked_dropout(x, 0.4, generator=seeded())
    ratio = out / x  # (T, B, D)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert not torch.equal(ratio[0, 0], ratio[0, 1])
    values = ratio.unique()
    assert all(value == 0 or abs(value - 1 / 0.6) < 1e-5 for value in values)
    assert len(values) >= 2


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropouts_zero_a_share_p_and_keep_the_mean(p):
    dropped = locked_dropout(torch.ones(1, 100, 400), p, generator=seeded())
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=0.01)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.05)
    words = embed(torch.arange(40_000), table(torch.ones(40_000, 1)), p, True, generator=seeded())
    assert (words == 0).double().mean().item() == pytest.approx(p, abs=0.01)
    assert words.double().mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_zeroes_elements_independently_and_scales_the_others(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(401, 3, 333, dtype=dtype, requires_grad=True)
    out = dropout(x, p)
    dropped = (out == 0).double()
    assert dropped.mean().item() == pytest.approx(p, abs=0.005)
    for shift in range(1, 5):  # several come from one random word
        rows = dropped.flatten()
        assert (rows[shift:] * rows[:-shift]).mean().item() == pytest.approx(p * p, abs=0.005)
    scale = torch.tensor(1 / (1 - p), dtype=dtype)
    torch.testing.assert_close(out[out != 0].unique(), scale.view(1))
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], out)
    torch.manual_seed(0)
    assert torch.equal(dropout(x, p), out)


def test_locked_dropout_returns_its_input_when_there_is_nothing_to_drop():
    x = torch.ones(2, 2, 2)
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.5, training=False) is x
    assert locked_dropout(x, 0.0) is x
    assert locked_dropout(x, 0.5, training=False) is x


def test_embed_equals_a_product_of_the_mask_with_the_whole_table():
    words = table(torch.randn(30, 4, dtype=torch.float64))
    weight = words.weight
    tokens = torch.randint(30, (9, 5))
    ours = embed(tokens, words, 0.3, True, generator=seeded(4))
    mask = torch.empty(30, 1, dtype=torch.float64).bernoulli_(0.7, generator=seeded(4)) / 0.7
    theirs = (weight * mask)[tokens]
    assert (mask == 0).any()
    torch.testing.assert_close(ours, theirs)
    pull = torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, weight, pull), torch.autograd.grad(theirs, weight, pull))


def test_embed_drops_a_word_everywhere_or_nowhere():
    out = embed(torch.arange(20).repeat(6, 1), table(torch.ones(20, 3)), 0.5, True, generator=seeded())  # (6, 20, 3)
    assert torch.equal(out, out[:1, :, :1].expand_as(out))
    assert 0 < (out[0, :, 0] == 0).sum() < 20


def test_embed_without_dropout_is_a_lookup():
    weight = torch.randn(5, 2)
    tokens = torch.tensor([[4, 0], [1, 1]])
    assert torch.equal(embed(tokens, table(weight), 0.0, True), weight[tokens])
    assert torch.equal(embed(tokens, table(weight), 0.9, False), weight[tokens])


def test_draws_follow_the_default_generator_when_none_is_passed():
    x = torch.ones(2, 3, 40)
    torch.manual_seed(3)
    first = locked_dropout(x, 0.5)
    assert not torch.equal(first, locked_dropout(x, 0.5))
    torch.manual_seed(3)
    assert torch.equal(first, locked_dropout(x, 0.5))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_outside_its_range_is_quoted(p):
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {p}"):
        locked_dropout(torch.ones(1, 1, 1), p)
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {p}"):
        dropout(torch.ones(1, 1, 1), p, True)
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {p}"):
        embed(torch.zeros(1, dtype=torch.int64), table(torch.ones(1, 1)), p, True)


def test_activation_regularization_is_the_mean_square():
    x = torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]]])
    assert activation_regularization(x, 2.0).item() == pytest.approx(2 * 14 / 4)


def test_temporal_activation_regularization_is_the_mean_square_of_the_change():
    x = torch.tensor([[[1.0, -2.0]], [[3.0, 0.0]], [[3.0, 1.0]]])
    assert temporal_activation_regularization(x, 0.5).item() == pytest.approx(0.5 * 9 / 4)


def test_temporal_activation_regularization_of_one_step_is_zero_with_a_gradient_of_zero():
    x = torch.randn(1, 2, 3, requires_grad=True)
    penalty = temporal_activation_regularization(x, 1.0)
    assert penalty.item() == 0
    penalty.backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("penalty", [activation_regularization, temporal_activation_regularization])
def test_penalties_are_computed_in_float32_for_half_inputs(penalty):
    x = torch.randn(50, 4, 64, generator=seeded()).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = penalty(x, 1.0)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, penalty(x.float(), 1.0))
    assert penalty(x.double(), 1.0).dtype == torch.float64
