"""Gate values recomputed from a layer's inputs and outputs are those of the recurrence."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, HardGate, SharpenedGate, SigmoidGate
from g2lstm.inspection.gates import GateRecord, binary_share, lstm_layers, recorded_gates
from tests.processor import needs_bfloat16

LENGTHS = [4, 7, 1, 5]
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}


def step_by_step(
    layer: nn.LSTM, sequences: list[Tensor], hx=None, *, scale=1.0, hard=False, noise: list[Tensor] | None = None
) -> dict[tuple[int, bool, str], list[Tensor]]:
    """The (T, H) gates of every sequence by itself, from a plain loop over the cell equations."""
    found: dict[tuple[int, bool, str], list[Tensor]] = {}
    directions = 2 if layer.bidirectional else 1
    for b, x in enumerate(sequences):
        for number in range(layer.num_layers):
            outputs = []
            for d in range(directions):
                index, end = number * directions + d, f"_l{number}{'_reverse' if d else ''}"
                w_ih, w_hh = getattr(layer, f"weight_ih{end}"), getattr(layer, f"weight_hh{end}")
                bias = getattr(layer, f"bias_ih{end}") + getattr(layer, f"bias_hh{end}") if layer.bias else 0.0
                h = x.new_zeros(layer.proj_size or layer.hidden_size) if hx is None else hx[0][index, b]
                c = x.new_zeros(layer.hidden_size) if hx is None else hx[1][index, b]
                steps: list = [None] * len(x)
                for t in reversed(range(len(x))) if d else range(len(x)):
                    a_i, a_f, a_g, a_o = (w_ih @ x[t] + w_hh @ h + bias).chunk(4)
                    if noise is not None:
                        n_i, n_f = noise[index][t, b].chunk(2)
                        a_i, a_f = a_i + n_i, a_f + n_f
                    i, f = ((a > 0).to(a) if hard else (a * scale).sigmoid() for a in (a_i, a_f))
                    o = a_o.sigmoid()
                    c = f * c + i * a_g.tanh()
                    h = o * c.tanh()
                    h = h if not layer.proj_size else getattr(layer, f"weight_hr{end}") @ h
                    steps[t] = (i, f, o, h)
                for name, values in zip("ifo", zip(*steps, strict=True), strict=False):
                    found.setdefault((number, bool(d), name), []).append(torch.stack(values))
                outputs.append(torch.stack([step[3] for step in steps]))
            x = torch.cat(outputs, dim=-1)
    return found


def check(records: list[GateRecord], expected: dict[tuple[int, bool, str], list[Tensor]], rounding: float) -> None:
    assert len(records) * 3 == len(expected)
    for record in records:
        for gate, values in record.values.items():
            sequences = expected[record.layer, record.reverse, gate]
            for b, sequence in enumerate(sequences):
                assert (values[: len(sequence), b] - sequence).abs().max() < rounding
            assert record.steps(gate).shape == (sum(map(len, sequences)), values.shape[-1])


KINDS = {
    "nn.LSTM": (nn.LSTM, {}),
    "stacked nn.LSTM without bias": (nn.LSTM, {"num_layers": 3, "bias": False}),
    "bidirectional projected nn.LSTM": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
    "Gumbel": (G2LSTM, {"gate": GumbelGate()}),
    "sigmoid, another engine": (G2LSTM, {"gate": SigmoidGate(), "engine": "bptt"}),
    "stacked bidirectional sharpened": (G2LSTM, {"gate": SharpenedGate(0.2), "num_layers": 2, "bidirectional": True}),
    "projected bidirectional Gumbel": (G2LSTM, {"gate": GumbelGate(), "proj_size": 2, "bidirectional": True}),
    "stacked hard": (G2LSTM, {"gate": HardGate(), "num_layers": 2, "bidirectional": True}),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("given", ["padded", "packed", "batch first"])
@pytest.mark.parametrize("kind", KINDS)
def test_gate_values_equal_a_step_by_step_computation(kind, given, dtype) -> None:
    cls, options = KINDS[kind]
    torch.manual_seed(3)
    layer = cls(3, 5, **options, batch_first=given == "batch first", dtype=dtype).eval()
    gate = getattr(layer, "gate", None)
    count, lengths = layer.num_layers * (2 if layer.bidirectional else 1), LENGTHS if given == "packed" else [7] * 4
    x = torch.randn(7, 4, 3, dtype=dtype)
    sequences = [x[:length, b] for b, length in enumerate(lengths)]
    hx = (torch.randn(count, 4, layer.proj_size or 5, dtype=dtype), torch.randn(count, 4, 5, dtype=dtype))
    inputs = x.transpose(0, 1) if layer.batch_first else x
    if given == "packed":
        inputs = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    with torch.no_grad():
        for state in (None, hx):
            with recorded_gates(layer) as records:
                layer(inputs, state)
            scale = 5.0 if isinstance(gate, SharpenedGate) else 1.0
            expected = step_by_step(layer, sequences, state, scale=scale, hard=isinstance(gate, HardGate))
            check(records, expected, ROUNDING[dtype])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "stacked bidirectional"])
def test_training_gates_hold_the_noise_that_was_handed_in(options) -> None:
    layer = G2LSTM(3, 5, gate=GumbelGate(tau=0.5, noise_p=0.7), **options, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    noise = layer.draw_noise(6, 4)
    with torch.no_grad(), recorded_gates(layer) as records:
        layer(x, noise=noise)
        check(records, step_by_step(layer, list(x.unbind(1)), scale=2.0, noise=noise), 1e-10)


def test_an_unbatched_sequence_counts_as_a_batch_of_one() -> None:
    layer, x = nn.LSTM(3, 5, 2, bidirectional=True, dtype=torch.float64).eval(), torch.randn(4, 3, dtype=torch.float64)
    state = (torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64))
    with torch.no_grad(), recorded_gates(layer) as records:
        layer(x, state)
        expected = step_by_step(layer, [x], tuple(part.unsqueeze(1) for part in state))
    check(records, expected, 1e-10)


@pytest.mark.parametrize("gate", [None, SigmoidGate(), SharpenedGate(0.2), HardGate()], ids=str)
def test_a_cell_is_recorded_at_its_calls(gate) -> None:
    cell = nn.LSTMCell(3, 5, dtype=torch.float64) if gate is None else G2LSTMCell(3, 5, gate=gate, dtype=torch.float64)
    layer = nn.LSTM(3, 5, dtype=torch.float64)
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, state = torch.randn(6, 4, 3, dtype=torch.float64), None
    with torch.no_grad(), recorded_gates(cell.eval()) as records:
        for step in x:
            state = cell(step, state)
        scale = 5.0 if isinstance(gate, SharpenedGate) else 1.0
        expected = step_by_step(layer, list(x.unbind(1)), scale=scale, hard=isinstance(gate, HardGate))
    assert [record.call for record in records] == list(range(6))
    for (_, _, name), sequences in expected.items():
        values = torch.cat([record.values[name] for record in records])  # (T, B, H)
        torch.testing.assert_close(values, torch.stack(sequences, dim=1), rtol=0, atol=1e-10)


def test_a_cell_in_training_shows_the_noise_it_was_given_also_unbatched() -> None:
    cell, x, noise = G2LSTMCell(3, 5, gate=GumbelGate(tau=0.5)), torch.randn(3), torch.randn(10)
    with torch.no_grad(), recorded_gates(cell) as records:
        h, c = cell(x, noise=noise)
    a = cell.weight_ih @ x + cell.bias_ih + cell.bias_hh
    expected = ((a[:10] + noise) / 0.5).sigmoid()
    torch.testing.assert_close(torch.cat([records[0].values["i"], records[0].values["f"]], dim=-1)[0, 0], expected)
    torch.testing.assert_close(h, records[0].values["o"][0, 0] * c.tanh())


def test_recording_goes_on_from_a_given_state_also_by_name() -> None:
    rnn = G2LSTM(3, 5).eval()
    x = torch.randn(8, 2, 3)
    with torch.no_grad(), recorded_gates(rnn) as records:
        rnn(x)
        _, state = rnn(x[:4])
        rnn(x[4:], state)
        rnn(x[4:], hx=state)
    whole, first, second, named = (record.values["f"] for record in records)
    torch.testing.assert_close(whole, torch.cat([first, second]))
    assert torch.equal(second, named)


def test_every_layer_of_a_model_is_found_by_its_name() -> None:
    model = nn.ModuleDict({"encoder": nn.LSTM(3, 5), "decoder": nn.ModuleList([G2LSTM(3, 5), nn.LSTMCell(3, 5)])})
    assert list(lstm_layers(model)) == ["encoder", "decoder.0", "decoder.1"]
    with pytest.raises(ValueError, match=r"Linear has no nn\.LSTM"):
        lstm_layers(nn.Linear(2, 2))


def test_watching_leaves_the_layer_and_its_output_as_they_are() -> None:
    rnn, x = G2LSTM(3, 5, num_layers=2).eval(), torch.randn(4, 2, 3)
    before = rnn(x)[0]
    with recorded_gates(rnn) as records:
        inside = rnn(x)[0]
    after = rnn(x)[0]
    assert torch.equal(before, inside)
    assert torch.equal(before, after)
    assert len(records) == 2
    assert not records[0].values["i"].requires_grad
    inside.sum().backward()


@pytest.mark.parametrize(
    ("cls", "how"),
    [
        *product([nn.LSTM, G2LSTM], ["bfloat16"]),
        pytest.param(nn.LSTM, "autocast", marks=needs_bfloat16),
        (G2LSTM, "autocast"),
    ],
)
def test_half_precision_is_recorded_in_float32(cls, how) -> None:
    torch.manual_seed(5)
    whole, x = cls(3, 5, 2, bidirectional=True).eval().bfloat16().float(), torch.randn(4, 2, 3).bfloat16().float()
    rnn = cls(3, 5, 2, bidirectional=True).eval()
    rnn.load_state_dict(whole.state_dict())
    with torch.no_grad(), recorded_gates(rnn) as records:
        if how == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                rnn(x)
        else:
            rnn.bfloat16()(x.bfloat16())
    assert {values.dtype for record in records for values in record.values.values()} == {torch.float32}
    check(records, step_by_step(whole, list(x.unbind(1))), 3e-3)


@pytest.mark.parametrize(
    ("rnn", "way_out"),
    [
        (G2LSTM(3, 5), "noise"),
        (G2LSTM(3, 5, gate=SigmoidGate(), weight_dropout=0.5), "DropConnect"),
        (nn.LSTM(3, 5, 2, dropout=0.5), "dropout between its layers"),
    ],
)
def test_what_a_layer_draws_by_itself_is_not_guessed(rnn, way_out) -> None:
    with recorded_gates(rnn), pytest.raises(ValueError, match=way_out):
        rnn(torch.randn(2, 1, 3))


@pytest.mark.parametrize(
    ("rnn", "name", "mask"),
    [
        (G2LSTM(3, 5, gate=SigmoidGate()), "weight_masks", [torch.ones(20, 5)]),
        (G2LSTM(3, 5, gate=SigmoidGate()), "recurrent_masks", [torch.ones(2, 5)]),
        (G2LSTMCell(3, 5, gate=SigmoidGate()), "recurrent_mask", torch.ones(2, 5)),
    ],
)
def test_masks_that_are_passed_are_refused_also_where_none_would_be_drawn(rnn, name, mask) -> None:
    x = torch.randn(2, 3) if isinstance(rnn, G2LSTMCell) else torch.randn(4, 2, 3)
    with recorded_gates(rnn) as records:
        rnn(x, **{name: None})
        with pytest.raises(ValueError, match=f"can't be recomputed with {name}: pass {name}=None"):
            rnn(x, **{name: mask})
    assert len(records) == 1


def test_binary_share_counts_values_outside_the_margin() -> None:
    values = {"i": torch.tensor([0.05, 0.5, 0.95, 0.2]), "f": torch.tensor([0.01, 0.3, 0.6, 0.89])}
    record = GateRecord("", 0, False, 0, {name: value.view(2, 2, 1) for name, value in values.items()}, None)
    assert binary_share([record]) == pytest.approx(3 / 8)


def test_the_order_of_packed_sequences_is_the_callers() -> None:
    rnn, x = nn.LSTM(3, 5).eval(), torch.randn(7, 4, 3)
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    assert isinstance(packed, PackedSequence)
    with torch.no_grad(), recorded_gates(rnn) as records:
        rnn(packed)
        rnn(x[:, 1:2])
    torch.testing.assert_close(records[0].values["i"][:, 1], records[1].values["i"][:, 0])
    assert records[0].mask is not None
    assert records[0].mask.sum(0).tolist() == LENGTHS
