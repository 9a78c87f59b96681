"""The training loop, on a task whose validation losses follow a script: when it averages, keeps, finetunes and stops."""

import json
import math
import os
import signal
from dataclasses import dataclass, field, replace

import pytest
import torch
from rich.console import Console
from torch import nn

from g2lstm.cell import G2LSTMCell
from g2lstm.errors import UserError
from g2lstm.gates import GumbelGate, TemperatureSchedule, noise_share
from g2lstm.runs.run import load_weights
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.folder import RunFolder
from g2lstm.training.interruption import Interrupted, StopSignals
from g2lstm.training.loop import Trainer
from g2lstm.training.progress import Reporter, duration
from g2lstm.training.settings import Settings
from g2lstm.training.task import Evaluation, LossResult, Metric
from g2lstm.training.tracking import Tracker

BATCHES = 4
SETTINGS = Settings(
    epochs=3,
    finetune_epochs=0,
    max_steps=None,
    optimizer="sgd",
    lr=0.1,
    weight_decay=0.0,
    betas=(0.9, 0.99),
    schedule="constant",
    warmup=0.0,
    clip=math.inf,
    average="none",
    nonmonotone=2,
    accumulate=1,
    bfloat16=False,
    seed=1,
    checkpoint_minutes=1e9,
    temperature=None,
    noise_p=None,
    noise_p_schedule="constant",
    keep_epochs=0,
    log_every=1,
)


@dataclass
class Scripted:
    """A line fitted to random points. `valid` are the validation losses in turn; `weights` what was evaluated each time."""

    valid: list[float] = field(default_factory=list)
    bad_step: int | None = None
    weights: list[torch.Tensor] = field(default_factory=list)
    after_each_step: list[torch.Tensor] = field(default_factory=list)
    carried: list[float] = field(default_factory=list)
    on_evaluate: object = None
    metric = Metric("perplexity", "words", of_loss=lambda loss: math.exp(min(loss, 700)))
    epoch_variant = ""

    def build_model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def plan(self, generator: torch.Generator) -> list[int]:
        return torch.randint(1000, (BATCHES,), generator=generator).tolist()

    def loss(self, model, item, carried):
        self.after_each_step.append(model.weight.detach().clone())
        self.carried.append(-1.0 if carried is None else carried.item())
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(item))
        loss = (model(x) - x.sum(1, keepdim=True)).pow(2).mean()
        if self.bad_step == len(self.after_each_step):
            loss = loss * math.nan
        return LossResult(loss, loss, 5, torch.tensor(float(item)), lr_scale=1 + item % 2)

    def evaluate(self, model, split, variant=""):
        assert not model.training
        self.weights.append(model.weight.detach().clone())
        if self.on_evaluate is not None:
            self.on_evaluate()
        loss = self.valid[len(self.weights) - 1] if self.valid else 1.0 / len(self.weights)
        return Evaluation({"loss": loss, "perplexity": math.exp(min(loss, 700))})

    def restore(self, carried, device):
        return carried


class ByWeights(Scripted):
    """Validation losses that depend on the weights alone, as a real task's do, and are not monotone."""

    def evaluate(self, model, split, variant=""):
        loss = float((model.weight.double().abs().sum() * 1e4).sin() + 2)
        return Evaluation({"loss": loss, "perplexity": math.exp(loss)})


def trainer(path, task=None, *, resume=False, stop=None, console=None, **changes) -> Trainer:
    reporter = Reporter(console or Console(quiet=True))
    settings = replace(SETTINGS, **changes)
    path.mkdir(exist_ok=True)
    run = RunFolder(path)
    return Trainer(task or Scripted(), settings, run, torch.device("cpu"), Tracker(), reporter, stop=stop, resume=resume)


def curve(path) -> list[dict]:
    timings = ("words_per_second", "eta", "seconds")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timings} for line in lines]


def test_the_best_checkpoint_has_the_lowest_validation_loss(tmp_path):
    task = Scripted(valid=[3.0, 1.0, 2.0])
    position = trainer(tmp_path, task).fit()
    best = load_checkpoint(tmp_path / "best.safetensors")
    assert torch.equal(best["model"]["weight"], task.weights[1])
    assert (best["epoch"], best["metrics"]["loss"], position.best, position.best_epoch) == (2, 1.0, 1.0, 2)
    assert (position.done, position.evaluated_epochs, position.step) == (True, 3, 3 * BATCHES)


