"""The layer on the framework's LSTM, on the CPU, against the reference engine."""

import warnings

import pytest
import torch

from g2lstm import G2LSTM, SigmoidGate
from g2lstm.engines import Request, framework, reference
from g2lstm.engines.noise import NoiseRecipe
from tests.engines.problems import assert_same, problem, results, run

T, B, H, P = 7, 4, 5, 2
SCALE = (1 / 0.9, 1 / 0.9, 1.0, 1.0)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}  # norm-wise


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [7, 1, 4, 7], [2, 6, 3, 1]], ids=["full", "lengths", "all shorter"])
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
@pytest.mark.parametrize("noise", [0, 2, 4], ids=["quiet", "noise on i f", "noise on all"])
def test_equals_the_reference(dtype, reverse, lengths, scale, noise):
    tensors, lengths = problem(T, B, H, dtype, noise=noise), None if lengths is None else torch.tensor(lengths)
    options = {"reverse": reverse, "lengths": lengths, "scale": scale}
    assert_same(results(framework, tensors, **options), results(reference, tensors, **options), TOLERANCE[dtype])


@pytest.mark.parametrize("time", [1, T])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("projected", [0, P], ids=["plain", "projected"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("changed", [False, True], ids=["as it is", "noise and scale"])
def test_equals_the_reference_with_and_without_bias_and_projection(time, bias, projected, reverse, changed):
    tensors = problem(time, B, H, bias=bias, projected=projected, noise=2 * changed)
    options = {"reverse": reverse, "scale": SCALE if changed else None}
    assert_same(results(framework, tensors, **options), results(reference, tensors, **options), 1e-10)


def test_draws_the_noise_of_a_recipe():
    tensors, options = problem(T, B, H), {"noise": NoiseRecipe(seed=9, p=0.5, blocks=(0, 3)), "scale": SCALE}
    assert_same(results(framework, tensors, **options), results(reference, tensors, **options), 1e-10)


def test_weights_are_scaled_before_they_are_cast():
    tensors = problem(T, B, H, torch.bfloat16, master=torch.float32)
    rows = torch.tensor(SCALE).repeat_interleave(H)
    cast = dict(tensors)
    for name in ("ih", "hh"):
        cast[name] = (tensors[name] * rows.unsqueeze(1)).bfloat16()
    cast |= {"bias_ih": ((tensors["bias_ih"] + tensors["bias_hh"]) * rows).bfloat16(), "bias_hh": torch.zeros(4 * H)}
    assert all(map(torch.equal, run(framework, tensors, scale=SCALE), run(framework, cast)))


def test_hides_one_warning_and_leaves_the_others_as_they_were(recwarn):
    run(framework, problem(T, B, H))
    before = list(warnings.filters)
    with framework._quiet():
        for text in ("RNN module weights are not part of single contiguous chunk of memory.", "another"):
            warnings.warn(text, stacklevel=1)
    assert [str(one.message) for one in recwarn.list] == ["another"]
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"noisy": True}, "has noise, temperatures and training on CUDA alone, not on cpu"),
        ({"scaled": True, "training": False}, "has noise, temperatures and training on CUDA alone, not on cpu"),
        ({"hard": True}, "has no hard gates"),
        ({"masked": True, "noisy": False, "training": False}, "has no recurrent dropout and no zoneout"),
        ({"dtype": torch.bfloat16, "noisy": True, "device": torch.device("cuda")}, "keeps the cell state in bfloat16"),
        ({"dtype": torch.bfloat16, "training": False, "autocast": True}, "keeps the cell state in bfloat16"),
        ({"dtype": torch.bfloat16, "device": torch.device("cuda")}, "keeps the cell state in bfloat16"),
        ({"dtype": torch.bfloat16, "training": False}, None),
        ({"noisy": True, "scaled": True, "device": torch.device("cuda")}, None),
    ],
    ids=str,
)
def test_says_what_it_lacks(asked, reason):
    asked = {"device": torch.device("cpu"), "dtype": torch.float32, "size": 8} | asked
    assert framework.lacks(Request(**asked)) == reason


@pytest.mark.parametrize("given", ["drawn", "weight_masks", "generator"])
@pytest.mark.parametrize("options", [{}, {"proj_size": P}], ids=["plain", "projected"])
def test_what_is_dropped_in_training_is_dropped_here_too(monkeypatch, given, options):
    """nn.LSTM's own pass, which a plain gate gets, knows no DropConnect; it trains on GPUs, so we say that it can here."""
    monkeypatch.setattr(framework, "lacks", lambda _: None)
    layers = {"num_layers": 2, "dropout": 0.5, "gate": SigmoidGate(), "engine": "framework"} | options
    rnn, x = G2LSTM(3, H, weight_dropout=0.5, **layers), torch.randn(T, B, 3)
    if given == "drawn":
        rnn.dropout = 0.0
        assert not torch.equal(rnn(x)[0], rnn(x)[0])
        return
    masks = [rnn.draw_weight_mask() for _ in range(2)] if given == "weight_masks" else None
    draws = [{"generator": torch.Generator().manual_seed(5), "weight_masks": masks} for _ in range(2)]
    found = rnn(x, **draws[0])[0]
    rnn.engine = "reference"
    torch.testing.assert_close(found, rnn(x, **draws[1])[0])
