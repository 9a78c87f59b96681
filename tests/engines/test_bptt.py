"""The hand-written backward pass, against the reference engine and autograd's rules."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from g2lstm.engines import bptt, reference

T, B, H, P = 7, 4, 6, 3
# Norm-wise distance of the two engines: what is left of the dtype's precision after a sum in another order. In bfloat16
# the reference rounds the gradient of every step, bptt only what its products read.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2}
NAMES = ("pre", "weight_hh", "h0", "c0", "weight_hr", "noise")


def problem(dtype: torch.dtype, projected: bool = False, noise_columns: int = 2 * H) -> dict[str, Tensor | None]:
    torch.manual_seed(3)
    width = P if projected else H
    shapes = {"pre": (T, B, 4 * H), "weight_hh": (4 * H, width), "h0": (B, width), "c0": (B, H)}
    tensors: dict[str, Tensor | None] = {name: (torch.randn(shape) * 0.7).to(dtype) for name, shape in shapes.items()}
    tensors["weight_hr"] = torch.randn(P, H).to(dtype) if projected else None
    tensors["noise"] = torch.randn(T, B, noise_columns).to(dtype) if noise_columns else None
    return {name: None if tensor is None else tensor.requires_grad_() for name, tensor in tensors.items()}


def results(run: Callable[..., tuple[Tensor, Tensor]], tensors: dict[str, Tensor | None], **options) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss on all of them."""
    tensors = {
        name: None if tensor is None else tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()
    }
    h, c = run(**tensors, **options)
    generator = torch.Generator().manual_seed(0)
    sum((part * torch.randn(part.shape, generator=generator).to(part.dtype)).sum().double() for part in (h, c)).backward()
    return {"h": h, "c": c} | {f"d {name}": tensor.grad for name, tensor in tensors.items() if tensor is not None}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    for name, expected in right.items():
        assert left[name].dtype == expected.dtype, name
        error = (left[name].double() - expected.double()).norm() / expected.double().norm()
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [7, 1, 4, 7]], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
@pytest.mark.parametrize("noise_columns", [0, 2 * H, 4 * H], ids=["quiet", "noise on i f", "noise on all"])
@pytest.mark.parametrize("scale", [None, (1 / 0.9, 5.0, 1.0, 1.0)], ids=["unscaled", "scaled"])
def test_equals_the_reference(dtype, reverse, lengths, projected, noise_columns, scale):
    tensors = problem(dtype, projected, noise_columns)
    options = {"scale": scale, "reverse": reverse, "lengths": None if lengths is None else torch.tensor(lengths)}
    assert_same(results(bptt.run, tensors, **options), results(reference.run, tensors, **options), TOLERANCE[dtype])


def test_bfloat16_gradients_are_no_worse_than_the_references():
    tensors = problem(torch.bfloat16)
    doubled = {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()}
    exact = results(reference.run, doubled)
    ours, theirs = results(bptt.run, tensors), results(reference.run, tensors)
    for name, truth in exact.items():
        assert (ours[name] - truth).norm() <= 1.25 * (theirs[name] - truth).norm(), name


@pytest.mark.parametrize(("time", "batch"), [(1, 1), (1, 3), (5, 1)])
def test_equals_the_reference_at_the_smallest_sizes(time, batch):
    tensors = problem(torch.float64)
    for name, dim, size in (
        ("pre", 0, time),
        ("noise", 0, time),
        ("pre", 1, batch),
        ("noise", 1, batch),
        ("h0", 0, batch),
        ("c0", 0, batch),
    ):
        tensors[name] = tensors[name].narrow(dim, 0, size)
    assert_same(results(bptt.run, tensors), results(reference.run, tensors), 1e-10)