def test_averaging_starts_in_the_epoch_after_the_trigger_and_is_what_counts(tmp_path):
    # n = 2: the fourth loss is worse than the best of all but the two before it.
    task = Scripted(valid=[1.0, 2.0, 2.0, 1.5, 0.5, 0.4])
    position = trainer(tmp_path, task, epochs=6, average="nonmonotone").fit()
    assert [line["averaged"] for line in curve(tmp_path) if line["kind"] == "valid"] == [False] * 4 + [True] * 2
    assert position.averaging
    iterates = task.after_each_step[4 * BATCHES + 1 :]  # weights after each step from epoch 5 on
    torch.testing.assert_close(task.weights[4], torch.stack(iterates[:BATCHES]).mean(0))
    assert torch.equal(load_checkpoint(tmp_path / "best.safetensors")["model"]["weight"], task.weights[5])


def test_without_averaging_the_trigger_changes_nothing(tmp_path):
    task = Scripted(valid=[1.0, 2.0, 2.0, 3.0, 4.0])
    assert not trainer(tmp_path, task, epochs=5).fit().averaging


def test_finetune_starts_from_the_best_weights_averages_and_ends_by_its_trigger(tmp_path):
    task = Scripted(valid=[2.0, 1.0, 3.0, 0.5, 0.6, 0.7, 0.8, 0.9])
    position = trainer(tmp_path, task, finetune_epochs=10).fit()
    valid = [(line["stage"], line["epoch"]) for line in curve(tmp_path) if line["kind"] == "valid"]
    # its trigger has its own history: 0.8 is worse than 0.5, the best of all but the last two
    assert valid == [("train", 1), ("train", 2), ("train", 3), *(("finetune", epoch) for epoch in (1, 2, 3, 4))]
    assert torch.equal(task.after_each_step[3 * BATCHES], task.weights[1])
    iterates = task.after_each_step[3 * BATCHES + 1 : 4 * BATCHES + 1]
    torch.testing.assert_close(task.weights[3], torch.stack(iterates).mean(0))
    assert (position.best, position.best_epoch, position.evaluated_epochs) == (0.5, 4, 7)


def test_finetune_ends_at_its_last_epoch_at_the_latest(tmp_path):
    assert trainer(tmp_path, finetune_epochs=2).fit().evaluated_epochs == 5


def test_a_finetune_that_does_not_get_better_leaves_the_main_stage_best(tmp_path):
    task = Scripted(valid=[2.0, 1.0, 3.0, 1.5, 1.5])
    position = trainer(tmp_path, task, finetune_epochs=2).fit()
    assert torch.equal(load_checkpoint(tmp_path / "best.safetensors")["model"]["weight"], task.weights[1])
    assert position.best == 1.0


