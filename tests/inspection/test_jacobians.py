"""The norms of d h_T / d h_t are those of a closed form and of the framework's Jacobians; the command that shows them."""

import json
from pathlib import Path

import gradient_flow
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from g2lstm import G2LSTM, SharpenedGate, cli
from g2lstm.inspection.jacobians import DISTRACTORS, MODELS, SYMBOLS, jacobian_norms, measure_recall, recall_batch
from g2lstm.reporting.gradient_flow import draw, table
from g2lstm.training import environment

T, B, D, H = 6, 3, 4, 5


@pytest.fixture(autouse=True)
def _threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command(*arguments: str) -> int:
    return cli.guarded(lambda: gradient_flow.gradient_flow(list(arguments)))


def test_a_linear_rnn_shrinks_a_change_by_its_own_factor_at_each_step() -> None:
    rnn = nn.RNN(D, H, nonlinearity="relu")
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.abs_()  # so that no unit is ever cut off
        rnn.weight_hh_l0.copy_(0.5 * torch.eye(H)[torch.randperm(H)])
    norms = jacobian_norms(rnn, torch.rand(T, B, D))
    assert list(norms) == ["h"]
    expected = 0.5 ** torch.arange(T - 1, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(norms["h"], expected[:, None].expand(T - 1, B))


@pytest.mark.parametrize(
    "make", [nn.LSTM, lambda *sizes: G2LSTM(*sizes, gate=SharpenedGate())], ids=["nn.LSTM", "sharpened"]
)
def test_an_lstm_has_the_norms_of_the_frameworks_jacobians(make) -> None:
    rnn, x = make(D, H).double(), torch.randn(T, B, D, dtype=torch.float64)
    norms = jacobian_norms(rnn, x)
    for t in range(1, T):
        for one in range(B):
            mine = x[:, one : one + 1]
            _, state = rnn(mine[:t])
            both = jacobian(lambda h, c, rest=mine[t:]: rnn(rest, (h, c))[1][0], state)
            for kind, matrix in zip("hc", both, strict=True):
                expected = torch.linalg.svdvals(matrix.reshape(H, H))[0]
                torch.testing.assert_close(norms[kind][t - 1, one], expected)


def test_norms_far_below_float32_are_told_apart() -> None:
    rnn = nn.RNN(D, H)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(1e-10)
    norms = jacobian_norms(rnn, torch.randn(T, B, D))["h"]
    assert 0 < norms[0].max() < 1e-45
    assert (norms[0] < norms[1]).all()


def test_the_symbol_is_shown_first_and_never_again() -> None:
    x, symbols = recall_batch(50, 7, torch.Generator().manual_seed(1))
    assert x.shape == (8, 50, SYMBOLS + DISTRACTORS)
    assert (x.sum(-1) == 1).all()
    assert x[0].argmax(-1).equal(symbols)
    assert (x[1:].argmax(-1) >= SYMBOLS).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_gives_the_same_numbers_and_training_learns(name) -> None:
    row = measure_recall(name, 3, delay=2, steps=120)
    assert row["after"]["accuracy"] > row["before"]["accuracy"] + 0.3
    torch.rand(5)
    assert measure_recall(name, 3, delay=2, steps=120) == row


def test_before_training_an_lstm_and_a_g2_lstm_have_the_same_weights() -> None:
    plain, ours = (measure_recall(name, 3, delay=2, steps=1)["before"] for name in ("sigmoid", "gumbel"))
    assert plain["accuracy"] == ours["accuracy"]  # in test a G2-LSTM is an LSTM
    assert plain["c"] != ours["c"]  # in training its gates are noisy


def test_the_command_writes_rows_table_and_figure(tmp_path, capsys) -> None:
    assert command("seeds=2", "delay=2", "steps=1", f"out={tmp_path / 'a'}") == 0
    said = capsys.readouterr()
    assert "6/6  G2-LSTM, seed 2: accuracy" in said.err
    assert {path.name for path in (tmp_path / "a").iterdir()} == {f"norms.{kind}" for kind in ("json", "md", "png", "svg")}
    rows = json.loads((tmp_path / "a" / "norms.json").read_text())
    assert [(row["model"], row["seed"]) for row in rows] == [(name, seed) for seed in (1, 2) for name in MODELS]
    assert table(rows) in said.out
    assert "| plain RNN |" in table(rows)
    lines = [[len(axes.lines), len(axes.collections)] for axes in draw(rows).axes]
    assert lines == [[4, 3], [4, 3], [3, 2], [3, 2]]  # curves and a line at 1, bands


def test_the_recorded_table_is_that_of_the_recorded_numbers() -> None:
    folder = Path(gradient_flow.__file__).parent.parent / "results" / "gradient_flow"
    assert table(json.loads((folder / "norms.json").read_text())) + "\n" == (folder / "norms.md").read_text()


def test_what_a_commit_has_is_measured_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(environment, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(gradient_flow, "save_figure", lambda *_: [])
    arguments = ("seeds=1", "delay=2", "steps=1", f"out={tmp_path}")
    assert command(*arguments) == 0
    monkeypatch.setattr(gradient_flow, "measure_recall", None)
    assert command(*arguments) == 0


def test_a_record_of_uncommitted_code_is_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(environment, "checkout", lambda: tmp_path)
    monkeypatch.setattr(environment, "commit", lambda: "0123456789ab-dirty")
    assert command(f"out={tmp_path / 'results' / 'gradient_flow'}") == 2
    assert "is a record, with uncommitted changes" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("seeds=0", "seeds must be a whole number from 1 to 100, got '0'"),
        ("delay=x", "delay must be a whole number from 1 to 1000, got 'x'"),
        ("steps=-5", "steps must be a whole number from 1 to 1000000, got '-5'"),
        ("out=taken", "taken is a file: name a folder"),
        ("seed=1", "there is no option seed: did you mean seeds=...?"),
    ],
)
def test_a_mistake_is_one_line(option, line, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert command(option) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
