"""Rows of measured gates, and the records of earlier versions."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from g2lstm.errors import UserError
from g2lstm.inspection.gates import GateRecord
from g2lstm.inspection.measure import (
    ALL,
    corpus_statistics,
    joined,
    keep_first,
    of_one_text,
    open_store,
    recorded_rows,
    rows_of,
)
from g2lstm.inspection.statistics import GateStatistics

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_rows_of_layers_add_up_to_the_row_of_all() -> None:
    statistics = GateStatistics()
    for name, size in (("a", 2), ("b", 6)):
        values = torch.rand(5, 3, size)
        statistics.add(GateRecord(name, 0, False, 0, {"i": values, "f": values**2}, None))
    rows = rows_of(statistics)
    assert [(row["layer"], row["block"]) for row in rows] == [*((n, b) for n in "ab" for b in "if"), (ALL, "i"), (ALL, "f")]
    a, b, both = (row for row in rows if row["block"] == "f")
    assert both["values"] == a["values"] + b["values"] == 15 * 8
    assert both["mean"] == pytest.approx((2 * a["mean"] + 6 * b["mean"]) / 8, abs=1e-6)
    for row in rows:
        assert sum(row["histogram"]) == pytest.approx(1.0, abs=1e-5)
        assert row["binary"] == pytest.approx(sum(row["histogram"][:5] + row["histogram"][-5:]), abs=1e-5)


def test_a_cells_steps_are_counted_at_their_words_as_a_layers() -> None:
    layer, cell = nn.LSTM(4, 3), nn.LSTMCell(4, 3)
    cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in layer.state_dict().items()})
    texts = [torch.randint(5, (steps, 2)) for steps in (6, 1, 4)]

    def evaluate(model, split, variant, *, limit, reading) -> None:
        for text in texts:
            reading(text)
            x, state = nn.functional.one_hot(text, 5)[..., :4].float(), None
            for step in x if isinstance(model, nn.LSTMCell) else ():
                state = model(step, state)
            if state is None:
                model(x)

    task = SimpleNamespace(evaluate=evaluate, gate_variant="")
    found = [corpus_statistics(task, model, "valid", words=5).tallies for model in (layer, cell)]
    ((one, other),) = [[next(t.words for (_, gate), t in tallies.items() if gate == "f") for tallies in found]]
    assert one[:, 0].tolist() == torch.cat(texts).flatten().bincount(minlength=5).tolist()
    assert torch.allclose(one, other, atol=1e-5)


def test_bins_are_joined_in_order() -> None:
    assert joined([0.1, 0.2, 0.3, 0.4], 2) == pytest.approx([0.3, 0.7])


def test_earlier_records_have_rows_like_new_ones() -> None:
    folder = RESULTS / "gates" / "ptb_cpu"
    rows = of_one_text(recorded_rows(folder, "gates", "metric"))
    assert len({row["key"] for row in rows}) == 6  # a run's rows are one measurement
    assert {row["size"] for row in rows if row["kind"] == "gates"} == {"10,000 sentences (222,247 words)"}
    metric = next(row for row in rows if row["kind"] == "metric")
    assert (metric["split"], metric["metric"], metric["variant"]) == ("valid", "perplexity", "")
    assert [row["types"] for row in recorded_rows(folder, "words")] == [455] * 6
    weights = list(dict.fromkeys(row["weights"] for row in rows))
    assert of_one_text(rows, weights) == rows
    assert of_one_text(rows, [*weights, "of another run"]) == []
    named = recorded_rows(folder, "words", names={metric["weights"]: "as now"})
    assert [(row["gate"], row["seed"]) for row in named] == [("as now", metric["seed"])]


def measured(weights: str, split: str, **more) -> list[dict]:
    about = {
        "kind": "gates",
        "run": "a",
        "gate": "g",
        "seed": 1,
        "weights": weights,
        "mode": "test",
        "layer": ALL,
        "block": "i",
    }
    return [about | {"split": split, "size": "2 words", "mean": 0, "binary": 0, "entropy": 0, "histogram": []} | more]


def test_what_was_measured_last_comes_first_and_other_weights_go(tmp_path) -> None:
    store = open_store(tmp_path)
    for number, (weights, split) in enumerate((("then", "train"), ("now", "valid"), ("now", "train"))):
        rows = store.add(str(number), measured(weights, split))
    keep_first(store, rows)
    found = recorded_rows(tmp_path, "gates")
    assert [(row["weights"], row["split"]) for row in found] == [("now", "train"), ("now", "valid")]
    assert [row["split"] for row in of_one_text(found)] == ["train"]


@pytest.mark.parametrize(
    "content", ["{}", "[]x", "3", '[{"kind": "gates"}]', '{"rows": [3], "metrics": []}', '{"rows": [{}]}']
)
def test_a_foreign_file_is_one_line(content, tmp_path) -> None:
    for name in ("gates", "words"):
        (tmp_path / f"{name}.json").write_text(content)
        with pytest.raises(UserError, match=rf"{name}.json .*: remove it|{name}.json .*: it was edited") as error:
            recorded_rows(tmp_path, "words")
        assert "\n" not in str(error.value)
        (tmp_path / "gates.json").write_text(json.dumps([]))
