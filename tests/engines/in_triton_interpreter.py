"""The triton engine in Triton's interpreter, on the CPU. test_triton.py runs this file with TRITON_INTERPRET=1."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from g2lstm.engines import graphs, reference, triton, triton_kernels
from g2lstm.engines.graphs import Steps
from g2lstm.engines.noise import NoiseRecipe, philox

T, B, H = 3, 3, 5
# Norm-wise; in 16 bits what is left of the precision after sums in another order, and the interpreter rounds towards 0.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
SCALE = (1 / 0.9, 1 / 0.9, 1.0, 1.0)


def problem(dtype: torch.dtype = torch.float32, time: int = T, batch: int = B, size: int = H) -> dict[str, Tensor]:
    torch.manual_seed(3)
    shapes = {"pre": (time, batch, 4 * size), "weight_hh": (4 * size, size), "h0": (batch, size), "c0": (batch, size)}
    return {name: (torch.randn(shape) * 0.7).to(dtype) for name, shape in shapes.items()}


def results(run: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss on all of them."""
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    h, c = run(**tensors, **options)
    generator = torch.Generator().manual_seed(0)
    sum((part * torch.randn(part.shape, generator=generator).to(part.dtype)).sum() for part in (h, c)).backward()
    return {"h": h, "c": c} | {f"d {name}": tensor.grad for name, tensor in tensors.items()}


def assert_equals_the_reference(tensors: dict[str, Tensor], **options) -> None:
    ours, theirs = results(triton.run, tensors, **options), results(reference.run, tensors, **options)
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype, name
        error = (ours[name].double() - expected.double()).norm() / expected.double().norm()
        assert error <= TOLERANCE[tensors["pre"].dtype], (name, error)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [3, 1, 2]], ids=["full", "lengths"])
def test_equals_the_reference_with_noise_it_draws_itself(dtype, reverse, lengths):
    lengths = None if lengths is None else torch.tensor(lengths)
    recipe = NoiseRecipe(seed=2**40 + 7, p=0.6)
    assert_equals_the_reference(problem(dtype), reverse=reverse, lengths=lengths, noise=recipe, scale=SCALE)


@pytest.mark.parametrize(
    ("blocks", "p", "eps"),
    [((0,), 0.2, 0.0), ((1,), 1.0, 0.0), ((0, 1), 1.0, 1e-3), ((3,), 0.5, 0.0), ((0, 1, 3), 0.2, 1e-3)],
    ids=str,
)
def test_any_of_the_gates_can_be_perturbed(blocks, p, eps):
    assert_equals_the_reference(problem(), noise=NoiseRecipe(seed=5, p=p, eps=eps, blocks=blocks))


@pytest.mark.parametrize("columns", [0, 2 * H, 4 * H])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_reference_with_given_noise(columns, dtype):
    tensors = problem(dtype)
    if columns:
        tensors["noise"] = torch.randn(T, B, columns).to(dtype)
    assert_equals_the_reference(tensors, scale=SCALE)


@pytest.mark.parametrize(
    ("time", "batch", "size"), [(1, 1, 1), (1, 9, 5), (4, 1, 8), (2, 2, 257)], ids=lambda number: str(number)
)
def test_sizes_need_not_fit_programs_or_products(time, batch, size):
    tensors = problem(time=time, batch=batch, size=size)
    tensors["weight_hh"] /= size**0.5
    assert_equals_the_reference(tensors, noise=NoiseRecipe(seed=1, p=0.5), scale=SCALE)


def test_words_are_those_of_the_recipe():
    counter = torch.tensor([0, 1, 12345, 2**32 - 1, 2**32, 2**45 + 3])
    for seed in (0, 1, 2**62 + 2**31 + 9):
        words = torch.empty(4, len(counter), dtype=torch.int64)
        triton_kernels.draw_words[(1,)](torch.tensor(seed), counter, words, COUNT=len(counter), BLOCK=8)
        assert torch.equal(words, torch.stack(philox(seed, counter)))


