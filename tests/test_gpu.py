"""On a CUDA device the layer agrees with itself on the CPU, and its engines with the reference. Run with: pytest -m gpu."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from g2lstm import G2LSTM
from g2lstm.engines import cudnn, reference, triton
from g2lstm.engines.noise import NoiseRecipe
from g2lstm.layers.output import linear_cross_entropy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def output_and_gradients(rnn: G2LSTM, x: torch.Tensor, noise: list[torch.Tensor]) -> list[torch.Tensor]:
    x = x.detach().requires_grad_()
    output, (h, c) = rnn(x, noise=noise)
    (output.square().sum() + h.sum() + c.sum()).backward()
    assert x.grad is not None
    return [output, h, c, x.grad, *(p.grad for p in rnn.parameters() if p.grad is not None)]


@pytest.mark.parametrize("engine", ["reference", "bptt", "auto"])
def test_cuda_equals_cpu_with_the_same_noise(engine: str) -> None:
    rnn = G2LSTM(6, 8, num_layers=2, bidirectional=True, engine=engine, dtype=torch.float64)
    x, noise = torch.randn(9, 3, 6, dtype=torch.float64), rnn.draw_noise(9, 3)
    expected = output_and_gradients(rnn, x, noise)
    rnn.zero_grad()
    rnn.cuda()
    found = output_and_gradients(rnn, x.cuda(), [part.cuda() for part in noise])
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(right.cpu(), left, rtol=1e-9, atol=1e-11)


def test_autocast_keeps_the_cell_state_in_float32_on_cuda() -> None:
    rnn, x = G2LSTM(16, 32).cuda(), torch.randn(5, 4, 16, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        output, (_, c) = rnn(x)
    assert output.dtype == torch.bfloat16
    assert c.dtype == torch.float32


def test_a_cuda_generator_reproduces_a_training_pass() -> None:
    rnn, x = G2LSTM(4, 5, weight_dropout=0.5).cuda(), torch.randn(6, 2, 4, device="cuda")
    first, second = (rnn(x, generator=torch.Generator("cuda").manual_seed(3))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_output_layer_on_cuda_equals_the_framework_functions() -> None:
    x, weight, bias = (torch.randn(*shape, device="cuda", requires_grad=True) for shape in ((50, 16), (99, 16), (99,)))
    targets = torch.randint(99, (50,), device="cuda")
    expected = torch.nn.functional.cross_entropy(x @ weight.T + bias, targets)
    torch.testing.assert_close(linear_cross_entropy(x, weight, bias, targets), expected)


SCALE = (1 / 0.9, 1 / 0.9, 1.0, 1.0)
Run = Callable[..., tuple[Tensor, ...]]


@pytest.fixture
def no_tf32() -> Iterator[None]:
    settings = torch.backends.cuda.matmul, torch.backends.cudnn.rnn
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    yield
    for setting, precision in zip(settings, before, strict=True):
        setting.fp32_precision = precision


def needs_triton() -> None:
    asked = {"device": torch.device("cuda"), "dtype": torch.float32, "size": 8, "projected": False, "hard": False}
    if reason := triton.lacks(**asked):
        pytest.skip(f"triton {reason}")


def recurrence(time: int, batch: int, size: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(time)
    shapes = {"pre": (time, batch, 4 * size), "weight_hh": (4 * size, size), "h0": (batch, size), "c0": (batch, size)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["weight_hh"] /= size**0.5
    return {name: tensor.to("cuda", dtype) for name, tensor in tensors.items()}


def results(run: Run, tensors: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """Outputs, and gradients of a loss on all of them."""
    tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    outputs = run(**tensors, **options)
    torch.stack([part.float().square().sum() for part in outputs]).sum().backward()
    gradients = {f"d {name}": tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
    return {str(index): part for index, part in enumerate(outputs)} | gradients


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        error = (found[name].double() - value.double()).norm() / value.double().norm()
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)], ids=str
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "lengths"])
def test_triton_equals_the_reference_in_every_pass(dtype, tolerance, reverse, full, no_tf32):
    """The first passes start each step, the later ones replay graphs; 41 steps are blocks of every length."""
    needs_triton()
    tensors = recurrence(41, 21, 50, dtype)
    lengths = None if full else torch.arange(1, 22, device="cuda") * 41 // 21
    for seed in range(5):
        options = {"noise": NoiseRecipe(seed, p=0.5), "scale": SCALE, "reverse": reverse, "lengths": lengths}
        assert_same(results(triton.run, tensors, **options), results(reference.run, tensors, **options), tolerance)
    assert all(workspace.steps.graphs and not workspace.steps.refused for workspace in list(triton._kept.values())[-1:])


def test_triton_equals_the_reference_at_the_language_models_size(no_tf32):
    needs_triton()
    tensors, options = recurrence(70, 20, 1150), {"noise": NoiseRecipe(1, p=0.2), "scale": SCALE}
    for _ in range(4):
        assert_same(results(triton.run, tensors, **options), results(reference.run, tensors, **options), 2e-5)


def test_replays_draw_the_noise_of_their_seed():
    needs_triton()
    tensors, seeds = recurrence(37, 4, 16), [1, 2, 3, 1, 2, 3, 1]
    cells = [triton.run(**tensors, noise=NoiseRecipe(seed, p=0.5))[1] for seed in seeds]
    for seed, cell in zip(seeds, cells, strict=True):
        assert torch.equal(cell, cells[seed - 1])
    assert not torch.equal(cells[0], cells[1])


def test_replays_follow_the_scale_the_weights_and_the_number_of_steps(no_tf32):
    needs_triton()
    trained = []
    for run in (triton.run, reference.run):
        weight_hh = recurrence(1, 4, 16)["weight_hh"].requires_grad_()
        for pass_, time in enumerate((33, 17, 5, 41, 16, 33, 17, 5, 41)):
            tensors = recurrence(time, 4, 16) | {"weight_hh": weight_hh}
            scale = (1 + pass_ / 10, 1 + pass_ / 10, 1.0, 1.0)
            run(**tensors, noise=NoiseRecipe(pass_, p=0.5), scale=scale)[0].square().mean().backward()
            with torch.no_grad():
                weight_hh -= weight_hh.grad
            weight_hh.grad = None
        trained.append(weight_hh.detach())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_triton_runs_inside_a_graph_of_the_caller():
    needs_triton()
    tensors = recurrence(5, 4, 16)
    expected = triton.run(**tensors, noise=NoiseRecipe(3, p=0.5))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = triton.run(**tensors, noise=NoiseRecipe(3, p=0.5))
    graph.replay()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
def test_cudnn_equals_itself_on_the_cpu(dtype, reverse, full, projected, no_tf32):
    torch.manual_seed(3)
    width = 8 if projected else 16
    shapes = {"x": (9, 4, 6), "weight_ih": (64, 6), "weight_hh": (64, width), "bias": (64,), "h0": (4, width), "c0": (4, 16)}
    shapes |= {"weight_hr": (8, 16)} if projected else {}
    tensors = {name: torch.randn(shape).to(dtype) / 2 for name, shape in shapes.items()}
    lengths = None if full else torch.tensor([3, 9, 1, 5])
    options = {"noise": NoiseRecipe(7, p=0.5), "scale": SCALE, "reverse": reverse}
    expected = results(cudnn.run_input, tensors, **options, lengths=lengths)
    lengths = None if full else lengths.cuda()
    found = results(cudnn.run_input, {name: part.cuda() for name, part in tensors.items()}, **options, lengths=lengths)
    assert_same({name: part.cpu() for name, part in found.items()}, expected, 1e-5)
