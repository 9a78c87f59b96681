"""Heat maps show every word, and no label lies on another."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from g2lstm.inspection.words import WordRow
from g2lstm.reporting.heatmap import WORDS_A_LINE, draw_heatmap, draw_units, draw_words

LONG = ["the", "Donaudampfschifffahrtsgesellschaft*", "$", "<unk>", "internationalization", "n't", "<eos>"]


NAMES = [f"G2-LSTM (ptb_study, epochs3-lr1e-05-weight_dropout0.25-dropout_hidden0.15-tau0.{n})" for n in range(6)]
GATES = ("input gate", "forget gate")


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of labels of one axis that lie on each other."""
    figure.canvas.draw()
    found = []
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            found += overlapping(labels)
    return found


def overlapping(labels: list[Text]) -> list[tuple[str, str]]:
    boxes = [(text.get_text(), text.get_window_extent()) for text in labels if text.get_text()]
    return [(a[0], b[0]) for a, b in combinations(boxes, 2) if a[1].overlaps(b[1])]


def test_every_word_and_row_is_labelled_and_nothing_overlaps() -> None:
    rows = [("a model with a name", gate, np.random.rand(len(LONG)).tolist()) for gate in GATES]
    figure = draw_heatmap(LONG, rows, "title")
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == LONG
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [f"{model}, {gate}" for model, gate, _ in rows]
    assert overlaps(figure) == []
    inside, whole = figure.axes[0].get_tightbbox(), figure.bbox
    assert inside.x0 >= 0
    assert inside.y1 <= whole.y1


def test_a_long_text_goes_on_below() -> None:
    count = WORDS_A_LINE + 3
    figure = draw_heatmap(["word"] * count, [("model", "input gate", [0.5] * count)], "title")
    first, second = figure.axes[:2]
    assert (len(first.get_xticklabels()), len(second.get_xticklabels())) == (WORDS_A_LINE, 3)
    assert first.get_xlim() == second.get_xlim()


def test_units_have_a_panel_a_gate() -> None:
    figure = draw_units(LONG, [("model", f"gate {n}", np.random.rand(12, len(LONG))) for n in range(3)], "title")
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["model, gate 0", "model, gate 1", "model, gate 2"]
    assert overlaps(figure) == []


def test_long_names_stay_distinct_and_keep_their_gate() -> None:
    named = [(model, gate) for model in NAMES for gate in GATES]
    figure = draw_heatmap(LONG, [(*name, [0.5] * len(LONG)) for name in named], "title")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == len(named)
    assert [label.splitlines()[-1] for label in labels] == [gate for _, gate in named]
    assert overlaps(figure) == []
    assert figure.axes[0].get_tightbbox().x0 >= 0

    figure = draw_units(LONG, [(*name, np.zeros((12, len(LONG)))) for name in named], "title")
    figure.canvas.draw()
    labels = [axes.xaxis.label.get_text() for axes in figure.axes[:12]]
    assert len(set(labels)) == len(named)
    assert [label.splitlines()[-1] for label in labels] == [gate for _, gate in named]
    for axes in figure.axes[:12]:
        panel, label = axes.get_window_extent(), axes.xaxis.label.get_window_extent()
        assert label.width < 1.1 * panel.width
        assert panel.height > 2 * figure.dpi
    assert overlapping([text for axes in figure.axes[:12] for text in (axes.xaxis.label, *axes.get_xticklabels())]) == []


def test_a_name_that_is_cut_has_an_ellipsis() -> None:
    rows = [(f"{model} {'and so on ' * 20}", gate, [0.5]) for model in "ab" for gate in GATES]
    figure = draw_heatmap(["word"], rows, "title")
    first = figure.axes[0].get_yticklabels()[0].get_text().splitlines()
    assert (len(first), first[1][-1], first[2]) == (3, "…", "input gate")


@pytest.mark.parametrize("word", ["$^$", "$x$", "a$b", "\\$"])
def test_a_word_is_no_formula(word) -> None:
    for figure in (
        draw_heatmap([word], [("model", "input gate", [0.5])], "title"),
        draw_units([word], [("model", "input gate", np.zeros((2, 1)))], "title"),
        draw_words([WordRow(word, "other", 20, 0.5, 0.4, 0.6, 0, 0)], "title"),
    ):
        figure.canvas.draw()
        ticks = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
        assert any(text.get_text().startswith(word) for text in ticks)


def test_words_are_shown_with_their_counts() -> None:
    rows = [WordRow(f"word{n}", "function", 20 + n, n / 100, n / 100 - 0.01, n / 100 + 0.01, 0, 0) for n in range(50)]
    figure = draw_words(rows, "title")
    names = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert (names[0], names[-1], len(names)) == ("word0  (20)", "word49  (69)", 40)
    assert overlaps(figure) == []
    assert "mean over units; bars: 95% interval; (n) occurrences" in figure.axes[0].get_xlabel().replace("\n", " ")
    assert len(draw_words(rows[:5], "title").axes) == 1
