"""Word-level language modelling on streams of text, trained by truncated back-propagation (Merity et al. 2017).

T time, B batch, N tokens, V vocabulary.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from g2lstm.data.text import EOS, UNK, TextCorpus, Vocabulary, batchify, load_corpus, segments
from g2lstm.decoding.cache import ContinuousCache
from g2lstm.errors import UserError
from g2lstm.gates import Gate
from g2lstm.layers.regularization import activation_regularization, temporal_activation_regularization
from g2lstm.masks import RecurrentDropoutKind
from g2lstm.models.language_model import LanguageModel, detached
from g2lstm.schema import Count, EngineName, Folder, NotNegative, Share, section, values_of
from g2lstm.training import workers
from g2lstm.training.findings import Finding
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

MOST_WORDS = 200  # of a text that is shown
# A sentence of our own in words that the Penn Treebank has.
EXAMPLE = "the company said it expects to report a loss for the third quarter but analysts are n't surprised"
# The paper's Table 1, with finetune where it gives two values.
_COLUMNS = ("valid_perplexity", "test_perplexity", "valid_perplexity_cache", "test_perplexity_cache")
PENN_TREEBANK = {
    gate: dict(zip(_COLUMNS, row, strict=True))
    for gate, row in {
        "sigmoid": (60.0, 57.3, 53.9, 52.8),
        "sharpened": (59.9, 57.5, 53.9, 53.2),
        "gumbel": (58.5, 56.1, 52.9, 52.1),
    }.items()
}  # fmt: skip


def perplexity(loss: float) -> float:
    """Of a mean loss in nats a word."""
    return math.exp(min(loss, 700.0))


@section
class DataConfig:
    """`data`: which text, and which of its words."""

    name: Literal["ptb", "text", "builtin"]
    dir: Folder | None = None
    download: bool = True
    min_count: Count | None = None
    max_vocabulary: Annotated[int, Field(ge=3)] | None = None  # <eos>, <unk> and a word


@section
class ModelConfig:
    """`model`: AWD-LSTM's options; AR and TAR have the weights alpha and beta."""

    embedding_size: Count
    hidden_size: Count
    num_layers: Count
    tied: bool
    dropout_input: Share
    dropout_hidden: Share
    dropout_output: Share
    dropout_embedding: Share
    dropout_scale: NotNegative = 1.0
    weight_dropout: Share
    recurrent_dropout: Share = 0.0
    recurrent_dropout_kind: RecurrentDropoutKind = "h"
    zoneout: tuple[Share, Share] = (0.0, 0.0)  # of c and of h
    alpha: NotNegative
    beta: NotNegative
    engine: EngineName = "auto"


@section
class CacheConfig:
    """`eval.cache`: the continuous cache pointer (Grave et al. 2016)."""

    enabled: bool
    window: Count
    theta: NotNegative
    weight: Share = Field(alias="lambda")


@section
class EvalConfig:
    """`eval`: how the text is read; the perplexity depends on the numbers of streams and the cache alone."""

    bptt: Count
    valid_batch_size: Count
    test_batch_size: Count
    cache: CacheConfig


@section
class LanguageModelConfig:
    """What a language-model run adds to the options of any run."""

    data: DataConfig
    model: ModelConfig
    batch_size: Count
    bptt: Count
    random_length: bool
    eval: EvalConfig


