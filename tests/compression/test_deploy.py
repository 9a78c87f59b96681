"""A deployed model gives the numbers of the evaluated one, in every form, and costs what it says."""

import struct

import pytest
import torch
from torch import nn

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, HardGate, SharpenedGate, runtime
from g2lstm.compression import Method, Target, compress, compressed_copy
from g2lstm.compression.deploy import REST, Deployed, deploy
from g2lstm.compression.forms import Codes, Dense, Factors, Sparse
from g2lstm.compression.inference import InferenceLSTM, TorchRunner
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel

AVAILABLE = ["torch"] if runtime.problem() else ["torch", "native"]
FORMS = {
    "original": Dense,
    "clip:3": Dense,
    "prune:0.9": Sparse,
    "round:0.2+clip:0.4": Codes,
    "bits:3": Codes,
    "bits:8": Codes,
    "ternary": Codes,
    "svd:3": Factors,
    "svd:3+bits:4": Factors,
}


def language_model(gate=None, *, tied: bool = True, layers: int = 3) -> LanguageModel:
    torch.manual_seed(3)
    model = LanguageModel(50, 16, 24, layers, gate=gate, tied=tied).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def again(path, deployed: Deployed) -> Deployed:
    save_model(path / "model.g2", deployed)
    return load_model(path / "model.g2")


