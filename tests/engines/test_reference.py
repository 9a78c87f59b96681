"""The specification of the recurrence, against nn.LSTMCell, thresholds and finite differences."""

import pytest
import torch
from torch import nn

from g2lstm.engines import ENGINES, Masks, Request, bptt, choose, reference
from g2lstm.layout import Weights
from tests.engines.problems import MASKS, NAMES, Tensors, masks, problem, run

T, B, D, H = 5, 3, 2, 4


def cell_and_tensors(projected: int = 0) -> tuple[nn.LSTMCell, Tensors]:
    """A cell of the framework and a layer of the same weights."""
    tensors = problem(T, B, H, inputs=D, projected=projected)
    tensors = {name: None if tensor is None else tensor.detach() for name, tensor in tensors.items()}
    cell = nn.LSTMCell(D, H, dtype=torch.float64).requires_grad_(False)
    if not projected:
        cell.load_state_dict(
            {f"{'weight' if len(name) == 2 else 'bias'}_{name[-2:]}": tensors[name] for name in Weights._fields[:4]}
        )
    return cell, tensors


@pytest.mark.parametrize("reverse", [False, True])
def test_matches_a_loop_of_the_frameworks_cell(reverse):
    cell, tensors = cell_and_tensors()
    h, h_n, c_n = run(reference, tensors, reverse=reverse)
    state = tensors["h0"], tensors["c0"]
    for t in reversed(range(T)) if reverse else range(T):
        state = cell(tensors["x"][t], state)
        torch.testing.assert_close(h[t], state[0])
    torch.testing.assert_close((h_n, c_n), state)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_keeps_its_state_beyond_its_length(reverse):
    _, tensors = cell_and_tensors()
    lengths = torch.tensor([2, 5, 1])
    h, h_n, c_n = run(reference, tensors, lengths=lengths, reverse=reverse)
    for b, length in enumerate(lengths.tolist()):
        alone = tensors | {
            "x": tensors["x"][:length, b : b + 1],
            "h0": tensors["h0"][b : b + 1],
            "c0": tensors["c0"][b : b + 1],
        }
        found = h[:length, b : b + 1], h_n[b : b + 1], c_n[b : b + 1]
        torch.testing.assert_close(found, run(reference, alone, reverse=reverse))


@pytest.mark.parametrize("blocks", [2, 4])
def test_noise_is_added_to_the_leading_blocks(blocks):
    """The input reads noise through an identity."""
    _, tensors = cell_and_tensors()
    noise = torch.randn(T, B, blocks * H, dtype=torch.float64)
    identity = torch.eye(4 * H, blocks * H, dtype=torch.float64)
    wide = tensors | {"x": torch.cat([tensors["x"], noise], -1), "ih": torch.cat([tensors["ih"], identity], -1)}
    torch.testing.assert_close(run(reference, tensors, noise=noise), run(reference, wide))


@pytest.mark.parametrize("hard", [("i",), ("f",), ("i", "f"), ("i", "f", "o")], ids="".join)
def test_hard_gates_are_zero_or_one(hard):
    _, tensors = cell_and_tensors()
    h, h_n, c_n = run(reference, tensors, hard=hard)
    h_t, c_t = tensors["h0"], tensors["c0"]
    for t in range(T):
        pre = tensors["x"][t] @ tensors["ih"].mT + tensors["bias_ih"] + tensors["bias_hh"] + h_t @ tensors["hh"].mT
        a = dict(zip("ifgo", pre.chunk(4, -1), strict=True))
        i, f, o = ((a[n] > 0).double() if n in hard else 1 / (1 + torch.exp(-a[n])) for n in "ifo")
        c_t = f * c_t + i * torch.tanh(a["g"])
        h_t = o * torch.tanh(c_t)
        torch.testing.assert_close(h[t], h_t)
    torch.testing.assert_close((h_n, c_n), (h_t, c_t))


