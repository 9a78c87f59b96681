"""The trigger, the schedules, the optimizers, and averaging against torch.optim.ASGD."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from g2lstm.training.optim import NonMonotoneTrigger, average_of, build_optimizer, learning_rate_factor


class Tied(nn.Module):
    """An embedding whose weight is the decoder's too, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.decoder = nn.Linear(3, 7)
        self.decoder.weight = self.embedding.weight
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.embedding(tokens))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 6):
    """Yields after each step on gradients that depend on the weights."""
    tokens = torch.arange(7)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens), tokens.roll(1)).backward()
        optimizer.step()
        yield


def test_trigger_fires_when_a_loss_is_above_the_best_older_than_n():
    trigger = NonMonotoneTrigger(n=2)
    #         older than the last two:  -   -   -   5   5,4  5,4,3
    fired = [trigger.update(value) for value in [5.0, 4.0, 3.0, 4.5, 3.9, 3.5]]
    assert fired == [False, False, False, False, False, True]


def test_trigger_needs_more_than_n_losses_before_it_fires():
    trigger = NonMonotoneTrigger(n=5)
    assert [trigger.update(float(value)) for value in range(7)] == [False] * 6 + [True]


def test_trigger_does_not_fire_on_an_equal_loss():
    trigger = NonMonotoneTrigger(n=1)
    assert not any(trigger.update(2.0) for _ in range(5))


def test_trigger_goes_on_from_its_state_through_json():
    losses = [5.0, 4.0, 3.0, 4.5, 3.9, 3.5, 3.6]
    whole, first = NonMonotoneTrigger(2), NonMonotoneTrigger(2)
    expected = [whole.update(loss) for loss in losses]
    started = [first.update(loss) for loss in losses[:4]]
    second = NonMonotoneTrigger(**json.loads(json.dumps(asdict(first))))
    assert started + [second.update(loss) for loss in losses[4:]] == expected


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_sgd_with_average_is_asgd_which_leaves_out_the_first_iterate(weight_decay):
    torch.manual_seed(0)
    ours, theirs = Tied().double(), Tied().double()
    theirs.load_state_dict(ours.state_dict())
    sgd = build_optimizer("sgd", ours, lr=0.75, weight_decay=weight_decay)
    asgd = torch.optim.ASGD(theirs.parameters(), lr=0.75, lambd=0.0, t0=0, weight_decay=weight_decay)
    average = average_of(ours)
    for step, _ in enumerate(zip(train(ours, sgd), train(theirs, asgd), strict=True)):
        if step > 0:
            average.update_parameters(ours)
    assert average.n_averaged == 5
    for mean, iterate, parameter in zip(average.parameters(), ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(iterate, parameter, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mean.data, asgd.state[parameter]["ax"], rtol=1e-6, atol=1e-6)
        assert (mean - iterate).abs().max() > 1e-3


def test_average_is_the_mean_of_all_iterates_and_keeps_ties_and_buffers():
    torch.manual_seed(0)
    model = Tied()
    average = average_of(model)
    iterates = []
    for _ in train(model, build_optimizer("sgd", model, lr=0.5)):
        model.calls += 1
        average.update_parameters(model)
        iterates.append(model.embedding.weight.detach().clone())
    torch.testing.assert_close(average.module.embedding.weight.data, torch.stack(iterates).mean(0))
    assert average.module.decoder.weight is average.module.embedding.weight
    assert average.module.embedding.weight is not model.embedding.weight
    assert average.module.calls == 6


def test_average_goes_on_from_its_state_bit_for_bit():
    torch.manual_seed(0)
    model = Tied()
    whole, first = average_of(model), average_of(model)
    second = None
    for step, _ in enumerate(train(model, build_optimizer("sgd", model, lr=0.5))):
        whole.update_parameters(model)
        if step < 3:
            first.update_parameters(model)
        if step == 2:
            second = average_of(model)
            second.load_state_dict(first.state_dict())
            assert second.n_averaged == 3
        if second is not None and step > 2:
            second.update_parameters(model)
    assert second.n_averaged == whole.n_averaged
    assert second.module.decoder.weight is second.module.embedding.weight
    for ours, expected in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_adamw_decays_matrices_only_and_tied_weights_once():
    model = nn.ModuleDict({"tied": Tied(), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    decayed, rest = build_optimizer("adamw", model, lr=1e-3, weight_decay=0.1, betas=[0.8, 0.9]).param_groups
    assert [p is model["tied"].embedding.weight for p in decayed["params"]] == [True]
    assert [p is model["tied"].decoder.bias for p in rest["params"]] == [True]
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == rest["betas"] == (0.8, 0.9)


def test_sgd_is_plain_and_decays_everything():
    model = Tied()
    (group,) = build_optimizer("sgd", model, lr=30.0, weight_decay=1.2e-6).param_groups
    assert len(group["params"]) == 2
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (30.0, 1.2e-6, 0)


def test_a_model_without_vectors_trains_with_adamw():
    model = nn.Linear(3, 2, bias=False)
    build_optimizer("adamw", model, lr=0.1).step()
    assert len(build_optimizer("adamw", model, lr=0.1).param_groups) == 1


def test_warmup_cosine_rises_linearly_and_falls_along_a_cosine():
    factors = [learning_rate_factor("warmup_cosine", p, warmup=0.2) for p in [0, 0.1, 0.2, 0.4, 0.6, 1.0, 1.1]]
    assert factors == pytest.approx([0, 0.5, 1, (1 + math.sqrt(0.5)) / 2, 0.5, 0, 0])
    assert learning_rate_factor("warmup_cosine", 0.0) == 1
    assert learning_rate_factor("warmup_cosine", 1.0) == pytest.approx(0)


def test_constant_schedule_is_one_after_its_warmup():
    assert [learning_rate_factor("constant", p) for p in (0.0, 0.3, 1.0, 1.1)] == [1, 1, 1, 1]
    assert [learning_rate_factor("constant", p, warmup=0.5) for p in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]


def test_an_unknown_optimizer_is_quoted():
    with pytest.raises(ValueError, match="sgd, adamw or adadelta, got 'lion'"):
        build_optimizer("lion", Tied(), lr=1.0)


def test_adadelta_is_zeilers():
    """Each step is the root of the mean square of past steps over that of past gradients, times the gradient (alg. 1)."""
    rho, eps, gradients = 0.95, 1e-7, [1.0, -2.0, 0.5]
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    optimizer = build_optimizer("adadelta", model, lr=1.0, betas=[rho, 0.999])
    x, squares, steps = 0.0, 0.0, 0.0
    for gradient in gradients:
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        squares = rho * squares + (1 - rho) * gradient**2
        step = -math.sqrt(steps + eps) / math.sqrt(squares + eps) * gradient
        steps = rho * steps + (1 - rho) * step**2
        x += step
    assert model.weight.item() == pytest.approx(x, rel=1e-5)