@pytest.mark.parametrize("size", [2, 3])  # 3 leaves a last group of one
def test_accumulated_batches_step_by_their_mean_gradient(tmp_path, size):
    task = Scripted()
    trained = trainer(tmp_path, task, epochs=1, accumulate=size)
    model = nn.Linear(3, 1)
    model.load_state_dict(trained.model.state_dict())
    plan = task.plan(torch.Generator().manual_seed(2 * 1_000_003))
    groups = [plan[start : start + size] for start in range(0, BATCHES, size)]
    assert trained.fit().step == len(groups)
    assert task.carried == [-1.0, *map(float, plan[:-1])]
    for group in groups:
        results = [Scripted().loss(model, item, None) for item in group]
        model.zero_grad()
        (sum(result.objective for result in results) / len(group)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * sum(result.lr_scale for result in results) / len(group) * parameter.grad
    torch.testing.assert_close(trained.model.state_dict(), model.state_dict())


def test_the_gradient_is_clipped(tmp_path):
    task = Scripted()
    trained = trainer(tmp_path, task, clip=0.01, max_steps=1)
    before = [parameter.detach().clone() for parameter in trained.model.parameters()]
    trained.fit()
    change = torch.cat([(a - b).flatten() for a, b in zip(trained.model.parameters(), before, strict=True)]).norm()
    scale = curve(tmp_path)[0]["lr"]
    assert change.item() == pytest.approx(0.01 * scale, rel=1e-3)


@pytest.mark.parametrize("schedule", ["constant", "warmup_cosine"])
def test_the_learning_rate_warms_up_in_the_main_stage_alone(tmp_path, schedule):
    trainer(tmp_path, epochs=1, finetune_epochs=1, schedule=schedule, warmup=0.5).fit()
    plan = [Scripted().plan(torch.Generator().manual_seed(seed)) for seed in (2 * 1_000_003, 3 * 1_000_003)]
    rates = [line["lr"] for line in curve(tmp_path) if line["kind"] == "train"]
    by_item = [rate / (0.1 * (1 + item % 2)) for rate, item in zip(rates, plan[0] + plan[1], strict=True)]
    fallen = [1, 0.5] if schedule == "warmup_cosine" else [1, 1]
    assert by_item == pytest.approx([0, 0.5, *fallen, 1, 1, 1, 1])


VARIANTS = {
    "sgd": {"average": "nonmonotone", "nonmonotone": 1, "finetune_epochs": 2},
    "adamw": {"optimizer": "adamw", "schedule": "warmup_cosine", "warmup": 0.2, "weight_decay": 0.1, "bfloat16": True},
    "accumulate": {"accumulate": 3, "temperature": TemperatureSchedule(1.0, 0.5, "linear")},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopping_after_any_step_changes_nothing(tmp_path, variant):
    options = VARIANTS[variant]
    end = trainer(tmp_path / "straight", ByWeights(), **options).fit()
    assert end.averaging == (variant == "sgd")
    for limit in range(1, end.step + 1):
        path = tmp_path / str(limit)
        trainer(path, ByWeights(), max_steps=limit, **options).fit()
        resumed = trainer(path, ByWeights(), resume=True, **options)
        assert resumed.at.step == limit
        assert _timeless(resumed.fit()) == _timeless(end)
        assert curve(path) == curve(tmp_path / "straight")
        for name in ("best", "last"):
            files = [load_checkpoint(folder / f"{name}.safetensors")["model"] for folder in (path, tmp_path / "straight")]
            assert all(torch.equal(files[0][key], files[1][key]) for key in files[1])


def _timeless(position):
    return replace(position, seconds=0, train_seconds=0)


def test_max_steps_does_not_replace_the_best_epoch(tmp_path):
    """A moment within an epoch that happens to be better is not what a run never stopped would have kept."""
    task = Scripted(valid=[2.0, 1.0])
    position = trainer(tmp_path, task, max_steps=BATCHES + 2).fit()
    assert not position.done
    best = load_checkpoint(tmp_path / "best.safetensors")
    assert (best["epoch"], best["metrics"]["loss"]) == (1, 2.0)


def test_max_steps_within_the_first_epoch_leaves_weights_to_evaluate(tmp_path):
    task = Scripted(valid=[2.0])
    trainer(tmp_path, task, max_steps=2).fit()
    assert torch.equal(load_checkpoint(tmp_path / "best.safetensors")["model"]["weight"], task.weights[0])


@pytest.mark.usefixtures("as_from_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_an_evaluation_stops_at_once_and_loses_nothing(tmp_path, number):
    straight = tmp_path / "straight"
    trainer(straight).fit()
    stopped = tmp_path / "stopped"
    task = Scripted(on_evaluate=lambda: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with StopSignals() as stop, pytest.raises(Interrupted):
        trainer(stopped, task, stop=stop).fit()
    assert signal.getsignal(number) is before
    assert len(task.after_each_step) == BATCHES
    again = Scripted()
    trainer(stopped, again, resume=True).fit()
    assert len(again.after_each_step) == 2 * BATCHES
    assert curve(stopped) == curve(straight)


def test_of_several_workers_none_leaves_an_evaluation_to_the_others(monkeypatch):
    others = False
    monkeypatch.setattr("g2lstm.training.workers.count", lambda: 2)
    monkeypatch.setattr("g2lstm.training.workers.anyone", lambda *flags: [flag or others for flag in flags])
    with StopSignals() as stop:
        with stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("began what is to be left")
        stop.asked, others = False, True
        with pytest.raises(Interrupted), stop.at_once():
            pytest.fail("left another worker's request unheard")


def test_a_request_to_stop_is_answered_after_the_step(tmp_path):
    stop = StopSignals()
    task = Scripted()
    trained = trainer(tmp_path, task, stop=stop)
    stop.asked = True
    with pytest.raises(Interrupted):
        trained.fit()
    assert load_checkpoint(tmp_path / "last.safetensors")["position"]["step"] == 1


@pytest.mark.parametrize(
    ("bad_step", "kept"), [(2, "no checkpoint was saved yet"), (BATCHES + 2, "the last good checkpoint is ")]
)
def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(tmp_path, bad_step, kept):
    with pytest.raises(
        UserError, match=rf"the loss is not finite at step {bad_step} \(learning rate 0\.[12]\); {kept}"
    ) as error:
        trainer(tmp_path, Scripted(bad_step=bad_step), checkpoint_minutes=0 if bad_step > BATCHES else 1e9).fit()
    assert "\n" not in str(error.value)
    if bad_step > BATCHES:
        state = load_checkpoint(tmp_path / "last.safetensors")
        assert state["position"]["step"] == bad_step - 1
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer(tmp_path, max_steps=2).fit()
    before = (tmp_path / "last.safetensors").read_bytes()

    spoiled = trainer(tmp_path, resume=True, checkpoint_minutes=0)

    def spoil(*_):
        spoiled.model.weight.data.fill_(math.nan)

    spoiled.optimizer.register_step_post_hook(spoil)
    with pytest.raises(UserError, match="a weight is not finite at step 3"):
        spoiled.fit()
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="the valid loss is not finite at step 4"):
        trainer(tmp_path, Scripted(valid=[math.nan])).fit()


def test_a_run_stopped_before_its_first_checkpoint_starts_its_curve_again(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"kind": "train", "step": 1})
    trainer(tmp_path, resume=True, epochs=1).fit()
    assert [line["step"] for line in curve(tmp_path)] == [1, 2, 3, 4, 4]


def test_a_checkpoint_of_another_model_is_one_line(tmp_path):
    trainer(tmp_path, max_steps=1).fit()
    with pytest.raises(UserError, match="does not fit the run's config"):
        trainer(tmp_path, optimizer="adamw", resume=True)


def test_a_log_gets_plain_lines_with_an_eta(tmp_path):
    with (tmp_path / "log").open("w") as log:
        trainer(tmp_path, console=Console(file=log, width=40)).fit()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].startswith("epoch 1/3  25%  loss ")
    assert lines[0].endswith(" ETA 0 s")
    assert "about 0 s to go on this device" in lines
    assert sum(": valid perplexity " in line for line in lines) == 3


def test_more_than_a_day_gets_advice(tmp_path):
    with (tmp_path / "log").open("w") as log:
        reporter = Reporter(Console(file=log), advice="experiment=ptb_cpu is smaller")
        reporter.expected(90_000)
        reporter.expected(100)
        Reporter(Console(file=log), advice="experiment=ptb_cpu is smaller").expected(80_000)
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first == "about 25 h 00 min to go on this device; experiment=ptb_cpu is smaller"
    assert second == "about 22 h 13 min to go on this device"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (95, "95 s"), (720, "12 min"), (11_100, "3 h 05 min"), (820_800, "9.5 days"), (math.inf, "unknown")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_the_loss_is_computed_by_one_module_that_can_be_wrapped(tmp_path):
    trained = trainer(tmp_path, Scripted())
    calls = []
    trained.criterion.register_forward_hook(lambda *call: calls.append(call[-1]))
    trained.fit()
    assert len(calls) == 3 * BATCHES
    assert list(trained.criterion.parameters()) == list(trained.model.parameters())


def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path):
    trainer(tmp_path, max_steps=2).fit()
    content = load_checkpoint(tmp_path / "last.safetensors")
    save_checkpoint(tmp_path / "last.safetensors", content | {"identity": "another"})
    with pytest.raises(UserError, match="belongs to another run"):
        trainer(tmp_path, resume=True)


