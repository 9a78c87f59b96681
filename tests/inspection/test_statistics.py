"""Streaming statistics are those of all values at once, in memory that does not grow."""

import numpy as np
import pytest
import torch

from g2lstm.inspection.gates import GateRecord
from g2lstm.inspection.measure import joined
from g2lstm.inspection.statistics import GateStatistics, Tally, binary_entropy

H, V = 4, 6


def filled(values: torch.Tensor, words: torch.Tensor, pieces: int = 5) -> Tally:
    tally = Tally(H, 50, V, values.device)
    for some, of in zip(values.chunk(pieces), words.chunk(pieces), strict=True):
        tally.add(some, of)
    return tally


@pytest.fixture
def values() -> torch.Tensor:
    return torch.special.expit(3 * torch.randn(200, H, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def words() -> torch.Tensor:
    return torch.randint(0, V - 1, (200,), generator=torch.Generator().manual_seed(2))


def test_histogram_is_numpys(values, words) -> None:
    tally = filled(values, words)
    for bins in (50, 10):
        expected = np.histogram(values.numpy(), bins=bins, range=(0, 1))[0] / values.numel()
        np.testing.assert_allclose(joined(tally.shares(), bins), expected)
    for unit in range(H):
        expected = np.histogram(values[:, unit].numpy(), bins=50, range=(0, 1))[0]
        assert tally.histogram[unit].tolist() == expected.tolist()


def test_units_and_their_summary(values, words) -> None:
    tally = filled(values, words)
    summary, entropy = tally.summary(), -(values * values.log2() + (1 - values) * (1 - values).log2())
    torch.testing.assert_close(tally.units[:, 0] / 200, values.double().mean(0), check_dtype=False)
    assert summary["entropy"] == pytest.approx(entropy.mean().item())
    assert summary["below"] == pytest.approx((values < 0.1).double().mean().item())
    assert summary["mean"] == pytest.approx(values.mean().item())
    assert summary["binary"] == pytest.approx(((values < 0.1) | (values > 0.9)).double().mean().item())
    assert tally.count == values.numel()


def test_words_have_their_own_sums(values, words) -> None:
    tally = filled(values, words)
    assert tally.words is not None
    for word in range(V):
        mine = values[words == word]
        assert tally.words[word, 0] == len(mine)
        assert tally.words[word, 1] == pytest.approx(mine.mean(1).sum().item())
        assert tally.words[word, 2] == pytest.approx(mine.mean(1).square().sum().item())
        assert tally.words[word, 3] == pytest.approx((mine < 0.1).double().mean(1).sum().item())


def test_entropy_of_decided_gates_is_zero_and_of_a_coin_one_bit() -> None:
    torch.testing.assert_close(binary_entropy(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.0, 1.0, 0.0]))


def test_both_ends_of_the_interval_are_counted() -> None:
    tally = Tally(1, 10, None, torch.device("cpu"))
    tally.add(torch.tensor([[0.0], [1.0]]))
    assert tally.histogram.tolist() == [[1, 0, 0, 0, 0, 0, 0, 0, 0, 1]]


def test_padding_is_never_counted() -> None:
    gates = {"i": torch.rand(3, 2, H), "f": torch.rand(3, 2, H)}
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    statistics, words = GateStatistics(words=V), torch.tensor([[1, 2], [3, 5], [5, 5]])
    statistics.add(GateRecord("a", 0, True, 0, gates, mask), words)
    statistics.add(GateRecord("b", 0, False, 0, gates, mask), words)
    for name in ("a.reverse", "b"):
        tally = statistics.tallies[name, "i"]
        assert tally.steps == 3
        assert tally.words is not None
        assert tally.words[:, 0].tolist() == [0, 1, 1, 1, 0, 0]
        assert tally.summary()["mean"] == pytest.approx(gates["i"][mask].mean().item(), rel=1e-6)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="diverged"):
        Tally(1, 50, None, torch.device("cpu")).add(torch.tensor([[float("nan")]]))


def test_what_is_kept_does_not_grow_with_the_text(values, words) -> None:
    statistics, records = GateStatistics(words=V), {"i": values.unsqueeze(1)}
    statistics.add(GateRecord("a", 0, False, 0, records, None), words.unsqueeze(1))
    before = kept_numbers(statistics)
    for _ in range(5):
        statistics.add(GateRecord("a", 0, False, 0, records, None), words.unsqueeze(1))
    assert kept_numbers(statistics) == before >= H * 50 + H * 4 + V * 6
    assert statistics.tallies["a", "i"].steps == 6 * 200


def kept_numbers(kept: object) -> int:
    """How many numbers the tensors that can be reached from an object hold, whatever they are views of."""
    storages, left, seen = {}, [kept], set()
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes() // one.element_size()
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set):
            left += one
        else:
            left += getattr(one, "__dict__", {}).values()
    return sum(storages.values())
