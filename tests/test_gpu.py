"""On a CUDA device the layer agrees with itself on the CPU, and its engines with the reference. Run with: pytest -m gpu."""

from collections.abc import Iterator

import pytest
import torch

from g2lstm import G2LSTM
from g2lstm.compression.deploy import deploy
from g2lstm.engines import Request, framework, reference, triton
from g2lstm.engines.noise import NoiseRecipe
from g2lstm.layers.output import linear_cross_entropy
from tests.engines.problems import Tensors, assert_same, problem, results, run

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
    if reason := triton.lacks(Request(torch.device("cuda"), torch.float32, 8)):
        pytest.skip(f"triton {reason}")


def on_cuda(time: int, batch: int, size: int, dtype: torch.dtype = torch.float32, **options) -> Tensors:
    tensors = problem(time, batch, size, dtype, master=torch.promote_types(dtype, torch.float32), **options)
    return {name: None if tensor is None else tensor.detach().cuda().requires_grad_() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 5e-3)], ids=str
)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "lengths"])
@pytest.mark.parametrize("hard", [(), ("i", "f")], ids=["soft", "hard"])
def test_triton_equals_the_reference_in_every_pass(dtype, tolerance, reverse, full, hard, no_tf32):
    """The first passes start each step, the later ones replay graphs; 41 steps are blocks of every length."""
    needs_triton()
    if hard and dtype != torch.float32:
        pytest.skip("a rounding may open a gate")
    tensors = on_cuda(41, 21, 50, dtype)
    lengths = None if full else torch.arange(1, 22, device="cuda") * 41 // 21
    for seed in range(5):
        options = {"noise": NoiseRecipe(seed, p=0.5), "scale": SCALE, "reverse": reverse, "lengths": lengths, "hard": hard}
        assert_same(results(triton, tensors, **options), results(reference, tensors, **options), tolerance)
    assert all(workspace.steps.graphs and not workspace.steps.refused for workspace in list(triton._kept.values())[-1:])


def test_triton_equals_the_reference_at_the_language_models_size(no_tf32):
    needs_triton()
    tensors, options = on_cuda(70, 20, 1150), {"noise": NoiseRecipe(1, p=0.2), "scale": SCALE}
    for _ in range(4):
        assert_same(results(triton, tensors, **options), results(reference, tensors, **options), 2e-5)


def test_replays_draw_the_noise_of_their_seed():
    needs_triton()
    tensors, seeds = on_cuda(37, 4, 16), [1, 2, 3, 1, 2, 3, 1]
    cells = [run(triton, tensors, noise=NoiseRecipe(seed, p=0.5))[2] for seed in seeds]
    for seed, cell in zip(seeds, cells, strict=True):
        assert torch.equal(cell, cells[seed - 1])
    assert not torch.equal(cells[0], cells[1])


def test_replays_follow_the_scale_the_weights_and_the_number_of_steps(no_tf32):
    needs_triton()
    trained = []
    for engine in (triton, reference):
        weight_hh = on_cuda(1, 4, 16)["hh"]
        for pass_, time in enumerate((33, 17, 5, 41, 16, 33, 17, 5, 41)):
            tensors = on_cuda(time, 4, 16) | {"hh": weight_hh}
            scale = (1 + pass_ / 10, 1 + pass_ / 10, 1.0, 1.0)
            run(engine, tensors, noise=NoiseRecipe(pass_, p=0.5), scale=scale)[0].square().mean().backward()
            with torch.no_grad():
                weight_hh -= weight_hh.grad
            weight_hh.grad = None
        trained.append(weight_hh.detach())
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_triton_runs_inside_a_graph_of_the_caller():
    needs_triton()
    tensors = {name: None if tensor is None else tensor.detach() for name, tensor in on_cuda(5, 4, 16).items()}
    expected = run(triton, tensors, noise=NoiseRecipe(3, p=0.5))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(triton, tensors, noise=NoiseRecipe(3, p=0.5))
    graph.replay()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("full", [True, False], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [0, 8], ids=["plain", "projected"])
def test_the_frameworks_lstm_equals_itself_on_the_cpu(dtype, reverse, full, projected, no_tf32):
    tensors, lengths = problem(9, 4, 16, dtype, projected=projected), None if full else torch.tensor([3, 9, 1, 5])
    options = {"noise": NoiseRecipe(7, p=0.5), "scale": SCALE, "reverse": reverse}
    expected = results(framework, tensors, **options, lengths=lengths)
    lengths = None if full else lengths.cuda()
    found = results(framework, on_cuda(9, 4, 16, dtype, projected=projected), **options, lengths=lengths)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]  # 2.1e-5 was seen on an H100
    assert_same({name: part.cpu() for name, part in found.items()}, expected, tolerance)


def test_evaluation_is_nn_lstms_on_cuda() -> None:
    rnn = G2LSTM(8, 16, 2, bidirectional=True).cuda().eval()
    x = torch.randn(5, 3, 8, device="cuda")
    assert torch.equal(rnn(x)[0], rnn.to_lstm()(x)[0])


@pytest.mark.parametrize("gate", ["sigmoid", "sharpened", "gumbel"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("text", []), ("mnist", []), ("series", []),
        ("parallel", []), ("parallel", ["model.decoder=conditional", "model.attention=additive"]),
    ],
    ids=lambda part: part if isinstance(part, str) else "-".join(part),
)  # fmt: skip
def test_every_task_trains_and_is_evaluated_on_cuda_as_on_the_cpu(small_task, name, options, gate, no_tf32):
    losses = []
    for device in ("cpu", "cuda"):
        task, model = small_task(name, *options, f"gate={gate}", device=device)
        losses.append(task.evaluate(model.eval(), "valid").losses.cpu())
        items = task.plan(torch.Generator().manual_seed(0))
        task.loss(model.train(), next(iter(items)), None).objective.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_a_stored_model_reads_sentences_of_different_lengths_on_cuda(small_task, no_tf32):
    losses = []
    for device in ("cpu", "cuda"):
        task, model = small_task("parallel", device=device)
        stored = deploy(model.eval()).model(engine="torch").to(device)
        losses.append(task.evaluate(stored, "valid").losses.cpu())
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_what_a_translation_looked_at_comes_to_the_cpu(small_task):
    task, model = small_task("parallel", device="cuda")
    ((_, best),) = task.translate([model.eval()], ["da de"], task.config.eval, attention=True)[0]
    assert best.attention.device.type == "cpu"
    assert best.attention.sum(1).tolist() == pytest.approx([1.0] * (len(best.tokens) + 1), abs=1e-3)
