"""G2LSTM without noise is nn.LSTM: numbers and gradients. T time, B batch, D input, H hidden units."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate

T, B, D, H = 5, 3, 4, 6
LENGTHS = torch.tensor([2, 5, 4])
OPTIONS = {
    "plain": {},
    "stacked": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "stacked bidirectional": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "projected": {"proj_size": 2},
    "stacked projected": {"num_layers": 2, "bidirectional": True, "proj_size": 5},
    "everything": {"num_layers": 2, "bidirectional": True, "proj_size": 3, "batch_first": True, "bias": False},
}
NOISE_OFF = {"sigmoid": SigmoidGate(), "gumbel at p 0, tau 1": GumbelGate(noise_p=0, tau=1)}
LAYOUTS = ("padded", "unbatched", "packed", "packed sorted")
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-5}, torch.float64: {"rtol": 1e-9, "atol": 1e-11}}

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

Arguments = tuple[Tensor, tuple[Tensor, Tensor] | None]


def twins(gate=NOISE_OFF["sigmoid"], engine: str = "auto", dtype=torch.float64, **options) -> tuple[nn.LSTM, G2LSTM]:
    """The two modules with the same weights."""
    torch.manual_seed(0)
    lstm = nn.LSTM(D, H, dtype=dtype, **options)
    rnn = G2LSTM(D, H, gate=gate, engine=engine, dtype=dtype, **options)
    rnn.load_state_dict(lstm.state_dict())
    return lstm, rnn


def arguments(lstm: nn.LSTM, layout: str, with_state: bool) -> Arguments:
    """Input (T, B, D), (B, T, D) or (T, D), and states."""
    torch.manual_seed(1)
    dtype, count = lstm.weight_hh_l0.dtype, lstm.num_layers * (2 if lstm.bidirectional else 1)
    batch = () if layout == "unbatched" else (B,)
    shape = (*batch, T, D) if lstm.batch_first else (T, *batch, D)
    hx = torch.randn(count, *batch, lstm.proj_size or H, dtype=dtype), torch.randn(count, *batch, H, dtype=dtype)
    return torch.randn(shape, dtype=dtype), hx if with_state else None


def pack(x: Tensor, layout: str, batch_first: bool) -> Tensor | PackedSequence:
    if layout == "packed":
        return pack_padded_sequence(x, LENGTHS, batch_first=batch_first, enforce_sorted=False)
    if layout == "packed sorted":
        return pack_padded_sequence(x, LENGTHS.sort(descending=True).values, batch_first=batch_first)
    return x


def results(rnn: nn.LSTM, layout: str, given: Arguments) -> list[Tensor]:
    """Outputs, then the gradients of a loss on all of them: of every parameter, the input and the given states."""
    x, hx = given[0].clone().requires_grad_(), given[1] and tuple(part.clone().requires_grad_() for part in given[1])
    output, state = rnn(pack(x, layout, rnn.batch_first), hx)
    outputs = [output.data if isinstance(output, PackedSequence) else output, *state]
    generator = torch.Generator().manual_seed(2)
    loss = sum((part * torch.randn(part.shape, generator=generator, dtype=part.dtype)).sum() for part in outputs)
    return outputs + list(torch.autograd.grad(loss, [*rnn.parameters(), x, *(hx or ())]))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("with_state", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("engine", ["reference", "bptt"])
@pytest.mark.parametrize(("gate", "dtype"), [*zip(NOISE_OFF.values(), TOLERANCE, strict=True)], ids=NOISE_OFF)
def test_matches_nn_lstm_when_noise_is_off(options, layout, with_state, engine, gate, dtype):
    lstm, rnn = twins(gate, engine, dtype, **options)
    given = arguments(lstm, layout, with_state)
    for ours, theirs in zip(results(rnn, layout, given), results(lstm, layout, given), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])


@pytest.mark.parametrize("batch_first", [False, True])
def test_packed_output_is_packed_like_nn_lstms(batch_first):
    lstm, rnn = twins(batch_first=batch_first)
    x, _ = arguments(lstm, "padded", False)
    for layout in ("packed", "packed sorted"):
        ours, theirs = (module(pack(x, layout, batch_first))[0] for module in (rnn, lstm))
        assert isinstance(ours, PackedSequence)
        for left, right in zip(ours[1:], theirs[1:], strict=True):
            assert (left is None and right is None) or torch.equal(left, right)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("gate", [SigmoidGate(), GumbelGate()], ids=["sigmoid", "gumbel"])
def test_evaluation_of_a_plain_gate_is_nn_lstm_bit_for_bit(options, layout, gate):
    lstm, rnn = twins(gate, **options)
    x, hx = arguments(lstm, layout, True)
    ours, theirs = (module.eval()(pack(x, layout, module.batch_first), hx) for module in (rnn, lstm))
    assert torch.equal(*(output.data if isinstance(output, PackedSequence) else output for output, _ in (ours, theirs)))
    assert all(torch.equal(left, right) for left, right in zip(ours[1], theirs[1], strict=True))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [(1, B, D), (1, D), (1, 0, D)], ids=["padded", "unbatched", "no batch"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.bfloat16], ids=str)
def test_one_step_of_evaluation_is_nn_lstms(options, shape, with_state, dtype):
    lstm, rnn = twins(dtype=dtype, **options)
    _, hx = arguments(lstm, "unbatched" if len(shape) == 2 else "padded", with_state)
    if hx is not None and shape[1] == 0:
        hx = hx[0][:, :0], hx[1][:, :0]
    x = torch.randn(shape, dtype=dtype)
    x = x.transpose(0, 1) if lstm.batch_first and x.dim() == 3 else x
    with torch.no_grad():
        (ours, our_state), (theirs, their_state) = rnn.eval()(x, hx), lstm.eval()(x, hx)
    tolerance = TOLERANCE.get(dtype, {"rtol": 0.03, "atol": 0.03})
    for left, right in zip((ours, *our_state), (theirs, *their_state), strict=True):
        torch.testing.assert_close(left, right, **tolerance)


def test_gradients_of_one_step_of_evaluation_are_nn_lstms():
    lstm, rnn = twins(num_layers=2)
    x, hx = arguments(lstm, "padded", True)
    expected = results(lstm.eval(), "padded", (x[:1], hx))
    for ours, theirs in zip(results(rnn.eval(), "padded", (x[:1], hx)), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_named_engines_evaluate_a_gumbel_gate_as_nn_lstm(engine):
    lstm, rnn = twins(GumbelGate(noise_p=1), engine, num_layers=2)
    given = arguments(lstm, "padded", True)
    for ours, theirs in zip(results(rnn.eval(), "padded", given), results(lstm, "padded", given), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_between_layers_draws_what_nn_lstm_draws(p, bidirectional):
    lstm, rnn = twins(dropout=p, num_layers=3, bidirectional=bidirectional)
    given = arguments(lstm, "padded", True)
    torch.manual_seed(3)
    expected = results(lstm, "padded", given)
    torch.manual_seed(3)
    for ours, theirs in zip(results(rnn, "padded", given), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropout_is_off_in_evaluation():
    lstm, rnn = twins(dropout=0.9, num_layers=2)
    x, _ = arguments(lstm, "padded", False)
    torch.testing.assert_close(rnn.eval()(x), lstm.eval()(x))


@pytest.mark.parametrize("p", [0.25, 1.0])
def test_dropout_follows_the_generator(p):
    rnn = G2LSTM(D, 200, 2, dropout=p, gate=SigmoidGate())
    x = torch.randn(T, B, D)
    first, again, other = (rnn(x, generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (p == 1)
    if p == 1:
        silent = nn.LSTM(200, 200)
        silent.load_state_dict({name: rnn.state_dict()[name.replace("l0", "l1")] for name in silent.state_dict()})
        torch.testing.assert_close(first, silent(torch.zeros(T, B, 200))[0])


@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_dropout_drops_its_share_of_packed_sequences_too(engine):
    """The second layer's candidates read one hidden unit each: where it was dropped, the output is 0."""
    rnn = G2LSTM(1, 100, 2, dropout=0.3, gate=SigmoidGate(), engine=engine).requires_grad_(False)
    for name, parameter in rnn.named_parameters():
        parameter.zero_()
        if name == "bias_ih_l0":
            parameter.fill_(5.0)  # hidden states of the first layer are all positive
        if name == "weight_ih_l1":
            parameter[200:300] = torch.eye(100)  # candidates of the second layer
    one_step = pack_padded_sequence(torch.ones(1, 500, 1), torch.tensor([1] * 500))
    output, _ = rnn(one_step, generator=torch.Generator().manual_seed(0))
    assert (output.data == 0).double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 50_000) ** 0.5)


