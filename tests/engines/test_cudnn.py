"""The layer on the framework's LSTM, on the CPU, against the reference engine on its pre-activations."""

import pytest
import torch
from torch import Tensor

from g2lstm.engines import cudnn, reference
from g2lstm.engines.noise import NoiseRecipe

T, B, D, H, P = 7, 4, 3, 5, 2
SCALE = (1 / 0.9, 1 / 0.9, 1.0, 1.0)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 4e-2}  # norm-wise
ASKED = {"device": torch.device("cuda"), "dtype": torch.float32, "size": 8, "projected": False, "hard": False}


def problem(dtype: torch.dtype = torch.float64, projected: bool = False, bias: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(3)
    width = P if projected else H
    shapes = {"x": (T, B, D), "weight_ih": (4 * H, D), "weight_hh": (4 * H, width), "h0": (B, width), "c0": (B, H)}
    shapes |= {"bias": (4 * H,)} if bias else {}
    shapes |= {"weight_hr": (P, H)} if projected else {}
    return {name: (torch.randn(shape) * 0.7).to(dtype) for name, shape in shapes.items()}


def by_the_reference(x, weight_ih, weight_hh, bias, h0, c0, *, lengths=None, reverse=False, **options):
    pre = torch.nn.functional.linear(x, weight_ih, bias)
    h, c = reference.run(pre, weight_hh, h0, c0, lengths=lengths, reverse=reverse, **options)
    last = 0 if reverse else -1
    inside = True if lengths is None else (torch.arange(T).unsqueeze(1) < lengths).unsqueeze(-1)
    return h * inside, h[last], c[last]


def results(run, tensors: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss on all of them."""
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    outputs = run(**{"bias": None} | tensors, **options)
    generator = torch.Generator().manual_seed(0)
    sum((part * torch.randn(part.shape, generator=generator).to(part.dtype)).sum() for part in outputs).backward()
    named = dict(zip(("h", "h_n", "c_n"), outputs, strict=True))
    return named | {f"d {name}": tensor.grad for name, tensor in tensors.items()}


def assert_equals_the_reference(tensors: dict[str, Tensor], **options) -> None:
    ours, theirs = results(cudnn.run_input, tensors, **options), results(by_the_reference, tensors, **options)
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype, name
        assert ours[name].shape == expected.shape, name
        error = (ours[name].double() - expected.double()).norm() / expected.double().norm()
        assert error <= TOLERANCE[tensors["x"].dtype], (name, error)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [7, 1, 4, 7], [2, 6, 3, 1]], ids=["full", "lengths", "all shorter"])
@pytest.mark.parametrize("scale", [None, SCALE], ids=["plain", "scaled"])
@pytest.mark.parametrize("columns", [0, 2 * H, 4 * H], ids=["quiet", "noise on i f", "noise on all"])
def test_equals_the_reference(dtype, reverse, lengths, scale, columns):
    tensors = problem(dtype)
    if columns:
        tensors["noise"] = torch.randn(T, B, columns).to(dtype)
    lengths = None if lengths is None else torch.tensor(lengths)
    assert_equals_the_reference(tensors, reverse=reverse, lengths=lengths, scale=scale)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
def test_equals_the_reference_with_and_without_bias_and_projection(bias, projected, reverse):
    tensors = problem(bias=bias, projected=projected) | {"noise": torch.randn(T, B, 2 * H).double()}
    assert_equals_the_reference(tensors, reverse=reverse, scale=SCALE)


def test_draws_the_noise_of_a_recipe():
    assert_equals_the_reference(problem(), noise=NoiseRecipe(seed=9, p=0.5, blocks=(0, 3)), scale=SCALE)


def test_weights_are_scaled_before_they_are_cast():
    single, low = problem(torch.float32), problem(torch.bfloat16)
    weights = {name: single[name] for name in ("weight_ih", "weight_hh", "bias")}
    rows = torch.tensor(SCALE).repeat_interleave(H)
    scaled = {"weight_ih": rows.unsqueeze(1), "weight_hh": rows.unsqueeze(1), "bias": rows}
    cast = {name: (weights[name] * scaled[name]).bfloat16() for name in weights}
    found, expected = cudnn.run_input(**low | weights, scale=SCALE), cudnn.run_input(**low | cast)
    assert all(map(torch.equal, found, expected))


def test_leaves_warnings_as_they_were(recwarn):
    cudnn.run_input(**problem())
    assert not recwarn.list


def test_refuses_pre_activations_and_hard_gates():
    with pytest.raises(ValueError, match="use run_input"):
        cudnn.run(torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="no hard gates"):
        cudnn.run_input(**problem(), hard=("i",))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"device": torch.device("cpu")}, "runs on CUDA, not on cpu"),
        ({"hard": True}, "has no hard gates"),
        ({"dtype": torch.bfloat16}, "keeps the cell state in bfloat16"),
    ],
    ids=str,
)
def test_says_what_it_lacks(option, reason):
    assert cudnn.lacks(**ASKED | option) == reason
