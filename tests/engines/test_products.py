"""Products through oneDNN, against torch's own in float64."""

import pytest
import torch

from g2lstm.engines import products
from g2lstm.engines.products import fast_products, over_time, product, repeated

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error <= TOLERANCE[found.dtype], error


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_product_is_left_times_right_transposed(dtype, turned):
    left, right, bias = draw(5, 7, dtype=dtype), draw(9, 7, dtype=dtype), draw(9, dtype=dtype)
    if turned:
        left, right = left.mT.contiguous().mT, right.mT.contiguous().mT
    assert_near(product(left, right, bias), left.double() @ right.double().mT + bias.double())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("worth_packing", [1, 2**18])
def test_repeated_gives_every_product(dtype, worth_packing, monkeypatch):
    monkeypatch.setattr(products, "_WORTH_PACKING", worth_packing)
    right = draw(9, 7, dtype=dtype)
    multiply = repeated(right, 5)
    for seed in range(3):
        left = draw(5, 7, dtype=dtype) + seed
        assert_near(multiply(left), left.double() @ right.double().mT)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("wide", [1, 1024])
@pytest.mark.parametrize("rows", [4, 1536], ids=["in pieces", "at once"])
def test_over_time_sums_outer_products(dtype, wide, rows, monkeypatch):
    monkeypatch.setattr(products, "_WIDE", wide)
    monkeypatch.setattr(products, "_ROWS", rows)
    left, right = draw(7, 3, 6, dtype=dtype), draw(7, 3, 5, dtype=dtype)
    assert_near(over_time(left, right), torch.einsum("tbm,tbn->mn", left.double(), right.double()))


@pytest.mark.parametrize("shape", [(0, 3), (4, 0)])
def test_empty_factors_give_empty_or_zero_products(shape):
    left, right = draw(*shape), draw(5, shape[1])
    assert torch.equal(product(left, right), left @ right.mT)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_other_dtypes_and_a_switched_off_library_are_left_to_torch():
    assert not fast_products(draw(2, 2, dtype=torch.float64))
    assert not fast_products(draw(2, 2, dtype=torch.float16))
    with torch.backends.mkldnn.flags(enabled=False):
        assert not fast_products(draw(2, 2))
