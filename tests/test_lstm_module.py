"""G2LSTM as a module: parameters, copies, files, export, gates that change. T time, B batch, D input, H hidden units."""

import copy
import io
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate
from g2lstm.layers.regularization import dropout

T, B, D, H = 5, 3, 4, 6
OPTIONS = {
    "plain": {},
    "everything": {
        "num_layers": 2,
        "bidirectional": True,
        "proj_size": 3,
        "batch_first": True,
        "bias": False,
        "dropout": 0.3,
    },
    "stacked": {"num_layers": 3, "bidirectional": True},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def options(request) -> dict:
    return request.param


def inputs() -> torch.Tensor:
    return torch.randn(T, B, D, generator=torch.Generator().manual_seed(0))


def test_is_an_nn_lstm_with_the_same_parameters_from_the_same_seed(options):
    torch.manual_seed(4)
    rnn = G2LSTM(D, H, **options)
    torch.manual_seed(4)
    lstm = nn.LSTM(D, H, **options)
    assert isinstance(rnn, nn.LSTM)
    for (ours, left), (theirs, right) in zip(rnn.named_parameters(), lstm.named_parameters(), strict=True):
        assert ours == theirs
        assert torch.equal(left, right)
    assert list(rnn.state_dict()) == list(lstm.state_dict())
    assert not list(rnn.buffers())


def test_each_loads_the_others_state_dict(options):
    rnn, lstm = G2LSTM(D, H, **options), nn.LSTM(D, H, **options)
    x = inputs()
    lstm.load_state_dict(rnn.state_dict())
    assert torch.equal(rnn.eval()(x)[0], lstm.eval()(x)[0])
    other = nn.LSTM(D, H, **options).eval()
    rnn.load_state_dict(other.state_dict())
    assert torch.equal(rnn(x)[0], other(x)[0])


def test_to_lstm_and_from_lstm_copy_options_weights_and_mode(options):
    rnn = G2LSTM(D, H, **options)
    lstm = rnn.to_lstm()
    assert type(lstm) is nn.LSTM
    assert lstm.training
    assert lstm.dropout == rnn.dropout
    x = inputs()
    assert torch.equal(lstm.eval()(x)[0], rnn.eval()(x)[0])
    back = G2LSTM.from_lstm(lstm, gate=GumbelGate(tau=0.5), weight_dropout=0.1, engine="reference")
    assert (back.gate, back.tau, back.weight_dropout, back.engine) == (GumbelGate(tau=0.5), 0.5, 0.1, "reference")
    assert not back.training
    torch.testing.assert_close(back(x)[0], rnn(x)[0])
    with torch.no_grad():
        back.weight_hh_l0.zero_()
    assert lstm.weight_hh_l0.any()
    assert rnn.weight_hh_l0.any()
    assert G2LSTM.from_lstm(lstm).gate == GumbelGate()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "changed", [weight_norm, parametrizations.weight_norm, partial(prune.random_unstructured, amount=0.5)]
)
def test_to_lstm_and_from_lstm_copy_weights_that_are_computed(changed):
    rnn, lstm = changed(G2LSTM(D, H), "weight_hh_l0").eval(), changed(nn.LSTM(D, H), "weight_hh_l0").eval()
    with torch.no_grad():
        for parameter in (*rnn.parameters(), *lstm.parameters()):  # no pass has computed them of these
            parameter.add_(0.1)
    copies, x = (rnn.to_lstm(), G2LSTM.from_lstm(lstm)), inputs()
    torch.testing.assert_close(copies[0](x)[0], rnn(x)[0])
    torch.testing.assert_close(copies[1](x)[0], lstm(x)[0])


@pytest.mark.parametrize("gate", [SigmoidGate(), GumbelGate()])
def test_a_module_on_the_cpu_trains_there_whatever_the_default_device_is(gate):
    rnn, x = G2LSTM(D, H, gate=gate), inputs()
    with torch.device("meta"):
        output = rnn(dropout(x, 0.5))[0]
    assert output.device == x.device


def test_noise_on_another_device_is_refused():
    rnn = G2LSTM(D, H)
    noise = [part.to("meta") for part in rnn.draw_noise(T, B)]
    with pytest.raises(ValueError, match="noise must be on cpu, as the weights, got meta"):
        rnn(inputs(), noise=noise)


