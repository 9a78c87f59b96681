"""Whatever shape, dtype, layout and option: G2LSTM, G2LSTMCell and gates do what nn.LSTM does, or what the reference does.

T time, B batch, D input, H hidden units, P projection or H.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, SharpenedGate, SigmoidGate

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN", "ignore:dropout option")
examples = settings(derandomize=True, max_examples=50)
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 5e-2}
ODD = {"a number": None, "NaN": torch.nan, "infinity": torch.inf, "less than any": -torch.inf, "large": 1e30}


@dataclass(frozen=True)
class Case:
    """A layer and what it is given."""

    options: dict
    dtype: torch.dtype
    engine: str
    shape: tuple[int, int, int, int]  # T, B, D, H
    layout: str
    lengths: tuple[int, ...]
    state: bool
    odd: str
    seed: int

    def layer(self, kind: type = G2LSTM, **more) -> nn.LSTM:
        torch.manual_seed(self.seed)
        return kind(*self.shape[2:], **self.options, **more, dtype=self.dtype)

    def given(self) -> tuple:
        """Input and states; one value of the input is odd."""
        (T, B, D, H), draw = self.shape, torch.Generator().manual_seed(self.seed)
        layers = self.options["num_layers"] * (1 + self.options["bidirectional"])
        batch = () if self.layout == "unbatched" else (B,)
        x = torch.randn(T, *batch, D, generator=draw).to(self.dtype)
        if ODD[self.odd] is not None:
            x.view(-1)[self.seed % x.numel()] = ODD[self.odd]
        x = x.transpose(0, 1) if self.options["batch_first"] and batch else x
        widths = self.options["proj_size"] or H, H
        state = tuple(torch.randn(layers, *batch, width, generator=draw).to(self.dtype) for width in widths)
        if self.layout == "packed":
            lengths = torch.tensor(self.lengths[:B]).clamp(max=T)
            x = pack_padded_sequence(x, lengths, batch_first=self.options["batch_first"], enforce_sorted=False)
        return (x, state) if self.state else (x,)


@st.composite
def cases(draw, dtypes=tuple(TOLERANCE), odd=tuple(ODD)) -> Case:
    H = draw(st.integers(1, 5))
    options = {
        "num_layers": draw(st.integers(1, 2)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
        "proj_size": draw(st.integers(0, H - 1)),
    }
    return Case(
        options,
        draw(st.sampled_from(dtypes)),
        draw(st.sampled_from(["auto", "reference", "bptt"])),
        (draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), H),
        draw(st.sampled_from(["padded", "packed", "unbatched"])),
        tuple(draw(st.lists(st.integers(1, 5), min_size=4, max_size=4))),
        draw(st.booleans()),
        draw(st.sampled_from(odd)),
        draw(st.integers(0, 99)),
    )


def run(layer: nn.Module, given: tuple, **more) -> list[Tensor]:
    output, state = layer(*given, **more)
    return [output.data if isinstance(output, PackedSequence) else output, *state]


def gradients(layer: nn.Module, found: list[Tensor]) -> list[Tensor]:
    weights = [torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part) for part in found]
    return list(
        torch.autograd.grad(sum((a * b).sum() for a, b in zip(found, weights, strict=True)), list(layer.parameters()))
    )


@examples
@given(case=cases(), gate=st.sampled_from([SigmoidGate(), GumbelGate(noise_p=0, tau=1), GumbelGate()]))
def test_a_layer_without_noise_is_nn_lstm(case, gate):
    ours, theirs = case.layer(gate=gate, engine=case.engine), case.layer(nn.LSTM)
    if gate == GumbelGate():  # noisy in training alone
        ours.eval()
    given, tolerance = case.given(), TOLERANCE[case.dtype]
    found, expected = run(ours, given), run(theirs, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)  # shapes and dtypes as well
    if ours.training and case.odd == "a number":
        for a, b in zip(gradients(ours, found), gradients(theirs, expected), strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=20 * tolerance)


GATES = [
    GumbelGate(), GumbelGate(noise_p=0.5, noise_scope="mask"), GumbelGate(noise_scope="sequence", gates=("f", "o")),
    GumbelGate(hard=True), SharpenedGate(),
]  # fmt: skip


@examples
@given(
    case=cases((torch.float64, torch.float32), ("a number", "large")),
    gate=st.sampled_from(GATES),
    options=st.fixed_dictionaries(
        {
            "weight_dropout": st.sampled_from([0.0, 0.5]),
            "recurrent_dropout": st.sampled_from([0.0, 0.5]),
            "recurrent_dropout_kind": st.sampled_from(["h", "g", "g_sequence"]),
            "zoneout": st.sampled_from([0.0, (0.3, 0.1)]),
        }
    ),
)
def test_engines_draw_and_compute_the_same_of_any_gate_and_mask(case, gate, options):
    given, found = case.given(), []
    for engine in ("reference", case.engine):
        layer = case.layer(gate=gate, engine=engine, **options)
        found.append(run(layer, given, generator=torch.Generator().manual_seed(case.seed)))
    plain = run(case.layer(nn.LSTM), given)
    tolerance = TOLERANCE[case.dtype]
    for ours, reference, like in zip(*found, plain, strict=True):
        assert (ours.shape, ours.dtype) == (like.shape, like.dtype)
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@examples
@given(case=cases(odd=("NaN", "infinity")).map(lambda case: replace(case, layout="padded")), gate=st.sampled_from(GATES))
def test_what_is_no_number_stays_in_its_sequence(case, gate):
    x, *state = case.given()
    over = tuple(n for n in range(3) if n != (0 if case.options["batch_first"] else 1))
    touched = ~x.isfinite().all(over[1]).all(over[0])  # (B,)
    output, (h, c) = case.layer(gate=gate, engine=case.engine)(x, *state)
    for found, dims in ((output, over), (h, (0, 2)), (c, (0, 2))):
        assert found.isfinite().all(dims[1]).all(dims[0])[~touched].all()


@examples
@given(
    case=cases(),
    gate=st.sampled_from([SigmoidGate(), GumbelGate(), SharpenedGate(tau=1)]),
    bias=st.booleans(),
    batched=st.booleans(),
)
def test_a_cell_without_noise_is_nn_lstm_cell(case, gate, bias, batched):
    (_, B, D, H), draw = case.shape, torch.Generator().manual_seed(case.seed)
    cells = []
    for kind, more in ((nn.LSTMCell, {}), (G2LSTMCell, {"gate": gate})):
        torch.manual_seed(case.seed)
        cells.append(kind(D, H, bias=bias, dtype=case.dtype, **more).train(gate != GumbelGate()))
    batch = (B,) if batched else ()
    x, h, c = (torch.randn(*batch, width, generator=draw).to(case.dtype) for width in (D, H, H))
    if ODD[case.odd] is not None:
        x.view(-1)[case.seed % x.numel()] = ODD[case.odd]
    arguments = (x, (h, c)) if case.state else (x,)
    for theirs, ours in zip(*(cell(*arguments) for cell in cells), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE[case.dtype], atol=TOLERANCE[case.dtype], equal_nan=True)


sizes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
states = st.none() | st.tuples(sizes, sizes)
floating = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.int64])


@examples
@given(shape=sizes, dtype=floating, state=states, batch_first=st.booleans(), gate=st.sampled_from(GATES), cell=st.booleans())
def test_what_nn_lstm_refuses_is_refused_alike_and_nothing_else(shape, dtype, state, batch_first, gate, cell):
    hx = None if state is None else tuple(map(torch.zeros, state))
    kinds = (nn.LSTMCell, G2LSTMCell) if cell else (nn.LSTM, G2LSTM)
    options = {} if cell else {"batch_first": batch_first}
    gate = GumbelGate() if cell else gate  # which draws anew in each step
    found = []
    for kind, more in zip(kinds, ({}, {"gate": gate}), strict=True):
        try:
            results = kind(2, 3, **options, **more)(torch.zeros(shape, dtype=dtype), hx)
            found.append([part.shape for part in ((results[0], *results[1]) if not cell else results)])
        except (ValueError, RuntimeError, IndexError) as error:
            found.append((type(error), str(error)))
    assert found[0] == found[1]


numbers = st.floats() | st.sampled_from([0.0, 1.0, 0.5])


@examples
@given(tau=numbers, noise_p=numbers, eps=numbers, size=st.integers(1, 3))
def test_a_gate_is_made_of_any_numbers_in_range_and_no_others(tau, noise_p, eps, size):
    valid = 0 < tau < float("inf") and 0 <= noise_p <= 1 and 0 <= eps < float("inf")
    if not valid:
        with pytest.raises(ValueError, match=r"tau|noise_p|eps"):
            GumbelGate(tau=tau, noise_p=noise_p, eps=eps)
        return
    assert (
        not G2LSTM(size, size, gate=GumbelGate(tau=tau, noise_p=noise_p, eps=eps))(torch.zeros(2, 1, size))[0].isnan().any()
    )
