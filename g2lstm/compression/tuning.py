"""Fine-tuning a compressed model in the form that it is stored in: rounding is part of the forward pass.

Codes are rounded anew in each step; gradients pass as if they were not (Bengio et al. 2013, arXiv 1308.3432). The
scale of a row of codes is trained too, its gradient as in LSQ (Esser et al. 2020, arXiv 1902.08153). N rows, M columns.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.compression.deploy import Deployed
from g2lstm.compression.forms import Codes, Dense, Factors, Form, Sparse
from g2lstm.errors import UserError
from g2lstm.training.interruption import Interrupted, StopSignals
from g2lstm.training.optim import build_optimizer, learning_rate_factor
from g2lstm.training.settings import Settings
from g2lstm.training.task import LossModule

CHECKS = 4  # evaluations on valid, evenly spaced
LR_SHARE = 0.1  # of the run's own learning rate


class Tuned(nn.Module):
    """A form whose values are trained: calling it gives its matrix, `stored` the form of the present values."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        if isinstance(form, Factors):
            self.left, self.right = Tuned(form.left), Tuned(form.right)
            return
        values = form.matrix().clone()
        self.values = nn.Parameter(values, requires_grad=values.is_floating_point())
        scales = form.scales if isinstance(form, Codes) else None
        self.scales = None if scales is None else nn.Parameter(scales.where(scales > 0, 1.0))

    def forward(self) -> Tensor:
        if isinstance(self.form, Factors):
            return self.left() @ self.right()
        if self.scales is None:
            rounded = self.stored().matrix().to(self.values.device)
            return self.values + (rounded - self.values).detach()
        damped = 1 / math.sqrt(self.values.shape[1] * self._largest)  # a scale has the gradients of a whole row
        scales = self.scales * damped + (self.scales * (1 - damped)).detach()
        units = self._units(scales)
        return (units + (units.round() - units).detach()) * scales.unsqueeze(1)

    @torch.no_grad()
    def stored(self) -> Form:
        form = self.form
        if isinstance(form, Factors):
            return Factors(self.left.stored(), self.right.stored())
        if isinstance(form, Dense):
            return Dense(self.values.to(form.values.dtype).clone())
        if isinstance(form, Sparse):
            return Sparse(self.values * (form.values != 0).to(self.values.device))
        if self.scales is not None:
            codes = self._units(self.scales).round() + self._largest
            return Codes(codes.to("cpu", torch.uint8), form.codebook, self.scales.detach().cpu().clone())
        codebook = form.codebook.to(self.values.device)
        middles = (codebook[1:] + codebook[:-1]) / 2
        return Codes(torch.bucketize(self.values, middles).int(), codebook)

    @property
    def _largest(self) -> int:
        assert isinstance(self.form, Codes)
        return len(self.form.codebook) // 2

    def _units(self, scales: Tensor) -> Tensor:
        """Values as multiples of the scales, up to those that still round to the largest code."""
        limit = self._largest + 0.49
        return (self.values / scales.unsqueeze(1)).clamp(-limit, limit)


