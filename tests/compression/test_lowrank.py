"""Truncated SVD is the best approximation of its rank."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.compression.lowrank import Rank, factorize
from g2lstm.compression.methods import Method


@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14), st.integers(0, 10_000))
def test_the_error_is_the_eckart_young_optimum(rows, columns, rank, seed) -> None:
    rank = min(rank, rows, columns)
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, right = factorize(matrix, rank)
    assert (left.shape, right.shape) == ((rows, rank), (rank, columns))
    singular = np.linalg.svd(matrix.numpy(), compute_uv=False)
    error = (matrix - left @ right).norm().item()
    assert error == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-10)


def test_both_factors_have_the_same_norm() -> None:
    left, right = factorize(torch.randn(9, 20), 4)
    torch.testing.assert_close(left.norm(), right.norm())


def test_a_rank_that_is_no_less_than_the_smaller_side_changes_nothing() -> None:
    matrix = torch.randn(5, 9)
    assert torch.equal(Method.parse("svd:5").apply(matrix), matrix)
    assert torch.equal(Method.parse("svd:400").apply(matrix), matrix)


def test_a_share_of_the_hidden_units_is_at_least_one() -> None:
    assert Rank(16, of_hidden=True).of(400) == 25
    assert Rank(32, of_hidden=True).of(12) == 1
    assert Rank(64).of(400) == 64


def test_a_rank_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"rank must be from 1 to 3 for a matrix of \(3, 4\), got 0"):
        factorize(torch.ones(3, 4), 0)
    with pytest.raises(ValueError, match="rank must be"):
        Rank(0)
