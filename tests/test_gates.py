"""The gates: their arguments, their noise against closed forms, their temperature schedules."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate, TemperatureSchedule, gates

SAMPLES = 10**6
EVERY_GATE = [SigmoidGate(), SharpenedGate(), GumbelGate(), HardGate()]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def assert_share(share: float, probability: float, samples: int = SAMPLES) -> None:
    """A binomial share lies within five standard deviations of its probability."""
    assert abs(share - probability) <= 5 * math.sqrt(probability * (1 - probability) / samples) + 1e-9, (share, probability)


def relaxed_coins(a: float, tau: float) -> torch.Tensor:
    """10^6 draws of G(a, tau) in float64 (eq. 11)."""
    noise = gates.draw_noise(
        GumbelGate(noise_p=1, gates=("i",)), 1000, 1, SAMPLES // 1000, generator=seeded(), dtype=torch.float64
    )
    return torch.sigmoid((a + noise.flatten()) / tau)


def kolmogorov_distance(samples: torch.Tensor) -> float:
    """The largest gap between the samples' distribution function and the logistic one, times sqrt(n)."""
    expected = torch.sigmoid(samples.double().sort().values)
    ranks = torch.arange(1, len(samples) + 1, dtype=torch.float64) / len(samples)
    return (ranks - expected).abs().max().item() * math.sqrt(len(samples))


@pytest.mark.parametrize("gate", EVERY_GATE, ids=repr)
def test_gates_are_frozen_hashable_and_equal_by_value(gate):
    assert hash(gate) == hash(type(gate)())
    assert gate == type(gate)()
    with pytest.raises((FrozenInstanceError, AttributeError)):
        gate.tau = 0.5


def test_defaults_are_the_papers():
    assert GumbelGate() == GumbelGate(tau=0.9, noise_p=0.2, noise_scope="step", eps=0, gates=("i", "f"))
    assert SharpenedGate() == SharpenedGate(tau=0.2, gates=("i", "f"))
    assert set(gates.GATES) == {"sigmoid", "sharpened", "gumbel", "hard"}


