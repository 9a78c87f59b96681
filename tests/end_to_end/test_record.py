"""record=true: what a run leaves under results/, and when it leaves nothing there."""

import json
from pathlib import Path

import pytest
import torch

import train
from g2lstm import cli
from g2lstm.training.checkpoint import load_checkpoint


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short(tiny) -> list[str]:
    return [*tiny, "epochs=1", "finetune=false", "eval.cache.enabled=false"]


def command(*arguments: str) -> int:
    return cli.guarded(lambda: train.main(list(arguments)))


def contents(folder: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def recorded() -> dict:
    """The summary of the one record."""
    (path,) = Path("results").rglob("summary.json")
    return json.loads(path.read_text())


def test_a_record_has_all_that_later_tools_read(short, text_dir):
    assert command(*short, "record=true", "gate.noise_p=0.5") == 0
    (folder,) = Path("results/text").iterdir()
    assert folder.name.startswith("gumbel-")
    assert folder.name.endswith("-finetunefalse-p0.5-seed1")
    assert folder.name.count("-epochs") == 1  # of an option given twice the last counts
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "environment.json", "vocabulary.json", "metrics.jsonl", "summary.json", "best.safetensors"),
        "losses.safetensors",
    }
    assert str(text_dir) not in "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    weights = load_checkpoint(folder / "best.safetensors")["model"]
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    for split in ("valid", "test"):
        rounded, exact = (recorded()[f"{split}_perplexity{text}"] for text in ("_recorded_weights", ""))
        assert rounded == pytest.approx(exact, rel=0.02)
        assert rounded != exact


@pytest.mark.parametrize("option", ["record_weights=false", "record_weights=true"])
def test_weights_are_left_out_where_asked_and_of_a_large_model(short, monkeypatch, capsys, option):
    monkeypatch.setattr("g2lstm.runs.record.LARGEST_RECORDED_MODEL", 100 if option.endswith("true") else 10**9)
    assert command(*short, "record=true", option, "run_dir=run") == 0
    assert Path("run/best.safetensors").is_file()
    assert not list(Path("results").rglob("best.safetensors"))
    assert recorded()["finished"]
    told = "without weights: the model has more than" in " ".join(capsys.readouterr().out.split())
    assert told == option.endswith("true")


def test_only_a_finished_run_is_recorded_and_it_can_be_later(short):
    assert command(*short, "run_dir=run", "record=true", "max_steps=3") == 0
    assert command("resume=run", "record=false") == 0
    assert not Path("results").exists()
    before = contents("run")
    assert command("resume=run", "record=true") == 0
    assert recorded()["finished"]
    assert contents("run") == before
    assert command("resume=run", "record=true") == 2


def test_an_earlier_record_is_not_overwritten(short, capsys):
    assert command(*short, "record=true") == 0
    before = contents("results")
    assert command(*short, "record=true", "optimizer.lr=4.0") == 0  # another name, another record
    assert command(*short, "record=true") == 0
    assert "holds an earlier record, which stays" in capsys.readouterr().out
    assert before.items() <= contents("results").items()


def test_a_repeated_sweep_records_what_finished_without_a_record(short, capsys):
    assert command("-m", *short) == 0
    before = contents("runs/text")
    for _ in range(2):
        assert command("-m", *short, "record=true") == 0
    assert capsys.readouterr().out.count("recorded in results/text/") == 1
    assert recorded()["finished"]
    assert contents("runs/text") == before


def test_that_an_experiment_is_recorded_holds_for_its_own_task(short, capsys):
    options = ["experiment=ptb_cpu", *short, "precision=float32"]
    assert command(*options, "run_dir=run") == 0
    assert "not recorded, as experiment=ptb_cpu on its own task would be" in capsys.readouterr().out
    assert not Path("results").exists()
    assert command(*options, "run_dir=other", "record=true") == 0
    assert recorded()["task"] == "text"


def test_uncommitted_code_does_not_record_into_its_own_results(short, monkeypatch, capsys):
    monkeypatch.setattr("g2lstm.training.environment.commit", lambda: "0123456789ab-dirty")
    monkeypatch.setattr("g2lstm.training.environment.checkout", lambda: Path.cwd())
    assert command(*short, "record=true", "run_dir=run") == 2
    assert "uncommitted changes" in capsys.readouterr().err
    assert not Path("run").exists()
    monkeypatch.setattr("g2lstm.training.environment.checkout", lambda: Path.cwd() / "elsewhere")
    assert command(*short, "record=true", "run_dir=run") == 0
