"""G2LSTM in mixed and low precision, and its two engines against each other. T time, B batch, D input, H hidden units."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from g2lstm import G2LSTM, GumbelGate, SharpenedGate, SigmoidGate
from tests.processor import needs_bfloat16

T, B, D, H = 12, 4, 16, 24
LENGTHS = torch.tensor([3, 12, 7, 1])
OPTIONS = {
    "plain": {},
    "stacked": {"num_layers": 2, "bidirectional": True, "dropout": 0.2},
    "projected": {"num_layers": 2, "proj_size": 8},
}
LOW = torch.bfloat16
# Norm-wise distance of the engines. bfloat16 keeps 8 bits, and each engine rounds its gradients at other places.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, LOW: 3e-2}
AUTOCAST_TOLERANCE = 3e-2


def autocast() -> torch.autocast:
    return torch.autocast("cpu", dtype=LOW)


def results(rnn: G2LSTM, x: Tensor, packed: bool, low: bool = False) -> dict[str, Tensor]:
    """Outputs and gradients of one training pass, with all random numbers from one seed."""
    rnn.zero_grad()
    x = x.clone().requires_grad_()
    given = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
    with torch.autocast("cpu", dtype=LOW, enabled=low):
        output, (h_n, c_n) = rnn(given, generator=torch.Generator().manual_seed(0))
    outputs = {"output": output.data if packed else output, "h_n": h_n, "c_n": c_n}
    sum(part.double().pow(2).sum() for part in outputs.values()).backward()
    return outputs | {"x": x.grad} | {name: parameter.grad for name, parameter in rnn.named_parameters()}


def assert_close(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    for name, expected in right.items():
        assert left[name].dtype == expected.dtype, name
        error = (left[name].double() - expected.double()).norm() / expected.double().norm()
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("low", [False, True], ids=["", "autocast"])
def test_engines_agree_on_numbers_and_gradients(options, packed, dtype, low):
    torch.manual_seed(0)
    rnn = G2LSTM(D, H, **options, weight_dropout=0.3, gate=GumbelGate(noise_p=0.5), dtype=dtype)
    x, found = torch.randn(T, B, D).to(dtype), {}
    for engine in ("reference", "bptt"):
        rnn.engine = engine
        found[engine] = results(rnn, x, packed, low)
    rounded = low and dtype != torch.float64
    assert_close(found["bptt"], found["reference"], AUTOCAST_TOLERANCE if rounded else TOLERANCE[dtype])


@pytest.mark.parametrize("engine", ["reference", "bptt"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_autocast_stays_near_float32(engine, options):
    torch.manual_seed(0)
    rnn = G2LSTM(D, H, **options, engine=engine)
    x = torch.randn(T, B, D)
    low, full = results(rnn, x, False, low=True), results(rnn, x, False)
    for name, expected in full.items():
        assert (low[name].float() - expected).norm() <= 4e-2 * expected.norm(), name


@pytest.mark.parametrize("engine", ["auto", "reference", "bptt"])
@pytest.mark.parametrize("gate", [GumbelGate(), SharpenedGate(), SigmoidGate()], ids=["gumbel", "sharpened", "sigmoid"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_autocast_gives_low_outputs_single_precision_cells_and_gradients(engine, gate, training):
    rnn = G2LSTM(D, H, 2, gate=gate, engine=engine).train(training)
    with autocast():
        output, (h_n, c_n) = rnn(torch.randn(T, B, D))
        output, (h_n, c_n) = rnn(torch.randn(T, B, D), (h_n, c_n))
    assert (output.dtype, h_n.dtype, c_n.dtype) == (LOW, LOW, torch.float32)
    (output.float().sum() + c_n.sum()).backward()
    assert {parameter.grad.dtype for parameter in rnn.parameters()} == {torch.float32}


def test_autocast_leaves_double_precision_alone():
    rnn, x = G2LSTM(D, H, dtype=torch.float64), torch.randn(T, B, D, dtype=torch.float64)
    noise = rnn.draw_noise(T, B)
    with autocast():
        output, (h_n, c_n) = rnn(x, noise=noise)
    assert {tensor.dtype for tensor in (output, h_n, c_n)} == {torch.float64}
    assert torch.equal(output, rnn(x, noise=noise)[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.long], ids=str)
def test_autocast_refuses_the_input_that_nn_lstm_refuses(dtype):
    messages = []
    for module in (nn.LSTM(D, H), G2LSTM(D, H)):
        with autocast(), pytest.raises(RuntimeError) as raised:
            module(torch.zeros(T, B, D, dtype=dtype))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@needs_bfloat16
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("with_state", [False, True])
def test_evaluation_under_autocast_keeps_the_cell_in_single_precision_and_stays_near_nn_lstm(packed, with_state):
    rnn, x = G2LSTM(D, H, 2).eval(), torch.randn(T, B, D)
    hx = (torch.randn(2, B, H).to(LOW), torch.randn(2, B, H)) if with_state else None
    given = pack_padded_sequence(x, LENGTHS, enforce_sorted=False) if packed else x
    with autocast():
        (ours, (h_n, c_n)), (theirs, (expected_h, expected_c)) = rnn(given, hx), rnn.to_lstm()(given, hx)
    torch.testing.assert_close(ours.data.float(), theirs.data.float(), rtol=0, atol=2e-2)
    torch.testing.assert_close(h_n.float(), expected_h.float(), rtol=0, atol=2e-2)
    torch.testing.assert_close(c_n, expected_c.float(), rtol=0, atol=4e-2)
    assert c_n.dtype == torch.float32
    assert not torch.equal(c_n, c_n.bfloat16().float())  # nn.LSTM's own is rounded


@pytest.mark.parametrize("engine", ["auto", "reference", "bptt"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_low_precision_module_returns_its_own_dtype(engine, training):
    rnn = G2LSTM(D, H, 2, bidirectional=True, engine=engine, dtype=LOW).train(training)
    output, (h_n, c_n) = rnn(torch.randn(T, B, D, dtype=LOW))
    assert {tensor.dtype for tensor in (output, h_n, c_n)} == {LOW}
    output.sum().backward()
    assert {parameter.grad.dtype for parameter in rnn.parameters()} == {LOW}


@pytest.mark.parametrize("engine", ["auto", "reference", "bptt"])
@pytest.mark.parametrize("gate", [GumbelGate(), SigmoidGate()])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_low_precision_module_takes_the_single_precision_cell_of_an_earlier_pass(engine, gate, training):
    rnn = G2LSTM(D, H, gate=gate, engine=engine, dtype=LOW).train(training)
    for steps in (T, 1):
        x, hx = torch.randn(steps, B, D, dtype=LOW), (torch.zeros(1, B, H, dtype=LOW), torch.zeros(1, B, H))
        output, (_, c_n) = rnn(x, hx)
        assert (output.dtype, c_n.dtype) == (LOW, LOW)


def test_cells_are_accumulated_in_single_precision_under_autocast():
    """An open forget gate adds 2^-9 at each of 64 steps to a cell of 1, which bfloat16 would round away."""
    rnn = G2LSTM(1, 1, gate=SigmoidGate()).requires_grad_(False)
    for parameter in rnn.parameters():
        parameter.zero_()
    rnn.bias_ih_l0[1], rnn.bias_ih_l0[2] = 100.0, 2.0**-8  # sigmoid(0) * tanh(2^-8) is 2^-9
    with autocast():
        _, (_, c_n) = rnn(torch.zeros(64, 1, 1), (torch.zeros(1, 1, 1), torch.ones(1, 1, 1)))
    assert c_n.item() == pytest.approx(1 + 64 * 2**-9, abs=1e-4)


def test_temperature_is_divided_in_before_the_cast():
    """5 * 1.01 in bfloat16 is not bfloat16(5) * bfloat16(1.01)."""
    rnn = G2LSTM(1, 1, gate=SharpenedGate(tau=0.3), bias=False).requires_grad_(False)
    rnn.weight_hh_l0.zero_()
    rnn.weight_ih_l0.copy_(torch.tensor([[1.01], [0.0], [1.0], [0.0]]))
    with autocast():
        _, (_, c_n) = rnn(torch.ones(1, 1, 1))
    expected = torch.sigmoid((torch.tensor(1.01) / 0.3).to(LOW).float()) * torch.tanh(torch.tensor(1.0))
    assert c_n.item() == pytest.approx(expected.item(), abs=1e-6)
