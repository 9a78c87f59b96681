"""Fine-tuning keeps a model's forms and lowers its loss in them, for any task."""

import signal

import pytest
import torch
from torch import nn

from g2lstm.compression import Method, Target
from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.forms import Codes, Dense, Factors, Form
from g2lstm.compression.operators import quantize
from g2lstm.compression.tuning import Tuned, tune
from g2lstm.errors import UserError
from g2lstm.models.classifier import Classifier
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config
from g2lstm.training.interruption import StopSignals
from g2lstm.training.task import Evaluation

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
    found = tune(before, task, config.settings, lr_share=3.0 if name == "mnist" else 1.0)  # ten images have to show it
    about, metric = found.notes["tuned"], task.metric
    assert metric.name == about["metric"]
    assert about["best_at"] > 0
    gain = about["before"] - about["best"] if metric.lower_is_better else about["best"] - about["before"]
    assert gain > 0 or (gain == 0 and name == "numbers")  # no translation matches so early, and the loss decides
    assert {k: [kinds(f) for f in v] for k, v in found.forms.items()} == {
        k: [kinds(f) for f in v] for k, v in before.forms.items()
    }
    again = task.evaluate(found.dense_model(task.build_model()), "valid", task.epoch_variant).metrics
    assert again["loss"] == pytest.approx(about["best_loss"])
    assert again[metric.name] == pytest.approx(about["best"])


def test_buffers_and_single_numbers_of_an_own_model_are_no_hindrance(small_options, monkeypatch) -> None:
    class Normed(Classifier):
        def __init__(self, *sizes: int, **options: object) -> None:
            super().__init__(*sizes, **options)
            self.scale, self.norm = nn.Parameter(torch.tensor(0.5)), nn.BatchNorm1d(sizes[1])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(super().forward(x)) * self.scale

    monkeypatch.setattr("g2lstm.tasks.mnist.Classifier", Normed)
    task, config, before = build(small_options, "mnist")
    buffers = {name: tensor.clone() for name, tensor in before.state().items() if "running" in name or "tracked" in name}
    found = tune(before, task, config.settings, lr_share=3.0)
    assert len(buffers) == 3
    assert found.notes["tuned"]["best_at"] > 0
    assert found.state()["scale"] != before.state()["scale"]
    for name, tensor in buffers.items():
        assert before.state()[name].equal(tensor)
        assert found.state()[name].equal(tensor)


def test_the_same_seed_gives_the_same_model(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    one, two, other = (
        tune(before, task, config.settings, lr_share=0.5, passes=0.2, seed=seed).state() for seed in (1, 1, 2)
    )
    assert all(one[name].equal(two[name]) for name in one)
    assert not all(one[name].equal(other[name]) for name in one)


def test_the_start_stays_where_nothing_is_better(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    found = list[float]()
    worse = tune(
        before, task, config.settings, lr_share=1000.0, passes=0.2,
        evaluated=lambda _, metrics: found.append(metrics["perplexity"]),
    )  # fmt: skip
    assert len(found) > 1
    assert min(found[1:]) > found[0]
    assert worse.notes["tuned"]["best"] == worse.notes["tuned"]["before"] == found[0]
    assert all(worse.state()[name].equal(value) for name, value in before.state().items())


def test_the_metric_of_the_task_chooses_and_not_the_loss(small_options, monkeypatch) -> None:
    task, config, before = build(small_options, "mnist")
    values = iter([(0.5, 3.0), (0.6, 5.0), (0.6, 4.0), (0.4, 1.0), (0.6, 4.5)])  # accuracies and losses

    def evaluate(*_) -> Evaluation:
        accuracy, loss = next(values)
        return Evaluation({"accuracy": accuracy, "loss": loss}, torch.zeros(1))

    monkeypatch.setattr(type(task), "evaluate", evaluate)
    about = tune(before, task, config.settings).notes["tuned"]
    assert (about["before"], about["best"], about["best_loss"]) == (0.5, 0.6, 4.0)
    assert 0.4 < about["best_at"] < 0.6


def test_a_single_step_trains(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    shares, values = [], []
    tune(
        before, task, config.settings, lr_share=1.0, passes=1e-6,
        evaluated=lambda share, metrics: (shares.append(share), values.append(metrics["perplexity"])),
    )  # fmt: skip
    assert shares == [0.0, 1.0]
    assert values[0] != values[1]


@pytest.mark.parametrize("when", ["before it begins", "between two evaluations", "in an evaluation"])
def test_a_request_to_stop_keeps_the_best_so_far(small_options, monkeypatch, when) -> None:
    task, config, before = build(small_options, "ptb")
    stop, checks = StopSignals(), []
    evaluate = type(task).evaluate

    def evaluated(*arguments):
        checks.append(1)
        if when == "in an evaluation" and len(checks) == 3:
            stop._ask(signal.SIGTERM, None)
        return evaluate(*arguments)

    def trained(share: float, *_) -> None:
        assert not stop.asked  # no step after it
        if when == "between two evaluations" and share > 0.6:
            stop.asked = True

    monkeypatch.setattr(type(task), "evaluate", evaluated)
    stop.asked = when == "before it begins"
    found = tune(before, task, config.settings, lr_share=1.0, stop=stop, trained=trained)
    if when == "before it begins":
        assert found is before
    else:
        assert len(checks) == 3
        assert found.notes["tuned"]["best_at"] == pytest.approx(0.25 if when == "in an evaluation" else 0.5, abs=0.1)
        assert not all(found.state()[name].equal(value) for name, value in before.state().items())


def test_a_loss_that_is_no_number_is_said(small_options) -> None:
    task, config, before = build(small_options, "ptb")
    before.forms["output_bias"][0] = Dense(torch.full_like(before.forms["output_bias"][0].matrix(), torch.nan))
    with pytest.raises(UserError, match=r"the loss in fine-tuning is nan: set a lower tune_lr="):
        tune(before, task, config.settings)
