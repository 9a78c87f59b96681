"""Rows of gates.json."""

import hashlib

import pytest
import torch

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate
from g2lstm.inspection.gates import GateRecord
from g2lstm.inspection.measure import ALL, about_run, joined, modes_of, rows_of
from g2lstm.inspection.statistics import GateStatistics


def test_a_noisy_gate_has_four_modes_and_others_two() -> None:
    rnn, seen = G2LSTM(3, 5, gate=GumbelGate(tau=0.9)).eval(), {}
    for mode, switched_on in modes_of(rnn):
        with switched_on:
            seen[mode] = (rnn.gate, rnn.training)
    gate = GumbelGate(tau=0.9)
    expected = {"training": (gate, True), "test": (gate, False), "tempered": (SharpenedGate(0.9), False)}
    assert seen == expected | {"hard": (HardGate(), False)}
    for plain in (SigmoidGate(), SharpenedGate()):
        assert [mode for mode, _ in modes_of(G2LSTM(3, 5, gate=plain).eval())] == ["test", "hard"]


@pytest.mark.parametrize("gate", [GumbelGate(gates=("i", "f", "o")), SharpenedGate(gates=("f",)), SigmoidGate()])
def test_the_gates_that_were_trained_are_cut(gate) -> None:
    rnn = G2LSTM(3, 5, gate=gate).eval()
    with dict(modes_of(rnn))["hard"]:
        assert rnn.gate.gates == (gate.gates or ("i", "f"))


def test_a_run_is_told_with_its_present_temperature_and_weights(tmp_path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    rnn = G2LSTM(3, 5, gate=GumbelGate(tau=0.9, noise_p=0.5)).eval()
    rnn.tau = 0.3
    found = about_run(tmp_path, "gumbel-p0.5", 3, rnn)
    expected = {"run": tmp_path.as_posix(), "gate": "gumbel-p0.5", "label": "G2-LSTM (p0.5)", "seed": 3}
    assert found == expected | {"weights": hashlib.sha256(b"weights").hexdigest()[:20], "tau": 0.3, "noise_p": 0.5}
    plain = about_run(tmp_path, "sigmoid", 1, G2LSTM(3, 5, gate=SigmoidGate()))
    assert (plain["tau"], plain["noise_p"]) == (None, None)


def test_rows_of_layers_add_up_to_the_row_of_all() -> None:
    statistics = GateStatistics()
    for name, size in (("a", 2), ("b", 6)):
        values = torch.rand(5, 3, size)
        statistics.add(GateRecord(name, 0, False, 0, {"i": values, "f": values**2}, None))
    rows = rows_of(statistics)
    assert [(row["layer"], row["block"]) for row in rows] == [*((n, b) for n in "ab" for b in "if"), (ALL, "i"), (ALL, "f")]
    a, b, both = (row for row in rows if row["block"] == "f")
    assert both["values"] == a["values"] + b["values"] == 15 * 8
    assert both["mean"] == pytest.approx((2 * a["mean"] + 6 * b["mean"]) / 8, abs=1e-6)
    for row in rows:
        assert sum(row["histogram"]) == pytest.approx(1.0, abs=1e-5)
        assert row["binary"] == pytest.approx(sum(row["histogram"][:5] + row["histogram"][-5:]), abs=1e-5)


def test_bins_are_joined_in_order() -> None:
    assert joined([0.1, 0.2, 0.3, 0.4], 2) == pytest.approx([0.3, 0.7])
