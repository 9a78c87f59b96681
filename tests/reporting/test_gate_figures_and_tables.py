"""Tables and histograms of what gates.json and words.json hold."""

import json
import os
import warnings
from itertools import combinations, pairwise

import matplotlib.pyplot as plt
import pytest

from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL
from g2lstm.reporting.figures import gate_label, lacking, save_figure
from g2lstm.reporting.gate_tables import recorded, word_table
from g2lstm.reporting.histograms import draw_histograms, draw_modes


def measured() -> list[dict]:
    """Rows of kind "gates" and "metric"."""
    rows = []
    for gate, seed, share in (("sigmoid", 1, 0.3), ("sigmoid", 2, 0.5), ("gumbel-p0.5", 1, 0.8)):
        about = {"run": f"{gate}{seed}", "gate": gate, "seed": seed, "weights": f"{gate}{seed}", "key": f"{gate}{seed}"}
        metric = about | {"kind": "metric", "split": "valid", "metric": "perplexity"}
        read = about | {"kind": "gates", "split": "train", "size": "1,000 sentences (22,000 words)"}
        for mode in ("test",) if gate == "sigmoid" else ("training", "test", "tempered"):
            rows.append(metric | {"mode": mode, "value": 100 * share})
            for layer in ("layers.0", "layers.1", ALL):
                for block in "if":
                    row = {"layer": layer, "block": block, "mean": 0.4, "binary": share, "entropy": 0.25}
                    rows.append(read | {"mode": mode, "histogram": [0.02] * 50} | row)
        rows.append(metric | {"mode": "hard", "value": 200.0})
    return rows


def test_tables_have_mean_and_deviation_over_seeds(tmp_path) -> None:
    assert recorded(tmp_path, "binary") == "(no gates are measured yet)"
    (tmp_path / "gates.json").write_text(json.dumps(measured()))
    lines = recorded(tmp_path, "binary").splitlines()
    assert lines[0].startswith("| gate in test | layers.0, input gate: binary | layers.0, input gate: entropy, bits |")
    assert lines[2].startswith("| plain LSTM | 40.0 ± 14.1% | 0.250 ± 0.000 |")
    assert lines[2].endswith("| 2 |")
    assert lines[3].startswith("| G2-LSTM (p 0.5) | 80.0% | 0.250 |")
    lines = recorded(tmp_path, "modes").splitlines()
    assert lines[2].startswith("| plain LSTM | test | 0.400 ± 0.000 | 40.0 ± 14.1% |")
    assert [line.split(" | ")[1] for line in lines[4:8]] == [
        "training: noise and temperature", "test", "test at the temperature of training", "test, gates cut to 0 or 1",
    ]  # fmt: skip
    assert lines[7].endswith("| - | - | - | - | 200.00 | 1 |")


def test_the_table_of_words_has_the_test(tmp_path) -> None:
    test = {"difference": -0.02, "low": -0.03, "high": -0.01, "p": 0.004}
    classes = [{"class": kind, "mean_of_types": 0.3} for kind in ("sentence end", "function", "content")]
    about = {"layer": "layers.0", "size": "9 sentences (90 words)", "split": "valid", "types": 400, "min_count": 20}
    rows = [
        about | {"run": "one", "classes": classes, "gate": "gumbel", "test": test},
        about | {"run": "two", "classes": classes, "gate": "a", "test": None},
    ]
    lines = word_table(rows).splitlines()
    assert lines[2] == "| G2-LSTM | 0.300 | 0.300 | 0.300 | -0.020 | -0.030 to -0.010 | 0.004 | 1 |"
    assert lines[3] == "| a | 0.300 | 0.300 | 0.300 | - | - | - | 1 |"
    assert lines[5].startswith("layers.0, 9 sentences of valid, the 400 words seen 20 times or more;")


def test_words_of_another_layer_or_text_are_no_further_seeds() -> None:
    about = {"layer": "layers.0", "size": "9 sentences (90 words)", "split": "valid", "types": 400, "min_count": 20}
    about |= {"gate": "gumbel", "test": None}
    first, second, other, before = (
        about | {"run": run, "classes": [{"class": "content", "mean_of_types": mean}]}
        for run, mean in (("a", 0.3), ("b", 0.5), ("a", 0.9), ("a", 0.8))
    )
    others = {"layer": "layers.1", "size": "8 sentences (80 words)", "split": "train", "min_count": 2}
    pooled = [*(other | {name: value} for name, value in others.items()), before, first, second]
    assert word_table(pooled) == word_table([first, second])


