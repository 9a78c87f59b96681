"""The training loop: epochs, steps, clipping, schedules, mixed precision, averaging, checkpoints and interruption.

It knows no model: a task (`g2lstm.training.task`) gives it a model, batches, a loss and a metric.
"""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.gated import set_noise, set_temperature
from g2lstm.gates import noise_share
from g2lstm.training import workers
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.folder import RunFolder
from g2lstm.training.interruption import Interrupted, StopSignals
from g2lstm.training.optim import NonMonotoneTrigger, average_of, build_optimizer, learning_rate_factor
from g2lstm.training.profiling import StepProfiler
from g2lstm.training.progress import Reporter
from g2lstm.training.settings import Settings
from g2lstm.training.task import LossModule, Task
from g2lstm.training.tracking import Tracker


@dataclass
class Position:
    """Where a run is; all of it is in every checkpoint."""

    stage: str = "train"
    epoch: int = 0  # epochs finished in this stage
    batch: int = 0  # batches of the present epoch done
    step: int = 0  # optimiser steps since the run began
    seconds: float = 0.0  # in all, evaluation included
    train_seconds: float = 0.0
    count: float = 0.0  # words (or whatever the task counts) trained on
    epoch_loss: float = 0.0
    epoch_count: float = 0.0
    tau: float | None = None  # the gates' present temperature
    noise_p: float | None = None  # and their share of noise, where that has a schedule
    averaging: bool = False
    best: float = math.inf
    best_epoch: int = 0  # of both stages together, as `evaluated_epochs`
    evaluated_epochs: int = 0
    done: bool = False


