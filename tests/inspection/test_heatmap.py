"""Heat maps show every word, and no label lies on another."""

from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from g2lstm.inspection.heatmap import WORDS_A_LINE, draw_heatmap, draw_units, draw_words
from g2lstm.inspection.words import WordRow

LONG = ["the", "Donaudampfschifffahrtsgesellschaft*", "$", "<unk>", "internationalization", "n't", "<eos>"]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of labels of one axis that lie on each other."""
    figure.canvas.draw()
    found = []
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [(text.get_text(), text.get_window_extent()) for text in labels if text.get_text()]
            found += [(a[0], b[0]) for a, b in combinations(boxes, 2) if a[1].overlaps(b[1])]
    return found


def test_every_word_and_row_is_labelled_and_nothing_overlaps() -> None:
    rows = [(f"a model with a name, {gate} gate", np.random.rand(len(LONG)).tolist()) for gate in ("input", "forget")]
    figure = draw_heatmap(LONG, rows, "title")
    assert [text.get_text().replace("\\", "") for text in figure.axes[0].get_xticklabels()] == LONG
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [label for label, _ in rows]
    assert overlaps(figure) == []
    inside, whole = figure.axes[0].get_tightbbox(), figure.bbox
    assert inside.x0 >= 0
    assert inside.y1 <= whole.y1


def test_a_long_text_goes_on_below() -> None:
    count = WORDS_A_LINE + 3
    figure = draw_heatmap(["word"] * count, [("model", [0.5] * count)], "title")
    first, second = figure.axes[:2]
    assert (len(first.get_xticklabels()), len(second.get_xticklabels())) == (WORDS_A_LINE, 3)
    assert first.get_xlim() == second.get_xlim()


def test_units_have_a_panel_a_gate() -> None:
    figure = draw_units(LONG, [(f"gate {n}", np.random.rand(12, len(LONG))) for n in range(3)], "title")
    assert [axes.get_xlabel() for axes in figure.axes[:3]] == ["gate 0", "gate 1", "gate 2"]
    assert overlaps(figure) == []


def test_words_are_shown_with_their_counts() -> None:
    rows = [WordRow(f"word{n}", "function", 20 + n, n / 100, n / 100 - 0.01, n / 100 + 0.01, 0, 0) for n in range(50)]
    figure = draw_words(rows, "title")
    names = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert (names[0], names[-1], len(names)) == ("word0  (20)", "word49  (69)", 40)
    assert overlaps(figure) == []
    assert len(draw_words(rows[:5], "title").axes) == 1
