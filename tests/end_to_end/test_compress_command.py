"""From a run to a small file, its evaluation and its ONNX."""

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from compress import compress
from export_onnx import export_onnx

import evaluate
import train
from g2lstm import cli
from g2lstm.compression import Method, compressed_copy
from g2lstm.compression.deploy import deploy
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.compression.stored import deploy_run
from g2lstm.runs.run import Run
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder in which a run with a sharpened gate was trained."""
    path = tmp_path_factory.mktemp("compress")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert train.main([*tiny, "gate=sharpened", "epochs=1", "finetune=false", "run_dir=run"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def perplexities(*arguments: str) -> dict[str, float]:
    assert cli.guarded(lambda: evaluate.main([*arguments, "json=found.json"])) == 0
    found = json.loads(Path("found.json").read_text())
    return {name: value for name, value in found.items() if name != "run"}


def test_an_uncompressed_file_evaluates_to_the_runs_summary(text_dir) -> None:
    assert compress(["run=run", "out=whole.g2"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    for name, value in perplexities("run=whole.g2", f"data.dir={text_dir}").items():
        assert value == pytest.approx(summary[name], rel=1e-5), name


def test_a_compressed_file_evaluates_to_what_the_compressed_model_does(text_dir, monkeypatch) -> None:
    assert compress(["run=run", "method=svd", "rank=H/4", "out=deep/svd.g2"]) == 0
    found = perplexities("run=deep/svd.g2", f"data.dir={text_dir}")
    load = Run.model
    monkeypatch.setattr(Run, "model", lambda *a: compressed_copy(load(*a), Method.parse("svd:H/4")))
    assert perplexities("run=run") == pytest.approx(found, rel=1e-5)


def test_fine_tuning_makes_a_harsh_form_better_in_a_file_of_the_same_size(text_dir, capsys) -> None:
    harsh = ["run=run", "method=ternary", "gates=ifgo", "rest=int8"]
    assert compress([*harsh, "out=harsh.g2"]) == 0
    assert compress([*harsh, "tune=2", "tune_lr=0.5", "out=tuned.g2"]) == 0
    lines = capsys.readouterr().err
    first, moment, kept = re.search(
        r"valid perplexity ([\d.]+) before fine-tuning; kept is that at (\d+%): ([\d.]+)\n", lines
    ).groups()
    assert f"fine-tuned 0%: valid perplexity {first}\n" in lines
    assert f"fine-tuned {moment}: valid perplexity {kept}\n" in lines
    options = ["split=valid", "eval.cache.enabled=false", f"data.dir={text_dir}"]
    before, after = (perplexities(f"run={name}.g2", *options)["valid_perplexity"] for name in ("harsh", "tuned"))
    assert (f"{before:.2f}", f"{after:.2f}") == (first, kept)
    assert after < before - 0.1
    sizes = [Path(f"{name}.g2").stat().st_size for name in ("harsh", "tuned")]
    assert sizes[1] == pytest.approx(sizes[0], abs=300)  # which the note on it takes


def test_a_signal_ends_fine_tuning_with_the_best_so_far_in_the_file(text_dir, monkeypatch, capsys) -> None:
    def trained(self, stage, epoch, epochs, share, *_) -> None:
        if share > 0.6 and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))

    asked = []
    monkeypatch.setattr("g2lstm.commands.tune.Reporter.trained", trained)
    tuned = ["run=run", "method=ternary", "gates=ifgo", "tune=2", "tune_lr=0.5", "out=stopped.g2"]
    assert compress(tuned) == 130
    kept = re.search(r"stopped: valid perplexity .* kept is that at 50%: ([\d.]+)\n", capsys.readouterr().err)[1]
    options = ["run=stopped.g2", "split=valid", "eval.cache.enabled=false", f"data.dir={text_dir}"]
    assert f"{perplexities(*options)['valid_perplexity']:.2f}" == kept


def test_a_run_and_its_compressed_model_are_evaluated_together(text_dir) -> None:
    assert compress(["run=run", "out=both/whole.g2"]) == 0
    evaluated = ["run=run,both/*.g2", f"data.dir={text_dir}", "split=test", "json=both.json"]
    assert cli.guarded(lambda: evaluate.main(evaluated)) == 0
    one, two = json.loads(Path("both.json").read_text())
    assert (one.pop("run"), two.pop("run")) == ("run", "both/whole.g2")
    assert two == pytest.approx(one, rel=1e-5)


def test_a_record_that_does_not_tell_its_kind_is_compressed_too(text_dir) -> None:
    shutil.copytree("run", "older")
    content = load_checkpoint(Path("older/best.safetensors"))
    save_checkpoint(Path("older/best.safetensors"), {name: content[name] for name in ("model", "tau")})
    assert compress(["run=older", "out=older.g2", f"data.dir={text_dir}"]) == 0
    assert load_model(Path("older.g2")).forms.keys() == deploy_run(Run.open("run"), Method()).forms.keys()


def test_it_says_how_small_the_file_is_and_what_can_be_done_with_it(text_dir, capsys) -> None:
    assert compress(["run=run", "method=round:0.2+clip:0.4", "rest=int8", "gates=ifgo", "out=small.g2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("round 0.2 & clip 0.4 of gates i, f, g, o of the input and recurrent matrices, all layers")
    assert lines[1].startswith(f"small.g2: {Path('small.g2').stat().st_size / 1e6:.2f} MB, ")
    assert lines[2] == f"evaluate it with: python evaluate.py run=small.g2 data.dir={text_dir}"
    assert len(lines) == 3


@pytest.mark.parametrize("source", ["run", "svd.g2"])
@pytest.mark.parametrize("int8", ["false", "true"])
def test_both_are_exported_and_checked(source, int8, capsys) -> None:
    pytest.importorskip("onnxruntime")
    assert compress(["run=run", "method=svd", "rank=2", "out=svd.g2"]) == 0
    assert export_onnx([f"run={source}", f"int8={int8}", "out=model.onnx"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("largest difference of a logit in onnxruntime, over sequences of 1 and 35 words: ")
    assert float(last.split()[-1]) < (0.5 if int8 == "true" else 1e-5)


def test_a_file_that_does_not_compute_the_same_is_not_left_behind(monkeypatch, capsys) -> None:
    pytest.importorskip("onnxruntime")
    for difference in (0.01, float("nan")):
        monkeypatch.setattr("export_onnx.largest_difference", lambda *_, found=difference: found)
        assert cli.guarded(lambda: export_onnx(["run=run", "out=bad/model.onnx"])) == 2
        assert "nothing is written" in capsys.readouterr().err
        assert not Path("bad").exists()


def test_a_missing_package_is_said_before_anything_is_written(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli.guarded(lambda: export_onnx(["run=run", "out=none/model.onnx"])) == 2
    assert "the package onnxruntime is not installed: pip install 'g2lstm[onnx]'" in capsys.readouterr().err
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --run, --out"),
        (["run=nowhere", "out=x.g2"], "nowhere is not a run directory"),
        (
            ["run=run", "out=x.g2", "method=svd"],
            "method=svd and rank=64, or as rank=H/16, go together, got method=svd alone",
        ),
        (["run=run", "out=x.g2", "method=ternary", "rank=3"], "got method=ternary and rank=3"),
        (["run=run", "out=x.g2", "method=svd", "rank=many"], "is no compression setting"),
        (["run=run", "out=x.g2", "method=zip"], "'zip' is no compression setting"),
        (["run=run", "out=x.g2", "seed=0"], "tune_lr= and seed= are of fine-tuning: set tune=1 too"),
        (["run=run", "out=x.g2", "tune_lr=0.2"], "tune_lr= and seed= are of fine-tuning: set tune=1 too"),
        (["run=run", "out=x.g2", "rest=int4"], "invalid choice: 'int4'"),
        (["run=run", "out=x.g2", "layers=7"], "there is no LSTM layer 7"),
        (["run=run", "out=run"], "out: run is a folder: name a file in it"),
        (["run=run", "out=run/best.safetensors"], "run/best.safetensors belongs to the run run: choose another name"),
        (["run=run", "out=run/tracker.json"], "run/tracker.json belongs to the run run: choose another name"),
        (["run=run", "out=run/vocabulary.json"], "run/vocabulary.json belongs to the run run: choose another name"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message) -> None:
    assert cli.guarded(lambda: compress(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("x.g2").exists()


def test_files_that_can_not_be_evaluated_are_named(capsys) -> None:
    Path("text.g2").write_text("no model")
    assert cli.guarded(lambda: evaluate.main(["run=text.g2"])) == 2
    assert "text.g2 is damaged" in capsys.readouterr().err
    model = deploy(deploy_run(Run.open("run"), Method()).dense_model())
    save_model(Path("anonymous.g2"), model)
    assert cli.guarded(lambda: evaluate.main(["run=anonymous.g2"])) == 2
    assert "does not say what it was trained on" in capsys.readouterr().err
