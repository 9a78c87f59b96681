"""Gate values recomputed from a layer's inputs and outputs are those of the recurrence."""

import pytest
import torch

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate
from g2lstm.inspection.gates import binary_share, gate_values, recorded_gates


def gates_step_by_step(rnn: G2LSTM, x: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
    """The gates of every step from a plain loop over the framework's cell equations."""
    h = c = x.new_zeros(x.shape[1], rnn.hidden_size)
    steps: dict[str, list[torch.Tensor]] = {"i": [], "f": [], "o": []}
    for x_t in x:
        a = x_t @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
        a_i, a_f, a_g, a_o = a.chunk(4, dim=1)
        i, f, o = (a_i * scale).sigmoid(), (a_f * scale).sigmoid(), a_o.sigmoid()
        c = f * c + i * a_g.tanh()
        h = o * c.tanh()
        for name, value in zip("ifo", (i, f, o), strict=True):
            steps[name].append(value)
    return {name: torch.stack(values) for name, values in steps.items()}


@pytest.mark.parametrize(("gate", "scale"), [(SigmoidGate(), 1.0), (GumbelGate(), 1.0), (SharpenedGate(tau=0.2), 5.0)])
def test_gate_values_equal_a_step_by_step_computation(gate, scale) -> None:
    rnn = G2LSTM(3, 5, gate=gate, dtype=torch.float64).eval()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        output, _ = rnn(x)
        values = gate_values(rnn, x, output, x.new_zeros(2, 5))
        expected = gates_step_by_step(rnn, x, scale)
    for name in "ifo":
        torch.testing.assert_close(values[name], expected[name], rtol=1e-10, atol=1e-12)


def test_recording_goes_on_from_a_given_state() -> None:
    rnn = G2LSTM(3, 5).eval()
    x = torch.randn(8, 2, 3)
    with torch.no_grad(), recorded_gates([rnn]) as records:
        rnn(x)
        _, state = rnn(x[:4])
        rnn(x[4:], state)
    whole, first, second = records
    torch.testing.assert_close(whole["f"], torch.cat([first["f"], second["f"]]))


def test_nothing_is_recorded_after_the_context() -> None:
    rnn = G2LSTM(3, 5).eval()
    with recorded_gates([rnn]) as records:
        pass
    rnn(torch.randn(2, 1, 3))
    assert records == []


def test_binary_share_counts_values_outside_the_margin() -> None:
    record = {"i": torch.tensor([0.05, 0.5, 0.95, 0.2]), "f": torch.tensor([0.01, 0.3, 0.6, 0.89])}
    assert binary_share([record]) == pytest.approx(3 / 8)


def test_a_stacked_layer_is_refused() -> None:
    rnn = G2LSTM(3, 5, num_layers=2).eval()
    with pytest.raises(ValueError, match="one time-major unidirectional layer"):
        gate_values(rnn, torch.zeros(1, 1, 3), torch.zeros(1, 1, 5), torch.zeros(1, 5))


def test_a_state_given_by_name_counts() -> None:
    rnn, x = G2LSTM(3, 5).eval(), torch.randn(4, 2, 3)
    state = (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    with torch.no_grad(), recorded_gates([rnn]) as records:
        rnn(x, state)
        rnn(x, hx=state)
    torch.testing.assert_close(records[0]["i"], records[1]["i"])


@pytest.mark.parametrize("rnn", [G2LSTM(3, 5), G2LSTM(3, 5, gate=HardGate()).eval()], ids=["training", "hard"])
def test_gates_that_are_not_the_plain_sigmoid_are_refused(rnn: G2LSTM) -> None:
    with pytest.raises(ValueError, match="eval mode and from gates that are not hard"):
        gate_values(rnn, torch.zeros(1, 1, 3), torch.zeros(1, 1, 5), torch.zeros(1, 5))
