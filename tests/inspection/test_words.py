"""Word classes, confidence intervals and the test of function words against content words."""

import pytest
import torch

from g2lstm.inspection import words
from g2lstm.inspection.words import WordRow, class_means, compare_classes, word_class, word_rows


@pytest.mark.parametrize(
    ("word", "kind"),
    [("<eos>", "sentence end"), (",", "punctuation"), ("'", "punctuation"), ("The", "function"), ("n't", "function"),
     ("market", "content"), ("mr.", "content"), ("N", "other"), ("<unk>", "other"), ("$", "other"), ("1990s", "other"),
     (None, "other")],
)  # fmt: skip
def test_classes(word, kind) -> None:
    assert word_class(word) == kind


def test_a_words_mean_and_interval() -> None:
    means = torch.tensor([0.2, 0.4, 0.3, 0.5], dtype=torch.float64)
    sums = torch.zeros(3, 6, dtype=torch.float64)
    sums[1] = torch.tensor([4, means.sum(), means.square().sum(), 1.0, 0.4, 0.0])
    sums[2, 0] = 1  # seen once: no interval
    (row,) = word_rows(sums, ("a", "the", "b"), min_count=1)
    half = 1.96 * means.std().item() / 2
    assert (row.word, row.count, row.shut, row.open) == ("the", 4, 0.25, pytest.approx(0.1))
    assert [row.mean, row.low, row.high] == pytest.approx([0.35, 0.35 - half, 0.35 + half])


def rows(kind: str, means: list[float]) -> list[WordRow]:
    return [WordRow(f"{kind}{mean}", kind, 30, mean, mean, mean, 0.0, 0.0) for mean in means]


def test_a_difference_is_found_with_its_interval() -> None:
    found = compare_classes(rows("function", [0.3, 0.31, 0.32, 0.33]) + rows("content", [0.5, 0.51, 0.52, 0.53, 0.54]))
    assert found is not None
    assert found["difference"] == pytest.approx(0.315 - 0.52)
    assert found["low"] < found["difference"] < found["high"] < 0
    assert found["p"] == pytest.approx(1 / 126, abs=0.004)  # of the 126 ways to choose 4 of 9, one is as extreme
    assert found["below"] == 1.0


def test_draws_of_many_words_are_made_a_part_at_a_time(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    means = torch.rand(2, 60, generator=generator).tolist()
    found, sizes = [], []
    difference = words._difference

    def seen(first, second, axis=-1):
        sizes.append(first.size + second.size)
        return difference(first, second, axis)

    monkeypatch.setattr(words, "_difference", seen)
    for most in (words.MOST_AT_ONCE, 6000):
        sizes.clear()
        monkeypatch.setattr(words, "MOST_AT_ONCE", most)
        found.append(compare_classes(rows("function", means[0]) + rows("content", means[1])))
        assert max(sizes) == min(most, 120 * words.DRAWS)
    assert found[0]["p"] == found[1]["p"]
    assert found[1] == pytest.approx(found[0], abs=0.01)


def test_no_difference_is_not_claimed() -> None:
    found = compare_classes(rows("function", [0.3, 0.5]) + rows("content", [0.3, 0.5]))
    assert found is not None
    assert found["difference"] == pytest.approx(0.0)
    assert found["p"] == 1.0
    assert found["below"] == 0.5


def test_too_few_types_are_not_tested() -> None:
    assert compare_classes(rows("function", [0.3]) + rows("content", [0.3, 0.5])) is None


def test_means_of_classes_by_type_and_by_occurrence() -> None:
    some = [WordRow("a", "function", 30, 0.2, 0, 0, 0, 0), WordRow("b", "function", 10, 0.6, 0, 0, 0, 0)]
    (found,) = class_means(some)
    assert found["mean_of_types"] == pytest.approx(0.4)
    assert found["mean_of_occurrences"] == pytest.approx(0.3)
