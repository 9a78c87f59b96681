"""G2LSTMCell: nn.LSTMCell's contract, and one step of G2LSTM. B batch, D input, H hidden units."""

import copy

import pytest
import torch
from torch import Tensor, nn

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, HardGate, SharpenedGate, SigmoidGate, gates

T, B, D, H = 5, 3, 4, 6
PLAIN = {
    "sigmoid": (SigmoidGate(), True),
    "gumbel at p 0, tau 1": (GumbelGate(noise_p=0, tau=1), True),
    "gumbel in evaluation": (GumbelGate(), False),
    "sharpened at tau 1": (SharpenedGate(tau=1.0), True),
}


def twins(gate=SigmoidGate(), **options) -> tuple[nn.LSTMCell, G2LSTMCell]:  # noqa: B008
    torch.manual_seed(0)
    cell, ours = (
        nn.LSTMCell(D, H, dtype=torch.float64, **options),
        G2LSTMCell(D, H, gate=gate, dtype=torch.float64, **options),
    )
    ours.load_state_dict(cell.state_dict())
    return cell, ours


def results(cell: nn.LSTMCell, batch: tuple[int, ...], with_state: bool) -> list[Tensor]:
    """The next state and the gradients of a loss on it."""
    generator = torch.Generator().manual_seed(1)
    x, h, c = (torch.randn(*batch, size, generator=generator, dtype=torch.float64).requires_grad_() for size in (D, H, H))
    state = cell(x, (h, c) if with_state else None)
    loss = sum((part * torch.arange(1, H + 1)).sum() for part in state)
    return list(state) + list(torch.autograd.grad(loss, [*cell.parameters(), x, *((h, c) if with_state else ())]))