def assert_same(model: nn.Module, other: nn.Module) -> None:
    words = torch.randint(50, (7, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, two = model(words[:4]), other(words[:4])
        torch.testing.assert_close(one.raw, two.raw, rtol=0, atol=1e-5)
        one, two = model(words[4:], one.state), other(words[4:], two.state)
        torch.testing.assert_close(one.raw, two.raw, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.loss(one.raw, words[4:]), other.loss(two.raw, words[4:]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gate", [GumbelGate(), SharpenedGate()], ids=["gumbel", "sharpened"])
@pytest.mark.parametrize("method", FORMS)
def test_a_loaded_model_gives_the_numbers_of_the_evaluated_one(tmp_path, method, gate) -> None:
    model = language_model(gate)
    deployed = again(tmp_path, deploy(model, Method.parse(method)))
    assert isinstance(deployed.forms["layers.0.weight_hh_l0"][0], FORMS[method])
    evaluated = compressed_copy(model, Method.parse(method))
    assert_same(evaluated, deployed.model(engine="torch"))
    assert_same(evaluated, deployed.dense_model())


@pytest.mark.parametrize("rest", REST)
@pytest.mark.parametrize("tied", [True, False])
def test_the_rest_comes_back_as_it_was_stored(tmp_path, rest, tied) -> None:
    model = language_model(tied=tied)
    deployed = again(tmp_path, deploy(model, Method.parse("round:0.2+clip:0.4"), rest=rest))
    evaluated = language_model(tied=tied)
    evaluated.load_state_dict(deployed.state())
    assert_same(evaluated, deployed.model(engine="torch"))
    for name, tensor in model.state_dict().items():
        step = tensor.abs().amax(-1, keepdim=True) / {"float32": 1e9, "bf16": 2**8, "int8": 2 * 127}[rest]
        rows = slice(2 * len(tensor) // 4, None) if "weight_ih" in name or "weight_hh" in name else slice(None)
        exact = tensor.dim() == 1
        difference = (deployed.state()[name][rows] - tensor[rows]).abs()
        assert (difference <= (0 if exact else step[rows] * 1.001)).all(), name


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"proj_size": 4}, {"batch_first": True}, {"num_layers": 2}], ids=str
)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("engine", AVAILABLE)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_any_lstm_runs_in_its_compressed_form(tmp_path, options, bidirectional, engine) -> None:
    torch.manual_seed(1)
    lstm = nn.LSTM(9, 12, bidirectional=bidirectional, **options)
    deployed = again(tmp_path, deploy(lstm, Method.parse("svd:2"), Target(gates=("i", "o"))))
    expected = compressed_copy(lstm, Method.parse("svd:2"), Target(gates=("i", "o")))
    runs = deployed.model(engine=engine)
    x = torch.randn(3, 5, 9)
    state = tuple(torch.randn_like(part) for part in expected(x)[1])
    for hx in (None, state):
        torch.testing.assert_close(runs(x, hx), expected(x, hx), rtol=0, atol=1e-5)
    if not options.get("batch_first"):
        torch.testing.assert_close(runs(x[:, 0]), expected(x[:, 0]), rtol=0, atol=1e-5)


def test_factors_run_as_two_thin_products() -> None:
    model = deploy(language_model(), Method.parse("svd:3")).model(engine="torch")
    assert isinstance(model, LanguageModel)
    layer = model.layers[0]
    assert isinstance(layer, InferenceLSTM)
    held = sum(tensor.numel() for tensor in layer.state_dict().values())
    assert held == 2 * 3 * (24 + 16) + 2 * 3 * (24 + 24) + 2 * 24 * (16 + 24) + 4 * 24
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_ranks_that_differ_between_gates_and_matrices_run_too() -> None:
    lstm = nn.LSTM(4, 8)
    weights = {name: [Dense(part) for part in tensor.chunk(4)] for name, tensor in lstm.state_dict().items()}
    for index, rank in ((0, 2), (2, 1), (3, 1)):
        weights["weight_hh_l0"][index] = Method.parse(f"svd:{rank}").store(lstm.weight_hh_l0.chunk(4)[index])
    runner = InferenceLSTM(lstm, TorchRunner(lstm, weights))
    with torch.no_grad():
        lstm.weight_hh_l0.copy_(torch.cat([form.matrix() for form in weights["weight_hh_l0"]]))
        x = torch.randn(5, 2, 4)
        torch.testing.assert_close(runner(x), lstm(x))


@pytest.mark.parametrize("engine", AVAILABLE)
def test_a_runner_of_dense_weights_is_nn_lstm_and_says_what_it_does_not_take(engine) -> None:
    lstm = nn.LSTM(4, 6, 2, bidirectional=True)
    runner, x = deploy(lstm).model(engine=engine), torch.randn(5, 2, 4)
    torch.testing.assert_close(runner(x), lstm(x))
    with pytest.raises(ValueError, match=r"input must be \(T, B, 4\)"):
        runner(torch.randn(5, 2, 3))
    packed = nn.utils.rnn.pack_sequence([x[:2, 0], x[:, 1], x[:4, 0]], enforce_sorted=False)
    (found, states), (expected, others) = runner(packed), lstm(packed)
    torch.testing.assert_close(found.data, expected.data)
    assert found.batch_sizes.equal(expected.batch_sizes)
    assert found.unsorted_indices.equal(expected.unsorted_indices)
    torch.testing.assert_close(states, others)


@pytest.mark.parametrize("engine", AVAILABLE)
@pytest.mark.parametrize("sort", [True, False])
def test_packed_sequences_keep_the_order_that_they_came_in(engine, sort) -> None:
    """Also where lengths are equal."""
    lstm, lengths = nn.LSTM(4, 6), torch.tensor([3] * 40 + [2] * 40)
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 80, 4), lengths, enforce_sorted=sort)
    (found, _), (expected, _) = deploy(lstm).model(engine=engine)(packed), lstm(packed)
    assert found.batch_sizes.equal(expected.batch_sizes)
    assert (found.sorted_indices is None) == sort
    assert found.sorted_indices is packed.sorted_indices
    assert found.unsorted_indices is packed.unsorted_indices
    torch.testing.assert_close(found.data, expected.data)


@pytest.mark.skipif("native" not in AVAILABLE, reason="there is no runtime")
def test_the_runtime_says_that_it_is_of_the_cpu() -> None:
    """meta stands in for a GPU."""
    x, message = torch.empty(5, 3, 4, device="meta"), r'run on meta: take Deployed.model\(engine="torch"\)'
    with pytest.raises(UserError, match=message):
        deploy(nn.LSTM(4, 6)).model(engine="native")(x)


