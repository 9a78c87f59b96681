"""The runtime computes what its integers say, bit for bit, and stays within what rounding them can do to the reference."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm import layout, runtime
from g2lstm.compression import Method, Target
from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.forms import Codes, Dense, Factors, Form
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel

pytestmark = pytest.mark.skipif(runtime.problem() is not None, reason=f"the runtime {runtime.problem()}")

ALL = Target(gates=("i", "f", "g", "o"))
WHOLE = ["bits:8", "bits:4", "ternary", "round:0.1+clip:0.2", "round:0.05", "svd:3+bits:8", "svd:2+bits:4"]
FLOAT = ["original", "svd:3", "prune:0.7"]
INSTRUCTIONS = ("plain", "avx2", "avx512vnni", "neon")
SIZES = [(1, 1), (5, 7), (16, 17), (40, 33)]


@pytest.fixture(autouse=True)
def as_before():
    """Threads and instructions are put back."""
    threads, instructions = torch.get_num_threads(), runtime.instructions()
    yield
    torch.set_num_threads(threads)
    runtime.instructions(instructions)


def available() -> list[str]:
    found = []
    for name in INSTRUCTIONS:
        with contextlib.suppress(UserError):
            found.append(runtime.instructions(name))
    return found


def lstm_of(inputs: int, hidden: int, **options) -> nn.LSTM:
    torch.manual_seed(inputs + hidden)
    return nn.LSTM(inputs, hidden, **options)


def inputs_and_state(lstm: nn.LSTM, time: int, batch: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    layers = lstm.num_layers * (2 if lstm.bidirectional else 1)
    sizes = (lstm.proj_size or lstm.hidden_size, lstm.hidden_size)
    return torch.randn(time, batch, lstm.input_size), tuple(torch.rand(layers, batch, size) - 0.5 for size in sizes)


def whole_numbers(form: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers (N, M) and the scale of each row."""
    codes, codebook = form.codes.numpy(), form.codebook.numpy()
    if form.scales is not None:
        return codes.astype(np.int64) - len(codebook) // 2, form.scales.numpy()
    step = np.abs(codebook[codebook != 0]).min(initial=1)
    return np.rint(codebook / step).astype(np.int64)[codes], np.full(len(codes), step, np.float32)