@pytest.mark.parametrize("blocks", [("i", "f"), ("f",), ("i", "o")])
def test_to_lstm_folds_the_temperature_of_a_sharpened_gate(options, blocks):
    rnn = G2LSTM(D, H, **options, gate=SharpenedGate(tau=0.2, gates=blocks)).eval()
    rnn.tau = 0.3
    torch.testing.assert_close(rnn.to_lstm()(inputs()), rnn(inputs()))


def test_to_lstm_refuses_a_hard_gate():
    with pytest.raises(ValueError, match="hard gate can't be turned into"):
        G2LSTM(D, H, gate=HardGate()).to_lstm()


def test_repr_shows_options_gate_and_engine():
    rnn = G2LSTM(D, H, 2, bidirectional=True, weight_dropout=0.5, engine="bptt")
    assert repr(rnn).startswith("G2LSTM(4, 6, num_layers=2, bidirectional=True, gate=GumbelGate(tau=0.9, noise_p=0.2,")
    assert repr(rnn).endswith("weight_dropout=0.5, engine='bptt')")
    assert "weight_dropout" not in repr(G2LSTM(D, H))


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda rnn: pickle.loads(pickle.dumps(rnn))], ids=["deepcopy", "pickle"]
)
def test_copies_keep_gate_temperature_and_weights(options, duplicate):
    rnn = G2LSTM(D, H, **options, gate=GumbelGate(noise_p=0.5), weight_dropout=0.2, engine="reference")
    rnn.tau = 0.4
    other = duplicate(rnn)
    assert (other.gate, other.tau, other.weight_dropout, other.engine) == (rnn.gate, 0.4, 0.2, "reference")
    expected, output = (module(inputs(), generator=torch.Generator().manual_seed(1))[0] for module in (rnn, other))
    assert torch.equal(expected, output)
    with torch.no_grad():
        other.weight_ih_l0.zero_()
    assert rnn.weight_ih_l0.any()


def test_weights_can_be_saved_and_loaded_without_code():
    rnn, file = G2LSTM(D, H, 2), io.BytesIO()
    torch.save(rnn.state_dict(), file)
    file.seek(0)
    other = G2LSTM(D, H, 2).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(inputs())[0], rnn.eval()(inputs())[0])


@pytest.mark.parametrize(
    "convert", [nn.Module.double, lambda rnn: rnn.to(torch.float64), lambda rnn: rnn.to("cpu").double()]
)
def test_dtype_can_be_changed(convert):
    rnn = convert(G2LSTM(D, H, 2, gate=GumbelGate(tau=0.5)))
    output, (h_n, c_n) = rnn(inputs().double())
    assert {tensor.dtype for tensor in (output, h_n, c_n)} == {torch.float64}
    output.sum().backward()
    assert {parameter.grad.dtype for parameter in rnn.parameters()} == {torch.float64}
    assert rnn.tau == 0.5


@pytest.mark.parametrize("training", [True, False])
def test_shapes_can_be_inferred_on_the_meta_device(training):
    rnn = G2LSTM(D, H, 2, device="meta").train(training)
    output, (h_n, c_n) = rnn(torch.zeros(T, B, D, device="meta"))
    assert (output.shape, h_n.shape, c_n.shape) == ((T, B, H), (2, B, H), (2, B, H))


def test_parameters_can_be_passed_as_arguments():
    rnn, other = G2LSTM(D, H, 2), G2LSTM(D, H, 2)
    noise = rnn.draw_noise(T, B)
    replaced = torch.func.functional_call(rnn, dict(other.named_parameters()), (inputs(),), {"noise": noise})[0]
    assert torch.equal(replaced, other(inputs(), noise=noise)[0])
    replaced.sum().backward()
    assert rnn.weight_hh_l0.grad is None
    assert other.weight_hh_l0.grad.any()


