"""The commands that show gates, from a run directory to their files; one line about a mistake."""

import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import compression_sweep
import gate_heatmap
import gate_histograms
import pytest
import report as report_command

import train
from g2lstm import cli

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
    for row in content["metrics"]:
        row["perplexity"] *= 1.1
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
        (histograms, ["samples=0"], "samples must be a number of sentences >= 1, or all, got '0'"),
        (histograms, ["layer=layers.9"], "no layer layers.9"),
        (report, ["text= "], "text has no words"),
        (report, ["samples=0"], "samples must be a number of sentences >= 1, got 0"),
        (report, ["layer=layers.9"], "no layer layers.9"),
    ],
)
def test_a_mistake_is_one_line(show, options, line, text_dir, capsys) -> None:
    assert show("runs=results/text/gumbel*", f"data.dir={text_dir}", "out=none", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert line in error
    assert not Path("none").exists()


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