def product(form: Form, x: np.ndarray) -> np.ndarray:
    """x W^T as g2.h's library has it, in NumPy: x (N, M) rounded to 255 values a row, then whole numbers."""
    if isinstance(form, Factors):
        return product(form.left, product(form.right, x))
    if not isinstance(form, Codes):  # of a row or column or two, which codes would not make smaller
        return x @ form.matrix().numpy().T
    most = np.abs(x).max(1, keepdims=True)
    codes = np.rint(x * (np.float32(127) / most)).astype(np.int64)
    weights, scales = whole_numbers(form)
    return (codes @ weights.T).astype(np.float32) * (scales * (most / np.float32(127)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("method", WHOLE)
def test_a_step_is_that_of_the_same_whole_numbers_in_numpy(method, size) -> None:
    lstm = lstm_of(*size)
    deployed = deploy(lstm, Method.parse(method), ALL, rest="int8")
    for batch in (1, 3, 16):
        x, (h, c) = inputs_and_state(lstm, 1, batch)
        pre = []
        for gate in range(4):
            bias = sum(deployed.forms[f"{name}_l0"][gate].matrix().numpy() for name in layout.BIASES)
            first, second = (
                product(deployed.forms[f"{name}_l0"][gate], read[0].numpy())
                for name, read in (("weight_ih", x), ("weight_hh", h))
            )
            pre.append(torch.from_numpy((bias + first) + second))
        i, f, g, o = pre[0].sigmoid(), pre[1].sigmoid(), pre[2].tanh(), pre[3].sigmoid()
        expected = f * c[0] + i * g
        _, (h_n, c_n) = deployed.open().run_lstm(0, x, (h, c))
        torch.testing.assert_close(c_n[0], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(h_n[0], o * expected.tanh(), rtol=0, atol=1e-6)


class Bounded:
    """A reference value and how far from it the runtime may be."""

    def __init__(self, value: torch.Tensor, error: torch.Tensor | None = None) -> None:
        self.value, self.error = value, torch.zeros_like(value) if error is None else error


def bounded_product(form: Form, x: Bounded) -> Bounded:
    """x W^T. Rounding moves an entry of x by half a step at most: by half of max |x| / 127, with the error that x has."""
    if isinstance(form, Factors):
        return bounded_product(form.left, bounded_product(form.right, x))
    weight, step = form.matrix(), torch.zeros(())
    if isinstance(form, Codes):
        step = (x.value.abs() + x.error).amax(-1, keepdim=True) / 127
    return Bounded(x.value @ weight.mT, (x.error + step / 2 + 1e-6) @ weight.abs().mT + 1e-6)


def bounded_run(deployed: Deployed, lstm: nn.LSTM, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> Bounded:
    """The float32 LSTM of these weights with the error that a step can have: |d sigmoid| <= |da| / 4, |d tanh| <= |da|."""
    current = Bounded(x)
    for layer, endings in enumerate(layout.endings(lstm)):
        ways = []
        for way, ending in enumerate(endings):
            index, outputs = layer * len(endings) + way, {}
            h, c = (Bounded(part[index]) for part in state)
            for t in reversed(range(len(x))) if way else range(len(x)):
                pre = []
                for gate in range(4):
                    one = bounded_product(
                        deployed.forms[f"weight_ih{ending}"][gate], Bounded(current.value[t], current.error[t])
                    )
                    two = bounded_product(deployed.forms[f"weight_hh{ending}"][gate], h)
                    bias = sum(deployed.forms[f"{n}{ending}"][gate].matrix() for n in layout.BIASES) if lstm.bias else 0
                    pre.append(Bounded(one.value + two.value + bias, one.error + two.error + 1e-6))
                i, f, o = (Bounded(a.value.sigmoid(), a.error / 4) for a in (pre[0], pre[1], pre[3]))
                g = Bounded(pre[2].value.tanh(), pre[2].error)
                error = (
                    (f.value + f.error) * c.error
                    + f.error * c.value.abs()
                    + (i.value + i.error) * g.error
                    + i.error * g.value.abs()
                )
                c = Bounded(f.value * c.value + i.value * g.value, error + 1e-6)
                tanh = c.value.tanh()
                h = Bounded(o.value * tanh, (o.value + o.error) * c.error + o.error * tanh.abs() + 1e-6)
                if lstm.proj_size:
                    h = bounded_product(deployed.forms[f"weight_hr{ending}"][0], h)
                outputs[t] = h
            steps = [outputs[t] for t in range(len(x))]
            ways.append(Bounded(torch.stack([s.value for s in steps]), torch.stack([s.error for s in steps])))
        current = Bounded(torch.cat([w.value for w in ways], -1), torch.cat([w.error for w in ways], -1))
    return current


OPTIONS = [{}, {"bias": False}, {"proj_size": 5}, {"num_layers": 2, "bidirectional": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("method", "rest"), [*((method, "int8") for method in WHOLE), *itertools.product(FLOAT, ("float32", "bf16"))]
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
@torch.no_grad()
def test_it_stays_within_the_error_of_rounding_what_weights_read(method, rest, options) -> None:
    lstm = lstm_of(9, 17, **options)
    deployed = deploy(lstm, Method.parse(method), rest=rest)
    x, state = inputs_and_state(lstm, 3, 5)
    expected = bounded_run(deployed, lstm, x, state)
    torch.testing.assert_close(expected.value, deployed.dense_model()(x, state)[0], rtol=0, atol=1e-5)
    y, _ = deployed.model(engine="native")(x, state)
    difference = (y - expected.value).abs()
    assert (difference <= expected.error).all()
    assert difference.max() > expected.error.max() / 3000  # a bound of another order would hold for anything


@pytest.mark.parametrize("method", [*WHOLE, *FLOAT])
@torch.no_grad()
def test_instructions_and_threads_change_nothing(method) -> None:
    whole = method in WHOLE
    lstm = lstm_of(21, 39)
    model = deploy(lstm, Method.parse(method), ALL).open()
    for batch in (1, 7, 23):
        found = []
        x, state = inputs_and_state(lstm, 4, batch)
        for name in available():
            for threads in (1, 2, 3):
                runtime.instructions(name)
                torch.set_num_threads(threads)
                y, (h, c) = model.run_lstm(0, x, state)
                found.append(torch.cat([y.flatten(), h.flatten(), c.flatten()]))
        for one, other in itertools.pairwise(found):
            if whole:
                assert one.equal(other)
            else:
                torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_sequence_is_what_it_is_alone_whatever_is_beside_it_and_in_how_many_calls(options) -> None:
    lstm = lstm_of(6, 20, **options)
    model = deploy(lstm, Method.parse("bits:8"), ALL, rest="int8").open()
    lengths, (x, state) = torch.tensor([300, 1, 299, 130, 7]), inputs_and_state(lstm, 300, 5)
    y, ends = model.run_lstm(0, x, state, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model.run_lstm(0, x[:length, row : row + 1], [part[:, row : row + 1] for part in state])
        assert alone[0].equal(y[:length, row : row + 1])
        assert not y[length:, row].any()
        for one, other in zip(alone[1], ends, strict=True):
            assert one.equal(other[:, row : row + 1])
        if lstm.num_layers == 1:  # else a second layer reads what the first gives last
            outputs, part = [], [part[:, row : row + 1] for part in state]
            for start in range(0, length, 100):
                out, part = model.run_lstm(0, x[start : min(start + 100, length), row : row + 1], part)
                outputs.append(out)
            assert torch.cat(outputs).equal(alone[0])


def test_packed_sequences_go_in_and_out_as_of_nn_lstm() -> None:
    lstm = lstm_of(4, 6, num_layers=2, bidirectional=True)
    runner, lengths = deploy(lstm).model(engine="native"), torch.tensor([2, 5, 4])
    packed = pack_padded_sequence(torch.randn(5, 3, 4), lengths, enforce_sorted=False)
    (found, ends), (expected, others) = runner(packed), lstm(packed)
    torch.testing.assert_close(pad_packed_sequence(found)[0], pad_packed_sequence(expected)[0])
    torch.testing.assert_close(ends, others)


@pytest.mark.parametrize(("method", "rest"), [("svd:4", "float32"), ("original", "bf16"), ("svd:4+bits:8", "int8")])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_language_model_reads_words_and_gives_logits(method, rest, tied) -> None:
    torch.manual_seed(3)
    language = LanguageModel(50, 16, 24, tied=tied).eval()
    nn.init.normal_(language.output_bias)
    deployed = deploy(language, Method.parse(method), rest=rest)
    words = torch.randint(50, (6, 3))
    opened, dense = deployed.open(), deployed.dense_model()
    assert (opened.logits, opened.words) == (50, ())
    state, features = opened.state(3), dense(words).raw
    for t, tokens in enumerate(words):
        found = opened.step(tokens, state)
        expected = features[t] @ dense.decoder_weight.mT + dense.output_bias
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 if rest != "int8" else 0.01)
    again = opened.state(3)
    for tokens in words[:-1].tolist():
        assert opened.step(tokens, again, logits=False) is None
    assert opened.step(words[-1], again).equal(found)
    assert state.equal(again)
    y = opened.run(dense.embedding(words), own := opened.state(3))
    torch.testing.assert_close(own, state)
    torch.testing.assert_close(opened.output(y[-1]), found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_words_and_lengths_are_whole_numbers_of_any_size(dtype) -> None:
    torch.manual_seed(3)
    model, words = deploy(LanguageModel(50, 4, 6)).open(), torch.tensor([3, 49, 0])
    one, two = model.state(3), model.state(3)
    assert model.step(words, one).equal(model.step(words.to(dtype), two))
    lstm, lengths = lstm_of(4, 6), torch.tensor([100, 2])
    x, state = inputs_and_state(lstm, 300, 2)  # more steps than eight bits count
    opened = deploy(lstm).open()
    assert opened.run_lstm(0, x, state, lengths.to(dtype))[0].equal(opened.run_lstm(0, x, state, lengths)[0])


@torch.no_grad()
def test_sigmoid_and_tanh_are_within_3e_7() -> None:
    values = torch.cat([torch.linspace(-30, 30, 20_001), torch.linspace(-0.01, 0.01, 2_001), torch.tensor([-1e4, 1e4])])
    lstm = nn.LSTM(1, len(values), proj_size=1)
    for parameter in lstm.parameters():
        parameter.zero_()
    i, _, g, _ = lstm.bias_ih_l0.chunk(4)
    start = torch.zeros(1, 1, 1), torch.zeros(1, 1, len(values))
    for moved, still, function in ((i, g, torch.sigmoid), (g, i, torch.tanh)):
        moved.copy_(values)
        still.fill_(100)  # both are 1 there
        forms = {name: [Dense(part) for part in tensor.chunk(4)] for name, tensor in lstm.state_dict().items()}
        forms["weight_hr_l0"] = [Dense(lstm.weight_hr_l0)]
        deployed = Deployed("LSTM", {}, {"": deploy(lstm).lstms[""]}, forms)
        for name in available():
            runtime.instructions(name)
            c = deployed.open().run_lstm(0, torch.zeros(1, 1, 1), start)[1][1]
            assert (c[0, 0].double() - function(values.double())).abs().max() < 3e-7


def test_not_a_number_in_gives_not_a_number_out() -> None:
    lstm = lstm_of(5, 7)
    for method in ("bits:8", "original"):
        x = torch.randn(1, 3, 5)
        x[0, 1, 2] = torch.nan
        y, _ = deploy(lstm, Method.parse(method), ALL).model(engine="native")(x)
        assert y[0, 1].isnan().all()
        assert y[0, ::2].isfinite().all()


def test_values_that_are_no_multiples_of_one_are_read_as_floats() -> None:
    lstm = lstm_of(4, 6)
    weights = torch.tensor([0.1, 0.25, -0.37])[torch.randint(3, (24, 4))]
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(weights)
    deployed = deploy(lstm)
    codes = [Codes(torch.searchsorted(torch.tensor([-0.37, 0.1, 0.25]), part).int(), torch.tensor([-0.37, 0.1, 0.25]))
             for part in weights.chunk(4)]  # fmt: skip
    deployed.forms["weight_ih_l0"] = codes
    assert isinstance(deployed.forms["weight_hh_l0"][0], Dense)
    x = torch.randn(3, 2, 4)
    torch.testing.assert_close(deployed.model(engine="native")(x)[0], lstm(x)[0].detach())
