"""The commands that show gates, from a run directory to their files; one line about a mistake."""

import argparse
import hashlib
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import compression_sweep
import gate_heatmap
import gate_histograms
import pytest
import report as report_command
import torch

import train
from g2lstm import cli
from g2lstm.runs import named_runs
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.rundir import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


def command(main):
    return lambda *arguments: cli.guarded(lambda: main(list(arguments)))


histograms, heatmap = command(gate_histograms.gate_histograms), command(gate_heatmap.gate_heatmap)
report, sweep = command(report_command.report), command(compression_sweep.compression_sweep)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with recorded runs of two gates."""
    path = tmp_path_factory.mktemp("gates")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for gate in ("gumbel", "sigmoid"):
            options = [
                *tiny,
                "record=true",
                "epochs=1",
                "data.min_count=2",
                "finetune=false",
                "eval.cache.enabled=false",
                f"gate={gate}",
            ]
            assert train.main(options) == 0
        for run in Path("results/text").iterdir():  # the names list every option of a small model
            gate = run.name.split("-")[0]
            config = (run / "config.yaml").read_text()
            (run / "config.yaml").write_text(re.sub(r"(?m)^run_name: .*$", f"run_name: {gate}-seed1", config))
            run.rename(run.with_name(f"{gate}-seed1"))
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_what_was_measured_before_is_not_measured_again(text_dir, tmp_path, monkeypatch, folder) -> None:
    measured = []
    measure = gate_histograms.measure
    monkeypatch.setattr(gate_histograms, "measure", lambda *a, **k: measured.append(a[3]["gate"]) or measure(*a, **k))
    arguments = ["split=valid", f"data.dir={text_dir}", f"out={tmp_path}"]
    assert histograms("runs=results/text/sigmoid-seed1", *arguments) == 0
    first = json.loads((tmp_path / "gates.json").read_text())
    assert histograms("runs=results/text/*", *arguments) == 0
    assert measured == ["sigmoid", "gumbel"]
    rows = json.loads((tmp_path / "gates.json").read_text())["rows"]
    assert [row for row in rows if row["gate"] == "sigmoid"] == first["rows"]
    assert histograms("runs=results/text/*", "metric=test", *arguments) == 0
    assert histograms("runs=results/text/*", "samples=3", *arguments) == 0
    assert histograms("runs=results/text/*", *arguments) == 0
    assert len(measured) == 2 + 2 + 2 + 2


def test_histograms_of_recorded_runs_lie_beside_them(text_dir, capsys) -> None:
    assert histograms("runs=results/text/*", "samples=50", f"data.dir={text_dir}") == 0
    out = Path("results/gates/text")
    names = {"gates.json", "gates.md"} | {
        f"{n}.{kind}" for n in ("histograms-10", "histograms-50") for kind in ("png", "svg")
    }
    assert {path.name for path in out.iterdir()} == names | {"training-and-test.png", "training-and-test.svg"}
    content = json.loads((out / "gates.json").read_text())
    assert (content["split"], content["sentences"], content["layer"]) == ("train", 50, "layers.0")
    assert {(row["label"], row["mode"]) for row in content["rows"]} == {
        ("plain LSTM", "test"), ("G2-LSTM", "training"), ("G2-LSTM", "test"), ("G2-LSTM", "tempered"),
    }  # fmt: skip
    assert {(row["gate"].split("-")[0], row["mode"]) for row in content["metrics"]} == {
        ("sigmoid", "test"), ("sigmoid", "hard"),
        *(("gumbel", mode) for mode in ("training", "test", "tempered", "hard")),
    }  # fmt: skip
    for row in content["metrics"]:
        if row["mode"] == "test":
            summary = json.loads((Path(row["run"]) / "summary.json").read_text())
            assert row["perplexity"] == pytest.approx(summary["valid_perplexity_recorded_weights"])
    assert "| G2-LSTM | training: noise and temperature |" in capsys.readouterr().out


def test_a_heat_map_marks_unknown_words_and_words_are_compared(text_dir, capsys) -> None:
    assert heatmap("runs=results/text/*", "text=w1 zebra w3", "words=train", "min_count=5", f"data.dir={text_dir}") == 0
    assert "gumbel-seed1 does not know, and reads as <unk>: zebra" in capsys.readouterr().err.replace("\n", " ")
    out = Path("results/gates/text")
    for name in ("heatmap", "units", *(f"words-{path.name}" for path in Path("results/text").iterdir())):
        assert all((out / f"{name}.{kind}").stat().st_size > 1000 for kind in ("png", "svg"))
    found = json.loads((out / "heatmap.json").read_text())
    assert [model["label"] for model in found["models"]] == ["plain LSTM", "G2-LSTM"]
    assert found["models"][0]["words"] == ["w1", "zebra*", "w3", "<eos>"]
    assert len(found["models"][0]["mean"]["f"]) == 4
    rows = json.loads((out / "words.json").read_text())["rows"]
    assert all(row["types"] == 21 and row["lowest_and_highest"][0]["count"] >= 5 for row in rows)


def annealed(name: str, **changed: str) -> Path:
    """A copy of the Gumbel run that ended at another temperature."""
    path = Path(shutil.copytree(next(Path("results/text").glob("gumbel*")), name, dirs_exist_ok=True))
    best, config = RunDirectory(path).best, path / "config.yaml"
    save_checkpoint(best, load_checkpoint(best) | {"tau": 0.3095})
    for key, value in changed.items():
        config.write_text(re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", config.read_text()))
    return path


def test_rows_tell_the_temperature_and_the_weights_that_were_measured(text_dir) -> None:
    run = annealed("annealed")
    assert histograms(f"runs={run}", "samples=5", "metric=none", f"data.dir={text_dir}", "out=annealed-gates") == 0
    rows = json.loads(Path("annealed-gates/gates.json").read_text())["rows"]
    digest = hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()[:20]
    assert {(row["tau"], row["weights"]) for row in rows} == {(0.3095, digest)}


def test_runs_of_equal_names_have_their_own_figures(text_dir) -> None:
    for name in ("a", "b"):
        annealed(f"{name}/gumbel-seed1", experiment_name=name)
    assert heatmap("runs=a/*,b/*", "text=w1", "words=train", "min_count=5", f"data.dir={text_dir}", "out=both") == 0
    assert {path.name for path in Path("both").glob("words-*.png")} == {
        "words-a-gumbel-seed1.png",
        "words-b-gumbel-seed1.png",
    }


def test_nothing_is_written_before_all_runs_are_read(text_dir, capsys) -> None:
    other = annealed("c/gumbel-p0.5-seed1", run_name="gumbel-p0.5-seed1")
    words = json.loads((other / "vocabulary.json").read_text())
    (other / "vocabulary.json").write_text(json.dumps(words).replace('"w1"', '"v1"'))
    runs = "runs=results/text/gumbel*,c/*"
    assert heatmap(runs, "text=w1", "words=train", "min_count=5", f"data.dir={text_dir}", "out=none") == 2
    assert "the runs know different words of the text" in capsys.readouterr().err
    assert not Path("none").exists()


def test_words_that_the_font_lacks_are_one_line(text_dir, capsys) -> None:
    run = next(Path("results/text").glob("gumbel*"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert heatmap(f"run={run}", "text=w1 \u4e2d\u6587 $^$", "words=none", f"data.dir={text_dir}", "out=signs") == 0
    assert capsys.readouterr().err.count("the font lacks \u4e2d\u6587: set font.family") == 1


@pytest.mark.parametrize(
    ("names", "gates"),
    [
        (["gumbel", "gumbel-p0.5"], ["gumbel", "gumbel-p0.5"]),
        (["gumbel-epochs3-p0-lr1e-05", "gumbel-epochs3-p0.5-lr1e-05"], ["gumbel-p0", "gumbel-p0.5"]),
        (["gumbel-lr1e-05", "gumbel-lr1e-04"], ["gumbel-lr1e-05", "gumbel-lr1e-04"]),
        (["sigmoid-epochs3", "gumbel-epochs3-tau0.5"], ["sigmoid", "gumbel-tau0.5"]),
        (["gumbel-gatesi_f_o-namefoo-bar", "gumbel-gatesi_f_o-namefoo-baz"], ["gumbel-namefoo-bar", "gumbel-namefoo-baz"]),
        (["gumbel-epochs3-p0.5", "gumbel-p0.5-epochs3"], ["gumbel-epochs3-p0.5", "gumbel-p0.5-epochs3"]),
        (["gumbel-p0.5"], ["gumbel-p0.5"]),
    ],
)
def test_names_leave_out_what_all_runs_share(names, gates, tmp_path) -> None:
    source = next(Path("results/text").glob("gumbel*")).absolute()
    for name in names:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "best.safetensors").touch()
        config = (source / "config.yaml").read_text()
        (folder / "config.yaml").write_text(re.sub(r"(?m)^run_name: .*$", f"run_name: {name}-seed1", config))
    runs = named_runs(",".join(str(tmp_path / name) for name in names), {})
    assert [run.gate for run in runs] == gates


def test_without_words_only_the_sentence_is_read(text_dir) -> None:
    run = next(Path("results/text").glob("gumbel*"))
    assert heatmap(f"run={run}", "text=w1", "words=none", "layer=layers.1", f"data.dir={text_dir}", "out=one") == 0
    assert {path.name for path in Path("one").iterdir()} == {
        "heatmap.json", "heatmap.png", "heatmap.svg", "units.png", "units.svg",
    }  # fmt: skip


def test_a_report_takes_what_was_measured_and_measures_the_rest(text_dir, capsys) -> None:
    shutil.rmtree("results/gates", ignore_errors=True)
    assert report("runs=results/text/*", f"data.dir={text_dir}", "samples=5", "text=w1 zebra w3") == 0
    said = capsys.readouterr().err.replace("\n", " ")
    assert "measuring the gates of" in said
    assert "gumbel-seed1 does not know, and reads as <unk>: zebra" in said
    page = Path("results/gates/text/report.html")
    assert "zebra*" in page.read_text()
    assert "Compression" not in page.read_text()
    assert histograms("runs=results/text/*", "samples=50", f"data.dir={text_dir}") == 0
    assert sweep("runs=results/text/*", "preset=relative", "cache=false", f"data.dir={text_dir}") == 0
    capsys.readouterr()
    assert report("runs=results/text/*", f"data.dir={text_dir}") == 0
    assert "measuring" not in capsys.readouterr().err
    assert "The first 50 sentences of train" in page.read_text()
    assert "Low rank, over rank" in page.read_text()


def test_a_report_does_not_take_what_was_measured_with_other_weights(text_dir, capsys) -> None:
    assert histograms("runs=results/text/*", "samples=50", f"data.dir={text_dir}") == 0
    path = Path("results/gates/text/gates.json")
    content = json.loads(path.read_text())
    for row in [*content["rows"], *content["metrics"]]:
        row["weights"] = "of another time"
    path.write_text(json.dumps(content))
    assert report("runs=results/text/*", f"data.dir={text_dir}", "samples=5", "out=fresh.html") == 0
    assert "measuring the gates of" in capsys.readouterr().err
    assert "The first 5 sentences of valid" in Path("fresh.html").read_text()


def test_a_report_goes_to_the_tracker_of_each_run_that_has_one(text_dir, monkeypatch) -> None:
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
    shutil.copytree(next(Path("results/text").glob("gumbel*")), "tracked")
    config = Path("tracked/config.yaml")
    config.write_text(config.read_text().replace("tracker:\n  name: none", "tracker:\n  name: wandb"))
    Path("tracked/tracker.json").write_text('{"run_id": "abc"}')
    assert report("runs=tracked", f"data.dir={text_dir}", "samples=5", "out=tracked/report.html") == 0
    assert pages == [{"report": Path("tracked/report.html").read_text()}, "finished"]


@pytest.mark.parametrize(
    ("show", "options", "line"),
    [
        (heatmap, ["text= "], "text has no words"),
        (heatmap, ["text=w1", "layer=layers.9"], "no layer layers.9"),
        (heatmap, ["text=w1", "min_count=100000"], "no word stands 100000 times in valid"),
        (heatmap, ["samples=-3"], "samples: must be a whole number of at least 1, got '-3'"),
        (heatmap, ["min_count=-7"], "min_count: must be a whole number of at least 1, got '-7'"),
        (heatmap, ["threads=-1"], "threads: must be a whole number of at least 1, got '-1'"),
        (heatmap, ["out=taken"], "taken is a file: name a folder"),
        (histograms, ["samples=0"], "samples: must be a whole number of at least 1, got '0'"),
        (histograms, ["samples=²"], "samples: must be a whole number of at least 1, got '²'"),
        (histograms, ["threads=0"], "threads: must be a whole number of at least 1, got '0'"),
        (histograms, ["out=taken/gates"], "taken is a file: name a folder"),
        (histograms, ["layer=layers.9"], "no layer layers.9"),
        (report, ["text= "], "text has no words"),
        (report, ["samples=0"], "samples: must be a whole number of at least 1, got '0'"),
        (report, ["layer=layers.9"], "no layer layers.9"),
    ],
)
def test_a_mistake_is_one_line(show, options, line, text_dir, capsys) -> None:
    Path("taken").touch()
    assert show("runs=results/text/gumbel*", f"data.dir={text_dir}", "out=none", *options) == 2
    assert line in only_error(capsys.readouterr().err)
    assert not Path("none").exists()


def only_error(said: str) -> str:
    """The one line about a mistake in what a command said."""
    (error,) = (line for line in said.splitlines() if line.startswith("error:"))
    assert said.splitlines()[-1] == error
    assert "Traceback" not in said
    return error


@pytest.mark.parametrize(
    ("show", "options"), [(heatmap, ["words=none"]), (heatmap, ["text=w1"]), (histograms, []), (report, ["samples=5"])]
)
def test_a_model_that_diverged_is_one_line(show, options, text_dir, capsys) -> None:
    path = RunDirectory(annealed("diverged")).best
    content = load_checkpoint(path)
    content["model"] = {name: torch.full_like(tensor, torch.nan) for name, tensor in content["model"].items()}
    save_checkpoint(path, content)
    assert show("runs=diverged", f"data.dir={text_dir}", "out=none", *options) == 2
    assert "a gate value is not a number: the model diverged" in only_error(capsys.readouterr().err)
    assert not Path("none").exists()


def test_runs_that_read_different_texts_are_refused(text_dir, capsys) -> None:
    short = Path(shutil.copytree(text_dir, "short", dirs_exist_ok=True))
    (short / "train.txt").write_text((text_dir / "train.txt").read_text().partition("\n")[2])
    one, other = annealed("d/gumbel-seed1"), annealed("d/gumbel-seed2", seed="2")
    for run, where in ((one, text_dir), (other, short.absolute())):
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(re.sub(r"(?m)^(data:\n(?:  .*\n)*?  dir:).*$", rf"\1 {where}", config))
    assert histograms("runs=d/*", "metric=none", "out=none") == 2
    error = only_error(capsys.readouterr().err)
    assert "d/gumbel-seed2: its text is not that of the runs before it" in error
    assert not Path("none").exists()


def test_a_place_for_a_file_is_no_folder_and_lies_in_none_that_is_a_file(tmp_path) -> None:
    (tmp_path / "taken").touch()
    assert cli.file(str(tmp_path / "new" / "report.html")) == tmp_path / "new" / "report.html"
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder: name a file in it"):
        cli.file(str(tmp_path))
    with pytest.raises(argparse.ArgumentTypeError, match="taken is a file: name a folder"):
        cli.file(str(tmp_path / "taken" / "report.html"))


@pytest.mark.parametrize("show", [heatmap, histograms, report])
def test_a_run_without_weights_is_one_line(show, capsys) -> None:
    bare = Path("bare")
    if not bare.exists():
        bare.mkdir()
        shutil.copy(next(Path("results/text").glob("gumbel*")) / "config.yaml", bare)
    assert show("runs=bare") == 2
    assert "bare has no weights (best.safetensors)" in capsys.readouterr().err
    assert show("runs=nowhere") == 2
    assert "nowhere is not a run directory" in capsys.readouterr().err