@pytest.mark.parametrize("part", [0, 1], ids=["h alone", "c alone"])
def test_a_loss_may_use_one_of_the_two_outputs(part):
    gradients = []
    for run in (triton.run, reference.run):
        tensors = {name: tensor.requires_grad_() for name, tensor in problem().items()}
        run(**tensors)[part][2].sum().backward()
        gradients.append([tensor.grad for tensor in tensors.values()])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_passes_of_other_sizes_and_layers_may_lie_between_forward_and_backward():
    first, second, third = problem(), problem(batch=5), problem()
    third["weight_hh"] = -third["weight_hh"]
    for tensors in (first, second, third):
        for tensor in tensors.values():
            tensor.requires_grad_()
    outputs = [triton.run(**tensors)[0].square().sum() for tensors in (first, second, third)]
    for output, tensors in zip(outputs, (first, second, third), strict=True):
        output.backward()
        expected = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
        reference.run(**expected)[0].square().sum().backward()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor.grad, expected[name].grad, rtol=1e-4, atol=1e-6)


def test_backward_can_be_repeated_on_a_kept_graph():
    tensors = {name: tensor.requires_grad_() for name, tensor in problem().items()}
    loss = sum(part.square().sum() for part in triton.run(**tensors, noise=NoiseRecipe(seed=5, p=0.5)))
    first = torch.autograd.grad(loss, list(tensors.values()), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, list(tensors.values()))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pre_activations_may_be_overwritten(dtype):
    def in_place(pre, *args, **options):
        return triton.run(pre * 1, *args, **options, reuse_pre=True)

    tensors, options = problem(dtype), {"noise": NoiseRecipe(seed=5, p=0.5), "lengths": torch.tensor([1, 3, 2])}
    ours, theirs = results(in_place, tensors, **options), results(triton.run, tensors, **options)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_inputs_need_not_be_contiguous():
    tensors = problem()
    strided = {name: tensor.mT.contiguous().mT for name, tensor in tensors.items()}
    assert not strided["pre"].is_contiguous()
    torch.testing.assert_close(triton.run(**strided), triton.run(**tensors), rtol=0, atol=0)


def test_a_state_changed_in_place_never_gives_wrong_gradients():
    tensors = {name: tensor.requires_grad_() for name, tensor in problem().items()}
    h, _ = triton.run(**tensors)
    with pytest.raises(RuntimeError, match="modified"):  # noqa: PT012
        h.relu_()
        h.sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_a_graph(mode):
    tensors = {name: tensor.requires_grad_() for name, tensor in problem().items()}
    with mode():
        h, c = triton.run(**tensors)
    assert not h.requires_grad
    torch.testing.assert_close((h.clone(), c.clone()), reference.run(**tensors), check_stride=False, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [lambda h: h.sum(), lambda h: h.square().sum()], ids=["constant", "varying"])
def test_second_derivatives_are_refused(loss):
    tensors = {name: tensor.requires_grad_() for name, tensor in problem().items()}
    with pytest.raises(RuntimeError, match=r"no second derivatives .* use engine='reference'"):
        torch.autograd.grad(loss(triton.run(**tensors)[0]), tensors["pre"], create_graph=True)


@pytest.mark.parametrize(
    ("option", "reason"), [({"hard": ("i",)}, "no hard gates"), ({"weight_hr": torch.ones(2, H)}, "no projection")]
)
def test_what_it_lacks_is_refused(option, reason):
    with pytest.raises(ValueError, match=reason):
        triton.run(**problem(), **option)


def test_float64_is_refused():
    with pytest.raises(ValueError, match="takes float32, bfloat16 and float16, not float64"):
        triton.run(**problem(torch.float64))


class _Replay:
    """What a CUDA graph does, on the CPU."""

    def __init__(self, step: Callable[[int], None], block: int, first: Tensor) -> None:
        self.step, self.block, self.first = step, block, first

    def replay(self) -> None:
        for offset in range(self.block):
            self.step(offset)
        self.first.add_(self.block)


@pytest.mark.parametrize("time", [1, 7])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_blocks_of_steps_give_the_same_numbers_and_other_noise_each_pass(time, reverse, monkeypatch):
    tensors, recipes = problem(time=time, batch=1, size=2), [NoiseRecipe(seed, p=0.9) for seed in (1, 2)]
    plain = [results(triton.run, tensors, noise=recipe, reverse=reverse, scale=SCALE) for recipe in recipes]
    monkeypatch.setattr(graphs, "BLOCKS", (3, 1))
    monkeypatch.setattr(Steps, "_by_graphs", lambda *_: True)
    monkeypatch.setattr(Steps, "_capture", lambda self, step, block: _Replay(step, block, self.first))
    replayed = [results(triton.run, tensors, noise=recipe, reverse=reverse, scale=SCALE) for recipe in recipes]
    for left, right in zip(plain, replayed, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(replayed[0]["c"], replayed[1]["c"])
