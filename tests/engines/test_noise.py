"""Noise as a recipe: the generator against its published answers, what engines draw against closed forms."""

import math

import pytest
import torch

from g2lstm.engines import DRAW_THEMSELVES, compiled
from g2lstm.engines.noise import NoiseRecipe, philox
from tests.test_gates import assert_share, kolmogorov_distance

TIME, BATCH, SIZE = 20, 50, 500  # 5 * 10^5 values of each gate


def in_tensors(recipe: NoiseRecipe) -> torch.Tensor:
    return recipe.draw(TIME, BATCH, SIZE, dtype=torch.float32, device="cpu")


def in_the_kernel(recipe: NoiseRecipe) -> torch.Tensor:
    if (problem := compiled.problem()) is not None:
        pytest.skip(f"the native engine {problem}")
    return torch.ops.g2lstm.draw(TIME, BATCH, SIZE, recipe.seed, recipe.threshold, recipe.eps, recipe.words)


# Triton's words are compared with these in in_triton_interpreter.py, where its interpreter runs.
SOURCES = {"native": in_the_kernel, "tensors": in_tensors}


def test_every_engine_that_draws_is_checked():
    assert set(DRAW_THEMSELVES) == {"native", "triton"}


def test_philox_gives_the_published_words():
    """The known answer of Random123, the generator's reference implementation, for counter and key 0."""
    found = [int(word) for word in philox(0, torch.tensor([0]))]
    assert found == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("seed", [7, 2**40 + 7, 2**63 - 1])
@pytest.mark.parametrize("counter", [1, 2**32 - 1, 2**32, 2**40 + 3])
def test_philox_is_its_definition_in_plain_numbers(seed, counter):
    c, k = [counter % 2**32, counter >> 32, 0, 0], [seed % 2**32, seed >> 32]
    for _ in range(10):
        first, third = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [third >> 32 ^ c[1] ^ k[0], third % 2**32, first >> 32 ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    assert [int(word) for word in philox(seed, torch.tensor([counter]))] == c


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("p", [0.2, 1.0])
def test_noise_that_is_not_dropped_is_logistic(source, p):
    noise = SOURCES[source](NoiseRecipe(seed=11, p=p))[..., : 2 * SIZE]
    for gate in noise.split(SIZE, dim=-1):
        assert kolmogorov_distance(gate[gate != 0]) < 1.95  # exceeded once in a thousand


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("p", [0.0, 0.03, 0.2, 1.0])
def test_share_of_perturbed_values_is_noise_p(source, p):
    noise = SOURCES[source](NoiseRecipe(seed=12, p=p))[..., : 2 * SIZE]
    assert_share((noise != 0).double().mean().item(), p, noise.numel())


@pytest.mark.parametrize("source", SOURCES)
def test_gates_steps_sequences_and_units_are_independent(source):
    noise = SOURCES[source](NoiseRecipe(seed=13, p=1.0))[..., : 2 * SIZE].double()
    i, f = noise.split(SIZE, dim=-1)
    pairs = [(i, f), (i[1:], i[:-1]), (i[:, 1:], i[:, :-1]), (i[..., 1:], i[..., :-1])]
    for left, right in pairs:
        correlation = torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1].item()
        assert abs(correlation) < 5 / math.sqrt(left.numel())


@pytest.mark.parametrize("source", SOURCES)
def test_seeds_give_different_noise_and_one_seed_the_same(source):
    draw = SOURCES[source]
    first = draw(NoiseRecipe(seed=1, p=0.5))
    assert torch.equal(first, draw(NoiseRecipe(seed=1, p=0.5)))
    assert not torch.equal(first, draw(NoiseRecipe(seed=2**40 + 1, p=0.5)))


@pytest.mark.parametrize("source", SOURCES)
def test_eps_bounds_the_noise(source):
    noise = SOURCES[source](NoiseRecipe(seed=3, p=1.0, eps=1e-3))
    assert noise.abs().max() <= math.log((1 + 1e-3) / 1e-3) + 1e-4
