"""Which blocks are compressed: exactly those asked for, in any model with LSTM layers."""

import pytest
import torch
from torch import nn

from g2lstm import G2LSTM, G2LSTMCell, SharpenedGate
from g2lstm.compression import Method, Target, compress, compressed_copy, find_blocks
from g2lstm.compression.deploy import deploy
from g2lstm.compression.forms import Codes, Factors
from g2lstm.models.language_model import LanguageModel

ROUND = Method.parse("round:0.5")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(5, 6, num_layers=2, bidirectional=True, proj_size=3)
        self.decoder = nn.ModuleList([G2LSTM(4, 8), G2LSTM(8, 4)])
        self.out = nn.Linear(4, 4)


def changed_rows(model: nn.Module, target: Target) -> dict[str, set[int]]:
    """{parameter: its changed rows}, by comparing states."""
    before, after = model.state_dict(), compress(model, ROUND, target).state
    assert before.keys() == after.keys()
    rows = {name: (before[name] != after[name]).reshape(len(before[name]), -1).any(1).nonzero().flatten() for name in before}
    return {name: set(found.tolist()) for name, found in rows.items() if len(found)}


def test_the_default_is_the_gates_i_and_f_of_every_weight_matrix() -> None:
    model = Model()
    expected = {f"encoder.weight_{kind}_l{layer}{end}": set(range(12)) for kind in ("ih", "hh") for layer in (0, 1)
                for end in ("", "_reverse")}  # fmt: skip
    expected |= {f"decoder.0.weight_{kind}_l0": set(range(16)) for kind in ("ih", "hh")}
    expected |= {f"decoder.1.weight_{kind}_l0": set(range(8)) for kind in ("ih", "hh")}
    assert changed_rows(model, Target()) == expected


def test_what_is_shared_is_compressed_under_all_its_names() -> None:
    model = nn.Sequential(nn.LSTM(3, 4), nn.LSTM(3, 4))
    model.add_module("again", model[0])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    result = compressed_copy(model, ROUND, Target(layers=(0,)))
    for name in ("0", "1", "again"):
        found = result.get_submodule(name).weight_hh_l0[:8]
        assert torch.equal(found, ROUND.store(model[0].weight_hh_l0[:8]).matrix()), name
    assert torch.equal(result[1].weight_ih_l0, model[1].weight_ih_l0)


def test_values_that_are_not_finite_are_named_wherever_they_are() -> None:
    model = Model()
    model.out.weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"^out\.weight holds values that are not finite: did the training diverge\?$"):
        compress(model, ROUND)


@pytest.mark.parametrize(
    ("gates", "rows"), [("i", range(4)), ("f", range(4, 8)), ("g", range(8, 12)), ("o,i", {0, 1, 2, 3, 12, 13, 14, 15})]
)
def test_a_gate_is_its_block_of_rows(gates, rows) -> None:
    lstm = nn.LSTM(5, 4)
    assert changed_rows(lstm, Target.parse(gates, "recurrent")) == {"weight_hh_l0": set(rows)}


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("0", {"encoder.l0"}),
        ("-1", {"decoder.1.l0"}),
        ("encoder", {"encoder.l0", "encoder.l1"}),
        ("decoder.0,1", {"decoder.0.l0", "encoder.l1"}),
        ("encoder.l1", {"encoder.l1"}),
        ("decoder", {"decoder.0.l0", "decoder.1.l0"}),
    ],
)
def test_layers_are_chosen_by_number_and_by_name(layers, names) -> None:
    assert {block.layer for block in find_blocks(Model(), Target.parse(layers=layers))} == names