class Noisy(Scripted):
    """Writes down the share of noise at each step."""

    def build_model(self) -> nn.Module:
        return nn.ModuleDict({"cell": G2LSTMCell(3, 1, gate=GumbelGate(noise_p=0.6))})

    def loss(self, model, item, carried):
        self.shares.append(model["cell"].gate.noise_p)
        loss = model["cell"](torch.ones(2, 3))[0].square().mean()
        return LossResult(loss, loss, 2, None)

    def evaluate(self, model, split, variant=""):
        return Evaluation({"loss": 1.0, "perplexity": math.e})


@pytest.mark.parametrize("schedule", ["constant", "last_third"])
def test_the_share_of_noise_follows_its_schedule(tmp_path, schedule):
    task = Noisy()
    task.shares = []
    trainer(tmp_path, task, noise_p=0.6, noise_p_schedule=schedule, keep_epochs=1).fit()
    assert len(task.shares) == SETTINGS.epochs * BATCHES
    expected = [noise_share(0.6, schedule, step / len(task.shares)) for step in range(len(task.shares))]
    assert task.shares == pytest.approx(expected)
    assert (task.shares[-1] < 0.2) == (schedule == "last_third")
    # best of equals is the first epoch; the last epoch's weights come back with the noise that they were trained with
    kept = load_weights(task.build_model(), tmp_path / f"epoch-{SETTINGS.epochs:03}.safetensors", "")
    assert kept["cell"].gate.noise_p == pytest.approx(expected[-1])