def test_gates_are_put_in_the_order_of_the_rows():
    assert GumbelGate(gates=["o", "i"]).gates == ("i", "o")
    assert HardGate(gates=("f", "i")) == HardGate()


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: GumbelGate(tau=0), "tau must be > 0 and finite, got 0"),
        (lambda: GumbelGate(tau=-0.5), "-0.5"),
        (lambda: GumbelGate(tau=math.nan), "nan"),
        (lambda: GumbelGate(tau=math.inf), "inf"),
        (lambda: GumbelGate(tau="0.9"), "'0.9'"),
        (lambda: GumbelGate(tau=None), "None"),
        (lambda: SharpenedGate(tau=0.0), "0.0"),
        (lambda: GumbelGate(noise_p=1.5), "1.5"),
        (lambda: GumbelGate(noise_p=-0.1), "-0.1"),
        (lambda: GumbelGate(noise_p=math.nan), "nan"),
        (lambda: GumbelGate(noise_scope="batch"), "'batch'"),
        (lambda: GumbelGate(eps=-1e-3), "-0.001"),
        (lambda: GumbelGate(eps=math.inf), "inf"),
        (lambda: GumbelGate(gates=("g",)), "g"),
        (lambda: GumbelGate(gates=()), r"\(\)"),
        (lambda: GumbelGate(gates=("i", "i")), r"\('i', 'i'\)"),
        (lambda: HardGate(gates=3), "3"),
        (lambda: SharpenedGate(gates=("i", "x")), "x"),
        (lambda: TemperatureSchedule(0.0), "0.0"),
        (lambda: TemperatureSchedule(1.0, -2.0, "linear"), "-2.0"),
        (lambda: TemperatureSchedule(1.0, 0.5, "step"), "'step'"),
    ],
)
def test_a_bad_value_is_quoted_in_a_value_error(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.parametrize("tau", [0.3, 0.9, 1.5])
@pytest.mark.parametrize("a", [-2.0, 0.0, 0.7])
def test_relaxed_coin_has_the_closed_form_distribution(a, tau):
    draws = relaxed_coins(a, tau)
    for x in (0.01, 0.2, 0.5, 0.9, 0.99):
        assert_share((draws <= x).double().mean().item(), sigmoid(tau * math.log(x / (1 - x)) - a))


@pytest.mark.parametrize("eps", [0.05, 0.2])
@pytest.mark.parametrize("tau", [0.2, 0.9])
@pytest.mark.parametrize("a", [-1.5, 0.0, 2.0])
def test_proposition_3_1_bounds_both_ends(a, tau, eps):
    draws, slack = relaxed_coins(a, tau), tau / 4 * math.log(1 / eps)
    error = 5 * math.sqrt(0.25 / SAMPLES)
    open_share, shut_share = (draws >= 1 - eps).double().mean().item(), (draws <= eps).double().mean().item()
    assert sigmoid(a) - slack - error <= open_share <= sigmoid(a) + error
    assert sigmoid(-a) - slack - error <= shut_share <= sigmoid(-a) + error
    assert_share(open_share, sigmoid(a - tau * math.log(1 / eps - 1)))
    assert_share(shut_share, sigmoid(-a - tau * math.log(1 / eps - 1)))


def test_eps_is_the_released_codes_formula():
    u = torch.rand(10_000, generator=seeded(), dtype=torch.float64)
    released = torch.log(u + 1e-3) - torch.log(1 + 1e-3 - u)
    torch.testing.assert_close(gates.logistic_(u.clone(), eps=1e-3), released)


def test_eps_bounds_the_noise_at_about_6_9():
    noise = gates.draw_noise(GumbelGate(noise_p=1, eps=1e-3), 100, 100, 50, generator=seeded())
    assert 6.8 < noise.abs().max() <= math.log(1001) + 1e-3
    exact = gates.draw_noise(GumbelGate(noise_p=1), 100, 100, 50, generator=seeded())
    assert exact.abs().max() > 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_noise_is_finite_at_the_ends_of_the_unit_interval(dtype, eps):
    assert gates.logistic_(torch.tensor([0.0, 1.0], dtype=dtype), eps).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scope", ["step", "mask"])
@pytest.mark.parametrize("p", [0.05, 0.2, 1.0])
def test_noise_that_is_not_dropped_is_logistic(p, scope, dtype):
    noise = gates.draw_noise(GumbelGate(noise_p=p, noise_scope=scope), 50, 50, 100, generator=seeded(1), dtype=dtype)
    assert kolmogorov_distance(noise[noise != 0]) < 1.95  # exceeded once in a thousand


@pytest.mark.parametrize("scope", ["step", "mask", "sequence"])
@pytest.mark.parametrize("p", [0.05, 0.2, 0.7])
def test_share_of_perturbed_values_is_noise_p(p, scope):
    noise = gates.draw_noise(GumbelGate(noise_p=p, noise_scope=scope), 5, 100, 500, generator=seeded())
    independent = noise if scope == "step" else noise[:1]
    assert_share((independent != 0).double().mean().item(), p, independent.numel())


def test_all_values_are_perturbed_at_p_one_and_none_at_p_zero():
    one = gates.draw_noise(GumbelGate(noise_p=1), 20, 20, 50, generator=seeded())
    zero = gates.draw_noise(GumbelGate(noise_p=0), 20, 20, 50, generator=seeded())
    assert (one != 0).double().mean() > 0.9999
    assert not zero.any()


def test_step_scope_draws_everything_afresh():
    noise = gates.draw_noise(GumbelGate(noise_p=0.5), 4, 3, 200, generator=seeded())
    assert len({tuple((step != 0).flatten().tolist()) for step in noise}) == 4
    kept = noise[noise != 0]
    assert kept.unique().numel() > 0.99 * kept.numel()


def test_mask_scope_keeps_the_places_and_draws_the_values_afresh():
    noise = gates.draw_noise(GumbelGate(noise_p=0.5, noise_scope="mask"), 4, 3, 200, generator=seeded())
    assert ((noise != 0) == (noise[0] != 0)).all()
    kept = noise[noise != 0]
    assert kept.unique().numel() > 0.99 * kept.numel()


def test_sequence_scope_keeps_places_and_values():
    noise = gates.draw_noise(GumbelGate(noise_p=0.5, noise_scope="sequence"), 4, 3, 200, generator=seeded())
    assert noise[0].any()
    assert (noise == noise[0]).all()


@pytest.mark.parametrize("scope", ["step", "mask", "sequence"])
def test_every_sequence_of_a_batch_has_its_own_noise(scope):
    noise = gates.draw_noise(GumbelGate(noise_p=0.5, noise_scope=scope), 2, 6, 300, generator=seeded())
    for one in range(6):
        for other in range(one):
            assert ((noise[:, one] != 0) != (noise[:, other] != 0)).double().mean() > 0.3
            shared = (noise[:, one] == noise[:, other]) & (noise[:, one] != 0)
            assert shared.double().mean() < 0.01


@pytest.mark.parametrize(("names", "blocks"), [(("i",), 1), (("i", "f"), 2), (("o", "f", "i"), 3)])
def test_noise_has_a_block_of_columns_for_each_gate(names, blocks):
    assert gates.draw_noise(GumbelGate(gates=names), 3, 2, 5).shape == (3, 2, blocks * 5)


def test_noise_follows_its_generator_and_else_the_default_one():
    gate = GumbelGate(noise_p=0.5)
    first, again, other = (gates.draw_noise(gate, 3, 2, 5, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(1)
    assert torch.equal(gates.draw_noise(gate, 3, 2, 5), first)


def test_low_precision_noise_is_drawn_in_float32():
    low, high = (
        gates.draw_noise(GumbelGate(noise_p=1), 3, 2, 5, generator=seeded(), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, high.bfloat16())


@pytest.mark.parametrize(
    ("gate", "training", "expected"),
    [
        (SigmoidGate(), True, None),
        (HardGate(), False, None),
        (GumbelGate(tau=0.5), False, None),
        (GumbelGate(tau=1.0), True, None),
        (GumbelGate(tau=0.5), True, [2, 2, 1, 1]),
        (GumbelGate(tau=0.5, noise_p=0), True, [2, 2, 1, 1]),
        (SharpenedGate(tau=0.25), True, [4, 4, 1, 1]),
        (SharpenedGate(tau=0.25), False, [4, 4, 1, 1]),
        (SharpenedGate(tau=0.25, gates=("f", "o")), False, [1, 4, 1, 4]),
    ],
)
def test_temperature_divides_the_blocks_of_its_gates_alone(gate, training, expected):
    scale = gates.block_scale(gate, gate.tau, training)
    assert scale == (None if expected is None else tuple(expected))


@pytest.mark.parametrize("kind", ["linear", "exponential", "cosine"])
@pytest.mark.parametrize(("start", "end"), [(2.0, 0.3), (0.3, 1.7)])
def test_schedule_runs_monotonously_from_start_to_end(kind, start, end):
    schedule = TemperatureSchedule(start, end, kind)
    temperatures = [schedule(progress) for progress in np.linspace(0, 1, 101)]
    assert temperatures[0] == start
    assert temperatures[-1] == end
    assert (np.diff(temperatures) * (end - start) > 0).all()
    assert schedule(-1) == start
    assert schedule(2) == end


def test_schedule_halfway_points():
    assert TemperatureSchedule(4.0, 1.0, "linear")(0.5) == pytest.approx(2.5)
    assert TemperatureSchedule(4.0, 1.0, "exponential")(0.5) == pytest.approx(2.0)
    assert TemperatureSchedule(4.0, 1.0, "cosine")(0.5) == pytest.approx(2.5)
    assert TemperatureSchedule(4.0, 1.0, "cosine")(1 / 3) == pytest.approx(1 + 3 * 0.75)


@pytest.mark.parametrize("kind", ["constant", "linear", "exponential", "cosine"])
def test_schedule_without_an_end_is_constant(kind):
    assert [TemperatureSchedule(0.9, kind=kind)(progress) for progress in (0, 0.25, 1)] == pytest.approx([0.9] * 3)


def test_noise_falls_to_nothing_over_the_last_third():
    assert [gates.noise_share(0.2, "last_third", at) for at in (0.0, 0.5, 2 / 3)] == pytest.approx([0.2] * 3)
    assert gates.noise_share(0.2, "last_third", 5 / 6) == pytest.approx(0.1)
    assert gates.noise_share(0.2, "last_third", 1.0) == gates.noise_share(0.2, "last_third", 1.5) == 0
    assert gates.noise_share(0.2, "constant", 1.0) == 0.2


def test_a_layer_gets_another_share_of_noise_at_its_present_temperature():
    rnn = G2LSTM(2, 3, gate=GumbelGate(tau=0.9, noise_p=0.2))
    rnn.tau = 0.5
    rnn.set_noise(0.0)
    assert (rnn.gate.noise_p, rnn.tau) == (0.0, 0.5)
    x = torch.randn(4, 2, 2)
    assert rnn(x)[0].equal(rnn(x)[0])