class Translator(nn.Module):
    """A layer that reads and a cell that writes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = G2LSTM(4, 6), G2LSTMCell(3, 6)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        _, (h, c) = self.encoder(x)
        return self.decoder(y, (h[0], c[0]))[0]


def test_cells_are_compressed_with_the_layers() -> None:
    model = Translator().eval()
    expected = {f"encoder.weight_{kind}_l0": set(range(12)) for kind in ("ih", "hh")}
    expected |= {f"decoder.weight_{kind}": set(range(12)) for kind in ("ih", "hh")}
    assert changed_rows(model, Target()) == expected
    assert {block.layer for block in find_blocks(model)} == {"encoder.l0", "decoder"}
    assert changed_rows(model, Target(layers=("decoder",), matrices=("input",))) == {"decoder.weight_ih": set(range(12))}
    assert changed_rows(model, Target(layers=(-1,), gates=("o",))) == {name: set(range(18, 24)) for name in expected
                                                                      if "decoder" in name}  # fmt: skip
    assert changed_rows(nn.LSTMCell(3, 4), Target(gates=("i",), layers=("cell",))).keys() == {"weight_ih", "weight_hh"}


def test_a_model_with_cells_is_stored_and_runs_compressed() -> None:
    model, method = Translator().eval(), Method.parse("svd:1")
    stored, x, y = deploy(model, method), torch.randn(5, 2, 4), torch.randn(2, 3)
    assert sum(isinstance(form, Factors) for forms in stored.forms.values() for form in forms) == 8
    expected = compressed_copy(model, method)(x, y)
    for running in (stored.model(model), stored.dense_model(model)):
        torch.testing.assert_close(running(x, y), expected)


def test_each_block_is_compressed_by_itself() -> None:
    lstm = nn.LSTM(6, 8)
    method = Method.parse("svd:2")
    state = compress(lstm, method).state
    for name in ("weight_ih_l0", "weight_hh_l0"):
        i, f, g, o = lstm.state_dict()[name].chunk(4)
        assert torch.equal(state[name], torch.cat([method.store(i).matrix(), method.store(f).matrix(), g, o]))


def test_the_model_stays_as_it_is_and_other_tensors_are_shared() -> None:
    model = Model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compressed = compress(model, ROUND)
    copied = compressed_copy(model, ROUND)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(copied.state_dict()[name], compressed.state[name])
    assert compressed.state["out.weight"].data_ptr() == model.out.weight.data_ptr()


def test_a_compressed_state_says_what_it_costs() -> None:
    lstm = nn.LSTM(6, 8)
    low = compress(lstm, Method.parse("svd:H/4"))
    assert low.bits_per_parameter == pytest.approx(32 * 2 * 2 * (14 + 16) / (2 * 8 * 6 + 2 * 8 * 8))
    assert low.mean_rank == 2
    assert all(isinstance(form, Factors) for form in low.forms.values())
    few = compress(lstm, Method.parse("ternary"))
    assert few.mean_rank is None
    assert all(isinstance(form, Codes) for form in few.forms.values())
    assert compress(lstm, Method()).bits_per_parameter == 32


def test_a_copy_computes_with_the_compressed_weights_and_keeps_its_gate() -> None:
    model = LanguageModel(11, 6, 8, 2, gate=SharpenedGate(0.3)).eval()
    copied = compressed_copy(model, Method.parse("bits:3"))
    tokens = torch.randint(11, (5, 2))
    assert not torch.equal(model(tokens).raw, copied(tokens).raw)
    assert copied.layers[0].tau == 0.3
    assert copied.embedding.weight is not model.embedding.weight


def test_a_model_on_another_dtype_is_compressed_in_place_of_its_dtype() -> None:
    state = compress(nn.LSTM(4, 4, dtype=torch.bfloat16), Method.parse("svd:1")).state
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: find_blocks(nn.Linear(2, 2)), "Linear holds no nn.LSTM or G2LSTM layer or cell"),
        (lambda: find_blocks(nn.GRU(2, 2)), "GRU holds no nn.LSTM or G2LSTM layer or cell"),
        (lambda: Target.parse("ix"), "gates must be some of i, f, g, o, got x, i"),
        (lambda: Target.parse(""), "gates must be some of i, f, g, o, got none"),
        (lambda: Target.parse("ii"), "gates must be some of i, f, g, o, got i, i"),
        (lambda: Target.parse(matrices="hidden"), "matrices must be some of input, recurrent, got hidden"),
        (
            lambda: find_blocks(nn.LSTM(2, 2, 2), Target(layers=(2,))),
            "there is no LSTM layer 2: choose 0 to 1, or of l0, l1",
        ),
        (lambda: find_blocks(nn.LSTM(2, 2), Target(layers=("x",))), "there is no LSTM layer x"),
        (
            lambda: find_blocks(nn.Sequential(nn.GRU(2, 2), nn.LSTM(2, 2)), Target(layers=("0",))),
            "there is no LSTM layer 0: choose 0 to 0, or of 1.l0",
        ),
    ],
)
def test_what_does_not_exist_is_one_line(make, message) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parametrised_weight_is_refused() -> None:
    lstm = nn.utils.parametrizations.weight_norm(nn.LSTM(2, 2), "weight_hh_l0")
    with pytest.raises(ValueError, match="the state_dict has no weight_hh_l0: remove parametrisations"):
        find_blocks(lstm)