@pytest.mark.parametrize("gate", [GumbelGate(), SharpenedGate()], ids=["gumbel", "sharpened"])
@pytest.mark.parametrize("engine", ["reference", "bptt"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_an_empty_batch_gives_empty_output_and_zero_gradients(gate, engine, options):
    lstm, rnn = nn.LSTM(D, H, **options), G2LSTM(D, H, gate=gate, engine=engine, **options)
    x = torch.zeros(0, T, D) if options else torch.zeros(T, 0, D)
    (ours, state), (theirs, expected) = rnn(x), lstm(x)
    assert [ours.shape, *(s.shape for s in state)] == [theirs.shape, *(s.shape for s in expected)]
    ours.sum().backward()
    assert all(not parameter.grad.any() for parameter in rnn.parameters())


@pytest.mark.parametrize("gate", [GumbelGate(), SharpenedGate()], ids=["gumbel", "sharpened"])
def test_input_needs_neither_gradient_nor_contiguous_memory(gate):
    rnn = G2LSTM(D, H, 2, gate=gate, dtype=torch.float64)
    x = torch.randn(D, B, T, dtype=torch.float64).permute(2, 1, 0)
    ours, expected = (rnn(y, generator=torch.Generator().manual_seed(0))[0] for y in (x, x.contiguous()))
    torch.testing.assert_close(ours, expected)
    ours.sum().backward()
    assert all(parameter.grad.norm() > 0 for parameter in rnn.parameters())


def test_frozen_weights_get_no_gradient_and_change_no_other():
    lstm, rnn = twins(proj_size=2)
    x, hx = arguments(lstm, "padded", True)
    for module in (lstm, rnn):
        module.weight_hh_l0.requires_grad_(False)
        module.bias_hh_l0.requires_grad_(False)
        module(x, hx)[0].pow(2).sum().backward()
    for ours, theirs in zip(rnn.parameters(), lstm.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("part", [0, 1], ids=["h_n", "c_n"])
@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_a_loss_may_use_the_final_states_alone(part, engine):
    lstm, rnn = twins(engine=engine, num_layers=2, bidirectional=True)
    x, hx = arguments(lstm, "padded", True)
    for module in (lstm, rnn):
        module(x, hx)[1][part].pow(2).sum().backward()
    for (name, ours), theirs in zip(rnn.named_parameters(), lstm.parameters(), strict=True):
        torch.testing.assert_close(ours.grad if ours.grad is not None else torch.zeros_like(ours), theirs.grad, msg=name)


def test_training_mode_without_a_graph_gives_the_same_numbers():
    rnn = G2LSTM(D, H, 2)
    x = torch.randn(T, B, D)
    noise = rnn.draw_noise(T, B)
    expected, _ = rnn(x, noise=noise)
    with torch.no_grad():
        output, _ = rnn(x, noise=noise)
    assert not output.requires_grad
    assert torch.equal(output, expected)
    output.mul_(2)  # nothing holds on to it


def test_states_carried_over_a_cut_sequence_give_the_whole_sequence():
    lstm, rnn = twins(num_layers=2)
    x, hx = arguments(lstm, "padded", True)
    first, carried = rnn(x[:2], hx)
    second, final = rnn(x[2:], carried)
    expected, expected_final = lstm(x, hx)
    torch.testing.assert_close((torch.cat([first, second]), final), (expected, expected_final))


@pytest.mark.parametrize("gates", [("i",), ("i", "f"), ("f", "o")])
def test_hard_gates_evaluate_as_a_step_function(gates):
    """A sigmoid that is 10^6 times as steep is the threshold, except next to zero."""
    lstm, rnn = twins(HardGate(gates=gates), num_layers=2, bidirectional=True)
    _, steep = twins(SharpenedGate(tau=1e-6, gates=gates), "reference", num_layers=2, bidirectional=True)
    x, hx = arguments(lstm, "padded", True)
    torch.testing.assert_close(rnn.eval()(x, hx), steep.eval()(x, hx))


def test_a_hard_gate_does_not_train():
    with pytest.raises(
        ValueError, match=r"HardGate is for evaluation: call eval\(\), or train with GumbelGate\(hard=True\)"
    ):
        G2LSTM(D, H, gate=HardGate())(torch.zeros(T, B, D))


@pytest.mark.parametrize("engine", ["auto", "reference", "bptt"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 2}], ids=["plain", "stacked"])
def test_straight_through_gates_are_hard_forwards_and_relaxed_backwards(engine, options):
    rnn = G2LSTM(D, H, gate=GumbelGate(hard=True), engine=engine, dtype=torch.float64, **options)
    x, noise = torch.randn(T, B, D).double(), rnn.draw_noise(T, B)
    found = []
    for name in (engine, "reference"):
        rnn.engine = name
        output, (_, c_n) = rnn(x, noise=noise)
        gradients = torch.autograd.grad(output.square().sum() + c_n.sum(), list(rnn.parameters()))
        found.append([output, *gradients])
    torch.testing.assert_close(*found)
    rnn.gate = GumbelGate()
    assert not torch.equal(rnn(x, noise=noise)[0], found[0][0])
    rnn.gate = GumbelGate(hard=True)
    torch.testing.assert_close(rnn.eval()(x)[0], rnn.to_lstm()(x)[0])


def test_an_unknown_engine_is_a_value_error():
    with pytest.raises(ValueError, match=r"engine must be one of .*, got 'cuda'"):
        G2LSTM(D, H, engine="cuda")
