"""The demo trains both models and prints what it measured."""

import signal

import demo
import pytest

from g2lstm.commands.demo import train_side_by_side

SMALL = ("max_steps=20", "model.embedding_size=16", "model.hidden_size=16", "data.max_vocabulary=500")


@pytest.fixture
def _shortly(commands, monkeypatch):
    """Trains smaller models for a few steps."""
    monkeypatch.setattr("g2lstm.commands.demo.start_training", commands.start_training)

    def train(gates, folder, options, console):
        return train_side_by_side(gates, folder, [*options, *SMALL], console)

    monkeypatch.setattr(demo, "train_side_by_side", train)


@pytest.fixture
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_shortly", "_own_folder", "undrawn")
def test_demo_trains_two_models_and_prints_their_table(tmp_path, capsys) -> None:
    assert demo.demo(["epochs=1"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert any("plain LSTM" in line and "G2-LSTM" in line for line in lines)
    for name in ("validation perplexity", "outside [0.1, 0.9]", "round 0.5", "round 0.3 & clip 0.6", "SVD 2", "SVD 1"):
        assert any(name in line and line.count("│") == 4 for line in lines), name
    for gate in ("sigmoid", "gumbel"):
        assert (tmp_path / "runs" / "demo" / gate / "summary.json").is_file()
    assert "runs/demo/report.html" in printed.replace("\n", " ")
    assert "</html>" in (tmp_path / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