def test_hard_gates_have_the_gradient_of_hard_plus_soft_minus_detached_soft():
    """As torch.nn.functional.gumbel_softmax(hard=True) has it."""
    _, tensors = cell_and_tensors()
    found, expected = [], []
    for gradients in (found, expected):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items() if tensor is not None}
        if gradients is found:
            h = run(reference, tensors | leaves, hard=("i", "f"))[0]
        else:
            h_t, c_t, steps = leaves["h0"], leaves["c0"], []
            for x in leaves["x"]:
                pre = x @ leaves["ih"].mT + leaves["bias_ih"] + leaves["bias_hh"] + h_t @ leaves["hh"].mT
                i, f, g, o = pre.chunk(4, -1)
                i, f = ((a > 0).double() + a.sigmoid() - a.sigmoid().detach() for a in (i, f))
                c_t = f * c_t + i * g.tanh()
                h_t = o.sigmoid() * c_t.tanh()
                steps.append(h_t)
            h = torch.stack(steps)
        h.square().sum().backward()
        gradients += [leaf.grad for leaf in leaves.values()]
    torch.testing.assert_close(found, expected)


def test_projection_is_applied_to_the_hidden_state():
    _, tensors = cell_and_tensors(projected=2)
    one = tensors | {"x": tensors["x"][:1]}
    h, _, c_n = run(reference, one)
    wide = torch.cat([tensors["hh"], torch.zeros(4 * H, H - 2).double()], -1)  # reads h0 as the projected layer does
    state = torch.cat([tensors["h0"], torch.zeros(B, H - 2).double()], -1)
    unprojected, _, same_c = run(reference, one | {"hh": wide, "h0": state, "hr": None})
    torch.testing.assert_close((h, c_n), (unprojected @ tensors["hr"].mT, same_c))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", [name for name in MASKS if not name.startswith("g")])
def test_dropout_on_h_and_zoneout_are_a_loop_around_the_frameworks_cell(name, reverse):
    """The cell reads the masked h, and what it gives is mixed with the old states (Krueger et al. 2017, section 3.1)."""
    cell, tensors = cell_and_tensors()
    given = masks(T, B, H, H, torch.float64)[name]._replace(g=None)
    h, h_n, c_n = run(reference, tensors, reverse=reverse, masks=given)
    h_t, c_t = tensors["h0"], tensors["c0"]
    for t in reversed(range(T)) if reverse else range(T):
        new_h, new_c = cell(tensors["x"][t], (h_t if given.h is None else h_t * given.h, c_t))
        h_t = new_h if given.kept_h is None else torch.lerp(new_h, h_t, given.kept_h[t])
        c_t = new_c if given.kept_c is None else torch.lerp(new_c, c_t, given.kept_c[t])
        torch.testing.assert_close(h[t], h_t)
    torch.testing.assert_close((h_n, c_n), (h_t, c_t))


def test_dropout_on_g_drops_a_cells_candidate():
    """Semeniuta et al. 2016, equation 9: what a step adds to c, c itself is never dropped."""
    _, tensors = cell_and_tensors()
    one, (mask,) = tensors | {"x": tensors["x"][:1]}, [masks(1, B, H, H, torch.float64)["g"].g]
    c_n, kept, full = (
        run(reference, one, masks=Masks(g=given))[2] for given in (mask, torch.zeros_like(mask), torch.ones_like(mask))
    )
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.7}
    torch.testing.assert_close(c_n, kept + mask[0] * (full - kept))
    torch.testing.assert_close(full, run(reference, one)[2])


