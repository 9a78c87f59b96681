"""Tasks: what the loop trains. A task builds a model, plans batches, computes a loss and evaluates.

T time, B batch, E embedding.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from g2lstm.data.text import TextCorpus, batchify, segments
from g2lstm.decoding.cache import ContinuousCache
from g2lstm.layers.regularization import activation_regularization, temporal_activation_regularization
from g2lstm.models.language_model import LanguageModel, detached


@dataclass(frozen=True)
class LossResult:
    """The loss of one batch.

    Attributes:
        objective: scalar to differentiate, regularisation included.
        loss: scalar mean loss of the batch, as it is reported.
        count: words (or whatever is counted) in the batch.
        carried: what the next batch of the epoch starts from, a tree of tensors without a graph.
        lr_scale: factor of the learning rate for this batch.
    """

    objective: Tensor
    loss: Tensor
    count: float
    carried: Any
    lr_scale: float = 1.0


class Task(Protocol):
    """What `g2lstm.training.loop.Trainer` needs to know of a task."""

    def build_model(self) -> nn.Module:
        """A new model, initialised from torch's default generator."""

    def plan(self, generator: torch.Generator) -> list[Any]:
        """The batches of one epoch as cheap descriptions, the same again for the same generator state."""

    def loss(self, model: nn.Module, item: Any, carried: Any) -> LossResult:
        """The loss of a planned batch; `carried` is None at the start of an epoch."""

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """Metrics of "valid" or "test"; "loss" among them, lower is better."""

    def restore(self, carried: Any, device: torch.device) -> Any:
        """`carried` as it was before it went through a checkpoint, which turns tuples into lists."""


@dataclass(frozen=True)
class CacheSettings:
    """The continuous cache pointer (Grave et al. 2016): window in words, theta the flatness, weight the mixture's lambda."""

    window: int = 500
    theta: float = 1.0
    weight: float = 0.1


@dataclass(frozen=True)
class LanguageModelTask:
    """Word-level language modelling on streams of text, trained by truncated back-propagation (Merity et al. 2017).

    Attributes:
        corpus: the text.
        make_model: builds the model for a vocabulary size.
        device: where the batches go.
        batch_size, valid_batch_size, test_batch_size: parallel streams of text.
        bptt: base length in words of a training segment, drawn around it if `random_length`; evaluation reads `eval_bptt`.
        alpha, beta: weights of AR (on the dropped output) and TAR (on the raw output).
    """

    corpus: TextCorpus
    make_model: Callable[[int], LanguageModel]
    device: torch.device
    batch_size: int = 20
    valid_batch_size: int = 10
    test_batch_size: int = 1
    bptt: int = 70
    random_length: bool = True
    eval_bptt: int = 70
    alpha: float = 2.0
    beta: float = 1.0
    _streams: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # Too short a text is found now, not after an epoch.
        for split, size in (("train", self.batch_size), ("valid", self.valid_batch_size), ("test", self.test_batch_size)):
            self._stream(split, size)

    def build_model(self) -> LanguageModel:
        return self.make_model(len(self.corpus.vocabulary))

    def plan(self, generator: torch.Generator) -> list[tuple[int, int]]:
        """(start, length) of each segment of an epoch."""
        rows = len(self._stream("train", self.batch_size))
        return segments(rows, self.bptt, generator=generator, random=self.random_length)

    def loss(self, model: nn.Module, item: tuple[int, int], carried: Any) -> LossResult:
        assert isinstance(model, LanguageModel)
        start, length = item
        tokens, targets = _inputs_and_targets(self._stream("train", self.batch_size), start, length)
        features = model(tokens, carried)
        loss = model.loss(features.dropped, targets)
        objective = loss
        if self.alpha:
            objective = objective + activation_regularization(features.dropped, self.alpha)
        if self.beta:
            objective = objective + temporal_activation_regularization(features.raw, self.beta)
        # deviation: the length that was used, where AWD-LSTM takes the one drawn, also for a stretch cut by the epoch's end
        scale = length / self.bptt if self.random_length else 1.0
        return LossResult(objective, loss, targets.numel(), detached(features.state), scale)

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        return metrics_of(self.token_losses(model, split))

    def evaluate_with_cache(self, model: nn.Module, split: str, cache: CacheSettings) -> dict[str, float]:
        """As `evaluate`, mixed with the cache pointer."""
        return metrics_of(self.token_losses(model, split, cache))

    def token_losses(self, model: nn.Module, split: str, cache: CacheSettings | None = None) -> Tensor:
        """(N,) losses in nats of a split's words in reading order, the first word of each stream left out.

        With a cache pointer the split is always one stream, so that the cache sees the words before.
        """
        batch_size = 1 if cache is not None else self.valid_batch_size if split == "valid" else self.test_batch_size
        return token_losses(model, self._stream(split, batch_size), self.eval_bptt, cache).t().flatten()

    def restore(self, carried: Any, device: torch.device) -> Any:
        return None if carried is None else [(h.to(device), c.to(device)) for h, c in carried]

    def _stream(self, split: str, batch_size: int) -> Tensor:
        """(rows, B) words of a split on the task's device, made once."""
        key = (split, batch_size)
        if key not in self._streams:
            self._streams[key] = batchify(getattr(self.corpus, split), batch_size).to(self.device)
        return self._streams[key]


def evaluate_language_model(
    model: nn.Module, stream: Tensor, bptt: int, cache: CacheSettings | None = None
) -> dict[str, float]:
    """ "loss" in nats a word and "perplexity" of streams of text; arguments as in `token_losses`."""
    return metrics_of(token_losses(model, stream, bptt, cache))


def metrics_of(losses: Tensor) -> dict[str, float]:
    """ "loss" in nats a word and "perplexity" of the losses of words."""
    loss = losses.double().mean().item()
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def token_losses(model: nn.Module, stream: Tensor, bptt: int, cache: CacheSettings | None = None) -> Tensor:
    """The loss of each word of streams of text but the first, the state carried over from segment to segment.

    Args:
        model: a LanguageModel in eval mode.
        stream: (rows, B) words.
        bptt: rows read at a time; the result does not depend on it.
        cache: mixes the model with a continuous cache pointer.

    Returns:
        (rows - 1, B) nats, on the CPU.
    """
    assert isinstance(model, LanguageModel)
    pointer = None if cache is None else ContinuousCache(cache.window, cache.theta, cache.weight)
    found, state = [], None
    with torch.no_grad():
        for start, length in segments(len(stream), bptt, random=False):
            tokens, targets = _inputs_and_targets(stream, start, length)
            features = model(tokens, state)
            state = features.state
            losses = model.loss(features.dropped, targets, reduction="none")  # (T, B)
            if pointer is not None:
                losses = -pointer.mix(features.raw, targets, -losses)
            found.append(losses.float().cpu())
    return torch.cat(found)


def _inputs_and_targets(stream: Tensor, start: int, length: int) -> tuple[Tensor, Tensor]:
    return stream[start : start + length], stream[start + 1 : start + 1 + length]
