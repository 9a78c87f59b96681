"""Gates in other modes than evaluation, and back again."""

import pytest
import torch
from torch import nn

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, HardGate, SharpenedGate, SigmoidGate
from g2lstm.inspection.gates import recorded_gates
from g2lstm.inspection.modes import modes_of, training_gates, with_gate


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scope", ["step", "mask", "sequence"])
def test_training_gates_are_noisy_and_tempered_and_nothing_is_dropped(scope) -> None:
    gate = GumbelGate(tau=0.5, noise_p=0.5, noise_scope=scope)
    rnn = G2LSTM(3, 5, num_layers=2, dropout=0.9, weight_dropout=0.9, gate=gate).eval()
    x, plain = torch.randn(6, 4, 3), G2LSTM(3, 5, num_layers=2, gate=gate)
    plain.load_state_dict(rnn.state_dict())
    with training_gates(rnn, generator()), recorded_gates(rnn) as records:
        found = rnn(x)[0]
    assert torch.equal(found, plain(x, noise=plain.draw_noise(6, 4, generator=generator()))[0])
    assert len(records) == 2
    assert (rnn.training, rnn.dropout, rnn.weight_dropout) == (False, 0.9, 0.9)
    assert torch.equal(rnn(x)[0], rnn(x)[0])


def test_packed_batch_first_unbatched_and_cells_get_noise_of_their_shape() -> None:
    x = torch.randn(2, 6, 3)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([6, 2]), batch_first=True)
    rnn, cell = G2LSTM(3, 5, batch_first=True).eval(), G2LSTMCell(3, 5).eval()
    with training_gates(nn.ModuleList([rnn, cell]), generator()):
        for given in (x, packed, x[0]):
            rnn(given)
        cell(x[0])
        cell(x[0, 0])
        assert not torch.equal(cell(x[0])[0], cell(x[0])[0])


def test_a_gate_without_noise_is_in_training_as_in_test() -> None:
    for gate in (SigmoidGate(), SharpenedGate(), GumbelGate(tau=1.0, noise_p=0.0)):
        rnn, x = G2LSTM(3, 5, gate=gate).eval(), torch.randn(6, 2, 3)
        expected = rnn(x)[0]
        with training_gates(rnn, generator()), recorded_gates(rnn) as records:
            torch.testing.assert_close(rnn(x)[0], expected)
        assert len(records) == 1


def test_another_gate_is_taken_back_with_its_temperature() -> None:
    rnn = G2LSTM(3, 5, gate=GumbelGate(tau=0.9)).eval()
    rnn.tau = 0.4
    with with_gate(rnn, HardGate()):
        assert rnn.gate == HardGate()
    assert (rnn.gate, rnn.tau) == (GumbelGate(tau=0.9), 0.4)


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
