"""Deployed forms are measured beside onnxruntime, on the text that an evaluation reads."""

import json
from pathlib import Path

import pytest
from compress import compress
from pareto import pareto

import evaluate
import train
from g2lstm import cli, runtime
from g2lstm.benchmark import pareto as measured
from g2lstm.benchmark.measure import in_turns
from g2lstm.reporting.pareto import front
from tests.conftest import without_drawing

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(runtime.problem() is not None, reason="no compiler")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with a run of each of two gates."""
    path = tmp_path_factory.mktemp("pareto")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for gate in ("sigmoid", "gumbel"):
            assert train.main([*tiny, f"gate={gate}", "epochs=1", "finetune=false", f"run_dir={gate}"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    fewest = {"seconds": 0, "least": 2, "turn": 0}
    monkeypatch.setattr(measured, "in_turns", lambda steps, device, **_: in_turns(steps, device, **fewest))


def test_each_engine_has_a_row_with_quality_time_and_size(capsys, monkeypatch) -> None:
    command = ["runs=sigmoid,gumbel", "forms=original/float32,svd:3+bits:8/int8", "seconds=1", "threads=1", "out=out"]
    assert pareto(command) == 0
    rows = json.loads(Path("out/pareto.json").read_text())
    engines = ["dense", "svd:3+bits:8, rest int8", "onnxruntime", "onnxruntime int8"]
    assert [(row["run"], row["engine"]) for row in rows] == [(run, e) for run in ("sigmoid", "gumbel") for e in engines]
    assert all(row["ms"] > 0 and row["hardware"] and row["threads"] == 1 for row in rows)
    assert compress(["run=gumbel", "method=svd:3+bits:8", "rest=int8", "out=gumbel.g2"]) == 0
    assert rows[5]["file_mb"] == round(Path("gumbel.g2").stat().st_size / 1e6, 3)
    capsys.readouterr()
    assert evaluate.main(["run=gumbel", "split=test", "eval.cache.enabled=false"]) == 0
    expected = float(capsys.readouterr().out.split()[-1])
    values = {row["engine"]: row["value"] for row in rows if row["run"] == "gumbel"}
    assert values["dense"] == pytest.approx(expected, abs=0.01)
    assert values["onnxruntime"] == pytest.approx(expected, abs=0.01)
    assert 0 < abs(values["onnxruntime int8"] - expected) < 1
    assert "| onnxruntime int8 |" in Path("out/pareto.md").read_text()
    assert {path.name for path in Path("out").iterdir()} == {f"pareto.{kind}" for kind in ("json", "md", "png", "svg")}
    with without_drawing():
        assert pareto([*command, "limit=3"]) == 0
        assert len(json.loads(Path("out/pareto.json").read_text())) == len(rows)
        assert pareto(command) == 0
        monkeypatch.setattr(measured, "token_losses", lambda *_: pytest.fail("a perplexity is measured twice"))
        assert pareto(command) == 0
    assert [row["value"] for row in json.loads(Path("out/pareto.json").read_text())] == [row["value"] for row in rows]


def test_a_fine_tuned_model_stands_beside_its_run(undrawn, capsys) -> None:
    assert compress(["run=gumbel", "method=ternary", "rest=int8", "tune=0.5", "out=tuned.g2"]) == 0
    command = ["forms=original/int8", "seconds=1", "limit=3", "models=tuned.g2", "out=tuned"]
    assert pareto(["runs=sigmoid,gumbel", *command]) == 0
    rows = json.loads(Path("tuned/pareto.json").read_text())
    assert [row["run"] for row in rows if row["engine"] == "ternary, rest int8, tuned for 0.5 passes"] == ["gumbel"]
    capsys.readouterr()
    assert cli.guarded(lambda: pareto(["runs=sigmoid", *command])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tuned.g2 was made from none of these runs" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs=nowhere"], "nowhere is not a run directory"),
        (["runs=gumbel", "forms=zip/int8"], "'zip' is no compression setting"),
        (["runs=gumbel", "layers=7"], "there is no LSTM layer 7"),
        (["runs=gumbel", "gates=x"], "gates must be some of i, f, g, o, got x"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message) -> None:
    assert cli.guarded(lambda: pareto([*arguments, "out=none"])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("none").exists()


def test_the_front_are_those_that_none_beats() -> None:
    assert front([(3, 1.0), (1, 9.0), (2, 5.0), (2.5, 6.0), (4, 1.0)]) == [(1, 9.0), (2, 5.0), (3, 1.0)]
