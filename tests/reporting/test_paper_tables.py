"""The paper's tables beside what is recorded."""

import json

import pytest

from g2lstm.reporting.documents import filled
from g2lstm.reporting.paper_tables import measured_cells, recorded
from g2lstm.runs.members import Plan


@pytest.fixture
def runs(record_run, tmp_path):
    for seed, plain, ours in ((1, 88.0, 87.0), (2, 90.0, 92.0)):
        for gate, value in (("sigmoid", plain), ("gumbel", ours)):
            record_run(tmp_path / "ptb_cpu", seed, "experiment=ptb_cpu", f"gate={gate}", test_perplexity=value)
    return tmp_path


def cells(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_ours_stand_beside_the_papers_with_paired_differences(runs) -> None:
    values, differences, _, notes = recorded("1", runs).split("\n\n")
    assert cells(values, "G2-LSTM, the paper")[:2] == ["60.4", "58.2"]
    assert cells(values, "G2-LSTM, `ptb_cpu`")[1:4] == ["89.50 ± 3.54", "-", "-"]
    assert cells(values, "G2-LSTM, `ptb_cpu`")[-1] == "2 of 2"
    assert cells(values, "sharpened sigmoid, `ptb_cpu`")[-1] == "0 of 2"
    assert cells(differences, "G2-LSTM, the paper")[3] == "-1.2"
    half = 12.7062047 * 1.5  # t with one degree of freedom; the differences are -1 and 2
    assert cells(differences, "G2-LSTM, `ptb_cpu`")[1] == f"+0.50 ({0.5 - half:+.2f} to {0.5 + half:+.2f}; p 1)"
    assert "seeds 1, 2; a machine, torch 2.13." in notes
    assert "`model.hidden_size` 400 for 1150" in notes
    assert "`record" not in notes
    assert "Not recorded yet: `ptb`" in notes
    assert measured_cells(Plan.load(), "1", "ptb_cpu", runs) == (16, 24)


def test_what_a_partial_text_has_is_told(runs) -> None:
    path = runs / "ptb_cpu" / "sigmoid-seed1" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"train_pairs": 1234, "train_pairs_of_whole": 5678}))
    gumbel = runs / "ptb_cpu" / "gumbel-seed1"
    gumbel.rename(runs / "elsewhere")
    assert "1,234 training pairs for the 5,678 of the whole text." in recorded("1", runs)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dropped_long": 4000, "dropped_empty": 444}))
    assert "of the whole text" not in recorded("1", runs)  # nothing is missing, some pairs are left out


def test_what_runs_were_is_told_and_not_what_conf_says_now(runs) -> None:
    path = runs / "ptb_cpu" / "sigmoid-seed1" / "config.yaml"
    before = path.read_text()
    path.write_text(before.replace("hidden_size: 400", "hidden_size: 401").replace("precision: auto", "precision: bfloat16"))
    assert before != path.read_text()
    assert "`model.hidden_size` 401 or 400 for 1150" in recorded("1", runs)


def test_a_run_that_went_on_from_rounded_weights_is_told(runs) -> None:
    assert "rounded" not in recorded("1", runs)
    (runs / "ptb_cpu" / "gumbel-seed1" / "environment.json").write_text('{"rounded": [{"step": 3}]}')
    assert "1 of the 4 runs went on from rounded weights" in recorded("1", runs)


def test_compression_is_read_from_the_sweep(runs) -> None:
    row = {"key": "a", "run": "r", "gate": "gumbel", "seed": 1, "setting": "svd:64", "split": "test", "variant": "cache"}
    row |= {"gates": "if", "matrices": "both", "layers": "all", "metric": "perplexity", "value": 77.5, "difference": 1.0}
    row |= {"bits_per_gate_parameter": 8.0, "rank": 64, "weights": "x"}
    path = runs / "compression" / "ptb_cpu" / "sweep.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([row, row | {"key": "b", "variant": "", "value": 1.0}]))
    assert cells(recorded("3", runs).split("\n\n")[0], "G2-LSTM, `ptb_cpu`")[-2:] == ["77.50", "1 of 2"]
    document = "<!-- table: paper:3 -->\nold\n<!-- end of table -->"
    assert "77.50" in filled(document, runs)
    for other in ({"variant": ""}, {"setting": "bits:4"}):
        path.write_text(json.dumps([row | {"limit": 1000} | other]))
        assert "Not recorded yet: `ptb_cpu`" in recorded("3", runs)
    path.write_text(json.dumps([row | {"limit": 1000}]))
    assert "Recorded on a part of test, which is not shown here: `ptb_cpu`." in recorded("3", runs)
    assert "77.50" not in filled(document, runs)