def test_figures_have_a_column_a_model_and_equal_axes(tmp_path) -> None:
    rows = measured()
    for bins in (10, 50):
        figure = draw_histograms(rows, "layers.0", bins)
        assert "First 1,000 sentences of train" in figure.get_suptitle()
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["plain LSTM\n2 seeds, dark: their range", "G2-LSTM\n(p 0.5)", "", ""]
        assert len({axes.get_ylim() for axes in figure.axes}) == 1
        assert len(figure.axes[0].patches[0].get_data().values) == bins
    files = save_figure(figure, tmp_path, "histograms")
    assert [file.name for file in files] == ["histograms.png", "histograms.svg"]
    modes = draw_modes(rows, "layers.0")
    assert modes is not None
    assert "First 1,000 sentences of train" in modes.get_suptitle()
    assert [axes.get_title() for axes in modes.axes] == ["G2-LSTM\n(p 0.5)", ""]
    assert [len(axes.patches) for axes in modes.axes] == [3, 3]
    assert draw_modes([row for row in rows if row["gate"] == "sigmoid"], "layers.0") is None


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("sigmoid", "plain LSTM"),
        ("a", "a"),
        ("x/gumbel", "G2-LSTM (x)"),
        ("x/gumbel-dropout2", "G2-LSTM (x, dropouts x 2)"),
        ("sharpened-lr1e-3-p0.5", "sharpened sigmoid (lr 1e-3, p 0.5)"),
        ("gumbel-tau_end0.2-tau_schedulecosine", "G2-LSTM (tau_end 0.2, tau_schedule cosine)"),
        ("gumbel-hardtrue-gatesi_f_o", "G2-LSTM (hard true, gates i f o)"),
        ("gumbel-order-other", "G2-LSTM (order, other)"),
    ],
)  # fmt: skip
def test_options_in_a_name_are_told_from_their_values(name: str, label: str) -> None:
    assert gate_label(name) == label


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_legend_fits_its_figure(count: int) -> None:
    rows = [row | {"gate": f"gumbel-dropout{n}"} for n in range(count) for row in measured() if row["gate"] != "sigmoid"]
    figure = draw_modes(rows, "layers.0")
    assert figure is not None
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_long_names_are_broken_into_lines() -> None:
    rows = [row | {"gate": f"gumbel-tau0.{n}-noise_p0.5-weight_dropout0.25"} for n in range(3) for row in measured()]
    figure = draw_histograms(rows, "layers.0", 10)
    figure.canvas.draw()
    boxes = [axes.title.get_window_extent() for axes in figure.axes[:3]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_titles_of_many_lines_take_no_room_from_the_panels() -> None:
    name = "-".join(f"weight_dropout0.{n}" for n in range(9))
    rows = [row | {"gate": f"gumbel-{name}-{n}"} for n in range(8) for row in measured()]
    for figure in (draw_histograms(rows, "layers.0", 10), draw_modes(rows, "layers.0")):
        assert figure is not None
        figure.draw_without_rendering()
        shown = [axes for axes in figure.axes if axes.get_visible()]
        assert len(shown[0].get_title().splitlines()) > 8
        assert all(axes.get_window_extent().height > 1.5 * figure.dpi for axes in shown)
        labels = [axes.yaxis.label.get_window_extent() for axes in shown if axes.get_ylabel()]
        assert len(labels) == 4
        assert not any(one.overlaps(other) for one, other in combinations(labels, 2))


def test_many_models_go_on_below() -> None:
    rows = [row | {"gate": f"model {n}"} for n in range(8) for row in measured()[:7]]
    figure = draw_histograms(rows, "layers.0", 10)
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == [f"model {n}" for n in range(8)]
    assert sum(axes.get_visible() for axes in figure.axes) == 16


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.png").write_text("old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError, match=r"can't write .*a\.png \(disk full\)"):
        save_figure(plt.figure(), tmp_path, "a")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.png", "old")]


def test_signs_that_the_font_lacks_are_named_once_and_raise_no_warnings(tmp_path) -> None:
    assert lacking(["a grün word…", "\u4e2d\u6587", "\u6587"]).startswith("the font lacks \u4e2d\u6587: set font.family")
    assert lacking(["a grün word…"]) == ""
    figure = plt.figure()
    figure.suptitle("\u4e2d\u6587")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path, "a")
