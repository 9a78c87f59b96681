"""Tables come from recorded runs, and documents quote no other numbers."""

import json
import math

import numpy as np
import pytest
import tables
from safetensors.numpy import save_file

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.reporting.curves import MOST_POINTS, draw_curves, draw_training, training
from g2lstm.reporting.documents import filled, quoted
from g2lstm.reporting.figures import save_figure
from g2lstm.reporting.run_tables import NONE, recorded_losses, recorded_runs
from g2lstm.reporting.run_tables import recorded as table
from g2lstm.runs.run import Run
from g2lstm.training.task import Metric

MORE = "model.dropout_scale=2"


def test_a_table_has_a_row_for_each_gate_with_mean_and_deviation_over_seeds(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid", test_perplexity=88.0)
    record_run(tmp_path / "x", 2, "gate=sigmoid", test_perplexity=90.0)
    record_run(tmp_path / "x", 1, "gate=gumbel", "gate.noise_p=0.5", test_perplexity=86.0)
    rows = table(tmp_path / "x").split("\n\n| difference")[0].splitlines()
    assert rows[2].startswith("| plain LSTM | 92.00 ± 0.00 | 89.00 ± 1.41 |")
    assert rows[3].startswith("| G2-LSTM (p 0.5) | 92.00 | 86.00 |")
    assert "a machine, torch 2.13" in rows[-1]


def test_differences_are_paired_by_seed(record_run, tmp_path) -> None:
    for seed, plain, ours in ((1, 88.0, 87.0), (2, 90.0, 92.0), (3, 89.0, None)):
        record_run(tmp_path / "x", seed, "gate=sigmoid", test_perplexity=plain)
        if ours is not None:
            record_run(tmp_path / "x", seed, "gate=gumbel", test_perplexity=ours)
    record_run(tmp_path / "x", 4, "gate=sharpened")  # no plain LSTM has this seed
    record_run(tmp_path / "x", 1, "gate=gumbel", "gate.noise_p=1", test_perplexity=89.5)
    lines = table(tmp_path / "x").split("\n\n")[2].splitlines()
    assert lines[0] == "| difference from the plain LSTM, paired by seed | valid | test | valid + cache | test + cache | n |"
    half = 12.7062047 * 1.5  # t with one degree of freedom; the differences are -1 and 2
    assert lines[2].split(" | ")[2] == f"+0.50 ({0.5 - half:+.2f} to {0.5 + half:+.2f})"
    assert lines[2].endswith("| 2 |")
    assert lines[3].split(" | ")[2] == "+1.50 (one seed: no interval)"
    assert len(lines) == 4
    assert "mean ± standard deviation over seeds" in table(tmp_path / "x")


def test_runs_are_quoted_without_their_differences(record_run, tmp_path) -> None:
    for gate in ("sigmoid", "gumbel"):
        record_run(tmp_path / "x", 1, f"gate={gate}", test_perplexity=88.0)
    quoted = filled("<!-- table: x:runs -->\n<!-- end of table -->", tmp_path)
    assert "| G2-LSTM | 92.00 | 88.00 |" in quoted
    assert "difference" not in quoted


def test_a_variant_is_compared_with_the_plain_lstm_of_its_kind(record_run, tmp_path) -> None:
    for overrides, value in ((["gate=sigmoid"], 88.0), (["gate=sigmoid", MORE], 80.0), (["gate=gumbel", MORE], 81.0)):
        record_run(tmp_path / "x", 1, *overrides, test_perplexity=value)
    (line,) = (line for line in table(tmp_path / "x").split("\n\n")[2].splitlines() if "G2" in line)
    assert "+1.00 (one seed" in line


def test_without_its_own_variant_a_gate_is_compared_with_the_only_plain_lstm(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid", MORE, test_perplexity=80.0)
    record_run(tmp_path / "x", 1, "gate=gumbel", "model.dropout_scale=1", test_perplexity=84.0)
    (line,) = (line for line in table(tmp_path / "x").split("\n\n")[2].splitlines() if "G2" in line)
    assert line.startswith("| G2-LSTM (dropouts x 1) less plain LSTM (dropouts x 2) |")
    assert "+4.00 (one seed" in line
    record_run(tmp_path / "x", 1, "gate=sigmoid", "model.dropout_scale=3", test_perplexity=80.0)
    assert "paired by seed" not in table(tmp_path / "x")  # two plain LSTMs, neither of its kind


def test_runs_that_went_on_elsewhere_are_counted(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid")
    assert "environment.json" not in table(tmp_path / "x")
    before = table(tmp_path / "x").splitlines()[2].split(" | ")[-2:]
    record_run(tmp_path / "x", 2, "gate=sigmoid", resumed_on_another_environment=True, seconds=1e9, words_per_second=1e9)
    found = table(tmp_path / "x")
    assert " 1 of the 2 runs went on elsewhere (`environment.json`); their time means nothing." in found
    assert found.splitlines()[2].split(" | ")[-2:] == before  # minutes and words/s of the other


def test_runs_of_two_precisions_or_texts_are_told(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid", precision="bfloat16", train_pairs=1000)
    record_run(tmp_path / "x", 2, "gate=sigmoid", precision="bfloat16", train_pairs=1000)
    assert "rained" not in table(tmp_path / "x").splitlines()[-1]
    record_run(tmp_path / "x", 1, "gate=gumbel", precision="float32", train_pairs=2000)
    found = table(tmp_path / "x")
    assert " Trained with products in bfloat16 and float32. Trained on 1,000 and 2,000 pairs: not the same text." in found


@pytest.mark.parametrize("limit", ["null", 1500])
def test_a_table_says_of_how_much_of_valid_and_test_it_is(record_run, tmp_path, limit) -> None:
    record_run(tmp_path / "x", 1, "task=numbers", f"eval.limit={limit}")
    said = " on the first 1,500 pairs of valid and of test alone."
    assert (f"Evaluated{said}" in table(tmp_path / "x")) == (limit == 1500)
    record_run(tmp_path / "x", 2, "task=numbers")
    assert (f"1 of the 2 runs evaluated{said}" in table(tmp_path / "x")) == (limit == 1500)


@pytest.mark.parametrize("gates", [["gumbel", "sharpened"], ["sigmoid"], []])
def test_losses_need_a_plain_lstm_and_another_gate(record_run, tmp_path, gates) -> None:
    for gate in gates:
        record_run(tmp_path / "x", 1, f"gate={gate}")
    assert recorded_losses(tmp_path, "x", 1) == NONE
    with pytest.raises(ValueError, match="not enough values"):
        quoted("x:losses", tmp_path)


def test_losses_are_told_beside_the_plain_lstms(record_run, tmp_path) -> None:
    for gate, loss in (("gumbel", 2.0), ("sigmoid", 1.0)):
        path = record_run(tmp_path / "x", 3, f"gate={gate}")
        save_file({"test": np.full(5000, loss, np.float32)}, path / "losses.safetensors")
    record_run(tmp_path / "x", 4, "gate=gumbel")
    found = quoted("x:losses:3", tmp_path)
    assert found.splitlines()[2].startswith("| gumbel-seed3 | test | 5,000 | +1.0000 |")
    assert found.endswith("Less sigmoid-seed3, in nats; bootstrap over blocks of 500 tokens: of this text, not of seeds.")


def test_any_metric_and_variant_has_its_columns(record_run, tmp_path, monkeypatch) -> None:
    metric = {"valid_bleu": 30.0, "test_bleu": 29.0, "test_bleu_beam": 31.0, "test_bleu_recorded_weights": 1.0}
    record_run(tmp_path / "x", 1, "gate=gumbel", **metric, words_per_second=None, pixels_per_second=7.0)
    monkeypatch.setattr("g2lstm.tasks.language_model.LanguageModelTask.metric", Metric("bleu", "pixels"))
    found = table(tmp_path / "x")
    assert found.startswith("| gate | valid | test | test + beam | seeds | parameters | threads | minutes | pixels/s |")
    assert "\n\nBLEU; measured on" in found


def test_scores_beside_the_metric_have_their_names_and_are_shown_of_test(record_run, tmp_path, monkeypatch) -> None:
    scores = {"valid_bleu": 30.0, "test_bleu": 29.0, "valid_bleu_plain": 1.0, "test_bleu_plain": 28.0, "test_exact": 99.5}
    record_run(tmp_path / "x", 1, "gate=gumbel", **scores)
    metric = Metric("bleu", "words", beside={"exact": "exact match, %", "bleu_plain": "plain BLEU", "chrf": "chrF"})
    monkeypatch.setattr("g2lstm.tasks.language_model.LanguageModelTask.metric", metric)
    lines = table(tmp_path / "x").splitlines()
    assert lines[0].startswith("| gate | valid | test | test: exact match, % | test: plain BLEU | seeds |")
    assert lines[2].startswith("| G2-LSTM | 30.00 | 29.00 | 99.50 | 28.00 | 1 |")
    assert "BLEU in valid and test; measured on" in lines[-1]


def test_any_runs_are_put_into_a_table(record_run, tmp_path, capsys) -> None:
    for seed, (plain, ours) in enumerate(((88.0, 87.0), (90.0, 88.5), (89.0, 88.5)), 1):
        for gate, value in (("sigmoid", plain), ("gumbel", ours)):
            record_run(tmp_path / "x", seed, f"gate={gate}", test_perplexity=value)
    record_run(tmp_path / "y", 1, "task=mnist", "gate=sigmoid", valid_accuracy=0.98, test_accuracy=0.97)
    assert tables.tables([f"runs={tmp_path}/x/*,{tmp_path}/y/*", "margin=5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| plain LSTM (ptb) | test | 3 | 89.00 | 1.00 | 86.52 to 91.48 | - | - |" in lines
    assert "| plain LSTM (mnist) | test | 1 | 0.9700 | - | one seed: no interval | - | - |" in lines
    assert "| G2-LSTM (ptb) less plain LSTM, by seed | test | 3 | -1.00 | 0.50 | -2.24 to +0.24 | 0.25 | 0.00258 |" in lines


def test_losses_are_compared_with_the_first_runs(record_run, tmp_path, capsys) -> None:
    losses = np.random.default_rng(1).normal(4, 1, 5000)
    runs = [record_run(tmp_path / "x", 1, f"gate={gate}") for gate in ("sigmoid", "gumbel")]
    for run, more in zip(runs, (0.0, 0.125), strict=True):
        tensors = {"test": (losses + more).astype(np.float16), "valid": losses.astype(np.float16)}
        save_file(tensors | ({"test_cache": tensors["test"]} if more else {}), run / "losses.safetensors")
    arguments = [f"runs={runs[0]},{runs[1]}", "losses=true"]
    assert tables.tables(arguments) == 0
    printed = capsys.readouterr().out
    assert f"| {runs[1]} | test | 5,000 | +0.1250 | +0.12" in printed
    assert "| 1.133" in printed
    assert f"| {runs[1]} | valid | 5,000 | +0.0000 | +0.0000 to +0.0000 |" in printed
    assert "cache" not in printed
    save_file({"test": losses[1:].astype(np.float16)}, runs[1] / "losses.safetensors")
    with pytest.raises(UserError, match="on test: the losses must be of the same text"):
        tables.tables(arguments)
    (runs[1] / "losses.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="it is damaged"):
        tables.tables(arguments)
    (runs[1] / "losses.safetensors").unlink()
    with pytest.raises(UserError, match="recorded earlier keep no losses"):
        tables.tables(arguments)


@pytest.mark.parametrize("summary", ["", "[]", "{}", '{"seed": 1}'])
def test_a_damaged_summary_is_one_line(record_run, tmp_path, capsys, summary) -> None:
    run = record_run(tmp_path / "x", 1, "gate=gumbel")
    (run / "summary.json").write_text(summary)
    assert cli.guarded(lambda: tables.tables([f"runs={run}"])) == 2
    assert "summary.json" in capsys.readouterr().err


@pytest.mark.parametrize("margin", ["0", "-inf", "nan", "x"])
def test_a_margin_is_a_number_above_0(margin, capsys) -> None:
    assert cli.guarded(lambda: tables.tables(["runs=x", f"margin={margin}"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "margin" in line
    assert margin in line


def test_a_run_without_cache_has_a_dash(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=gumbel", valid_perplexity_cache=None, test_perplexity_cache="?")
    assert "| 88.00 | - | 1 |" in table(tmp_path / "x")


def test_only_what_stands_between_the_marks_is_replaced(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid")
    document = "before\n<!-- table: x -->\nold\n<!-- end of table -->\nafter\n"
    after = filled(document, tmp_path)
    assert after.startswith("before\n<!-- table: x -->\n| gate |")
    assert after.endswith("<!-- end of table -->\nafter\n")
    assert filled(after, tmp_path) == after


def test_what_a_command_wrote_is_quoted_whole(tmp_path) -> None:
    (tmp_path / "compression" / "x").mkdir(parents=True)
    (tmp_path / "compression" / "x" / "sweep.md").write_text("| a |\n| b |\n")
    document = "<!-- table: compression/x:sweep -->\nold\n<!-- end of table -->"
    assert "-->\n| a |\n| b |\n<!--" in filled(document, tmp_path)
    assert "(no study is recorded yet)" in filled(document.replace("compression/x:sweep", "x:study"), tmp_path)


def test_a_table_of_the_benchmark_is_made_from_its_file(tmp_path) -> None:
    sizes = {"section": "recurrence", "size": [7, 2, 4, 6], "dtype": "float32", "mode": "train"}
    rows = [sizes | {"engine": "nn.LSTM", "ms": 12.34, "ratio": 1.0, "memory_mb": 5.0, "memory_ratio": 1.0}]
    rows += [sizes | {"engine": "auto", "ms": 6.17, "ratio": 0.5, "memory_mb": None, "memory_ratio": None}]
    content = {"hardware": "a machine", "torch": "2.13", "threads": 2, "rows": rows}
    rows = [row | {"commit": commit} for row, commit in zip(rows, ("a", "a-dirty"), strict=True)]
    content |= {"rows": rows, "load": 3.14, "commit": "a"}
    content["summary"] = {"train_speedup_over_loop": 2.5}
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "a.json").write_text(json.dumps(content))
    after = filled("<!-- table: speed:train -->\nold\n<!-- end of table -->", tmp_path)
    lines = after.splitlines()
    assert lines[1:4] == [
        "| T, B, D -> H | dtype | nn.LSTM, ms | auto |",
        "| --- | --- | ---: | ---: |",
        "| 7, 2, 4 -> 6 | float32 | 12.3 | 0.50 |",
    ]
    assert "a machine, torch 2.13, 2 threads" in after
    assert "2.50 times as fast" in after
    assert "1 of the 2 rows are of uncommitted code. The machine's load was 3.1 when it began." in after
    none = filled("<!-- table: speed:eval -->\nold\n<!-- end of table -->", tmp_path)
    assert "(no measurement is recorded yet)" in none


def test_curves_are_drawn_without_what_is_no_number(record_run, tmp_path) -> None:
    record_run(tmp_path / "x", 1, "gate=sigmoid")
    diverged = [{"kind": kind, "epoch": 1, "step": 1, "loss": value} for kind in ("train", "valid") for value in (None, "?")]
    record_run(tmp_path / "x", 1, "gate=gumbel", curve=diverged)
    groups = recorded_runs(tmp_path / "x")
    figure, training = draw_curves(groups, "x"), draw_training(groups, "x")
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [
        [[1, 200], [2, 100], [3, pytest.approx(66.7, abs=0.1)]]
    ]
    assert len(training.axes[0].lines[0].get_xydata()) == 39
    save_figure(figure, tmp_path / "x", "curves")
    for kind in ("png", "svg"):
        assert (tmp_path / "x" / f"curves.{kind}").stat().st_size > 10_000
    assert draw_curves({"gumbel": groups["gumbel"]}, "x") is None


@pytest.mark.parametrize(
    ("task", "metric", "label"),
    [("builtin", "perplexity", "validation perplexity"), ("numbers", "bleu", "validation BLEU (greedy, up to 1,000 pairs)")],
)
def test_a_curve_says_how_it_was_evaluated(record_run, tmp_path, task, metric, label) -> None:
    curve = [{"kind": "valid", "epoch": epoch, "step": epoch, "loss": 1.0, metric: 20.0 + epoch} for epoch in (1, 2)]
    run = Run.open(record_run(tmp_path / task, 1, f"task={task}", curve=curve))
    assert draw_curves({"gumbel": [run]}, "x").axes[0].get_ylabel() == label


def test_long_curves_are_thinned_and_end_where_they_end(record_run, tmp_path) -> None:
    curve = [{"kind": "train", "epoch": 1, "step": step, "loss": 4.0} for step in range(1, 2001)]
    points = training(Run.open(record_run(tmp_path / "x", 1, "gate=gumbel", curve=curve)), math.exp)
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert points[-1][0] > 1980


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results=none"], "no folder none: train with record=true first"),
        (["losses=true"], "losses= and margin= are of runs: set runs="),
        (["margin=1"], "losses= and margin= are of runs: set runs="),
        (["results=.", "check=true"], "check=true compares the documents with results/"),
        (["runs=a", "check=true"], "check=true is of the documents: leave it out"),
        (["runs=a", "margin=0"], "margin must be a number above 0, got 0"),
    ],
)
def test_a_mistake_writes_nothing(arguments, message, monkeypatch) -> None:
    monkeypatch.setattr(tables, "fill", lambda *_, **__: pytest.fail("documents are filled"))
    with pytest.raises(UserError, match=message):
        tables.tables(arguments)


def test_results_elsewhere_are_told_and_change_no_document(record_run, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(tables, "fill", lambda *_, **__: pytest.fail("documents are filled"))
    record_run(tmp_path / "text", 1, "gate=gumbel")
    assert tables.tables([f"results={tmp_path}"]) == 0
    assert "| G2-LSTM |" in capsys.readouterr().out


def test_the_documents_quote_what_results_has() -> None:
    assert tables.tables(["check=true"]) == 0
