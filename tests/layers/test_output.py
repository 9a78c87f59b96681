"""The output layer against F.cross_entropy(F.linear())."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from g2lstm.engines import compiled
from g2lstm.layers.output import linear_cross_entropy

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make(rows=13, width=6, words=11, dtype=torch.float64, scale=1.0) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator, dtype=dtype) * scale
    weight = torch.randn(words, width, generator=generator, dtype=dtype)
    bias = torch.randn(words, generator=generator, dtype=dtype)
    targets = torch.randint(words, (rows,), generator=generator)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [1, 4, 13, 100, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_matches_cross_entropy_of_linear(dtype, tolerance, chunk, reduction, smoothing):
    x, weight, bias, targets = make(dtype=dtype)
    ours = linear_cross_entropy(x, weight, bias, targets, chunk=chunk, reduction=reduction, smoothing=smoothing)
    theirs = F.cross_entropy(F.linear(x, weight, bias), targets, reduction=reduction, label_smoothing=smoothing)
    assert ours.dtype == dtype
    assert relative_error(ours, theirs) < tolerance
    inputs = (x, weight, bias)
    pairs = zip(torch.autograd.grad(3 * ours, inputs), torch.autograd.grad(3 * theirs, inputs), strict=True)
    for our_grad, their_grad in pairs:
        assert our_grad.dtype == dtype
        assert relative_error(our_grad, their_grad) < tolerance


def test_passes_gradcheck_with_and_without_bias():
    x, weight, bias, targets = make(rows=5, width=3, words=4)
    assert torch.autograd.gradcheck(lambda *a: linear_cross_entropy(*a, targets, chunk=2) * 1.7, (x, weight, bias))
    assert torch.autograd.gradcheck(lambda *a: linear_cross_entropy(*a, None, targets, chunk=2) * 1.7, (x, weight))


def test_row_losses_match_cross_entropy():
    x, weight, bias, targets = make()
    with torch.no_grad():
        ours = linear_cross_entropy(x, weight, bias, targets, chunk=5, reduction="none", smoothing=0.2)
        theirs = F.cross_entropy(F.linear(x, weight, bias), targets, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("words", [11, 16, 35, 10_001])
@pytest.mark.parametrize("shift", [0.0, -60.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "tensor code"])
def test_losses_and_gradients_do_not_depend_on_a_common_shift_of_the_logits(
    words, shift, dtype, kernel, smoothing, monkeypatch
):
    if not kernel:
        monkeypatch.setattr(compiled, "problem", lambda: "is switched off")
    x, weight, bias, targets = (t.detach() for t in make(rows=7, words=words, dtype=torch.float32))
    bias = bias + shift
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = linear_cross_entropy(*inputs, targets, chunk=4, smoothing=smoothing)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected = F.cross_entropy(F.linear(*exact), targets, label_smoothing=smoothing)
    tolerance = 1e-5 if dtype == torch.float32 else 0.2 if shift else 0.03  # bfloat16 keeps 8 bits of a logit near 60
    assert relative_error(loss.double(), expected) < tolerance
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, exact), strict=True):
        assert relative_error(ours.double(), theirs) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)  # of the kernel and of plain operations
@pytest.mark.parametrize("target", [11, -1, -100])
def test_a_target_outside_the_vocabulary_is_an_error(dtype, target):
    x, weight, bias, targets = make(words=11, dtype=dtype)
    targets[1] = target
    with pytest.raises((IndexError, RuntimeError)):
        linear_cross_entropy(x, weight, bias, targets)


def test_huge_logits_stay_finite_and_exact():
    x, weight, bias, targets = make(dtype=torch.float32, scale=1e4)
    ours = linear_cross_entropy(x, weight, bias, targets, chunk=4)
    theirs = F.cross_entropy(F.linear(x, weight, bias).double(), targets)
    assert relative_error(ours.double(), theirs) < 1e-5


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
def test_autocast_multiplies_in_bfloat16_and_returns_gradients_in_each_inputs_dtype(x_dtype):
    x, weight, bias, targets = make(rows=64, width=32, words=50, dtype=torch.float32)
    x = x.detach().to(x_dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_cross_entropy(x, weight, bias, targets, chunk=20)
    exact = F.cross_entropy(F.linear(x.float(), weight, bias), targets)
    assert ours.dtype == torch.float32
    assert 0 < relative_error(ours, exact) < 1e-2
    ours_grads = torch.autograd.grad(ours, (x, weight, bias))
    exact_grads = torch.autograd.grad(exact, (x, weight, bias))
    assert [g.dtype for g in ours_grads] == [x_dtype, torch.float32, torch.float32]
    for our_grad, exact_grad in zip(ours_grads, exact_grads, strict=True):
        assert relative_error(our_grad.float(), exact_grad.float()) < 2e-2


def test_weight_gradient_is_summed_over_chunks_in_float32():
    x, weight, bias, targets = make(rows=512, width=8, words=5, dtype=torch.float32)
    exact = torch.autograd.grad(F.cross_entropy(F.linear(x, weight, bias), targets), weight)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = torch.autograd.grad(linear_cross_entropy(x, weight, bias, targets, chunk=1), weight)[0]
    # 512 additions rounded to bfloat16 would be an order of magnitude further away.
    assert relative_error(ours, exact) < 1e-2


def test_float64_is_left_alone_by_autocast():
    x, weight, bias, targets = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = linear_cross_entropy(x, weight, bias, targets)
    torch.testing.assert_close(ours, F.cross_entropy(F.linear(x, weight, bias), targets))


@pytest.mark.parametrize("trainable", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_inputs_get_no_gradient_and_the_others_the_right_one(trainable, dtype):
    *inputs, targets = make(dtype=torch.float32)
    expected = torch.autograd.grad(F.cross_entropy(F.linear(*inputs), targets), inputs)
    for tensor, flag in zip(inputs, trainable, strict=True):
        tensor.requires_grad_(bool(flag))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        linear_cross_entropy(*inputs, targets, chunk=4).backward()
    for tensor, flag, wanted in zip(inputs, trainable, expected, strict=True):
        assert (tensor.grad is not None) == bool(flag)
        if flag:
            assert relative_error(tensor.grad, wanted) < (2e-2 if dtype is torch.bfloat16 else 1e-5)


def test_tied_weight_collects_the_gradient_of_both_uses():
    _, weight, bias, targets = make(rows=9)
    ours = linear_cross_entropy(weight[targets], weight, bias, targets, chunk=2)
    theirs = F.cross_entropy(F.linear(weight[targets], weight, bias), targets)
    torch.testing.assert_close(torch.autograd.grad(ours, weight), torch.autograd.grad(theirs, weight))


def test_backward_twice_through_a_kept_graph_gives_the_same_gradient():
    x, weight, bias, targets = make()
    loss = linear_cross_entropy(x, weight, bias, targets)
    first = torch.autograd.grad(loss, weight, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, weight), first, rtol=0, atol=0)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation put out."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize("autocast", [False, True])
def test_no_tensor_holds_more_than_one_chunk_of_logits(autocast):
    x, weight, bias, targets = make(rows=70, width=3, words=40, dtype=torch.float32)
    with LargestTensor() as largest, torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        linear_cross_entropy(x, weight, bias, targets, chunk=10).backward()
    assert largest.numel == 10 * 40
    with LargestTensor() as plain:
        F.cross_entropy(F.linear(x, weight, bias), targets).backward()
    assert plain.numel == 70 * 40


def test_automatic_chunk_keeps_the_logits_under_their_limit(monkeypatch):
    monkeypatch.setattr("g2lstm.layers.output.CHUNK_ELEMENTS", 400)
    x, weight, bias, targets = make(rows=21, width=3, words=40)
    with LargestTensor() as largest:
        linear_cross_entropy(x, weight, bias, targets).backward()
    assert largest.numel == 7 * 40  # three chunks of 7, not 10, 10 and 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"reduction": "max"}, "got 'max'"),
        ({"smoothing": 1.0}, r"label smoothing must be in \[0, 1\), got 1.0"),
        ({"reduction": "none"}, "torch.no_grad"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, r"targets must be \(13,\).*\(3,\)"),
        ({"bias": torch.zeros(3)}, r"bias must be \(11,\).*\(3,\)"),
        ({"weight": torch.zeros(11, 5)}, r"must fit weight.*got \(13, 6\) and \(11, 5\)"),
    ],
)
def test_errors_quote_what_was_given(change, message):
    x, weight, bias, targets = make()
    arguments = {"x": x, "weight": weight, "bias": bias, "targets": targets} | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**arguments)
