"""The layer on a CUDA device agrees with itself on the CPU. Run with: pytest -m gpu."""

import pytest
import torch

from g2lstm import G2LSTM
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