def tune(
    deployed: Deployed,
    task: Any,
    settings: Settings,
    *,
    passes: float = 1.0,
    lr_share: float = LR_SHARE,
    seed: int = 1,
    device: torch.device | str = "cpu",
    stop: StopSignals | None = None,
    trained: Callable[[float, float, float, float], None] = lambda *_: None,
    evaluated: Callable[[float, dict[str, float]], None] = lambda *_: None,
) -> Deployed:
    """The model with other values in the same forms: the best on valid of `CHECKS` on the way, and of those it came with.

    The best has the best metric of the task, and of equal ones the lower loss; `notes["tuned"]` says what it has.

    Args:
        deployed: a compressed model of the task.
        task: trains and evaluates it.
        settings: of the run that it comes from, whose optimizer and clipping it has.
        passes: over train; 0.1 is its first tenth.
        lr_share: of the run's learning rate, from where it falls to 0 along half a cosine.
        seed: of the order of batches and of dropout.
        stop: entered by the caller; a request to stop ends it with the best so far.
        trained: is told the share that is done, the mean loss of late, items a second and the seconds left.
        evaluated: is told the share that is done and the metrics on valid.

    Raises:
        UserError: the loss is not finite.
    """
    like = task.build_model()
    model = copy.deepcopy(deployed.dense_model(like)).to(device)  # buffers that training moves, as a mean, are its own
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    parts = {name: [Tuned(form).to(device) for form in deployed.forms[name]] for name in names}
    module = LossModule(task, model.train())
    stop, metric = stop or StopSignals(), task.metric
    best, best_rank = deployed, (math.inf, math.inf)
    about: dict[str, Any] = {"passes": passes, "lr": lr_share * settings.lr, "seed": seed}

    def check(share: float) -> None:
        nonlocal best, best_rank
        forms = {name: [_on_cpu(part.stored()) for part in of] for name, of in parts.items()}
        found = replace(deployed, forms=deployed.forms | forms) if share else deployed
        with stop.at_once():
            metrics = task.evaluate(found.dense_model(like).to(device), "valid", task.epoch_variant).metrics
        evaluated(share, metrics)
        value = metrics[metric.name]
        about.setdefault("before", value)
        rank = (value if metric.lower_is_better else -value, metrics["loss"])
        if rank < best_rank:
            best, best_rank = found, rank
            about.update({"metric": metric.name, "best": value, "best_loss": metrics["loss"], "best_at": share})

    with contextlib.suppress(Interrupted):
        check(0.0)
        for step, steps in _trained(task, module, parts, settings, passes, lr_share, seed, trained):
            if step * CHECKS // steps > (step - 1) * CHECKS // steps:
                check(step / steps)
            if stop.asked:
                break
    return replace(best, notes=best.notes | {"tuned": about}) if "before" in about else deployed


def _trained(
    task: Any,
    module: LossModule,
    parts: dict[str, list[Tuned]],
    settings: Settings,
    passes: float,
    lr_share: float,
    seed: int,
    tell: Callable[[float, float, float, float], None],
) -> Iterator[tuple[int, int]]:
    """Trains the parts that the module's weights are made of; after each step its number, from 1, and that of all."""
    whole, lr = nn.ModuleList(part for of in parts.values() for part in of), lr_share * settings.lr
    optimizer = build_optimizer(settings.optimizer, whole, lr=lr, betas=settings.betas)
    generator, started = torch.Generator().manual_seed(seed), time.monotonic()
    torch.manual_seed(seed)
    plans = [task.plan(generator) for _ in range(math.ceil(passes))]
    items = [(item, place == 0) for plan in plans for place, item in enumerate(plan)]
    items = items[: max(1, round(len(items) * passes / len(plans)))]
    carried, count, late = None, 0.0, math.nan
    for step, (item, anew) in enumerate(items, 1):
        weights = {f"model.{name}": torch.cat([part() for part in of]) if of[1:] else of[0]() for name, of in parts.items()}
        result = torch.func.functional_call(module, weights, (item, None if anew else carried))
        loss = result.loss.item()
        if not math.isfinite(loss):
            raise UserError(f"the loss in fine-tuning is {loss}: set a lower tune_lr=, it is {lr_share:g} of the run's")
        optimizer.zero_grad()
        result.objective.backward()
        nn.utils.clip_grad_norm_(whole.parameters(), settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr * learning_rate_factor("warmup_cosine", (step - 1) / len(items)) * result.lr_scale
        optimizer.step()
        carried, count = result.carried, count + result.count
        late = loss if math.isnan(late) else 0.98 * late + 0.02 * loss
        seconds = time.monotonic() - started
        tell(step / len(items), late, count / seconds, seconds / step * (len(items) - step))
        yield step, len(items)


def _on_cpu(form: Form) -> Form:
    if isinstance(form, Factors):
        return Factors(_on_cpu(form.left), _on_cpu(form.right))
    if isinstance(form, Codes):
        return replace(form, codes=form.codes.cpu(), codebook=form.codebook.cpu())
    return type(form)(form.values.cpu())
