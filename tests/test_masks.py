"""Recurrent dropout and zoneout of G2LSTM and G2LSTMCell. T time, B batch, D input, H hidden units, P projection."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm import G2LSTM, G2LSTMCell, GumbelGate, SigmoidGate
from g2lstm.engines import compiled
from g2lstm.inspection.gates import gate_values, recorded_gates
from g2lstm.inspection.modes import training_gates

T, B, D, H, P = 5, 3, 4, 6, 2
LENGTHS = [2, 5, 4]
KINDS = ("h", "g", "g_sequence")
ENGINE_NAMES = ["auto", "reference", "bptt"]
EVERYTHING = {"recurrent_dropout": 0.4, "zoneout": (0.5, 0.2)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(rnn: G2LSTM, batch: int = B, generator: torch.Generator | None = None) -> dict[str, list[Tensor]]:
    """The masks of a pass, in the order that a pass draws them."""
    pairs = [
        (rnn.draw_recurrent_mask(T, batch, generator=generator), rnn.draw_zoneout_mask(T, batch, generator=generator))
        for _ in range(rnn.num_layers * (1 + rnn.bidirectional))
    ]
    return dict(zip(("recurrent_masks", "zoneout_masks"), map(list, zip(*pairs, strict=True)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": P}], ids=["plain", "stacked"])
def test_given_masks_replay_a_pass_exactly(kind, engine, options):
    rnn = G2LSTM(D, H, **options, gate=SigmoidGate(), **EVERYTHING, recurrent_dropout_kind=kind, engine=engine)
    x = torch.randn(T, B, D)
    first, again, other = (rnn(x, generator=seeded(seed))[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, rnn(x, **drawn(rnn, generator=seeded(5)))[0])


@pytest.mark.parametrize("engine", ["auto", "bptt"])
def test_engines_agree_on_gradients(engine):
    rnn, x = G2LSTM(D, H, 2, bidirectional=True, gate=SigmoidGate(), **EVERYTHING, engine=engine), torch.randn(T, B, D)
    masks, found = drawn(rnn), []
    for rnn.engine in (engine, "reference"):
        found.append(torch.autograd.grad(rnn(x, **masks)[0].square().sum(), list(rnn.parameters())))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_frameworks_lstm_says_that_it_takes_none(training):
    rnn = G2LSTM(D, H, gate=SigmoidGate(), zoneout=0.1, engine="framework").train(training)
    with pytest.raises(ValueError, match="the framework engine has no recurrent dropout and no zoneout: use engine='auto'"):
        rnn(torch.zeros(T, B, D))


def test_packed_masks_belong_to_the_callers_sequences():
    rnn = G2LSTM(D, H, bidirectional=True, gate=SigmoidGate(), **EVERYTHING)
    x, masks = torch.randn(T, B, D), drawn(rnn)
    packed, _ = rnn(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False), **masks)
    output, _ = pad_packed_sequence(packed)
    for b, length in enumerate(LENGTHS):
        recurrent = [mask[b : b + 1] for mask in masks["recurrent_masks"]]
        kept = [mask[:length, b : b + 1] for mask in masks["zoneout_masks"]]
        alone, _ = rnn(x[:length, b], recurrent_masks=recurrent, zoneout_masks=kept)
        torch.testing.assert_close(output[:length, b], alone)


def test_without_the_kernel_masks_have_the_same_shares(monkeypatch):
    rnn = G2LSTM(D, 100, recurrent_dropout=0.2, recurrent_dropout_kind="g", zoneout=(0.5, 0.0))
    for kernel in (True, False):
        if not kernel:
            monkeypatch.setattr(compiled, "problem", lambda: "is not there")
        mask, kept = rnn.draw_recurrent_mask(20, 4, generator=seeded()), rnn.draw_zoneout_mask(20, 4, generator=seeded())
        assert mask.shape == (20, 4, 100)
        torch.testing.assert_close(mask.unique(), torch.tensor([0.0, 1.25]))
        assert (mask == 0).double().mean().item() == pytest.approx(0.2, abs=5 * (0.16 / mask.numel()) ** 0.5)
        assert kept[..., :100].mean().item() == pytest.approx(0.5, abs=5 * (0.25 / mask.numel()) ** 0.5)
        assert kept.shape == (20, 4, 200)
        assert not kept[..., 100:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recurrent_dropout_is_an_lstm_in_evaluation(dtype):
    lstm, x = nn.LSTM(D, H, 2, dtype=dtype).eval(), torch.randn(T, B, D, dtype=dtype)
    rnn = G2LSTM.from_lstm(lstm, recurrent_dropout=0.9)
    assert torch.equal(rnn(x)[0], lstm(x)[0])
    assert torch.equal(rnn.to_lstm()(x)[0], lstm(x)[0])


@pytest.mark.parametrize("engine", [*ENGINE_NAMES, "cell"])
def test_zoneout_in_evaluation_is_its_expectation(engine):
    cell, x = nn.LSTMCell(D, H), torch.randn(T, B, D)
    state = {f"{name}_l0": parameter for name, parameter in cell.state_dict().items()}
    h = c = torch.zeros(B, H)
    steps = []
    for x_t in x:
        h_new, c_new = cell(x_t, (h, c))
        h, c = 0.2 * h + 0.8 * h_new, 0.5 * c + 0.5 * c_new
        steps.append(h)
    if engine == "cell":
        ours = G2LSTMCell(D, H, zoneout=(0.5, 0.2)).eval()
        ours.load_state_dict(cell.state_dict())
        h_t, c_t = ours(x[0])
        torch.testing.assert_close(h_t, steps[0])
        torch.testing.assert_close(ours(x[1, 0], (h_t[0], c_t[0]))[0], steps[1][0])
    else:
        rnn = G2LSTM(D, H, zoneout=(0.5, 0.2), engine=engine).eval()
        rnn.load_state_dict(state)
        output, (_, c_n) = rnn(x)
        torch.testing.assert_close((output, c_n[0]), (torch.stack(steps), c))
        torch.testing.assert_close(torch.export.export(rnn, (x,)).module()(x)[0], output)


def test_masks_are_no_part_of_the_state_and_copies_keep_their_options():
    rnn = G2LSTM(D, H, **EVERYTHING, recurrent_dropout_kind="g")
    assert rnn.state_dict().keys() == nn.LSTM(D, H).state_dict().keys()
    assert "recurrent_dropout=0.4 on g, zoneout=(0.5, 0.2)" in repr(rnn)
    assert "dropout" not in repr(G2LSTM(D, H)) + repr(G2LSTMCell(D, H))
    other = copy.deepcopy(rnn)
    x = torch.randn(T, B, D)
    assert torch.equal(rnn(x, generator=seeded())[0], other(x, generator=seeded())[0])
    assert G2LSTM(D, H, zoneout=0.1).zoneout == (0.1, 0.1)


@pytest.mark.parametrize("precision", ["module", "autocast"])
def test_masks_keep_low_precision(precision):
    rnn, x = G2LSTM(D, H, **EVERYTHING), torch.randn(T, B, D)
    rnn, x = (rnn.bfloat16(), x.bfloat16()) if precision == "module" else (rnn, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        output, (_, c_n) = rnn(x)
    assert (output.dtype, c_n.dtype) == (torch.bfloat16, torch.float32 if precision == "autocast" else torch.bfloat16)
    output.float().sum().backward()


def test_vmap_draws_masks_for_each():
    x = torch.randn(T, B, D)
    for options in EVERYTHING, {"weight_dropout": 0.5}:
        rnn = G2LSTM(D, H, gate=SigmoidGate(), **options)
        first, second = torch.vmap(lambda given, rnn=rnn: rnn(given)[0], randomness="different")(torch.stack([x, x]))
        assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_a_step_of_the_layer(kind):
    gate = GumbelGate(noise_p=0.5)
    rnn = G2LSTM(D, H, gate=gate, **EVERYTHING, recurrent_dropout_kind=kind, dtype=torch.float64)
    cell = G2LSTMCell(D, H, gate=gate, **EVERYTHING, recurrent_dropout_kind=kind, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): parameter for name, parameter in rnn.state_dict().items()})
    x, (noise,) = torch.randn(T, B, D, dtype=torch.float64), rnn.draw_noise(T, B)
    recurrent, kept = cell.draw_recurrent_mask(T, B), cell.draw_zoneout_mask(T, B)
    expected, (h_n, c_n) = rnn(x, noise=[noise], recurrent_masks=[recurrent], zoneout_masks=[kept])
    state = None
    for t in range(T):
        mask = recurrent[t] if kind == "g" else recurrent
        state = cell(x[t], state, noise=noise[t], recurrent_mask=mask, zoneout_mask=kept[t])
        torch.testing.assert_close(state[0], expected[t])
    torch.testing.assert_close(state, (h_n[0], c_n[0]))


def test_a_cell_draws_what_a_step_has_and_wants_what_outlasts_it():
    x = torch.randn(B, D)
    cell = G2LSTMCell(D, H, gate=SigmoidGate(), **EVERYTHING, recurrent_dropout_kind="g")
    assert torch.equal(cell(x, generator=seeded())[0], cell(x, generator=seeded())[0])
    assert not torch.equal(cell(x)[0], cell(x)[0])
    for kind in ("h", "g_sequence"):
        with pytest.raises(ValueError, match=f"recurrent_dropout_kind='{kind}' outlasts a cell's call: draw it once with"):
            G2LSTMCell(D, H, recurrent_dropout=0.1, recurrent_dropout_kind=kind)(x)
    with pytest.raises(ValueError, match=r"zoneout_mask must have shape \(3, 12\), got \(3, 6\)"):
        cell(x, zoneout_mask=torch.zeros(B, H))
    with pytest.raises(ValueError, match="recurrent_mask is for training"):
        cell.eval()(x, recurrent_mask=torch.ones(B, H))


@pytest.mark.parametrize("module", [G2LSTM, G2LSTMCell])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recurrent_dropout": 1.0}, r"recurrent_dropout must be in \[0, 1\), got 1.0"),
        ({"recurrent_dropout": float("nan")}, r"recurrent_dropout must be in \[0, 1\), got nan"),
        ({"recurrent_dropout_kind": "c"}, "recurrent_dropout_kind must be one of h, g, g_sequence, got 'c'"),
        ({"zoneout": (0.1, -0.1)}, r"zoneout must be a share in \[0, 1\) or one for c and one for h, got \(0.1, -0.1\)"),
        ({"zoneout": 1.0}, r"zoneout must be a share in \[0, 1\) or one for c and one for h, got 1.0"),
        ({"zoneout": (0.1,)}, r"zoneout must be a share in \[0, 1\) or one for c and one for h, got \(0.1,\)"),
    ],
)
def test_options_out_of_range_are_refused(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(D, H, **options)


def test_masks_of_the_wrong_shape_or_in_evaluation_are_refused():
    rnn, x = G2LSTM(D, H, bidirectional=True, proj_size=P), torch.randn(T, B, D)
    with pytest.raises(ValueError, match=r"recurrent_masks must be a list of 2 tensors of shape \(3, 2\), got shapes"):
        rnn(x, recurrent_masks=[torch.ones(B, H)] * 2)
    with pytest.raises(ValueError, match=r"zoneout_masks must be a list of 2 tensors of shape \(5, 3, 8\), got shapes"):
        rnn(x, zoneout_masks=[torch.ones(T, B, 2 * H)] * 2)
    with pytest.raises(ValueError, match="zoneout_masks are for training"):
        rnn.eval()(x, zoneout_masks=[torch.ones(T, B, H + P)] * 2)


def test_zoneout_is_no_nn_lstm():
    with pytest.raises(ValueError, match=r"zoneout=\(0.0, 0.1\) can't be turned into an nn.LSTM"):
        G2LSTM(D, H, zoneout=(0.0, 0.1)).to_lstm()


def test_gates_of_a_layer_with_zoneout_are_those_of_its_states():
    rnn, x = G2LSTM(D, H, 2, zoneout=(0.5, 0.2)).eval(), torch.randn(T, B, D)
    with recorded_gates(rnn) as records:
        found = rnn(x)[0]
    forced = rnn.state_dict()
    size = slice(H, 2 * H)
    lower = G2LSTM(D, H, zoneout=(0.5, 0.2)).eval()
    lower.load_state_dict({name: forced[name] for name in lower.state_dict()})
    read, before = lower(x)[0], torch.cat([torch.zeros(1, B, H), found[:-1]])
    a = read @ forced["weight_ih_l1"][size].mT + before @ forced["weight_hh_l1"][size].mT
    expected = (a + forced["bias_ih_l1"][size] + forced["bias_hh_l1"][size]).sigmoid()
    torch.testing.assert_close(records[1].values["f"], expected)
    with training_gates(rnn, seeded()), recorded_gates(rnn):
        rnn(x)


def test_gates_as_in_training_have_zoneout_as_in_evaluation():
    gate = GumbelGate(tau=1.0, noise_p=0.0)
    for module, x in (
        (G2LSTM(D, H, 2, bidirectional=True, gate=gate, **EVERYTHING), torch.randn(T, B, D)),
        (G2LSTMCell(D, H, gate=gate, **EVERYTHING), torch.randn(B, D)),
    ):
        expected = module.eval()(x)[0]
        with training_gates(module, seeded()):
            torch.testing.assert_close(module(x)[0], expected)
        assert module.recurrent_dropout == 0.4


def test_masks_that_nobody_knows_are_named():
    rnn, x = G2LSTM(D, H, 2, gate=SigmoidGate(), **EVERYTHING), torch.randn(T, B, D)
    with pytest.raises(
        ValueError, match=r"draws masks of recurrent dropout \(set .*\), masks of zoneout \(pass zoneout_masks="
    ):
        gate_values(rnn, x, None, rnn(x)[0])


def test_zoneout_that_is_assigned_is_checked_as_a_given_one_is():
    rnn = G2LSTM(3, 4)
    rnn.zoneout = 0.1
    assert rnn.zoneout == (0.1, 0.1)
    with pytest.raises(ValueError, match=r"zoneout must be a share in \[0, 1\)"):
        rnn.zoneout = (0.2, 1.5)
    assert rnn.zoneout == (0.1, 0.1)
    rnn(torch.randn(2, 1, 3))
