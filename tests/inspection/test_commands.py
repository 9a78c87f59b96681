"""The commands that show gates, from a run directory to their files; one line about a mistake."""

import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import gate_heatmap
import gate_histograms
import pytest
import report as report_command
import torch

import train
from g2lstm import cli
from g2lstm.inspection import measure
from g2lstm.inspection.measure import recorded_rows
from g2lstm.runs.run import Run
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import without_drawing


def command(main):
    return lambda *arguments: cli.guarded(lambda: main(list(arguments)))


histograms, heatmap = command(gate_histograms.gate_histograms), command(gate_heatmap.gate_heatmap)
report = command(report_command.report)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with runs of two gates, two seeds of the Gumbel gate, as if they had been recorded."""
    path = tmp_path_factory.mktemp("gates")
    small = [*tiny, "epochs=1", "data.min_count=2", "finetune=false", "eval.cache.enabled=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for gate, seed in (("gumbel", 1), ("gumbel", 2), ("sigmoid", 1)):
            where = f"run_dir=results/text/{gate}-seed{seed}"
            assert train.main([*small, f"gate={gate}", f"seed={seed}", where]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_histograms_of_recorded_runs_lie_beside_them_and_are_measured_once(capsys, monkeypatch, undrawn) -> None:
    measured, statistics = [], measure.corpus_statistics
    monkeypatch.setattr(measure, "corpus_statistics", lambda *a, **k: measured.append(a) or statistics(*a, **k))
    assert histograms("runs=results/text/*-seed1", "samples=50") == 0
    assert len(measured) == 3 + 1  # modes
    assert histograms("runs=results/text/*", "samples=50") == 0
    assert len(measured) == 3 + 1 + 3
    out = Path("results/gates/text")
    names = {f"{n}.{kind}" for n in ("histograms-10", "histograms-50", "training-and-test") for kind in ("png", "svg")}
    assert {path.name for path in out.iterdir()} == names | {"gates.json", "gates.md"}
    rows = recorded_rows(out, "gates")
    assert {row["size"].partition(" (")[0] for row in rows} == {"50 sentences"}
    assert {(row["gate"], row["mode"]) for row in rows} == {
        ("sigmoid", "test"), *(("gumbel", mode) for mode in ("training", "test", "tempered")),
    }  # fmt: skip
    for row in recorded_rows(out, "metric"):
        if row["mode"] == "test":
            summary = json.loads((Path(row["run"]) / "summary.json").read_text())
            assert row["value"] == pytest.approx(summary[f"valid_{row['metric']}"])
            assert row["weights"] == Run.open(row["run"]).weights
    assert "| G2-LSTM | training: noise and temperature |" in capsys.readouterr().out
    for other in ("metric=test", "samples=3"):
        assert histograms("runs=results/text/sigmoid*", "samples=50", other, "out=other") == 0
    assert len(measured) == 3 + 1 + 3 + 2


def test_a_heat_map_marks_unknown_words_and_words_are_compared(capsys) -> None:
    arguments = ["runs=results/text/*", "text=w1 zebra w3", "words=train", "min_count=5"]
    with without_drawing():
        assert heatmap(*arguments) == 0
    assert heatmap(*arguments) == 0
    assert "gumbel-seed1 does not know: 'zebra'" in capsys.readouterr().err.replace("\n", " ")
    out = Path("results/gates/text")
    for name in ("heatmap", "units", "words-gumbel-seed1", "words-sigmoid-seed1"):
        assert all((out / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "svg"))
    found = json.loads((out / "heatmap.json").read_text())
    assert [model["gate"] for model in found["models"]] == ["sigmoid", "gumbel"]
    assert found["models"][0]["words"] == ["w1", "zebra*", "w3", "<eos>"]
    assert len(found["models"][0]["mean"]["f"]) == 4
    rows = recorded_rows(out, "words")
    assert len(rows) == 3
    assert all(row["types"] == 21 and row["lowest_and_highest"][0]["count"] >= 5 for row in rows)
    with without_drawing():
        assert heatmap(*arguments, "layer=layers.1") == 0
    assert [row["layer"] for row in recorded_rows(out, "words")] == ["layers.0"] * 3 + ["layers.1"] * 3
    with without_drawing():
        assert heatmap("run=results/text/gumbel-seed1", "text=w1", "words=none", "layer=layers.1", "out=one") == 0
    assert {path.stem for path in Path("one").iterdir()} == {"heatmap", "units"}


def changed(name: str, **values: str) -> Path:
    """A copy of the Gumbel run with other values in its config."""
    path = Path(shutil.copytree("results/text/gumbel-seed1", name, dirs_exist_ok=True))
    config = path / "config.yaml"
    for key, value in values.items():
        config.write_text(re.sub(rf"(?m)^( *{key}): .*$", rf"\1: {value}", config.read_text()))
    rebind(path)
    return path


def rebind(path: Path, **content) -> None:
    """Makes the weights belong to the config beside them again."""
    best = path / "best.safetensors"
    save_checkpoint(best, load_checkpoint(best) | {"identity": Run.open(path).identity} | content)


def test_rows_tell_the_temperature_and_the_weights_that_were_measured(undrawn) -> None:
    run = changed("annealed")
    rebind(run, tau=0.3095)
    assert histograms(f"runs={run}", "samples=5", "metric=none", "out=annealed-gates") == 0
    found = {(row["tau"], row["noise_p"], row["weights"]) for row in recorded_rows(Path("annealed-gates"), "gates")}
    assert found == {(0.3095, 0.2, Run.open(run).weights)}


def test_runs_of_equal_names_have_their_own_figures(undrawn) -> None:
    for name in ("a", "b"):
        changed(f"{name}/gumbel-seed1", experiment_name=name)
    assert heatmap("runs=a/*,b/*", "text=w1", "words=train", "min_count=5", "out=both") == 0
    assert sorted(path.name[:15] for path in Path("both").glob("words-*.png")) == ["words-a-gumbel-", "words-b-gumbel-"]


def test_nothing_is_written_before_all_runs_have_read_the_text(capsys) -> None:
    other = changed("c/gumbel-seed1", experiment_name="c")
    words = (other / "vocabulary.json").read_text()
    (other / "vocabulary.json").write_text(words.replace('"w1"', '"v1"'))
    rebind(other)
    assert heatmap("runs=results/text/gumbel*,c/*", "text=w1", "words=train", "min_count=5", "out=none") == 2
    assert "the runs read different words" in capsys.readouterr().err
    assert not Path("none").exists()


def test_words_that_the_font_lacks_are_one_line(capsys) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = "run=results/text/gumbel-seed1"
        assert heatmap(run, "text=w1 \u4e2d\u6587 $^$", "words=none", "out=signs") == 0
    assert capsys.readouterr().err.count("the font lacks \u4e2d\u6587: set font.family") == 1


def test_a_report_takes_what_was_measured_and_measures_the_rest(capsys, undrawn) -> None:
    shutil.rmtree("results/gates", ignore_errors=True)
    assert report("runs=results/text/*", "samples=5", "text=w1 zebra w3") == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert said.count("measuring the gates of") == 3
    assert "seed1 does not know: 'zebra'" in said
    page = Path("results/gates/text/report.html")
    assert "zebra*" in page.read_text()
    assert "First 5 sentences of valid" in page.read_text()
    assert histograms("runs=results/text/*", "samples=50") == 0
    assert report("runs=results/text/*") == 0
    assert "measuring" not in capsys.readouterr().err
    assert "First 50 sentences of train" in page.read_text()
    path = Path("results/gates/text/gates.json")
    rows = [row | {"weights": "of another time"} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    assert report("runs=results/text/*", "samples=7", "out=fresh.html") == 0
    assert "First 7 sentences of valid" in Path("fresh.html").read_text()


def test_a_report_goes_to_the_tracker_of_each_run_that_has_one(monkeypatch, undrawn) -> None:
    pages = []

    class Tracked:
        id = "abc"

        def log(self, metrics, step=None):
            pages.append(metrics)

        def finish(self):
            pages.append("finished")

    wandb = SimpleNamespace(init=lambda **_: Tracked(), Html=lambda text, **_: text)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = changed("tracked")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("tracker:\n  name: none", "tracker:\n  name: wandb"))
    (run / "tracker.json").write_text('{"run_id": "abc"}')
    assert report("runs=tracked", "samples=5", "out=tracked/report.html") == 0
    assert pages == [{"report": Path("tracked/report.html").read_text()}, "finished"]


@pytest.mark.parametrize(
    ("show", "options", "line"),
    [
        (heatmap, ["text= "], "text has no words"),
        (heatmap, ["layer=layers.9"], "no layer layers.9"),
        (heatmap, ["min_count=100000"], "no word stands 100000 times in valid"),
        (heatmap, ["samples=-3"], "samples must be a whole number of at least 1, got '-3'"),
        (heatmap, ["run=x"], "set run=RUN_DIR, or runs= for several"),
        (heatmap, ["out=taken"], "taken is a file: name a folder"),
        (histograms, ["samples=\u00b2"], "samples must be a whole number of at least 1, got '\u00b2'"),
        (histograms, ["threads=0"], "threads must be a whole number from 1 to 1024, got '0'"),
        (histograms, ["samples=5", "layer=layers.9"], "no layer layers.9"),
        (report, ["text= "], "text has no words"),
        (report, ["layer=layers.9"], "no layer layers.9"),
        (report, ["out=results"], "results is a folder: name a file in it"),
        (report, ["runs=nowhere"], "nowhere is not a run directory"),
    ],
)
def test_a_mistake_is_one_line(show, options, line, capsys) -> None:
    Path("taken").touch()
    assert show("runs=results/text/gumbel*", "out=none", *options) == 2
    assert line in only_error(capsys.readouterr().err)
    assert not Path("none").exists()


def only_error(said: str) -> str:
    """The one line about a mistake in what a command said."""
    (error,) = (line for line in said.splitlines() if line.startswith("error:"))
    assert said.splitlines()[-1] == error
    assert "Traceback" not in said
    return error


@pytest.mark.parametrize("content", ["", "3", '{"a": 1}'])
@pytest.mark.parametrize("name", ["summary.json", "environment.json", "metrics.jsonl", "vocabulary.json", "config.yaml"])
def test_an_edited_file_of_a_run_is_one_line_or_does_no_harm(name, content, capsys, undrawn) -> None:
    run = changed("edited")
    (run / name).write_text(content)
    status = report("runs=edited", "samples=5", "out=edited.html")
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert status == 0 or name in only_error(said)


@pytest.mark.parametrize("name", ["gates.json", "words.json"])
def test_an_edited_measurement_is_one_line(name, capsys) -> None:
    Path("results/gates/text").mkdir(parents=True, exist_ok=True)
    kept, path = Path("results/gates/text/gates.json"), Path("results/gates/text") / name
    kept.unlink(missing_ok=True)
    for content in ("", "{}", "3", '{"rows": [1]}'):
        path.write_text(content)
        assert report("runs=results/text/*", "samples=5", "out=none") == 2
        assert name in only_error(capsys.readouterr().err)
    path.unlink()


@pytest.mark.parametrize("show", [heatmap, histograms, report])
def test_runs_without_weights_or_of_a_diverged_model_are_one_line(show, capsys) -> None:
    bare = changed("bare")
    content = load_checkpoint(bare / "best.safetensors")
    content["model"] = {name: torch.full_like(tensor, torch.nan) for name, tensor in content["model"].items()}
    rebind(bare, model=content["model"])
    assert show("runs=bare", "out=none") == 2
    assert "a gate value is not a number: the model diverged" in only_error(capsys.readouterr().err)
    (bare / "best.safetensors").unlink()
    assert show("runs=bare", "out=none") == 2
    assert "bare has no weights (best.safetensors)" in only_error(capsys.readouterr().err)
    assert not Path("none").exists()


def test_runs_that_read_different_texts_are_refused(text_dir, capsys) -> None:
    short = Path(shutil.copytree(text_dir, "short", dirs_exist_ok=True))
    (short / "train.txt").write_text((text_dir / "train.txt").read_text().partition("\n")[2])
    changed("d/gumbel-seed1")
    changed("d/gumbel-seed2", seed="2", dir=str(short.absolute()))
    assert histograms("runs=d/*", "metric=none", "samples=all", "out=two") == 2
    assert "d/gumbel-seed2: its text is not that of the runs before it" in only_error(capsys.readouterr().err)


def test_a_task_without_words_can_compare_none(monkeypatch, capsys) -> None:
    monkeypatch.setattr("g2lstm.tasks.language_model.LanguageModelTask.labels", None)
    assert heatmap("run=results/text/gumbel-seed1", "out=none") == 2
    assert "task text reads no words to compare: set words=none" in only_error(capsys.readouterr().err)