def test_works_where_an_nn_lstm_does():
    class LastOutput(nn.Module):
        def forward(self, result):
            return result[0][-1]

    model = nn.Sequential(nn.Linear(D, D), G2LSTM(D, H, 2, dropout=0.1), LastOutput(), nn.Linear(H, 1))
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            module.flatten_parameters()
            nn.init.orthogonal_(module.weight_hh_l0)
    model(inputs()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert [len(layer) for layer in model[1].all_weights] == [4, 4]


@pytest.mark.parametrize("engine", ["auto", "bptt"])
@pytest.mark.parametrize("gate", [GumbelGate(), SharpenedGate()], ids=["gumbel", "sharpened"])
@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_evaluation_can_be_exported(gate, engine):
    rnn = G2LSTM(D, H, 2, bidirectional=True, gate=gate, engine=engine).eval()
    program = torch.export.export(rnn, (inputs(),))
    other = torch.randn(T, B, D)
    torch.testing.assert_close(program.module()(other), rnn(other))


def test_assigning_a_gate_sets_its_temperature():
    rnn = G2LSTM(D, H)
    assert (rnn.gate, rnn.tau) == (GumbelGate(), 0.9)
    rnn.tau = 0.5
    rnn.gate = SharpenedGate()
    assert rnn.tau == 0.2
    rnn.gate = SigmoidGate()
    assert rnn.tau == 1
    torch.testing.assert_close(rnn(inputs())[0], rnn.to_lstm()(inputs())[0])
    for wrong in (None, "gumbel", GumbelGate):
        with pytest.raises(ValueError, match="gate must be one of SigmoidGate, SharpenedGate, GumbelGate, HardGate"):
            rnn.gate = wrong


def test_a_set_temperature_is_used_in_the_next_pass_and_not_saved():
    rnn, direct = G2LSTM(D, H), G2LSTM(D, H, gate=GumbelGate(tau=0.3))
    direct.load_state_dict(rnn.state_dict())
    rnn.tau = 0.3
    noise = rnn.draw_noise(T, B)
    assert torch.equal(rnn(inputs(), noise=noise)[0], direct(inputs(), noise=noise)[0])
    assert not any("tau" in name for name in rnn.state_dict())
    rnn.load_state_dict(nn.LSTM(D, H).state_dict())
    assert rnn.tau == 0.3


@pytest.mark.parametrize("tau", [0, -1.0, math.nan, math.inf])
def test_a_bad_temperature_is_refused_when_set(tau):
    rnn = G2LSTM(D, H)
    with pytest.raises(ValueError, match=f"tau must be > 0 and finite, got {float(tau)}"):
        rnn.tau = tau
    assert rnn.tau == 0.9


@pytest.mark.parametrize("gate", [SigmoidGate(), HardGate()], ids=["sigmoid", "hard"])
def test_a_gate_without_temperature_takes_none(gate):
    rnn = G2LSTM(D, H, gate=gate)
    with pytest.raises(ValueError, match="has no temperature"):
        rnn.tau = 0.5


@pytest.mark.parametrize("index", [0, 1], ids=["output", "h_n"])
@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(
    "modify",
    [lambda y: y.mul_(2.0), lambda y: y.tanh_(), lambda y: y.select(0, 0).zero_()],
    ids=["mul_", "tanh_", "select"],
)
def test_results_changed_in_place_raise_or_give_the_right_gradients(index, engine, modify):
    rnn = G2LSTM(D, H, 2, gate=SigmoidGate(), engine=engine, dtype=torch.float64)
    x = inputs().double()

    def gradient(change) -> torch.Tensor:
        output, (h_n, _) = rnn(x)
        result = change((output, h_n)[index])
        return torch.autograd.grad(result.pow(2).sum(), rnn.weight_hh_l1)[0]

    def in_place(y):
        modify(y)
        return y

    def out_of_place(y):
        y = y.clone()
        modify(y)
        return y

    expected = gradient(out_of_place)
    try:
        changed = gradient(in_place)
    except RuntimeError as error:
        assert "modified" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(changed, expected)


def test_second_derivatives_come_from_the_reference_engine_or_not_at_all():
    rnn, x = G2LSTM(D, H, engine="bptt", dtype=torch.float64), inputs().double().requires_grad_()
    (first,) = torch.autograd.grad(rnn(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="engine='reference'"):
        first.sum().backward()
    rnn.engine = "reference"
    noise = rnn.draw_noise(T, B)
    assert torch.autograd.gradgradcheck(lambda x: rnn(x, noise=[part[:2, :1] for part in noise])[0], (x[:2, :1],))
