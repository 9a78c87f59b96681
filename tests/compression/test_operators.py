"""Operators on values agree with straightforward NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.compression.operators import clip_to, factorize, prune, quantize, round_to, ternarize

SIZES = st.integers(1, 12)


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.0, 0.01, 0.3, 5.0]))
    return scale * torch.randn(draw(SIZES), draw(SIZES), generator=generator)


@given(matrices(), st.sampled_from([0.05, 0.2, 0.5, 3.0]))
def test_rounding_is_equation_17(matrix, step) -> None:
    x = matrix.numpy()
    np.testing.assert_array_equal(round_to(matrix, step).numpy(), np.round(x / np.float32(step)) * np.float32(step))


@given(matrices(), st.sampled_from([0.01, 0.4, 1.0]))
def test_clipping_is_equation_18(matrix, limit) -> None:
    np.testing.assert_array_equal(clip_to(matrix, limit).numpy(), np.clip(matrix.numpy(), -limit, limit))


def test_round_and_clip_of_the_paper_leaves_five_values() -> None:
    for step, limit in ((0.2, 0.4), (0.5, 1.0)):
        values = clip_to(round_to(torch.randn(100, 100), step), limit).unique()
        torch.testing.assert_close(values, step * torch.arange(-2.0, 3.0))


@given(matrices(), st.integers(2, 8))
def test_quantisation_is_the_nearest_of_each_rows_multiples(matrix, bits) -> None:
    x, codes = matrix.double().numpy(), quantize(matrix.double(), bits)
    largest = 2 ** (bits - 1) - 1
    for row, got in zip(x, codes.matrix().numpy(), strict=True):
        grid = np.arange(-largest, largest + 1) * np.abs(row).max() / largest
        best = np.abs(row[:, None] - grid).min(axis=1)
        np.testing.assert_allclose(np.abs(row - got), best, atol=1e-12)
    assert len(codes.codebook) == 2**bits - 1


@given(matrices())
def test_ternary_is_the_threshold_rule_of_each_row(matrix) -> None:
    x = matrix.double().numpy()
    for row, got in zip(x, ternarize(matrix.double()).matrix().numpy(), strict=True):
        kept = np.abs(row) > 0.7 * np.abs(row).mean()
        scale = np.abs(row[kept]).mean() if kept.any() else 0.0
        np.testing.assert_allclose(got, np.where(kept, np.sign(row) * scale, 0.0), atol=1e-12)


@given(matrices(), st.floats(0, 0.99))
def test_pruning_zeroes_the_smallest_and_keeps_the_rest(matrix, share) -> None:
    x, got = matrix.numpy().ravel(), prune(matrix, share).numpy().ravel()
    expected = x.copy()
    expected[np.argsort(np.abs(x), kind="stable")[: round(share * x.size)]] = 0
    np.testing.assert_array_equal(got, expected)


@given(SIZES, SIZES, SIZES, st.integers(0, 10_000))
def test_the_error_of_a_rank_is_the_eckart_young_optimum(rows, columns, rank, seed) -> None:
    rank = min(rank, rows, columns)
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, right = factorize(matrix, rank)
    assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
    singular = np.linalg.svd(matrix.numpy(), compute_uv=False)
    error = (matrix - left @ right).norm().item()
    assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-10)
    torch.testing.assert_close(left.norm(), right.norm())


def test_operators_leave_their_argument_alone() -> None:
    matrix = torch.randn(5, 7)
    before = matrix.clone()
    for operate in (lambda m: round_to(m, 0.5), lambda m: clip_to(m, 0.1), lambda m: prune(m, 0.5), ternarize):
        operate(matrix)
    quantize(matrix, 3)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize(
    ("operate", "message"),
    [
        (lambda m: round_to(m, 0), "round must be a number > 0, got 0"),
        (lambda m: clip_to(m, float("nan")), "clip must be a number > 0, got nan"),
        (lambda m: quantize(m, 1), "bits must be from 2 to 8, got 1"),
        (lambda m: prune(m, 1.0), r"prune must be a share in \[0, 1\), got 1"),
    ],
)
def test_a_value_out_of_range_is_named(operate, message) -> None:
    with pytest.raises(ValueError, match=message):
        operate(torch.ones(2, 2))