@pytest.mark.parametrize("part", [0, 1], ids=["h alone", "c alone"])
def test_a_loss_may_use_one_of_the_two_outputs(part):
    gradients = []
    for run in (bptt.run, reference.run):
        tensors = problem(torch.float64)
        run(**tensors)[part][2].sum().backward()
        gradients.append([tensors[name].grad for name in NAMES if tensors[name] is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("frozen", ["pre", "weight_hh", "h0", "c0", "weight_hr", "noise"])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    full, partly = problem(torch.float64, projected=True), problem(torch.float64, projected=True)
    partly[frozen].requires_grad_(False)
    for tensors in (full, partly):
        h, c = bptt.run(**tensors)
        (h.sum() + c.pow(2).sum()).backward()
    assert partly[frozen].grad is None
    for name in set(NAMES) - {frozen}:
        torch.testing.assert_close(partly[name].grad, full[name].grad)


def test_inputs_need_not_be_contiguous():
    tensors = problem(torch.float64)
    strided = dict(tensors)
    strided["pre"] = tensors["pre"].detach().transpose(0, 2).contiguous().transpose(0, 2)
    strided["weight_hh"] = tensors["weight_hh"].detach().mT.contiguous().mT
    strided["h0"] = tensors["h0"].detach().mT.contiguous().mT
    strided["noise"] = tensors["noise"].detach().transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided["pre"].is_contiguous()
    assert_same(results(bptt.run, strided), results(bptt.run, tensors), 1e-12)


def test_noise_of_one_step_may_be_expanded_over_time():
    tensors = problem(torch.float64)
    step = tensors["noise"].detach()[:1]
    expanded, copied = tensors | {"noise": step.expand(T, B, 2 * H)}, tensors | {"noise": step.repeat(T, 1, 1)}
    torch.testing.assert_close(bptt.run(**expanded), bptt.run(**copied))


def test_arguments_are_left_as_they_were():
    tensors = problem(torch.float64, projected=True)
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    h, c = bptt.run(**tensors)
    (h.sum() + c.sum()).backward()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]), name


def test_backward_can_be_repeated_on_a_kept_graph():
    tensors = problem(torch.float64)
    h, c = bptt.run(**tensors)
    leaves = [tensors[name] for name in NAMES if tensors[name] is not None]
    first = torch.autograd.grad(h.sum() + c.sum(), leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(h.sum() + c.sum(), leaves), first)


def test_gradients_of_leaves_do_not_share_memory():
    tensors = problem(torch.float64, noise_columns=4 * H)
    h, _ = bptt.run(**tensors)
    h.sum().backward()
    noise_gradient = tensors["noise"].grad.clone()
    tensors["pre"].grad.zero_()
    assert torch.equal(tensors["noise"].grad, noise_gradient)


def test_autograd_sees_one_node_for_all_steps():
    tensors = problem(torch.float64)
    h, c = bptt.run(**tensors)
    assert h.grad_fn is c.grad_fn
    assert {type(node).__name__ for node, _ in h.grad_fn.next_functions if node is not None} == {"AccumulateGrad"}


@pytest.mark.parametrize("part", [0, 1], ids=["h", "c"])
@pytest.mark.parametrize(
    "modify",
    [
        lambda output: output.mul_(2),
        lambda output: output.relu_(),
        lambda output: output[0].zero_(),
        lambda output: output.transpose(0, 1)[:, 1:].add_(1),
        lambda output: torch.nn.functional.dropout(output, 0.9, inplace=True),
    ],
    ids=["mul_", "relu_", "step", "transposed", "dropout"],
)
@pytest.mark.parametrize("graph", [True, False], ids=["recorded", "no_grad"])
def test_an_output_changed_in_place_never_gives_wrong_gradients(part, modify, graph):
    """The states are what backward reads: overwriting them must be an error."""
    outputs = bptt.run(**problem(torch.float64))
    with pytest.raises(RuntimeError, match=r"modified inplace|modified by an inplace operation"):  # noqa: PT012
        with torch.set_grad_enabled(graph):
            modify(outputs[part])
        sum(output.sum() for output in outputs).backward()


@pytest.mark.parametrize(
    "loss", [lambda h: h.sum(), lambda h: h.pow(2).sum()], ids=["constant gradient", "varying gradient"]
)
def test_second_derivatives_are_refused(loss):
    tensors = problem(torch.float64)
    h, _ = bptt.run(**tensors)
    with pytest.raises(RuntimeError, match=r"no second derivatives .* use engine='reference'"):
        torch.autograd.grad(loss(h), tensors["pre"], create_graph=True)


def test_hard_gates_are_refused():
    with pytest.raises(ValueError, match="no hard gates"):
        bptt.run(**problem(torch.float64), hard=("i",))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_a_graph(mode):
    tensors = problem(torch.float64)
    with mode():
        h, c = bptt.run(**tensors)
    assert not h.requires_grad
    torch.testing.assert_close((h.clone(), c.clone()), reference.run(**tensors), check_stride=False)
