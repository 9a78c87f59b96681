"""The figures of a classifier say what is in its confusion."""

import torch

from g2lstm.reporting.drawings import drawings
from g2lstm.training.findings import Confusion, Mistake


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_a_confusion_has_its_counts_by_truth_and_answer_and_the_share_that_is_right() -> None:
    found = Confusion("test", ("cat", "dog"), torch.tensor([[1200, 3], [0, 797]]))
    (figure,) = drawings({"sigmoid": [found]}).values()
    axes = figure.axes[0]
    assert texts(axes) == ["1,200", "3", "·", "797"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog"]
    assert figure.get_suptitle() == "plain LSTM on test:\n1,997 of 2,000 right (99.85%)"


def test_mistakes_are_drawn_with_truth_and_answer_in_files_named_after_the_gate() -> None:
    mistakes = tuple(Mistake(torch.full((2, 2), n / 9), 1, 0, 0.9 - n / 20) for n in range(9))
    found = Confusion("valid", ("a", "$b_"), torch.eye(2, dtype=torch.long), mistakes)
    figures = drawings({"study/gumbel-p0.5": [found], "sigmoid": []})
    assert list(figures) == ["study-gumbel-p0.5-confusion", "study-gumbel-p0.5-mistakes"]
    shown = [axes for axes in figures["study-gumbel-p0.5-mistakes"].axes if axes.images]
    assert [axes.get_title() for axes in shown[:2]] == ["$b_, not a\n(90.00%)", "$b_, not a\n(85.00%)"]
    assert [float(axes.images[0].get_array().max()) for axes in shown] == [float(m.image.max()) for m in mistakes]


def test_a_confusion_without_errors_or_items_is_drawn() -> None:
    empty = Confusion("test", ("a",), torch.zeros(1, 1, dtype=torch.long))
    assert "0 of 0 right" in next(iter(drawings({"sigmoid": [empty]}).values())).get_suptitle()