def test_sequences_of_different_lengths_run_where_the_weights_are() -> None:
    """Lengths come from a packed sequence, always on the CPU; meta stands in for a GPU."""
    runner = deploy(nn.LSTM(4, 6, bidirectional=True)).model(engine="torch").runner.to("meta")
    x, state = torch.empty(5, 3, 4, device="meta"), torch.empty(2, 3, 6, device="meta")
    y, _ = runner(x, (state, state), torch.tensor([2, 5, 4]))
    assert (y.shape, y.device.type) == ((5, 3, 12), "meta")


def test_a_sharpened_cell_computes_the_same_when_it_is_stored() -> None:
    model = nn.ModuleDict({"cell": G2LSTMCell(3, 4, gate=SharpenedGate(0.3))}).eval()
    stored = deploy(model).model(model)
    x = torch.randn(2, 3)
    torch.testing.assert_close(stored["cell"](x), model["cell"](x))
    assert isinstance(model["cell"].gate, SharpenedGate)


def test_other_models_need_one_of_their_kind_to_run(tmp_path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = G2LSTM(4, 8, gate=SharpenedGate())
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.encoder(x)[0][-1])

    model = Tagger().eval()
    deployed = again(tmp_path, deploy(model, Method.parse("svd:1")))
    with pytest.raises(ValueError, match="weights of a Tagger: pass model="):
        deployed.model()
    x = torch.randn(5, 2, 4)
    runs = deployed.model(Tagger())
    torch.testing.assert_close(runs(x), compressed_copy(model, Method.parse("svd:1"))(x).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_file_holds_the_bits_that_the_forms_state(tmp_path, method, dtype) -> None:
    lstm = nn.LSTM(60, 80, dtype=dtype)
    found = compress(lstm, Method.parse(method))
    size = save_model(tmp_path / "model.g2", deploy(lstm, Method.parse(method)))
    (header,) = struct.unpack("<Q", (tmp_path / "model.g2").read_bytes()[:8])  # of names, shapes, JSON
    blocks = sum(form.bits for form in found.forms.values())
    rest = 32 * (sum(parameter.numel() for parameter in lstm.parameters()) - 2 * 80 * (60 + 80))
    assert size - 8 - header == (blocks + rest) / 8
    assert deploy(lstm).float32_bytes == 4 * sum(parameter.numel() for parameter in lstm.parameters())


def test_a_model_of_another_architecture_is_refused() -> None:
    def model(hidden: int, name: str) -> nn.Module:
        return nn.ModuleDict({"a": nn.LSTM(4, hidden), name: nn.Linear(2, 3)})

    deployed = deploy(model(4, "out"))
    with pytest.raises(ValueError, match=r"architecture: a.weight_ih_l0 is \(16, 4\) in what was .*, \(28, 4\) in it"):
        deployed.model(model(7, "out"))
    with pytest.raises(ValueError, match=r"another architecture: out.weight is \(3, 2\) in what was compressed, None in it"):
        deployed.model(model(4, "head"))
    deployed.model(model(4, "out")).get_submodule("a").flatten_parameters()


def test_what_can_not_be_deployed_is_named() -> None:
    twice = nn.ModuleList([nn.LSTM(2, 3)])
    twice.append(twice[0])
    with pytest.raises(ValueError, match="0 and 1 are one module: put a copy"):
        deploy(twice)
    with pytest.raises(ValueError, match="rest must be one of float32, bf16, int8, got 'int4'"):
        deploy(nn.LSTM(2, 3), rest="int4")
    with pytest.raises(ValueError, match="a hard gate can't be deployed"):
        deploy(G2LSTM(2, 3, gate=HardGate()))
    for layer in (G2LSTM(2, 3, zoneout=0.1), G2LSTMCell(2, 3, zoneout=(0.0, 0.1))):
        with pytest.raises(ValueError, match=r"zoneout=\(0\..*, 0\.1\) can't be deployed, for no LSTM computes it"):
            deploy(layer)
    with pytest.raises(ValueError, match="engine must be one of auto, native, torch, got 'onnx'"):
        deploy(nn.LSTM(2, 3)).model(engine="onnx")
    with pytest.raises(ValueError, match="nothing to compress"):
        deploy(nn.Linear(2, 3), Method.parse("svd:1"))