@pytest.mark.parametrize(("gate", "training"), PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("batch", [(B,), (1,), ()], ids=["batch", "batch of one", "unbatched"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_matches_nn_lstm_cell_when_noise_is_off(gate, training, batch, with_state, bias):
    cell, ours = twins(gate, bias=bias)
    left, right = (results(module.train(training), batch, with_state) for module in (ours, cell))
    for one, other in zip(left, right, strict=True):
        torch.testing.assert_close(one, other)


def test_is_an_nn_lstm_cell_with_the_same_parameters_from_the_same_seed():
    torch.manual_seed(0)
    ours = G2LSTMCell(D, H)
    torch.manual_seed(0)
    cell = nn.LSTMCell(D, H)
    assert isinstance(ours, nn.LSTMCell)
    for (name, left), (expected, right) in zip(ours.named_parameters(), cell.named_parameters(), strict=True):
        assert name == expected
        assert torch.equal(left, right)
    assert repr(ours).startswith("G2LSTMCell(4, 6, gate=GumbelGate(")
    assert repr(G2LSTMCell(D, H, bias=False)).startswith("G2LSTMCell(4, 6, bias=False, gate=")


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


BAD_ARGUMENTS = {
    "three dimensions": lambda: (zeros(1, B, D),),
    "no dimension": lambda: (torch.tensor(1.0),),
    "wrong size": lambda: (zeros(B, D + 1),),
    "wrong size unbatched": lambda: (zeros(D + 1),),
    "double": lambda: (zeros(B, D).double(),),
    "integers": lambda: (zeros(B, D).long(),),
    "h of three dimensions": lambda: (zeros(B, D), (zeros(1, B, H), zeros(B, H))),
    "c of three dimensions": lambda: (zeros(B, D), (zeros(B, H), zeros(1, B, H))),
    "h of another batch": lambda: (zeros(B, D), (zeros(B + 1, H), zeros(B, H))),
    "c of another batch": lambda: (zeros(B, D), (zeros(B, H), zeros(B + 1, H))),
    "states of one sequence": lambda: (zeros(B, D), (zeros(1, H), zeros(1, H))),
    "h of another size": lambda: (zeros(B, D), (zeros(B, H + 1), zeros(B, H))),
    "c of another size": lambda: (zeros(B, D), (zeros(B, H), zeros(B, H + 1))),
    "unbatched h of another size": lambda: (zeros(D), (zeros(H - 1), zeros(H))),
    "batched states, unbatched input": lambda: (zeros(D), (zeros(B, H), zeros(B, H))),
    "unbatched states, batched input": lambda: (zeros(B, D), (zeros(H), zeros(H))),
    "double h": lambda: (zeros(B, D), (zeros(B, H).double(), zeros(B, H))),
    "one tensor as states": lambda: (zeros(B, D), zeros(2, B, H)),
    "one state": lambda: (zeros(B, D), (zeros(B, H),)),
    "three states": lambda: (zeros(B, D), (zeros(B, H),) * 3),
    "not a tensor": lambda: (None,),
}


@pytest.mark.parametrize("given", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
@pytest.mark.parametrize("gate", [SigmoidGate(), GumbelGate(), SharpenedGate()], ids=["sigmoid", "gumbel", "sharpened"])
def test_bad_arguments_raise_what_nn_lstm_cell_raises(given, gate):
    errors = []
    for cell in (nn.LSTMCell(D, H), G2LSTMCell(D, H, gate=gate), G2LSTMCell(D, H, gate=gate).eval()):
        with pytest.raises(Exception) as raised:  # noqa: PT011
            cell(*given())
        errors.append((raised.type, str(raised.value)))
    assert errors[0] == errors[1] == errors[2]


@pytest.mark.parametrize("blocks", [("i", "f"), ("f",), ("i", "o")])
@pytest.mark.parametrize("tau", [0.9, 0.3])
def test_a_loop_in_training_is_the_layer_with_the_same_noise(blocks, tau):
    rnn = G2LSTM(D, H, gate=GumbelGate(noise_p=0.5, gates=blocks), dtype=torch.float64)
    cell = G2LSTMCell(D, H, gate=rnn.gate, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in rnn.state_dict().items()})
    rnn.tau = cell.tau = tau
    x, (noise,) = torch.randn(T, B, D, dtype=torch.float64), rnn.draw_noise(T, B)
    output, (h_n, c_n) = rnn(x, noise=[noise])
    state, steps = None, []
    for t in range(T):
        state = cell(x[t], state, noise=noise[t])
        steps.append(state[0])
    torch.testing.assert_close((torch.stack(steps), *state), (output, h_n[0], c_n[0]))
    for module, result in ((rnn, output), (cell, torch.stack(steps))):
        result.pow(2).sum().backward()
        assert module.weight_hh.grad.any() if module is cell else module.weight_hh_l0.grad.any()
    for name, parameter in cell.named_parameters():
        torch.testing.assert_close(parameter.grad, getattr(rnn, f"{name}_l0").grad)


@pytest.mark.parametrize("gate", [SharpenedGate(tau=0.3), HardGate()], ids=["sharpened", "hard"])
def test_a_loop_in_evaluation_is_the_layer(gate):
    rnn = G2LSTM(D, H, gate=gate, dtype=torch.float64).eval()
    cell = G2LSTMCell(D, H, gate=gate, dtype=torch.float64).eval()
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in rnn.state_dict().items()})
    x = torch.randn(T, B, D, dtype=torch.float64)
    state = None
    for t in range(T):
        state = cell(x[t], state)
    _, (h_n, c_n) = rnn(x)
    torch.testing.assert_close(state, (h_n[0], c_n[0]))


def test_unbatched_noise_is_that_of_a_batch_of_one():
    cell, x, noise = G2LSTMCell(D, H), torch.randn(D), torch.randn(2 * H)
    batched = cell(x.unsqueeze(0), noise=noise.unsqueeze(0))
    torch.testing.assert_close(cell(x, noise=noise), tuple(part.squeeze(0) for part in batched))


def test_gradients_with_noise_pass_finite_differences():
    _, cell = twins(GumbelGate(noise_p=1))
    names, parameters = zip(*cell.named_parameters(), strict=True)
    tensors = [torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (D, H, H, 2 * H)]

    def run(x, h, c, noise, *weights):
        weights = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(cell, weights, (x, (h, c)), {"noise": noise})

    assert torch.autograd.gradcheck(run, (*tensors, *parameters))


@pytest.mark.parametrize("scope", ["mask", "sequence"])
def test_noise_that_outlasts_a_step_has_to_be_passed(scope):
    gate = GumbelGate(noise_scope=scope)
    cell, x = G2LSTMCell(D, H, gate=gate), torch.randn(T, B, D)
    with pytest.raises(ValueError, match=f"noise_scope='{scope}' outlasts a cell's call"):
        cell(x[0])
    for t, step in enumerate(gates.draw_noise(gate, T, B, H)):
        cell(x[t], noise=step)
    cell.eval()(x[0])


def test_noise_follows_its_generator_and_else_the_default_one():
    cell, x = G2LSTMCell(D, H, gate=GumbelGate(noise_p=1)), torch.randn(B, D)
    first, again, other = (cell(x, generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(cell(x)[0], first)


@pytest.mark.parametrize("shape", [(B, H), (B + 1, 2 * H), (2 * H,), (1, B, 2 * H)])
def test_noise_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"noise must have shape \(3, 12\), got"):
        G2LSTMCell(D, H)(zeros(B, D), noise=zeros(*shape))


def test_noise_where_none_is_taken_is_refused():
    with pytest.raises(ValueError, match="in eval mode"):
        G2LSTMCell(D, H).eval()(zeros(B, D), noise=zeros(B, 2 * H))
    with pytest.raises(ValueError, match="SharpenedGate takes no noise"):
        G2LSTMCell(D, H, gate=SharpenedGate())(zeros(B, D), noise=zeros(B, 2 * H))


def test_hard_gates_do_not_train():
    with pytest.raises(ValueError, match="HardGate is for evaluation"):
        G2LSTMCell(D, H, gate=HardGate())(zeros(B, D))


@pytest.mark.parametrize("gate", [SigmoidGate(), GumbelGate(), SharpenedGate()], ids=["sigmoid", "gumbel", "sharpened"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("with_state", [False, True])
def test_autocast_gives_a_low_precision_output_and_a_single_precision_cell(gate, training, with_state):
    cell = G2LSTMCell(D, H, gate=gate).train(training)
    hx = (zeros(B, H).bfloat16(), zeros(B, H)) if with_state else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, c = cell(torch.randn(B, D), hx)
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    (h.float().sum() + c.sum()).backward()
    assert cell.weight_ih.grad.dtype == torch.float32


def test_a_low_precision_cell_returns_its_own_dtype():
    for gate in (GumbelGate(), SigmoidGate()):
        cell = G2LSTMCell(D, H, gate=gate, dtype=torch.bfloat16)
        for training in (True, False):
            for hx in None, (zeros(B, H).bfloat16(), zeros(B, H)), (zeros(B, H).bfloat16(),) * 2:
                h, c = cell.train(training)(torch.randn(B, D, dtype=torch.bfloat16), hx)
                assert (h.dtype, c.dtype) == (torch.bfloat16, torch.bfloat16)


def test_copies_keep_gate_and_temperature():
    cell = G2LSTMCell(D, H)
    cell.tau = 0.4
    other = copy.deepcopy(cell)
    assert (other.gate, other.tau) == (cell.gate, 0.4)
    other.gate = SigmoidGate()
    assert (other.tau, cell.tau) == (1, 0.4)


def test_an_empty_batch_gives_an_empty_state():
    h, c = G2LSTMCell(D, H)(zeros(0, D))
    assert h.shape == c.shape == (0, H)
