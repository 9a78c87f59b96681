"""Packed codes round-trip exactly, and forms cost what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.compression.forms import Codes, Dense, Factors, Sparse, cheapest, pack, packed_bytes, scaled, unpack


@given(st.integers(1, 300) | st.sampled_from([1000, 2**16]), st.integers(0, 9), st.integers(0, 9), st.integers(0, 10_000))
def test_packed_codes_come_back(levels, rows, columns, seed) -> None:
    codes = torch.randint(levels, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    packed = pack(codes, levels)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(levels, codes.numel())
    assert torch.equal(unpack(packed, levels, (rows, columns)), codes.long())


@pytest.mark.parametrize(
    ("levels", "bits"), [(1, 0), (2, 1), (3, 1.6), (4, 2), (5, 8 / 3), (7, 3), (15, 4), (255, 8), (300, 9)]
)
def test_bits_for_one_of_so_many_values(levels, bits) -> None:
    count = 8 * 15
    assert packed_bytes(levels, count) * 8 / count == pytest.approx(bits)


def test_what_each_form_costs() -> None:
    matrix = torch.zeros(6, 10)
    matrix[0, :5] = 1.5
    assert Dense(matrix).bits == 60 * 32
    assert Sparse(matrix).bits == 60 + 5 * 32
    assert Codes(torch.zeros(6, 10, dtype=torch.int32), torch.arange(5.0)).bits == 60 // 3 * 8 + 5 * 32
    assert Codes(torch.zeros(6, 10, dtype=torch.int32), torch.arange(5.0), torch.ones(6)).bits == 60 // 3 * 8 + 6 * 32
    assert Factors(Dense(torch.ones(6, 2)), Dense(torch.ones(2, 10))).bits == 32 * 32


def test_the_cheapest_form_is_found() -> None:
    dense, few = torch.randn(20, 30), torch.randn(20, 30).sign()
    sparse = torch.where(torch.rand(20, 30) < 0.3, dense, 0.0)
    assert [type(cheapest(matrix)) for matrix in (dense, sparse, few)] == [Dense, Sparse, Codes]
    for matrix in (dense, sparse, few):
        assert torch.equal(cheapest(matrix).matrix(), matrix)
        torch.testing.assert_close(scaled(cheapest(matrix), 5.0).matrix(), 5 * matrix)
