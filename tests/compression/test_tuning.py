"""Fine-tuning keeps a model's forms and lowers its loss in them, for any task."""

import pytest
import torch

from g2lstm.compression import Method, Target
from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.forms import Codes, Dense, Factors, Form
from g2lstm.compression.operators import quantize
from g2lstm.compression.tuning import Tuned, tune
from g2lstm.errors import UserError
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config

FORMS = ("bits:8", "bits:3", "ternary", "round:0.2+clip:0.4", "prune:0.7", "svd:3", "svd:3+bits:4", "original")


def matrix() -> torch.Tensor:
    return torch.randn(20, 30, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("method", FORMS)
def test_a_form_that_is_not_trained_yet_gives_its_own_matrix(method) -> None:
    form = Method.parse(method).store(matrix())
    tuned = Tuned(form)
    torch.testing.assert_close(tuned(), form.matrix())
    assert type(tuned.stored()) is type(form)
    torch.testing.assert_close(tuned.stored().matrix(), form.matrix())


@pytest.mark.parametrize("method", FORMS)
def test_what_is_computed_in_training_is_what_is_stored(method) -> None:
    form = Method.parse(method).store(matrix())
    tuned = Tuned(form)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (tuned() - matrix().flip(0)).square().mean(1).sum().backward()
        optimizer.step()
    assert not torch.allclose(tuned.stored().matrix(), form.matrix())
    torch.testing.assert_close(tuned(), tuned.stored().matrix())
    assert tuned.stored().bits == (form.bits if method != "prune:0.7" else pytest.approx(form.bits, rel=0.02))


def test_rounding_lets_gradients_pass_up_to_the_largest_code() -> None:
    tuned = Tuned(quantize(matrix(), 3))
    with torch.no_grad():
        tuned.values[0, 0] = 100.0
    tuned().sum().backward()
    passed = tuned.values.grad
    assert passed[0, 0] == 0
    assert (passed.flatten()[1:] == 1).all()


def build(small_options, name: str) -> tuple[object, Config, Deployed]:
    torch.manual_seed(0)
    config = Config.parse(compose([*small_options(name), "gate=sigmoid", *(["optimizer.lr=1"] if name == "ptb" else [])]))
    task = config.build_task(torch.device("cpu"))
    method, target = Method.parse("bits:3"), Target.parse("ifgo")
    return task, config, deploy(task.build_model(), method, target, rest="int8")


def kinds(form: Form) -> object:
    if isinstance(form, Factors):
        return kinds(form.left), kinds(form.right)
    return (len(form.codebook), form.codes.shape) if isinstance(form, Codes) else (type(form), form.values.shape)


@pytest.mark.parametrize("name", ["ptb", "numbers", "mnist"])
def test_every_task_gets_better_in_the_same_forms(small_options, name) -> None:
    if name == "numbers":
        pytest.importorskip("tokenizers")
    task, config, before = build(small_options, name)
    found = tune(before, task, config.settings, lr_share=1.0)
    assert found.notes["tuned"]["valid_loss"] < found.notes["tuned"]["valid_loss_before"]
    assert {k: [kinds(f) for f in v] for k, v in found.forms.items()} == {
        k: [kinds(f) for f in v] for k, v in before.forms.items()
    }
    again = task.evaluate(found.dense_model(task.build_model()), "valid", task.epoch_variant).metrics["loss"]
    assert again == pytest.approx(found.notes["tuned"]["valid_loss"])


def test_the_same_seed_gives_the_same_model_and_the_start_stays_where_nothing_is_better(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    one, two, other = (tune(before, task, config.settings, lr_share=0.5, seed=seed).state() for seed in (1, 1, 2))
    assert all(one[name].equal(two[name]) for name in one)
    assert not all(one[name].equal(other[name]) for name in one)
    worse = tune(before, task, config.settings, lr_share=10.0, passes=0.2)
    kept = worse.notes["tuned"]["valid_loss"] == worse.notes["tuned"]["valid_loss_before"]
    assert not kept or all(worse.state()[name].equal(value) for name, value in before.state().items())


def test_a_loss_that_is_no_number_is_said(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    before.forms["output_bias"][0] = Dense(torch.full_like(before.forms["output_bias"][0].matrix(), torch.nan))
    with pytest.raises(UserError, match=r"the loss in fine-tuning is nan: set a lower tune_lr="):
        tune(before, task, config.settings)
