"""Heat maps show every word, and no label lies on another."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from g2lstm.inspection.reading import Reading
from g2lstm.reporting.heatmap import MOST_CELLS, WORDS_A_LINE, draw_heatmap, draw_units, draw_words

LONG = ["the", "Donaudampfschifffahrtsgesellschaft*", "$", "<unk>", "internationalization", "n't", "<eos>"]
NAMES = [f"ptb_study/gumbel-epochs3-weight_dropout0.25-dropout_hidden0.15-tau0.{n}" for n in range(6)]
GATES = ("input gate", "forget gate")


def readings(*names: str, words: list[str] = LONG, size: int = 12) -> list[Reading]:
    unknown = [word[:-1] for word in words if word.endswith("*")]
    return [Reading(name, "layers.0", words, unknown, {g: torch.rand(len(words), size) for g in "if"}) for name in names]


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
    figure = draw_heatmap(readings("gumbel"))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == LONG
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [f"G2-LSTM, {gate}" for gate in GATES]
    assert overlaps(figure) == []
    inside, whole = figure.axes[0].get_tightbbox(), figure.bbox
    assert inside.x0 >= 0
    assert inside.y1 <= whole.y1
    assert "(* unknown to the model)" in figure.get_suptitle().replace("\n", " ")


def test_a_long_text_goes_on_below() -> None:
    figure = draw_heatmap(readings("gumbel", words=["word"] * (WORDS_A_LINE + 3)))
    first, second = figure.axes[:2]
    assert (len(first.get_xticklabels()), len(second.get_xticklabels())) == (WORDS_A_LINE, 3)
    assert first.get_xlim() == second.get_xlim()


def test_what_a_model_looks_at_stands_below_the_gates_of_the_same_words() -> None:
    source, looking = ["▁ein", "$x$", "</s>"], []
    for reading in readings("sigmoid", "gumbel", words=["word"] * (WORDS_A_LINE + 2)):
        weights = torch.rand(WORDS_A_LINE + 2, 3).softmax(1)
        looking.append(replace(reading, source=source, attention=weights))
    figure = draw_heatmap(looking)
    assert overlaps(figure) == []
    panels, bars = figure.axes[:6], figure.axes[6:]  # gates and two models, twice
    looks = [f"{name} looks at, to say the next word" for name in ("plain LSTM", "G2-LSTM")]
    assert [axes.get_title(loc="left") for axes in panels] == ["", *looks] * 2
    assert [text.get_text() for text in panels[4].get_yticklabels()] == source
    shown = np.ma.filled(panels[4].images[0].get_array(), np.nan)
    assert np.allclose(shown[:, :2], looking[0].attention[-2:].T) and np.isnan(shown[:, 2:]).all()  # noqa: PT018
    extents = [axes.get_window_extent() for axes in panels]
    assert len({(round(extent.x0), round(extent.x1)) for extent in extents}) == 1
    boxes = [axes.get_tightbbox() for axes in bars]
    assert not boxes[0].overlaps(boxes[1])


def test_units_have_a_panel_a_gate_and_large_layers_are_joined() -> None:
    figure = draw_units(readings("gumbel"))
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == [f"G2-LSTM, {gate}" for gate in GATES]
    assert overlaps(figure) == []
    large = readings("gumbel", words=["word"] * 200, size=MOST_CELLS // 400 + 1)
    panel = draw_units(large).axes[0]
    assert panel.images[0].get_array().shape == (-(-large[0].gates["i"].shape[1] // 2), 200)
    assert "a row: 2 units" in panel.get_ylabel()


def test_long_names_stay_distinct_and_keep_their_gate() -> None:
    figure = draw_heatmap(readings(*NAMES))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(set(labels)) == 12
    assert [label.splitlines()[-1] for label in labels] == list(GATES) * 6
    assert overlaps(figure) == []
    assert figure.axes[0].get_tightbbox().x0 >= 0

    figure = draw_units(readings(*NAMES))
    figure.canvas.draw()
    labels = [axes.xaxis.label.get_text() for axes in figure.axes[:12]]
    assert len(set(labels)) == 12
    for axes in figure.axes[:12]:
        panel, label = axes.get_window_extent(), axes.xaxis.label.get_window_extent()
        assert label.width < 1.1 * panel.width
        assert panel.height > 2 * figure.dpi
    assert overlapping([text for axes in figure.axes[:12] for text in (axes.xaxis.label, *axes.get_xticklabels())]) == []


def words(count: int, name: str = "word{}") -> dict:
    """A row of kind "words"."""
    rows = [{"word": name.format(n), "kind": "function", "count": 20 + n, "mean": n / 100} for n in range(count)]
    rows = [row | {"low": row["mean"] - 0.01, "high": row["mean"] + 0.01} for row in rows]
    about = {"gate": "gumbel", "layer": "layers.0", "split": "valid", "min_count": 20, "types": count}
    return about | {"lowest_and_highest": rows}


@pytest.mark.parametrize("word", ["$^$", "$x$", "a$b", "\\$"])
def test_a_word_is_no_formula(word) -> None:
    one = readings("gumbel", words=[word])
    for figure in (draw_heatmap(one), draw_units(one), draw_words(words(1, word))):
        figure.canvas.draw()
        ticks = [*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()]
        assert any(text.get_text().startswith(word) for text in ticks)


def test_words_are_shown_with_their_counts() -> None:
    figure = draw_words(words(50))
    names = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert (names[0], names[-1], len(names)) == ("word0  (20)", "word49  (69)", 40)
    assert overlaps(figure) == []
    assert "mean over units; bars: 95% interval; (n) occurrences" in figure.axes[0].get_xlabel().replace("\n", " ")
    assert len(draw_words(words(5)).axes) == 1
