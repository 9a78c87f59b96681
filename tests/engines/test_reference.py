"""The specification of the recurrence, against nn.LSTMCell, thresholds and finite differences."""

import pytest
import torch
from torch import nn

from g2lstm.engines import ENGINES, choose, reference

T, B, D, H = 5, 3, 2, 4


def problem(
    dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[nn.LSTMCell, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A cell, an input (T, B, D) and two states (B, H)."""
    torch.manual_seed(seed)
    cell = nn.LSTMCell(D, H, dtype=dtype).requires_grad_(False)
    return cell, torch.randn(T, B, D, dtype=dtype), torch.randn(B, H, dtype=dtype), torch.randn(B, H, dtype=dtype)


def pre_activations(cell: nn.LSTMCell, x: torch.Tensor) -> torch.Tensor:
    return x @ cell.weight_ih.mT + cell.bias_ih + cell.bias_hh


@pytest.mark.parametrize("reverse", [False, True])
def test_matches_a_loop_of_the_frameworks_cell(reverse):
    cell, x, h0, c0 = problem()
    h, c = reference.run(pre_activations(cell, x), cell.weight_hh, h0, c0, reverse=reverse)
    state = h0, c0
    for t in reversed(range(T)) if reverse else range(T):
        state = cell(x[t], state)
        torch.testing.assert_close((h[t], c[t]), state)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_keeps_its_state_beyond_its_length(reverse):
    cell, x, h0, c0 = problem()
    pre, lengths = pre_activations(cell, x), torch.tensor([2, 5, 1])
    h, c = reference.run(pre, cell.weight_hh, h0, c0, lengths=lengths, reverse=reverse)
    for b, length in enumerate(lengths.tolist()):
        alone = reference.run(pre[:length, b : b + 1], cell.weight_hh, h0[b : b + 1], c0[b : b + 1], reverse=reverse)
        torch.testing.assert_close((h[:length, b : b + 1], c[:length, b : b + 1]), alone)
        kept = (h0[b], c0[b]) if reverse else (h[length - 1, b], c[length - 1, b])
        for t in range(length, T):
            torch.testing.assert_close((h[t, b], c[t, b]), kept)


@pytest.mark.parametrize("columns", [2 * H, 4 * H])
def test_noise_is_added_to_the_leading_columns(columns):
    cell, x, h0, c0 = problem()
    pre, noise = pre_activations(cell, x), torch.randn(T, B, columns, dtype=torch.float64)
    shifted = pre.clone()
    shifted[..., :columns] += noise
    torch.testing.assert_close(
        reference.run(pre, cell.weight_hh, h0, c0, noise=noise), reference.run(shifted, cell.weight_hh, h0, c0)
    )


@pytest.mark.parametrize("hard", [("i",), ("f",), ("i", "f"), ("i", "f", "o")])
def test_hard_gates_are_zero_or_one(hard):
    cell, x, h0, c0 = problem()
    pre = pre_activations(cell, x)
    h, c = reference.run(pre, cell.weight_hh, h0, c0, hard=hard)
    h_t, c_t = h0, c0
    for t in range(T):
        a = dict(zip("ifgo", (pre[t] + h_t @ cell.weight_hh.mT).chunk(4, -1), strict=True))
        i, f, o = ((a[n] > 0).double() if n in hard else 1 / (1 + torch.exp(-a[n])) for n in "ifo")
        c_t = f * c_t + i * torch.tanh(a["g"])
        h_t = o * torch.tanh(c_t)
        torch.testing.assert_close((h[t], c[t]), (h_t, c_t))


def test_projection_is_applied_to_the_hidden_state():
    cell, x, _, c0 = problem()
    weight_hh, weight_hr = torch.randn(4 * H, 2).double(), torch.randn(2, H).double()
    h, c = reference.run(pre_activations(cell, x)[:1], weight_hh, torch.zeros(B, 2).double(), c0, weight_hr=weight_hr)
    unprojected, same_c = reference.run(pre_activations(cell, x)[:1], cell.weight_hh, torch.zeros(B, H).double(), c0)
    torch.testing.assert_close((h, c), (unprojected @ weight_hr.mT, same_c))


EVERYTHING = ("reference", "bptt")  # the engines that take every dtype


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cell_states_are_at_least_single_precision(name, dtype):
    cell, x, h0, c0 = problem(dtype)
    h, c = ENGINES[name].run(pre_activations(cell, x), cell.weight_hh, h0, c0)
    assert h.dtype == dtype
    assert c.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("scale", [None, (2.0, 0.5, 1.0, 3.0)], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("projection", [0, 1], ids=["plain", "projected"])
@pytest.mark.parametrize("noise_columns", [0, 4, 8], ids=["quiet", "noise on i f", "noise on all"])
def test_gradients_pass_finite_differences(name, scale, reverse, lengths, projection, noise_columns):
    torch.manual_seed(0)
    time, batch, size = 3, 2, 2

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    width = projection or size
    tensors = [leaf(time, batch, 4 * size), leaf(4 * size, width), leaf(batch, width), leaf(batch, size)]
    weight_hr = leaf(projection, size) if projection else None
    noise = leaf(time, batch, noise_columns) if noise_columns else None

    def run(pre, weight_hh, h0, c0, weight_hr, noise):
        return ENGINES[name].run(
            pre, weight_hh, h0, c0, weight_hr=weight_hr, noise=noise, reverse=reverse, scale=scale,
            lengths=None if lengths is None else torch.tensor(lengths),
        )  # fmt: skip

    assert torch.autograd.gradcheck(run, (*tensors, weight_hr, noise))


def test_scale_multiplies_the_sum_of_input_recurrent_part_and_noise():
    cell, x, h0, c0 = problem()
    pre, noise, scale = pre_activations(cell, x), torch.randn(T, B, 2 * H).double(), (2.0, 0.5, 1.0, 3.0)
    rows = torch.tensor(scale, dtype=torch.float64).repeat_interleave(H)
    scaled = reference.run(pre * rows, cell.weight_hh * rows.unsqueeze(1), h0, c0, noise=noise * rows[: 2 * H])
    torch.testing.assert_close(reference.run(pre, cell.weight_hh, h0, c0, noise=noise, scale=scale), scaled)


CPU = torch.device("cpu")


def test_auto_takes_the_reference_for_hard_gates():
    assert choose("auto", device=CPU, dtype=torch.float32, size=H, hard=True) == "reference"


def test_auto_takes_tensor_code_for_what_the_kernel_lacks():
    assert choose("auto", device=CPU, dtype=torch.float64, size=H) == "bptt"
    assert choose("auto", device=CPU, dtype=torch.float32, size=H, projected=True) == "bptt"


def test_an_unknown_engine_is_a_value_error():
    with pytest.raises(ValueError, match=f"engine must be one of auto, {', '.join(ENGINES)}, got 'fast'"):
        choose("fast", device=CPU, dtype=torch.float32, size=H)


def test_auto_takes_the_reference_for_a_single_step():
    assert choose("auto", device=CPU, dtype=torch.float32, size=H, steps=1) == "reference"