@pytest.mark.parametrize("engine", [reference, bptt], ids=["reference", "bptt"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("name", ["everything", "zoneout in evaluation"])
def test_gradients_with_masks_pass_finite_differences(engine, reverse, name):
    tensors, given = problem(3, 2, 2, inputs=1, noise=2), masks(3, 2, 2, 2, torch.float64)[name]

    def outputs(*values):
        return run(engine, dict(zip(NAMES, values, strict=True)), reverse=reverse, masks=given)

    assert torch.autograd.gradcheck(outputs, tuple(tensors.values()))


EVERYTHING = ("reference", "bptt")  # the engines that take every dtype


@pytest.mark.parametrize("name", EVERYTHING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_cell_states_are_at_least_single_precision(name, dtype):
    h, h_n, c_n = run(ENGINES[name], problem(T, B, H, dtype))
    assert h.dtype == h_n.dtype == dtype
    assert c_n.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("scale", [None, (2.0, 0.5, 1.0, 3.0)], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reverse"])
@pytest.mark.parametrize("lengths", [None, [3, 1]], ids=["full", "lengths"])
@pytest.mark.parametrize("projected", [0, 1], ids=["plain", "projected"])
@pytest.mark.parametrize("noise", [0, 2, 4], ids=["quiet", "noise on i f", "noise on all"])
def test_gradients_pass_finite_differences(scale, reverse, lengths, projected, noise):
    tensors = problem(3, 2, 2, inputs=1, projected=projected, noise=noise)
    lengths = None if lengths is None else torch.tensor(lengths)
    inside = 1.0 if lengths is None else (torch.arange(3).unsqueeze(1) < lengths).unsqueeze(-1)

    def outputs(*values):
        given = dict(zip(NAMES, values, strict=True))
        h, h_n, c_n = run(reference, given, reverse=reverse, scale=scale, lengths=lengths)
        return h * inside, h_n, c_n

    assert torch.autograd.gradcheck(outputs, tuple(tensors.values()), fast_mode=True)


def test_scale_multiplies_the_sum_of_input_recurrent_part_and_noise():
    _, tensors = cell_and_tensors()
    noise, scale = torch.randn(T, B, 2 * H).double(), (2.0, 0.5, 1.0, 3.0)
    rows = torch.tensor(scale, dtype=torch.float64).repeat_interleave(H)
    scaled = {
        name: tensors[name] * (rows if tensors[name].dim() == 1 else rows.unsqueeze(1)) for name in Weights._fields[:4]
    }
    expected = run(reference, tensors | scaled, noise=noise * rows[: 2 * H])
    torch.testing.assert_close(run(reference, tensors, noise=noise, scale=scale), expected)


def request(**asked) -> Request:
    return Request(**{"device": torch.device("cpu"), "dtype": torch.float32, "size": H, "noisy": True} | asked)


@pytest.mark.parametrize(
    ("asked", "engine"),
    [
        ({"dtype": torch.float64}, "bptt"),
        ({"projected": True}, "bptt"),
        ({"steps": 1}, "reference"),
        ({"steps": 1, "noisy": False, "training": False}, "framework"),
        ({"noisy": False, "training": False}, "framework"),
        ({"noisy": False, "training": False, "dtype": torch.bfloat16}, "framework"),
        ({"noisy": False, "training": False, "dtype": torch.float64, "scaled": True}, "bptt"),
        ({"noisy": False, "training": False, "dtype": torch.bfloat16, "size": 3, "autocast": True}, "bptt"),
        ({"dtype": torch.float64, "hard": True}, "bptt"),
        ({"noisy": False, "training": False, "masked": True, "dtype": torch.float64}, "bptt"),
    ],
    ids=str,
)
def test_auto_takes_the_fastest_that_can_do_it(asked, engine):
    assert choose("auto", request(**asked)) == engine


def test_an_unknown_engine_is_a_value_error():
    with pytest.raises(ValueError, match=f"engine must be one of auto, {', '.join(ENGINES)}, got 'fast'"):
        choose("fast", request())


def test_a_named_engine_that_lacks_what_is_asked_is_a_value_error():
    with pytest.raises(ValueError, match="the native engine has no projection: use engine='auto'"):
        choose("native", request(projected=True))


def test_under_vmap_the_reference_runs_which_is_made_of_operators_that_follow_it():
    tensors = {name: None if tensor is None else tensor.detach() for name, tensor in problem(T, B, H).items()}
    chosen = []

    def one(x):
        chosen.append(choose("auto", request()))
        return run(reference, tensors | {"x": x})[0]

    x = torch.randn(2, T, B, 3).double()
    torch.testing.assert_close(torch.vmap(one)(x), torch.stack([one(part) for part in x]))
    assert chosen[0] == "reference"
    assert chosen[1] != "reference"