@dataclass(frozen=True)
class LanguageModelTask:
    """The task on its text."""

    Config: ClassVar[type] = LanguageModelConfig
    FILES: ClassVar[tuple[str, ...]] = ("vocabulary.json",)
    metric: ClassVar[Metric] = Metric("perplexity", "words", of_loss=perplexity)
    epoch_variant: ClassVar[str] = ""
    gate_variant: ClassVar[str] = ""
    facts: ClassVar[Mapping[str, Any]] = {}

    corpus: TextCorpus
    gate: Gate
    device: torch.device
    config: LanguageModelConfig  # how text is read and the model is built
    _streams: dict[tuple[str, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_config(
        cls, config: LanguageModelConfig, *, gate: Gate, device: torch.device, files: Mapping[str, str] | None = None
    ) -> "LanguageModelTask":
        data = config.data
        vocabulary = None if files is None else Vocabulary.parse(files["vocabulary.json"])
        corpus = load_corpus(
            data.name, data_dir=data.dir, download=data.download,
            min_count=data.min_count or 1, max_vocabulary=data.max_vocabulary, vocabulary=vocabulary,
        )  # fmt: skip
        task = cls(corpus, gate, device, config)
        for split in ("train", "valid", "test"):  # too short a text is found now, not after an epoch
            batchify(getattr(corpus, split), config.batch_size if split == "train" else task._batch_size(split))
        if config.batch_size < workers.count():
            raise UserError(f"batch_size={config.batch_size} can't be shared by {workers.count()} workers: start fewer")
        return task

    @property
    def variants(self) -> tuple[str, ...]:
        return ("", "cache") if self.config.eval.cache.enabled else ("",)

    @property
    def origin(self) -> str:
        return f"{self.corpus.origin}: {len(self.corpus.train):,} words to train on"

    @property
    def published(self) -> Mapping[str, Mapping[str, float]]:
        return PENN_TREEBANK if self.config.data.name == "ptb" else {}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.corpus.vocabulary.tokens

    def files(self) -> dict[str, str]:
        return {"vocabulary.json": self.corpus.vocabulary.text()}

    def build_model(self) -> LanguageModel:
        return new_model(self.config.model, len(self.corpus.vocabulary), self.gate)

    def plan(self, generator: torch.Generator) -> list[tuple[int, int]]:
        """(start, length) of each segment of an epoch."""
        rows = len(self._stream("train", self.config.batch_size))
        return segments(rows, self.config.bptt, generator=generator, random=self.config.random_length)

    def loss(self, model: nn.Module, item: tuple[int, int], carried: Any) -> LossResult:
        assert isinstance(model, LanguageModel)
        start, length = item
        stream = self._stream("train", self.config.batch_size)
        part = workers.part(stream.shape[1])
        mine = part.of(stream)
        tokens, targets = mine[start : start + length], mine[start + 1 : start + 1 + length]  # (T, B)
        with part.drawn():
            features = model(tokens, carried)
        loss = model.loss(features.dropped, targets)
        objective, options = loss, self.config.model
        if options.alpha:
            objective = objective + activation_regularization(features.dropped, options.alpha)
        if options.beta:
            objective = objective + temporal_activation_regularization(features.raw, options.beta)
        # deviation: the length that was used, where AWD-LSTM takes the one drawn, also for a stretch cut by the epoch's end
        scale = length / self.config.bptt if self.config.random_length else 1.0
        count = length * stream.shape[1] * part.share
        return LossResult(objective, loss, count, detached(features.state), scale, part.share)

    def restore(self, carried: Any, device: torch.device) -> Any:
        return None if carried is None else [(h.to(device), c.to(device)) for h, c in carried]

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        variant: str = "",
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        """With the cache pointer a split is always one stream, so that the cache sees the words before."""
        options, given = self.config.eval, self.config.eval.cache
        cache = ContinuousCache(given.window, given.theta, given.weight) if variant == "cache" else None
        stream = self._stream(split, 1 if cache else self._batch_size(split), limit)
        part = workers.part(stream.shape[1])
        found = token_losses(model, part.of(stream), options.bptt, cache, reading)
        losses = workers.side_by_side(found[:, :0] if part.idle else found).t().flatten()
        loss = losses.double().mean().item()
        return Evaluation({"loss": loss, "perplexity": perplexity(loss)}, losses)

    def stream(self, split: str, limit: int | None = None) -> Tensor:
        """(rows, B) words of a split, or of its first sentences, as an evaluation reads them."""
        return self._stream(split, self._batch_size(split), limit)

    def findings(self, model: nn.Module, split: str) -> list[Finding]:  # noqa: ARG002
        return []

    def digest(self, split: str, limit: int | None = None) -> str:
        tokens = self._tokens(split, limit)
        settings = json.dumps(values_of(self.config.eval), sort_keys=True)
        found = hashlib.sha256(tokens.numpy().data)  # of its memory, with no copy of a large corpus
        found.update(settings.encode())
        return found.hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        tokens = self._tokens(split, limit)
        sentences = int((tokens == self.corpus.vocabulary.index[EOS]).sum())
        return f"{sentences:,} sentences ({len(tokens):,} words)"

    def word_of(self, label: str) -> str:
        return label

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """Words between white space; the text starts and ends like a sentence of the corpus.

        Raises:
            UserError: the text has no words or too many, or has one that the vocabulary can't take.
        """
        vocabulary = self.corpus.vocabulary
        shown = [*(self._example() if text is None else text.split()), EOS]
        if len(shown) == 1:
            raise UserError("text has no words: set text='the company said it will ...'")
        if len(shown) > MOST_WORDS:
            raise UserError(f"text has {len(shown) - 1} words, and at most {MOST_WORDS - 1} fit a figure: shorten it")
        unknown = [word for word in dict.fromkeys(shown) if word not in vocabulary.index and word != UNK]
        tokens = [vocabulary.index[EOS], *vocabulary.encode(" ".join(shown[:-1]), where="text=")]
        with torch.no_grad():
            model(torch.tensor(tokens, device=self.device).unsqueeze(1))
        return ReadText(shown, unknown)

    def _example(self) -> list[str]:
        """Our own sentence, or one of valid where the model does not know its words."""
        vocabulary, words = self.corpus.vocabulary, EXAMPLE.split()
        if all(word in vocabulary.index for word in words):
            return words
        text = " ".join(vocabulary.tokens[token] for token in self.corpus.valid.tolist())
        sentences = [sentence.split() for sentence in text.split(EOS)]
        fitting = (sentence for sentence in sentences if 8 <= len(sentence) <= 20)
        return next(fitting, max(sentences, key=len))[: MOST_WORDS - 1]

    def _batch_size(self, split: str) -> int:
        return self.config.eval.test_batch_size if split == "test" else self.config.eval.valid_batch_size

    def _tokens(self, split: str, limit: int | None) -> Tensor:
        """(N,) words of the first `limit` sentences of a split."""
        tokens = getattr(self.corpus, split)
        if limit is None:
            return tokens
        ends = (tokens == self.corpus.vocabulary.index[EOS]).nonzero().flatten()
        return tokens if limit >= len(ends) else tokens[: int(ends[limit - 1]) + 1]

    def _stream(self, split: str, batch_size: int, limit: int | None = None) -> Tensor:
        """(rows, B) words of a split on the task's device; of a whole one made once."""
        key = (split, batch_size)
        if limit is None and key in self._streams:
            return self._streams[key]
        stream = batchify(self._tokens(split, limit), batch_size).to(self.device)
        return stream if limit is not None else self._streams.setdefault(key, stream)


def new_model(config: ModelConfig, vocabulary_size: int, gate: Gate) -> LanguageModel:
    """A model of a config's options; a UserError where they don't go together."""
    options = {name: value for name, value in values_of(config).items() if name not in ("alpha", "beta")}
    try:
        return LanguageModel(vocabulary_size, **options, gate=gate)
    except ValueError as error:
        raise UserError(f"model: {error}") from None


def token_losses(
    model: nn.Module,
    stream: Tensor,
    bptt: int,
    cache: ContinuousCache | None = None,
    reading: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The loss of each word of streams (rows, B) of text but the first, the state carried over from segment to segment.

    Args:
        model: a LanguageModel in eval mode.
        stream: the words.
        bptt: rows read at a time; the result does not depend on it.
        cache: mixed with the model's probabilities.
        reading: gets the (T, B) words of each segment before the model does.

    Returns:
        (rows - 1, B) nats, on the CPU.
    """
    assert isinstance(model, LanguageModel)
    found, state = [], None
    with torch.no_grad():
        for start, length in segments(len(stream), bptt, random=False):
            tokens, targets = stream[start : start + length], stream[start + 1 : start + 1 + length]  # (T, B)
            if reading is not None:
                reading(tokens)
            features = model(tokens, state)
            state = features.state
            losses = model.loss(features.dropped, targets, reduction="none")  # (T, B)
            if cache is not None:
                losses = -cache.mix(features.raw, targets, -losses)
            found.append(losses.float().cpu())
    return torch.cat(found)
