"""The compiled kernel, against the reference engine; skipped where there is no compiler."""

import math
import os

import pytest
import torch
from torch import nn

from g2lstm import G2LSTM, GumbelGate
from g2lstm.columns import Columns
from g2lstm.engines import Options, Request, bptt, choose, compiled, native, reference
from g2lstm.engines.noise import NoiseRecipe, philox
from g2lstm.layout import Weights
from tests.engines import fresh
from tests.engines.problems import MASKS, assert_same, leaves, masks, problem, results, run
from tests.engines.test_bptt import MASKED_TOLERANCE, TOLERANCE
from tests.processor import FLOAT32_AND_BFLOAT16

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(compiled.problem() is not None, reason=f"the native engine {compiled.problem()}")

# T, B, H: one unit, part of a vector, vectors and a rest, panels of several vectors and a rest
SIZES = [(1, 1, 2), (5, 3, 6), (4, 2, 16), (6, 5, 50), (3, 2, 530)]


def tensors_of(sizes, dtype, noise=0):
    return problem(*sizes, dtype, master=torch.float32, noise=noise)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT32_AND_BFLOAT16, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("scale", [None, (1 / 0.9, 5.0, 1.0, 1.0)], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("noise", [0, 2, 4], ids=["quiet", "noise on i f", "noise on all"])
def test_equals_the_reference(sizes, dtype, reverse, scale, noise):
    tensors, options = tensors_of(sizes, dtype, noise), {"reverse": reverse, "scale": scale}
    assert_same(results(native, tensors, **options), results(reference, tensors, **options), TOLERANCE[dtype])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("hard", [("i",), ("f",), ("o",), ("i", "f", "o")], ids="".join)
def test_hard_gates_equal_the_reference(sizes, hard):
    tensors, recipe = tensors_of(sizes, torch.float32), NoiseRecipe(seed=5, p=0.5, blocks=(0, 1, 3))
    options = {"noise": recipe, "hard": hard, "scale": (1 / 0.9, 1 / 0.9, 1.0, 2.0)}
    assert_same(results(native, tensors, **options), results(reference, tensors, **options), 1e-5)


@pytest.mark.parametrize("dtype", FLOAT32_AND_BFLOAT16, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_finished_sequences_keep_their_state(dtype, reverse):
    tensors = tensors_of((6, 5, 50), dtype, 2)
    options = {"reverse": reverse, "lengths": torch.tensor([6, 1, 4, 2, 6])}
    assert_same(results(native, tensors, **options), results(reference, tensors, **options), TOLERANCE[dtype])


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", FLOAT32_AND_BFLOAT16, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_masks_equal_the_reference(name, sizes, dtype, reverse):
    (time, batch, size), tensors = sizes, tensors_of(sizes, dtype, 2)
    options = {"masks": masks(*sizes, size, dtype)[name], "reverse": reverse, "scale": (1 / 0.9, 5.0, 1.0, 1.0)}
    for lengths in (None, torch.arange(batch) % time + 1):
        options["lengths"] = lengths
        assert_same(results(native, tensors, **options), results(reference, tensors, **options), MASKED_TOLERANCE[dtype])


def test_masks_of_hard_gates_without_gradients_give_the_same_numbers():
    tensors = tensors_of((5, 3, 20), torch.float32)
    options = {"masks": masks(5, 3, 20, 20, torch.float32)["everything"], "hard": ("i", "f")}
    expected = run(native, tensors, **options)
    with torch.no_grad():
        found = run(native, tensors, **options)
    torch.testing.assert_close(found, tuple(part.detach() for part in expected), rtol=0, atol=0)
    torch.testing.assert_close(found, run(reference, tensors, **options), rtol=1e-4, atol=1e-5)


def test_a_mask_takes_the_words_of_sixteen_counters_one_after_another() -> None:
    """Whatever number of units a vector holds."""
    seed, p, size = 2**62 + 5, 0.3, 200
    words = torch.stack(philox(seed, torch.arange(64))).view(4, 4, 16).transpose(0, 1)  # counters in blocks of 16
    expected = (words.flatten()[:size] < int(p * 2**32)).float()
    assert torch.equal(torch.ops.g2lstm.bernoulli([size], torch.tensor(seed), p, 1.0, 0.0), expected)


def test_bernoulli_draws_its_share_independently():
    size, p = (50, 40, 33), 0.3
    mask = torch.ops.g2lstm.bernoulli(size, torch.tensor(2**62 + 5), p, 2.0, -1.0)
    assert set(mask.unique().tolist()) == {2.0, -1.0}
    low = (mask == 2).flatten().double()
    for share, expected in ((low, p), (low[1:] * low[:-1], p * p), (low[64:] * low[:-64], p * p)):
        assert share.mean().item() == pytest.approx(expected, abs=5 * (expected * (1 - expected) / len(share)) ** 0.5)
    assert not torch.equal(mask, torch.ops.g2lstm.bernoulli(size, torch.tensor(7), p, 2.0, -1.0))


@pytest.mark.parametrize("dtype", FLOAT32_AND_BFLOAT16, ids=str)
def test_a_wide_batch_equals_the_reference(dtype):
    tensors = tensors_of((3, 130, 20), dtype, 2)
    assert_same(results(native, tensors), results(reference, tensors), TOLERANCE[dtype])


@pytest.mark.parametrize("blocks", [(0, 1), (1,), (0, 3), (0, 1, 3)], ids=str)
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_draws_what_its_recipe_says(blocks, eps):
    recipe = NoiseRecipe(seed=2**62 + 17, p=0.3, eps=eps, blocks=blocks)
    drawn = torch.ops.g2lstm.draw(3, 5, 37, recipe.seed, recipe.threshold, eps, recipe.words)
    expected = recipe.draw(3, 5, 37, dtype=torch.float32, device="cpu")
    torch.testing.assert_close(drawn[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-6)
    assert not drawn[..., expected.shape[-1] :].any()


@pytest.mark.parametrize("blocks", [(0, 1), (0, 1, 3)], ids=str)
def test_a_recipe_equals_its_noise_as_a_tensor(blocks):
    tensors, recipe = tensors_of((6, 5, 50), torch.float32), NoiseRecipe(seed=5, p=0.5, blocks=blocks)
    options = {"noise": recipe, "scale": (2.0, 2.0, 1.0, 1.0)}
    assert_same(results(native, tensors, **options), results(reference, tensors, **options), 1e-5)


def test_counters_beyond_32_bits_carry():
    """The carry lies within a vector of units."""
    size, first = 37, 2**32 // 37
    recipe = NoiseRecipe(seed=2**40 + 7, p=0.9, columns=Columns(first, 3, first + 3))
    assert first * size < 2**32 < (first + 1) * size
    tensors = tensors_of((2, 3, size), torch.float32)
    assert_same(results(native, tensors, noise=recipe), results(reference, tensors, noise=recipe), 1e-5)


def test_numbers_do_not_depend_on_the_number_of_threads():
    tensors = tensors_of((4, 3, 70), torch.float32, 2)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(tuple(part.detach() for part in run(native, tensors)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("hard", [(), ("i", "f", "o")], ids=["soft", "hard"])
def test_nan_stays_nan(hard):
    tensors = tensors_of((3, 2, 20), torch.float32)
    with torch.no_grad():
        tensors["x"][1, 0, 1] = float("nan")
    h, _, c_n = run(native, tensors, hard=hard)
    assert h[0].isfinite().all()
    assert h[1, 0].isnan().all()
    assert h[:, 1].isfinite().all()
    assert h[2, 0].isnan().all()
    assert c_n[0].isnan().all()


def test_huge_pre_activations_saturate():
    bias = torch.full((8,), 1e30)
    bias[1::2] = -1e30
    weights = Weights(torch.zeros(8, 1), torch.zeros(8, 2), bias, torch.zeros(8))
    h, (_, c_n) = native.run(torch.zeros(1, 1, 1), (torch.zeros(1, 2), torch.ones(1, 2)), weights, Options())
    torch.testing.assert_close(c_n, torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(h, torch.tensor([[[math.tanh(2.0), 0.0]]]))


def test_an_empty_batch_runs():
    tensors = tensors_of((3, 0, 6), torch.float32)
    assert results(native, tensors)["d hh"].abs().sum() == 0


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"dtype": torch.float64}, "takes float32 and bfloat16, not float64"),
        ({"projected": True}, "has no projection"),
        ({"dtype": torch.bfloat16, "size": 7}, "takes an even hidden_size in bfloat16, not 7"),
        ({"device": torch.device("cuda")}, "runs on the CPU, not on cuda"),
    ],
)
def test_says_what_it_lacks(asked, reason):
    assert native.lacks(Request(**{"device": CPU, "dtype": torch.float32, "size": 8} | asked)) == reason


def test_raises_for_what_it_lacks():
    with pytest.raises(ValueError, match="the native engine takes float32 and bfloat16, not float64: use engine='auto'"):
        G2LSTM(3, 4, engine="native", dtype=torch.float64)(torch.zeros(2, 1, 3, dtype=torch.float64))


def test_is_what_auto_takes():
    assert choose("auto", Request(CPU, torch.float32, 8, noisy=True)) == "native"
    assert choose("auto", Request(CPU, torch.float32, 8, hard=True, training=False)) == "native"
    assert choose("auto", Request(CPU, torch.bfloat16, 7, noisy=True)) == "bptt"


def test_second_derivatives_are_refused():
    tensors = tensors_of((2, 1, 4), torch.float32)
    (first,) = torch.autograd.grad(run(native, tensors)[0].sum(), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="the native engine has no second derivatives: use engine='reference'"):
        first.sum().backward()


def test_a_second_backward_pass_gives_the_same_gradients():
    tensors = tensors_of((4, 2, 20), torch.float32)
    loss = run(native, tensors)[0].square().sum()
    first = torch.autograd.grad(loss, leaves(tensors), retain_graph=True)
    torch.testing.assert_close(first, torch.autograd.grad(loss, leaves(tensors)), rtol=0, atol=0)


def test_one_seed_draws_one_noise_and_two_seeds_two():
    rnn, x = G2LSTM(4, 20, gate=GumbelGate(noise_p=0.5), engine="native"), torch.randn(5, 2, 4)
    first, again, other = (rnn(x, generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_trains_as_nn_lstm_when_noise_is_off():
    lstm = nn.LSTM(7, 33, 2, bidirectional=True)
    rnn, x = G2LSTM.from_lstm(lstm, GumbelGate(tau=1.0, noise_p=0.0), engine="native"), torch.randn(5, 3, 7)
    for module in (lstm, rnn):
        module(x)[0].square().sum().backward()
    for ours, theirs in zip(rnn.parameters(), lstm.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * theirs.grad.norm()


WITHOUT_KERNEL = """
import logging, torch
logging.basicConfig(format="%(message)s")
from g2lstm import G2LSTM
from g2lstm.engines import Request, choose
for _ in range(2):
    G2LSTM(3, 4)(torch.randn(5, 2, 3))[0].sum().backward()
print(choose("auto", Request(torch.device("cpu"), torch.float32, 4, noisy=True)))
"""


def test_without_a_compiler_training_runs_in_tensor_code_with_one_line(tmp_path):
    environment = os.environ | {"CXX": str(tmp_path / "no-such-compiler"), "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    out, log = fresh.start(WITHOUT_KERNEL, tmp_path, environment=environment).communicate()
    assert out.strip() == "bptt"
    assert log.count("no compiled CPU kernel") == 1
    assert not list(tmp_path.glob("*/native.so"))


def test_the_environment_switches_it_off(tmp_path):
    environment = os.environ | {"G2LSTM_NATIVE": "0"}
    assert fresh.start(WITHOUT_KERNEL, tmp_path, environment=environment).communicate() == ("bptt\n", "")


def test_tensor_code_equals_it():
    tensors = tensors_of((6, 5, 50), torch.float32, 2)
    assert_same(results(native, tensors), results(bptt, tensors), 1e-5)


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("time", [1, 4, 5])
def test_without_gradients_the_numbers_are_the_same(time, reverse):
    tensors = tensors_of((time, 3, 20), torch.float32)
    options = {"reverse": reverse, "lengths": torch.tensor([time, 1, time])}
    expected = run(native, tensors, **options)
    with torch.no_grad():
        found = run(native, tensors, **options)
    torch.testing.assert_close(found, tuple(part.detach() for part in expected), rtol=0, atol=0)


@pytest.mark.filterwarnings("error:Dynamo")
def test_a_compiled_module_trains_with_the_same_numbers():
    rnn, x = G2LSTM(5, 20, gate=GumbelGate(noise_p=0.0), engine="native"), torch.randn(4, 3, 5)
    expected = torch.autograd.grad(rnn(x)[0].square().sum(), list(rnn.parameters()))
    compiled_rnn = torch.compile(rnn, backend="eager")
    found = torch.autograd.grad(compiled_rnn(x)[0].square().sum(), list(rnn.parameters()))
    torch.testing.assert_close(found, expected)


UNDER_ANYTHING = """
import torch
from g2lstm.engines import compiled
torch.set_default_dtype(torch.float64)
with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
    assert compiled.problem() is None, compiled.problem()
"""


def test_it_loads_under_autocast_inference_mode_and_another_default_dtype(tmp_path):
    fresh.start(UNDER_ANYTHING, tmp_path).communicate()
