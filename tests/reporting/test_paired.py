"""Gates beside each other, paired by seed."""

import json
from pathlib import Path
from statistics import stdev

import pytest
from scipy.stats import t

from g2lstm.inspection.measure import ALL
from g2lstm.reporting.documents import filled
from g2lstm.reporting.paired import recorded

VALUES = {("sigmoid", 1): 88.0, ("sigmoid", 2): 90.0, ("gumbel", 1): 87.0, ("gumbel", 2): 92.0, ("gumbel", 3): 50.0}
HALF = 12.7062047 * 1.5  # t with one degree of freedom; G2-LSTM's differences of seeds 1 and 2 are -1 and 2


@pytest.fixture
def results(record_run, tmp_path) -> Path:
    about = {"split": "test", "limit": None, "variant": "", "matrices": "both", "layers": "all", "rank": None}
    about |= {"gates": "if", "metric": "accuracy", "digits": 2, "lower_is_better": False, "bits_per_gate_parameter": 8.0}
    swept, gates = [], []
    for (gate, seed), value in VALUES.items():
        record_run(tmp_path / "x", seed, f"gate={gate}", test_perplexity=value)
        run = {"run": f"r/{gate}-seed{seed}", "gate": gate, "seed": seed, "weights": f"{gate}{seed}"}
        for setting, less in (("original", 0.0), ("svd:64", value)):
            swept.append(run | about | {"setting": setting, "value": 500.0 - less, "difference": -less})
        swept += [swept[-1] | {"split": "valid", "difference": 0.0}, swept[-1] | {"limit": 5, "difference": 0.0}]
        run |= {
            "noise_p": None,
            "tau": None,
            "split": "valid",
            "size": "9 sentences (90 words)",
            "metric": "perplexity",
            "variant": "",
        }
        for mode, metric in (("test", 10.0), ("hard", 10.0 + value)):
            gates.append(run | {"kind": "metric", "mode": mode, "value": metric})
        for layer, share in ((ALL, value / 100), ("layers.0", 0.0)):
            row = run | {"kind": "gates", "mode": "test", "layer": layer, "mean": 0.5, "entropy": 0.5, "histogram": []}
            gates.append(row | {"block": "f", "binary": share})
    swept = [row | {"key": f"{n}"} for n, row in enumerate(swept)]
    gates = [row | {"key": row["run"]} for row in gates]
    for file, rows in (("compression/x/sweep.json", swept), ("gates/x/gates.json", gates)):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(json.dumps(rows))
    return tmp_path


def test_means_and_differences_are_of_the_seeds_that_all_gates_have(results) -> None:
    lines = recorded("x", results).splitlines()
    assert lines[0] == "|  | plain LSTM | G2-LSTM | G2-LSTM less plain LSTM | n |"
    two = f"89.00 | 89.50 | +0.50 ({0.5 - HALF:+.2f} to {0.5 + HALF:+.2f}) | 2 |"
    assert f"| test perplexity | {two}" in lines
    assert f"| loss under SVD 64 | {two}" in lines  # accuracy that is lost counts above 0
    assert f"| change of valid perplexity by cutting gates to 0 or 1 | {two}" in lines
    assert any(line.startswith("| binary values of the forget gate, % | 89.0 | 89.5 | +0.5 (") for line in lines)
    assert not any("accuracy" in line for line in lines)
    assert lines[-1].endswith("without noise, all layers. Gates: first 9 sentences of valid (90 words).")


def test_a_part_is_quoted_by_itself(results) -> None:
    document = filled("<!-- table: compression/x:paired -->\nold\n<!-- end of table -->", results)
    assert "| accuracy under SVD 64 | 411.00 | 410.50 | -0.50 (" in document
    assert "binary values" not in document
    assert "loss" not in recorded("gates/x", results).split("\n\n")[0]
    assert recorded("gates/none", results) == "(nothing is measured of all gates yet)"


def test_the_only_variant_of_a_gate_stands_for_it(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid", "model.dropout_scale=2", test_perplexity=80.0)
    record_run(tmp_path / "x", 1, "gate=gumbel", "model.dropout_scale=1", test_perplexity=84.0)
    found = recorded("x", tmp_path)
    ours, plain = "G2-LSTM (dropouts x 1)", "plain LSTM (dropouts x 2)"
    assert found.startswith(f"|  | {plain} | {ours} | {ours} less {plain} | n |")
    assert "| test perplexity | 80.00 | 84.00 | +4.00 (one seed: no interval) | 1 |" in found
    record_run(tmp_path / "x", 1, "gate=gumbel", "model.dropout_scale=2", test_perplexity=70.0)
    assert recorded("x", tmp_path) == "(nothing is measured of all gates yet)"  # of several none is chosen


def test_a_document_names_the_pairs_that_it_compares(record_run, tmp_path) -> None:
    differences = (1.0, 2.0, 4.0)
    for seed, less in enumerate(differences, 1):
        record_run(tmp_path / "x", seed, "gate=sigmoid", "model.dropout_scale=1", test_perplexity=90.0)
        record_run(tmp_path / "x", seed, "gate=sigmoid", "model.dropout_scale=2", test_perplexity=80.0)
        record_run(tmp_path / "x", seed, "gate=gumbel", "model.dropout_scale=1", test_perplexity=80.0 + less)
    pairs = "gumbel-dropout1/sigmoid-dropout2,gumbel-dropout1/sigmoid-dropout1"
    found = filled(f"<!-- table: x:paired:{pairs} -->\n<!-- end of table -->", tmp_path)
    span = "({:+.2f} to {:+.2f})"
    half = 4.30265273 * stdev(differences) / 3**0.5  # t with two degrees of freedom
    low, high = 7 / 3 - half, 7 / 3 + half
    first, second = (f"{7 / 3 - less:+.2f} {span.format(low - less, high - less)}" for less in (0, 10))
    assert f"| test perplexity | 90.00 | 80.00 | 82.33 | {first} | {second} | 3 |" in found
    tests = filled(f"<!-- table: x:tests:5:{pairs} -->\n<!-- end of table -->", tmp_path)
    title = "| test perplexity, G2-LSTM (dropouts x 1) less plain LSTM (dropouts x 2) |"
    (line,) = (line for line in tests.splitlines() if line.startswith(title))
    p = t.sf((5 - 7 / 3) / (stdev(differences) / 3**0.5), 2)
    assert line == f"{title} +2.33 | {low:+.2f} to {high:+.2f} | 0.250 | {p:.3f} | 3 |"
    assert "p, beyond ±5" in tests
    assert "nothing is measured" in filled("<!-- table: x:tests:1:a/b -->\n<!-- end of table -->", tmp_path)


def test_a_sweep_of_the_beginning_of_test_is_called_one(results) -> None:
    path = results / "compression" / "x" / "sweep.json"
    rows = [row for row in json.loads(path.read_text()) if row["split"] == "test"]
    path.write_text(json.dumps([row | {"limit": 1000} for row in rows if row["limit"] is None]))
    found = recorded("compression/x", results)
    assert "| loss under SVD 64, first 1,000 | 89.00 | 89.50 | +0.50 (" in found
    assert "| loss under SVD 64 |" not in found