class Trainer:
    """Trains a task's model in a run directory.

    Args:
        task, settings: what is trained, and how.
        run: where everything is written.
        device: where the model is.
        tracker, reporter: are told what is found, and show it.
        identity: of the run's config and files, written into its checkpoints.
        stop: entered by the caller; says when the run is asked to stop.
        resume: go on from the run's last checkpoint, bit for bit.
        profiler: looks at a few steps.
    """

    def __init__(
        self, task: Task, settings: Settings, run: RunFolder, device: torch.device, tracker: Tracker, reporter: Reporter, *,
        identity: str = "", stop: StopSignals | None = None, resume: bool = False, profiler: StepProfiler | None = None,
    ) -> None:  # fmt: skip
        self.task, self.settings, self.run, self.device = task, settings, run, device
        self.tracker, self.reporter, self.profiler, self.identity = tracker, reporter, profiler, identity
        self.stop = StopSignals() if stop is None else stop
        torch.manual_seed(settings.seed)
        self.model = task.build_model().to(device)
        self.criterion = workers.wrapped(LossModule(task, self.model), device)
        self.at = Position()
        self.trigger = NonMonotoneTrigger(settings.nonmonotone)
        self.average: torch.optim.swa_utils.AveragedModel | None = None
        self.optimizer = self._new_optimizer()
        self.carried: Any = None
        # Step, learning rate, loss and count, the last two still on the device.
        self._unread: list[tuple[int, float, Tensor, float | Tensor]] = []
        self._steps_here = 0  # steps of this process
        if resume:
            self._restore()
        if profiler is not None:
            profiler.watch(self.model, self.optimizer)
        self._clock = self._last_saved = time.monotonic()

    def fit(self) -> Position:
        """Trains to the end, or to `max_steps`.

        Returns:
            the final position; the best weights are in the run's `best.safetensors`.

        Raises:
            Interrupted: the run was asked to stop; it is saved.
            UserError: the loss or a weight is not finite.
        """
        self.reporter.start()
        self._clock = time.monotonic()
        try:
            while not self.at.done and self._train_epoch():
                self._finish_epoch()
        finally:
            if self.profiler is not None:
                self.profiler.close()
        if not self.at.done:  # max_steps
            self._save()
            # In the middle of an epoch an evaluation leaves no trace in what a resumed run goes on with: a better moment
            # within an epoch is not the best epoch, and its weights are kept only where no epoch has left any.
            metrics = self._evaluate() if self.at.batch else {}
            if metrics and self.at.best_epoch == 0:
                self._save_weights(self.run.best, metrics)
        workers.wait()  # until it is all written
        if self.at.done and workers.first():
            self.run.last_but_one.unlink(missing_ok=True)
        return self.at

    def _train_epoch(self) -> bool:
        """Trains from the present batch on; True at the end of the epoch, False where the steps run out before."""
        at, settings = self.at, self.settings
        plan = self.task.plan(_generator(settings.seed, at.stage, at.epoch))
        if at.batch == 0:
            self.carried, at.epoch_loss, at.epoch_count = None, 0.0, 0.0
        self.model.train()
        self._tick(training=False)
        while at.batch < len(plan):
            if settings.max_steps is not None and at.step >= settings.max_steps:
                return False
            group = plan[at.batch : at.batch + settings.accumulate]
            self._step(group, (at.epoch + at.batch / len(plan)) / self._stage_epochs())
            at.batch += len(group)
            if self.profiler is not None:
                self.profiler.step()
            self._tick(training=True)
            if self._steps_here == 3:  # the first steps are slow ones
                self.reporter.expected(self._eta(at.batch / len(plan)))
            if at.step % settings.log_every == 0 or at.batch == len(plan):
                self._read_losses()
                self._report(at.batch / len(plan))
            due = time.monotonic() - self._last_saved > 60 * settings.checkpoint_minutes
            stop, due = workers.anyone(self.stop.asked, due)
            if stop or due:
                self._save()
                self._tick(training=False)
            if stop:
                raise Interrupted
        return True

    def _step(self, group: list[Any], progress: float) -> None:
        """One optimiser step over the batches of `group`."""
        settings = self.settings
        whole = 1.0 if self.at.stage == "finetune" else progress
        if settings.temperature is not None:
            self.at.tau = settings.temperature(whole)
            set_temperature(self.model, self.at.tau)
        if settings.noise_p is not None and settings.noise_p_schedule != "constant":
            self.at.noise_p = noise_share(settings.noise_p, settings.noise_p_schedule, whole)
            set_noise(self.model, self.at.noise_p)
        total, count, scale = torch.zeros((), device=self.device), 0.0, 0.0
        for index, item in enumerate(group):
            with workers.exchanging(self.criterion, index + 1 == len(group)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.bfloat16):
                    result = self.criterion(item, self.carried)
                part = 1.0 if result.share is None else result.share * workers.count()  # gradients become workers' means
                (result.objective * part / len(group)).backward()
            self.carried = result.carried
            mine = 1.0 / workers.count() if result.share is None else 1.0
            total += result.loss.detach() * result.count * mine
            count += result.count * mine
            scale += result.lr_scale / len(group)
        if workers.count() > 1:
            total, count = workers.summed(torch.stack([total.double(), total.new_tensor(count).double()]))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        scheduled = learning_rate_factor(settings.schedule, progress, warmup=settings.warmup)
        lr = settings.lr * (scheduled if self.at.stage == "train" else 1.0) * scale
        for parameter_group in self.optimizer.param_groups:
            parameter_group["lr"] = lr
        self.at.step += 1
        self._steps_here += 1
        # A non-finite gradient makes the total non-finite, so that one number tells of both.
        self._unread.append((self.at.step, lr, total + 0 * norm, count))
        if self.device.type == "cpu" or len(self._unread) >= 20:
            self._read_losses()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _read_losses(self) -> None:
        """Fetches the losses of past steps, and ends the run where one is not finite."""
        for step, lr, total, count in self._unread:
            value = total.item()
            self._check(math.isfinite(value), "the loss", step, lr)
            self.at.epoch_loss += value
            self.at.epoch_count += float(count)
            self.at.count += float(count)
        self._unread.clear()

    def _check(self, finite: bool, what: str, step: int, lr: float) -> None:
        if not finite:
            last, way_out = self.run.last, "lower optimizer.lr or optimizer.clip and start again"
            kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was saved yet"
            if not workers.first():
                raise workers.Ended
            raise UserError(f"{what} is not finite at step {step} (learning rate {lr:.3g}); {kept}: {way_out}")

    def _finish_epoch(self) -> None:
        """Evaluates, keeps the best weights, pulls the trigger and goes to the next epoch or stage."""
        at, settings = self.at, self.settings
        self._save()  # a run that is stopped while it evaluates loses nothing
        metrics = self._evaluate()
        if metrics["loss"] < at.best:  # of both stages: finetune starts from the best weights' loss
            at.best, at.best_epoch = metrics["loss"], at.evaluated_epochs + 1
            self._save_weights(self.run.best, metrics)
        if settings.keep_epochs and workers.first():
            self._save_weights(self.run.path / f"epoch-{at.evaluated_epochs + 1:03}.safetensors", metrics)
            for path in self.run.epochs()[: -settings.keep_epochs]:
                path.unlink()
        fired = self.trigger.update(metrics["loss"])
        at.epoch, at.batch, at.evaluated_epochs = at.epoch + 1, 0, at.evaluated_epochs + 1
        if at.stage == "train" and fired and settings.average == "nonmonotone" and not at.averaging:
            self._start_averaging()
            self.reporter.say(f"validation stopped getting better: averaging the weights from epoch {at.epoch + 1} on")
        at.done = at.epoch >= self._stage_epochs() or (at.stage == "finetune" and fired)
        if at.done and at.stage == "train" and settings.finetune_epochs > 0:
            self._start_finetune()
        self._save()

    def _evaluate(self) -> dict[str, float]:
        """The task's metrics on valid under the weights that count: the averaged ones once averaging has begun."""
        if self.profiler is not None:
            self.profiler.pause()
        weights = self.evaluated_model
        weights.eval()
        set_temperature(weights, self.at.tau)
        with self.stop.at_once(), torch.no_grad():  # in float32, whatever the precision of training
            metrics = self.task.evaluate(weights, "valid", self.task.epoch_variant).metrics
        self._check(math.isfinite(metrics["loss"]), "the valid loss", self.at.step, self.optimizer.param_groups[0]["lr"])
        self._tick(training=False)
        self._log("valid", metrics | {"averaged": self.at.averaging})
        self.reporter.evaluated(self.at.stage, self.at.epoch + 1, metrics, self.at.seconds, self.task.metric)
        return metrics

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose weights count."""
        return self.model if self.average is None or self.average.n_averaged == 0 else self.average.module

    def _save_weights(self, path: Path, metrics: dict[str, float]) -> None:
        if not workers.first():
            return
        at, model = self.at, self.evaluated_model
        content = {"model": model.state_dict()} | {name: getattr(model, name, None) for name in ("kind", "options")}
        content |= {"identity": self.identity, "tau": at.tau, "noise_p": at.noise_p}
        content |= {"stage": at.stage, "epoch": at.epoch + 1, "metrics": metrics}
        save_checkpoint(path, content)

    def _start_averaging(self) -> None:
        self.at.averaging, self.average = True, average_of(self.model)

    def _start_finetune(self) -> None:
        """The finetune stage of AWD-LSTM: from the best weights on, averaging from the first step."""
        at = self.at
        workers.wait()
        self.model.load_state_dict(load_checkpoint(self.run.best, self.device)["model"])
        if workers.first():
            write_atomically(self.run.best_before_finetune, self.run.best.read_bytes())
        at.stage, at.epoch, at.batch, at.done = "finetune", 0, 0, False
        self.trigger, self.optimizer = NonMonotoneTrigger(self.settings.nonmonotone), self._new_optimizer()
        self._start_averaging()
        self.reporter.say("finetune stage: from the best weights on, averaging from the start")

    def _new_optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        return build_optimizer(s.optimizer, self.model, lr=s.lr, weight_decay=s.weight_decay, betas=s.betas)

    def _stage_epochs(self) -> int:
        return self.settings.epochs if self.at.stage == "train" else self.settings.finetune_epochs

    def _tick(self, *, training: bool) -> None:
        now = time.monotonic()
        self.at.seconds += now - self._clock
        if training:
            self.at.train_seconds += now - self._clock
        self._clock = now

    def _progress(self, share: float) -> float:
        """Epochs done when `share` of the present one is, both stages together."""
        return (self.settings.epochs if self.at.stage == "finetune" else 0) + self.at.epoch + share

    def _eta(self, share: float) -> float:
        """Seconds to the end, at the pace of the run so far."""
        at, settings, done = self.at, self.settings, self._progress(share)
        eta = at.seconds / done * (settings.epochs + settings.finetune_epochs - done)
        if settings.max_steps is not None:
            eta = min(eta, at.seconds / at.step * (settings.max_steps - at.step))
        return eta

    def _report(self, share: float) -> None:
        """One line of the curve and of the screen; `share` of the epoch is done."""
        at, eta = self.at, self._eta(share)
        values = {
            "loss": at.epoch_loss / max(at.epoch_count, 1.0),
            "lr": self.optimizer.param_groups[0]["lr"],
            f"{self.task.metric.unit}_per_second": at.count / max(at.train_seconds, 1e-9),
        }
        self.reporter.trained(at.stage, at.epoch + 1, self._stage_epochs(), share, values, eta, self.task.metric)
        progress = self._progress(share) / (self.settings.epochs + self.settings.finetune_epochs)
        self._log("train", values | {"progress": progress, "eta": eta})

    def _log(self, kind: str, values: dict[str, float]) -> None:
        if not workers.first():
            return
        at = self.at
        values = {"epoch": at.epoch + 1, "step": at.step, **values, "seconds": round(at.seconds, 2)}
        self.run.log({"kind": kind, "stage": at.stage, **values})
        self.tracker.log({f"{kind}/{key}": value for key, value in values.items()}, step=at.step)

    def _save(self) -> None:
        """Writes all that resuming needs, atomically. What is not finite never replaces a good checkpoint."""
        self._read_losses()
        finite = all(bool(parameter.isfinite().all()) for parameter in self.model.parameters())
        self._check(finite, "a weight", self.at.step, self.optimizer.param_groups[0]["lr"])
        carried = workers.side_by_side(self.carried)
        self._last_saved = time.monotonic()
        if not workers.first():
            return
        state = {
            "identity": self.identity,
            "position": asdict(self.at),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "trigger": asdict(self.trigger),
            "carried": carried,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "metrics_size": self.run.metrics_size(),
        }
        with self.run.keeping_last():
            save_checkpoint(self.run.last, state)

    def _load_last(self) -> dict[str, Any]:
        """The last checkpoint, or where that is damaged the one before it."""
        try:
            return load_checkpoint(self.run.last)
        except UserError as error:
            if not self.run.last_but_one.is_file():
                raise
            state: dict[str, Any] = load_checkpoint(self.run.last_but_one)
            self.reporter.say(f"{error}; going on from {self.run.last_but_one.name}, saved before it")
            return state

    def _restore(self) -> None:
        if not any(path.is_file() for path in (self.run.last, self.run.last_but_one)):  # from the start again
            if self.run.best.is_file():
                raise UserError(f"no checkpoint {self.run.last} to go on from: put it back, or train in a new folder")
            if workers.first():
                self.run.cut_metrics(0)
            return
        state = self._load_last()
        if state.get("identity") != self.identity:
            text = "belongs to another run than the config beside it: resume a run as it was written"
            raise UserError(f"{self.run.last} {text}")
        try:
            self.at = Position(**state["position"])
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if state["average"] is not None:
                self.average = average_of(self.model)
                self.average.load_state_dict(state["average"])
            self.trigger = NonMonotoneTrigger(**state["trigger"])
            self.carried = workers.own_columns(self.task.restore(state["carried"], self.device))
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise UserError(f"{self.run.last} does not fit the run's config.yaml: resume a run as it was written") from None
        if workers.first():
            self.run.cut_metrics(state["metrics_size"])
        torch.set_rng_state(state["rng"])
        if state["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)


def _generator(seed: int, stage: str, epoch: int) -> torch.Generator:
    """Random numbers for an epoch's plan, which a resumed run draws again."""
    number = (seed * 2 + (stage == "finetune")) * 1_000_003 + epoch
    return torch.Generator().manual_seed(number)
