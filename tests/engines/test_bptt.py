"""The hand-written backward pass, against the reference engine and autograd's rules."""

import pytest
import torch

from g2lstm.engines import bptt, reference
from tests.engines.problems import MASKS, NAMES, assert_same, leaves, masks, problem, results, run

T, B, H, P = 7, 4, 6, 3
# Norm-wise distance of the two engines: what is left of the dtype's precision after a sum in another order. In bfloat16
# the reference rounds the gradient of every step, bptt only what its products read.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 3e-2}
MASKED_TOLERANCE = TOLERANCE | {torch.bfloat16: 6e-2}  # masks on h are one more place where bfloat16 rounds


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [7, 1, 4, 7]], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [0, P], ids=["plain", "projected"])
@pytest.mark.parametrize("noise", [0, 2, 4], ids=["quiet", "noise on i f", "noise on all"])
@pytest.mark.parametrize("scale", [None, (1 / 0.9, 5.0, 1.0, 1.0)], ids=["unscaled", "scaled"])
def test_equals_the_reference(dtype, reverse, lengths, projected, noise, scale):
    tensors = problem(T, B, H, dtype, projected=projected, noise=noise)
    options = {"scale": scale, "reverse": reverse, "lengths": None if lengths is None else torch.tensor(lengths)}
    assert_same(results(bptt, tensors, **options), results(reference, tensors, **options), TOLERANCE[dtype])


@pytest.mark.parametrize("hard", [("i",), ("f",), ("o",), ("i", "f", "o")], ids="".join)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_hard_gates_equal_the_reference(hard, reverse):
    tensors = problem(T, B, H, noise=2, projected=P)
    options = {"hard": hard, "reverse": reverse, "lengths": torch.tensor([7, 1, 4, 7]), "scale": (1 / 0.9, 5.0, 1.0, 1.0)}
    assert_same(results(bptt, tensors, **options), results(reference, tensors, **options), 1e-10)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [7, 1, 4, 7]], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [0, P], ids=["plain", "projected"])
def test_masks_equal_the_reference(name, dtype, reverse, lengths, projected):
    tensors = problem(T, B, H, dtype, projected=projected, noise=2)
    options = {"reverse": reverse, "lengths": None if lengths is None else torch.tensor(lengths), "hard": ("o",)}
    options["masks"] = masks(T, B, H, projected or H, dtype)[name]
    assert_same(results(bptt, tensors, **options), results(reference, tensors, **options), MASKED_TOLERANCE[dtype])


def test_bfloat16_gradients_are_no_worse_than_the_references():
    tensors = problem(T, B, H, torch.bfloat16, noise=2)
    exact = results(reference, {name: None if tensor is None else tensor.double() for name, tensor in tensors.items()})
    ours, theirs = results(bptt, tensors), results(reference, tensors)
    for name, truth in exact.items():
        assert (ours[name] - truth).norm() <= 1.5 * (theirs[name] - truth).norm(), name


@pytest.mark.parametrize(("time", "batch"), [(1, 1), (1, 3), (5, 1)])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_equals_the_reference_at_the_smallest_sizes(time, batch, bias):
    tensors = problem(time, batch, H, noise=2, bias=bias)
    assert_same(results(bptt, tensors), results(reference, tensors), 1e-10)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["h alone", "h_n alone", "c_n alone"])
def test_a_loss_may_use_one_of_the_outputs(part):
    gradients = []
    for engine in (bptt, reference):
        tensors = problem(T, B, H)
        run(engine, tensors)[part].square().sum().backward()
        gradients.append([torch.zeros(()) if leaf.grad is None else leaf.grad for leaf in leaves(tensors)])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("frozen", NAMES)
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen):
    full, partly = (problem(T, B, H, projected=P, noise=2) for _ in range(2))
    partly[frozen].requires_grad_(False)
    for tensors in (full, partly):
        h, _, c_n = run(bptt, tensors)
        (h.sum() + c_n.pow(2).sum()).backward()
    assert partly[frozen].grad is None
    for name in set(NAMES) - {frozen}:
        torch.testing.assert_close(partly[name].grad, full[name].grad)


def test_inputs_need_not_be_contiguous():
    tensors = problem(T, B, H, noise=2)
    strided = {
        name: None if t is None else t.detach().mT.contiguous().mT if t.dim() > 1 else t for name, t in tensors.items()
    }
    assert not strided["x"].is_contiguous()
    assert_same(results(bptt, strided), results(bptt, tensors), 1e-12)


def test_noise_of_one_step_may_be_expanded_over_time():
    tensors = problem(T, B, H, noise=2)
    step = tensors["noise"].detach()[:1]
    expanded, copied = tensors | {"noise": step.expand(T, -1, -1)}, tensors | {"noise": step.repeat(T, 1, 1)}
    torch.testing.assert_close(run(bptt, expanded), run(bptt, copied))


def test_arguments_are_left_as_they_were():
    tensors = problem(T, B, H, projected=P, noise=2)
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    sum(part.sum() for part in run(bptt, tensors, hard=("i",))).backward()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]), name


def test_backward_can_be_repeated_on_a_kept_graph():
    tensors = problem(T, B, H, projected=P, noise=2)
    loss = sum(part.sum() for part in run(bptt, tensors))
    first = torch.autograd.grad(loss, leaves(tensors), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves(tensors)), first)


def test_autograd_sees_one_node_for_all_steps():
    tensors = problem(T, B, H, bias=False)
    h, _, c_n = run(bptt, tensors)
    assert h.grad_fn is c_n.grad_fn
    assert {type(node).__name__ for node, _ in h.grad_fn.next_functions if node is not None} == {"AccumulateGrad"}


@pytest.mark.parametrize("part", [0, 2], ids=["h", "c_n"])
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
    outputs = run(bptt, problem(T, B, H))
    with pytest.raises(RuntimeError, match=r"modified inplace|modified by an inplace operation"):  # noqa: PT012
        with torch.set_grad_enabled(graph):
            modify(outputs[part])
        sum(output.sum() for output in outputs).backward()


@pytest.mark.parametrize(
    "loss", [lambda h: h.sum(), lambda h: h.pow(2).sum()], ids=["constant gradient", "varying gradient"]
)
@pytest.mark.parametrize("name", ["x", "h0", "c0", "noise", "hh", "bias_ih"])
def test_second_derivatives_are_refused(loss, name):
    tensors = problem(T, B, H, noise=2)
    (first,) = torch.autograd.grad(loss(run(bptt, tensors)[0]), tensors[name], create_graph=True)
    with pytest.raises(RuntimeError, match="the bptt engine has no second derivatives: use engine='reference'"):
        first.square().sum().backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_runs_without_a_graph(mode):
    tensors = problem(T, B, H)
    with mode():
        found = run(bptt, tensors)
    assert not found[0].requires_grad
    torch.testing.assert_close(tuple(part.clone() for part in found), run(reference, tensors), check_stride=False)
