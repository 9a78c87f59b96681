"""The triton engine in Triton's interpreter, on the CPU. test_triton.py runs this file with TRITON_INTERPRET=1."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from g2lstm.columns import Columns
from g2lstm.engines import Request, graphs, reference, triton, triton_kernels
from g2lstm.engines.graphs import Steps
from g2lstm.engines.noise import NoiseRecipe, philox
from tests.engines.problems import Tensors, assert_same, leaves, problem, results, run

T, B, H = 2, 2, 5
# Norm-wise; in 16 bits what is left of the precision after sums in another order, and the interpreter rounds towards 0.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
SCALE = (1 / 0.9, 1 / 0.9, 1.0, 1.0)


def tensors_of(dtype: torch.dtype = torch.float32, time: int = T, batch: int = B, size: int = H, noise: int = 0) -> Tensors:
    return problem(time, batch, size, dtype, master=torch.float32, noise=noise)


def assert_equals_the_reference(tensors: Tensors, **options) -> None:
    ours, theirs = results(triton, tensors, **options), results(reference, tensors, **options)
    assert_same(ours, theirs, TOLERANCE[tensors["x"].dtype])


@pytest.mark.parametrize(
    ("dtype", "reverse", "lengths"),
    [
        (torch.float32, False, None),
        (torch.float32, True, None),
        (torch.float32, False, [2, 1]),
        (torch.float32, True, [1, 2]),
        (torch.bfloat16, True, [2, 1]),
        (torch.float16, False, [1, 2]),
    ],
    ids=str,
)
def test_equals_the_reference_with_noise_it_draws_itself(dtype, reverse, lengths):
    lengths = None if lengths is None else torch.tensor(lengths)
    recipe = NoiseRecipe(seed=2**40 + 7, p=0.6)
    assert_equals_the_reference(tensors_of(dtype), reverse=reverse, lengths=lengths, noise=recipe, scale=SCALE)


@pytest.mark.parametrize(
    ("blocks", "p", "eps"),
    [((0,), 0.2, 0.0), ((1,), 1.0, 0.0), ((0, 1), 1.0, 1e-3), ((3,), 0.5, 0.0), ((0, 1, 3), 0.2, 1e-3)],
    ids=str,
)
def test_any_of_the_gates_can_be_perturbed(blocks, p, eps):
    assert_equals_the_reference(tensors_of(), noise=NoiseRecipe(seed=5, p=p, eps=eps, blocks=blocks))


def test_columns_of_a_batch_draw_the_batchs_noise():
    assert_equals_the_reference(tensors_of(), noise=NoiseRecipe(seed=5, p=0.6, columns=Columns(3, B, 7)), scale=SCALE)


@pytest.mark.parametrize("noise", [0, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_reference_with_given_noise(noise, dtype):
    assert_equals_the_reference(tensors_of(dtype, noise=noise), scale=SCALE)


@pytest.mark.parametrize("hard", [("i",), ("f",), ("i", "f", "o")], ids="".join)
def test_hard_gates_equal_the_reference(hard):
    recipe = NoiseRecipe(seed=2, p=0.6, blocks=(0, 1, 3))
    assert_equals_the_reference(tensors_of(), noise=recipe, hard=hard, scale=SCALE, lengths=torch.tensor([2, 1]))


@pytest.mark.parametrize(
    ("time", "batch", "size"), [(1, 1, 1), (1, 9, 5), (4, 1, 8), (2, 2, 257)], ids=lambda number: str(number)
)
def test_sizes_need_not_fit_programs_or_products(time, batch, size):
    tensors = tensors_of(time=time, batch=batch, size=size)
    assert_equals_the_reference(tensors, noise=NoiseRecipe(seed=1, p=0.5), scale=SCALE)


def test_words_are_those_of_the_recipe():
    counter = torch.tensor([0, 1, 12345, 2**32 - 1, 2**32, 2**45 + 3])
    for seed in (0, 1, 2**62 + 2**31 + 9):
        words = torch.empty(4, len(counter), dtype=torch.int64)
        triton_kernels.draw_words[(1,)](torch.tensor(seed), counter, words, COUNT=len(counter), BLOCK=8)
        assert torch.equal(words, torch.stack(philox(seed, counter)))


@pytest.mark.parametrize("part", [0, 1, 2], ids=["h alone", "h_n alone", "c_n alone"])
def test_a_loss_may_use_one_of_the_outputs(part):
    gradients = []
    for engine in (triton, reference):
        tensors = tensors_of()
        run(engine, tensors)[part].square().sum().backward()
        gradients.append([torch.zeros(()) if leaf.grad is None else leaf.grad for leaf in leaves(tensors)])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_passes_of_other_sizes_and_layers_may_lie_between_forward_and_backward():
    first, second, third = tensors_of(), tensors_of(batch=5), tensors_of()
    third["hh"] = (-third["hh"]).detach().requires_grad_()
    outputs = [run(triton, tensors)[0].square().sum() for tensors in (first, second, third)]
    for output, tensors in zip(outputs, (first, second, third), strict=True):
        found = torch.autograd.grad(output, leaves(tensors))
        expected = torch.autograd.grad(run(reference, tensors)[0].square().sum(), leaves(tensors))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_backward_can_be_repeated_on_a_kept_graph():
    tensors = tensors_of()
    loss = sum(part.square().sum() for part in run(triton, tensors, noise=NoiseRecipe(seed=5, p=0.5)))
    first = torch.autograd.grad(loss, leaves(tensors), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, leaves(tensors))))


def test_inputs_need_not_be_contiguous():
    tensors = {name: None if tensor is None else tensor.detach() for name, tensor in tensors_of().items()}
    strided = {name: t.mT.contiguous().mT if t is not None and t.dim() > 1 else t for name, t in tensors.items()}
    assert not strided["x"].is_contiguous()
    torch.testing.assert_close(run(triton, strided), run(triton, tensors), rtol=0, atol=1e-6)


def test_a_state_changed_in_place_never_gives_wrong_gradients():
    h = run(triton, tensors_of())[0]
    with pytest.raises(RuntimeError, match="modified"):  # noqa: PT012
        h.relu_()
        h.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_a_graph(mode):
    tensors = tensors_of()
    with mode():
        found = run(triton, tensors)
    assert not found[0].requires_grad
    expected = run(reference, tensors)
    torch.testing.assert_close(tuple(part.clone() for part in found), expected, check_stride=False, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [lambda h: h.sum(), lambda h: h.square().sum()], ids=["constant", "varying"])
def test_second_derivatives_are_refused(loss):
    tensors = tensors_of()
    (first,) = torch.autograd.grad(loss(run(triton, tensors)[0]), tensors["x"], create_graph=True)
    with pytest.raises(RuntimeError, match="the triton engine has no second derivatives: use engine='reference'"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"projected": True}, "has no projection"),
        ({"masked": True}, "has no recurrent dropout and no zoneout"),
        ({"dtype": torch.float64}, "takes float32, bfloat16 and float16, not float64"),
    ],
)
def test_says_what_it_lacks(asked, reason):
    assert triton.lacks(Request(**{"device": torch.device("cpu"), "dtype": torch.float32, "size": H} | asked)) == reason


def test_takes_no_fake_tensors():
    """Which have no memory that a kernel could read."""
    with FakeTensorMode():
        assert triton.lacks(Request(device=torch.device("cpu"), dtype=torch.float32, size=H)) == "has no fake tensors"


class _Replay:
    """What a CUDA graph does, on the CPU."""

    def __init__(self, step: Callable[[int], None], block: int, first: Tensor) -> None:
        self.step, self.block, self.first = step, block, first

    def replay(self) -> None:
        for offset in range(self.block):
            self.step(offset)
        self.first.add_(self.block)


@pytest.mark.parametrize(("time", "reverse"), [(1, False), (3, True), (5, False)], ids=str)
def test_blocks_of_steps_give_the_same_numbers_and_other_noise_each_pass(time, reverse, monkeypatch):
    tensors, recipes = tensors_of(time=time, batch=1, size=2), [NoiseRecipe(seed, p=0.9) for seed in (1, 2)]
    plain = [results(triton, tensors, noise=recipe, reverse=reverse, scale=SCALE) for recipe in recipes]
    monkeypatch.setattr(graphs, "BLOCKS", (2, 1))
    monkeypatch.setattr(Steps, "_by_graphs", lambda *_: True)
    monkeypatch.setattr(Steps, "_capture", lambda self, step, block: _Replay(step, block, self.first))
    replayed = [results(triton, tensors, noise=recipe, reverse=reverse, scale=SCALE) for recipe in recipes]
    for left, right in zip(plain, replayed, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(replayed[0]["c_n"], replayed[1]["c_n"])
