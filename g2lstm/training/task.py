"""What all else knows of a task: it builds a model, plans batches, computes a loss, evaluates.

A task is one file in `g2lstm.tasks`. T time, B batch, N items, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from g2lstm.training.findings import Finding

Split = str  # "train", "valid" or "test"


@dataclass(frozen=True)
class Metric:
    """What a task is judged by.

    Attributes:
        name: as in `<split>_<name>` of a summary.
        unit: what is counted and predicted, as "words".
        lower_is_better: the direction.
        of_loss: gives it from a mean loss, where that can be.
        digits: shown behind the point.
        beside: titles of other scores that summaries have, which tables show of test, by name.
    """

    name: str
    unit: str
    lower_is_better: bool = True
    of_loss: Callable[[float], float] | None = None
    digits: int = 2
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LossResult:
    """The loss of one batch.

    Attributes:
        objective: scalar to differentiate, regularisation included.
        loss: scalar mean loss of the batch, as it is reported.
        count: words (or whatever is counted) in the batch.
        carried: what the next batch of the epoch starts from, a tree of tensors without a graph, sequences in dimension 1.
        lr_scale: factor of the learning rate for this batch.
        share: where several workers have a part of the batch each, and all this is of a part: what the batch's objective
            takes of this one, as it is the sum of theirs times their shares. None where all this is of the whole batch.
    """

    objective: Tensor
    loss: Tensor
    count: float
    carried: Any
    lr_scale: float = 1.0
    share: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation of a split found.

    Attributes:
        metrics: "loss" (lower is better, what the best weights are chosen by) and the metric by name, perhaps others.
        losses: (N,) loss of each item in reading order, or None where there is none.
        statistics: (N, K) integers of each item whose sums over items give the metric, or None where there are none.
    """

    metrics: dict[str, float]
    losses: Tensor | None = None
    statistics: Tensor | None = None


@dataclass(frozen=True)
class ReadText:
    """What a model read of a text.

    Attributes:
        labels: what stands at each of the last steps that it read.
        unknown: what of the text it does not know.
        modules: the parts of the model that read the labels; all of it where there are none.
        source: what was read besides, as the other language of a translation.
        attention: (labels, source) weights with which each step looked at that, where it does.
        steps: that a label stands for; their mean gates are shown.
        unit: what a label is called.
    """

    labels: list[str]
    unknown: list[str]
    modules: tuple[str, ...] = ()
    source: Sequence[str] = ()
    attention: Tensor | None = None
    steps: int = 1
    unit: str = "word"


class Task(Protocol):
    """One task on its data. `Config` is the schema of its part of a run's config, whatever the run does not know itself.

    A task that keeps what its data were may have `refuse_other_data()`, which raises a UserError where those at hand are
    others: then no run goes on with them. Without it the user is told where the digest of train differs. Where splits are
    texts of their own, `refuse_other_text(splits)` does the same for those that are evaluated.
    """

    Config: ClassVar[type]
    FILES: ClassVar[tuple[str, ...]]  # what it saves in a run's folder
    metric: ClassVar[Metric]
    variants: tuple[str, ...]  # of evaluation; "" is the plain one and comes first
    epoch_variant: str  # of evaluation after each epoch of training
    gate_variant: str  # of evaluation in which a model does no more than read all of a split
    origin: str  # where its data come from and how much they are, in a line
    facts: Mapping[str, Any]  # what a summary says of the data and how they are scored
    published: Mapping[str, Mapping[str, float]]  # the paper's values by gate and key of the summary; {} on other data
    labels: Sequence[str] | None  # what the numbers that a model reads stand for, where it reads symbols

    @classmethod
    def from_config(cls, config: Any, *, gate: Any, device: torch.device, files: Mapping[str, str] | None = None) -> "Task":
        """The task of a checked `Config`; `files` has what an earlier run saved, None begins anew."""

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's default generator; its `kind` and `options` build it again."""

    def files(self) -> dict[str, str]:
        """The content of each of `FILES`, as a vocabulary."""

    def plan(self, generator: torch.Generator) -> list[Any]:
        """The batches of one epoch as cheap descriptions, the same again for the same generator state."""

    def loss(self, model: nn.Module, item: Any, carried: Any) -> LossResult:
        """The loss of a planned batch; `carried` is None at the start of an epoch."""

    def restore(self, carried: Any, device: torch.device) -> Any:
        """`carried` as it was before it went through a checkpoint, which turns tuples into lists."""

    def evaluate(
        self,
        model: nn.Module,
        split: Split,
        variant: str = "",
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        """Evaluates a model in eval mode.

        Args:
            model: as `build_model` gives it.
            split: "train", "valid" or "test".
            variant: one of `variants`, `epoch_variant` or `gate_variant`.
            limit: the first so many sentences, images, ...; all without it.
            reading: called before each forward pass with the (T, B) numbers that the model reads in it.
        """

    def findings(self, model: nn.Module, split: Split) -> list[Finding]:
        """What else there is to show of a model in eval mode on a split, for figures; [] where there is nothing."""

    def digest(self, split: Split, limit: int | None = None) -> str:
        """Names all that an evaluation depends on besides the model: data and how they are read."""

    def size(self, split: Split, limit: int | None = None) -> str:
        """How much an evaluation reads, as "3,370 sentences (73,760 words)"."""

    def word_of(self, label: str) -> str | None:
        """The word that one of `labels` is, "<eos>" where it ends a sentence, None where it is none, as a part of a word."""

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """The model reads one text, or an example of the task's where it is None; gates can be watched meanwhile."""


class LossModule(nn.Module):
    """A task's loss as one module, so that it can be wrapped, as for data-parallel training."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task

    def forward(self, item: Any, carried: Any) -> LossResult:
        return self._task.loss(self.model, item, carried)
