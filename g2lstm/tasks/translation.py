"""Translation of sentences by an encoder-decoder with attention: the paper's second task.

S source steps, T target steps, B batch, N pairs, V vocabulary of the target side.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from g2lstm.data import moses
from g2lstm.data.batching import Batch, evaluation_batches, padded, padded_sources, plan_batches
from g2lstm.data.parallel import Pairs, ParallelCorpus, load_parallel
from g2lstm.data.subwords import PAD, Subwords
from g2lstm.decoding import scores
from g2lstm.decoding.beam import Hypothesis, beam_search
from g2lstm.errors import UserError
from g2lstm.gates import Gate
from g2lstm.models.translation import Translator
from g2lstm.schema import Count, EngineName, Folder, NotNegative, Share, section, values_of
from g2lstm.tasks.language_model import perplexity
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

# The paper's Table 2.
IWSLT14 = {"sigmoid": {"test_bleu": 31.00}, "sharpened": {"test_bleu": 29.73}, "gumbel": {"test_bleu": 31.95}}
WMT14 = {"sigmoid": {"test_bleu": 21.89}, "sharpened": {"test_bleu": 21.64}, "gumbel": {"test_bleu": 22.43}}
# Sentences of our own.
EXAMPLES = {"numbers": "dreiundzwanzigtausendvierhundertelf", "de": "wir wissen noch nicht , ob das auch im winter funktioniert ."}
EVALUATION_WORDS = 4000  # target sub-words that are read at a time
SEARCHED = 64  # sentences that are translated at a time


@section
class DataConfig:
    """`data`: which pairs, and their sub-words."""

    name: Literal["iwslt14", "wmt14", "parallel", "numbers"]
    dir: Folder | None = None
    download: bool = True
    split: Literal["mixer", "fairseq"] = "mixer"
    extra: bool = False
    source: str
    target: str
    vocabulary_size: Count
    joint: bool
    longest: Count


@section
class ModelConfig:
    """`model`: the options of `g2lstm.models.translation.Translator`."""

    decoder: Literal["conditional", "stacked"]
    attention: Literal["dot", "additive"]
    input_feeding: bool
    tied: Literal["none", "target", "all"]
    embedding_size: Count
    hidden_size: Count
    encoder_layers: Count
    decoder_layers: Count
    dropout: Share
    dropout_readout: Share
    word_dropout: Share
    forget_bias: float | None = None
    engine: EngineName = "auto"


@section
class EvalConfig:
    """`eval`: how translations are searched."""

    beam: Count
    length_penalty: NotNegative
    coverage_penalty: NotNegative


@section
class TranslationConfig:
    """What a translation run adds to the options of any run."""

    data: DataConfig
    model: ModelConfig
    batch_words: Count | None
    batch_size: Count | None
    loss_per: Literal["word", "sentence"]
    label_smoothing: Share
    eval: EvalConfig


@dataclass(frozen=True)
class TranslationTask:
    """The task on its pairs.

    Attributes:
        corpus: pairs of sentences as sub-words.
        gate: of the layers.
        device: where the batches go.
        config: how the model is built, trained and searched with.
    """

    Config: ClassVar[type] = TranslationConfig
    FILES: ClassVar[tuple[str, ...]] = ("subwords.json",)
    metric: ClassVar[Metric] = Metric("bleu", "subwords", lower_is_better=False)
    variants: ClassVar[tuple[str, ...]] = ("", "greedy")
    epoch_variant: ClassVar[str] = "greedy"  # the beam takes too long for each epoch
    gate_variant: ClassVar[str] = "forced"

    corpus: ParallelCorpus
    gate: Gate
    device: torch.device
    config: TranslationConfig

    @classmethod
    def from_config(
        cls, config: TranslationConfig, *, gate: Gate, device: torch.device, files: Mapping[str, str] | None = None
    ) -> "TranslationTask":
        if (config.batch_words is None) == (config.batch_size is None):
            raise UserError("batch_words and batch_size exclude each other: set one of them, and the other to null")
        subwords = None if files is None else Subwords.parse(files["subwords.json"])
        data = values_of(config.data)
        corpus = load_parallel(data.pop("name"), data_dir=data.pop("dir"), subwords=subwords, **data)
        return cls(corpus, gate, device, config)

    @property
    def origin(self) -> str:
        return f"{self.corpus.origin}: {len(self.corpus.train):,} pairs to train on"

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self.corpus.counts) | scores.signatures()

    @property
    def published(self) -> Mapping[str, Mapping[str, float]]:
        return {"iwslt14": IWSLT14, "wmt14": WMT14}.get(self.config.data.name, {})

    @property
    def labels(self) -> tuple[str, ...]:
        return self.corpus.subwords.target_labels

    def files(self) -> dict[str, str]:
        return {"subwords.json": self.corpus.subwords.text()}

    def build_model(self) -> Translator:
        subwords = self.corpus.subwords
        try:
            return Translator(
                len(subwords.source_labels), len(subwords.target_labels), **values_of(self.config.model), gate=self.gate
            )
        except ValueError as error:
            raise UserError(f"model: {error}") from None

    def plan(self, generator: torch.Generator) -> list[list[int]]:
        """The pairs of each batch of an epoch."""
        options = self.config
        return plan_batches(
            self.corpus.train.lengths, generator=generator, tokens=options.batch_words, sentences=options.batch_size
        )

    def loss(self, model: nn.Module, item: list[int], carried: Any) -> LossResult:
        assert isinstance(model, Translator)
        batch = padded(self.corpus.train, item).to(self.device)
        features = model(batch.source, batch.source_lengths, batch.inputs)
        loss = model.loss(features, batch.targets, smoothing=self.config.label_smoothing)
        count = int((batch.targets != PAD).sum())
        objective = loss * (count / len(item)) if self.config.loss_per == "sentence" else loss
        return LossResult(objective, loss, count, None)

    def restore(self, carried: Any, device: torch.device) -> Any:
        return None

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        variant: str = "",
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        """The loss of the references, and the scores of translations.

        Variants are "" for the beam of `eval`, "greedy", and "forced", in which nothing is translated.
        """
        losses, words = self._reference_losses(model, split, limit, reading)
        loss = (losses.sum() / words).item()
        metrics = {"loss": loss, "perplexity": perplexity(loss)}
        if variant == self.gate_variant:
            return Evaluation(metrics, losses)
        pairs = getattr(self.corpus, split)
        options = replace(self.config.eval, beam=1) if variant == "greedy" else self.config.eval
        found = self.search([model], [pairs.source(i) for i in range(_count(pairs, limit))], options)
        texts = [self.corpus.subwords.decode(best[0].tokens) for best in found]
        references = self.corpus.lines[split][1][: len(texts)]
        own, statistics = self._scores(texts, references, detokenise=variant == "")
        return Evaluation(metrics | own, losses, statistics)

    def search(
        self, models: Sequence[nn.Module], sources: Sequence[Any], options: EvalConfig, **given: Any
    ) -> list[list[Hypothesis]]:
        """Translations of sources as sub-words by an ensemble, best first; `given` goes to `beam_search`.

        Neighbours are of one length, so that few steps are spent on padding.
        """
        order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
        found: list[list[Hypothesis]] = [[] for _ in sources]
        for start in range(0, len(order), SEARCHED):
            part = order[start : start + SEARCHED]
            source, lengths = padded_sources([sources[index] for index in part])
            results = beam_search(models, source.to(self.device), lengths, **values_of(options) | given)
            for index, hypotheses in zip(part, results, strict=True):
                found[index] = hypotheses
        return found

    def translate(
        self, models: Sequence[nn.Module], lines: Sequence[str], options: EvalConfig, **given: Any
    ) -> list[list[tuple[str, Hypothesis]]]:
        """Lines of raw text in the source language -> translations as people write them, best first, as `search` finds them.

        A line without words has one translation without words.
        """
        source_language, language = self.corpus.languages
        texts = moses.tokenised(lines, source_language) if self.corpus.tokenised else list(lines)
        texts = [text.lower() for text in texts] if self.corpus.lowercased else texts
        sources = self.corpus.subwords.encode_source(texts)
        found: list[list[tuple[str, Hypothesis]]] = [[("", Hypothesis([], 0.0, None))] for _ in lines]
        full = [index for index, source in enumerate(sources) if source]
        for index, best in zip(full, self.search(models, [sources[i] for i in full], options, **given), strict=True):
            decoded = [self.corpus.subwords.decode(one.tokens) for one in best]
            found[index] = list(zip(moses.detokenised(decoded, language) if self.corpus.tokenised else decoded, best, strict=True))
        return found

    def digest(self, split: str, limit: int | None = None) -> str:
        pairs = getattr(self.corpus, split)
        content = hashlib.sha256(json.dumps(values_of(self.config.eval), sort_keys=True).encode())
        for index in range(_count(pairs, limit)):
            content.update(pairs.source(index).tobytes() + b"|" + pairs.target(index).tobytes() + b";")
        return content.hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        pairs = getattr(self.corpus, split)
        count = _count(pairs, limit)
        return f"{count:,} pairs ({int(pairs.lengths[:count, 1].sum()) + count:,} target sub-words)"

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """The model translates a sentence of the source language, tokenised as the corpus is, and reads its translation.

        What stands at the decoder's steps is the sub-word read there, so that a gate is shown at the word it sees.

        Raises:
            UserError: the text has no words.
        """
        subwords = self.corpus.subwords
        shown = self._example() if text is None else text
        (source,) = subwords.encode_source([shown])
        if not source:
            raise UserError("text has no words: set text='...' to a sentence in the source language")
        ((best, *_),) = self.search([model], [source], self.config.eval)
        batch = Batch.of([source], [best.tokens]).to(self.device)
        assert isinstance(model, Translator)
        with torch.no_grad():
            model(batch.source, batch.source_lengths, batch.inputs)
        labels = [self.labels[token] for token in batch.inputs.flatten().tolist()]
        unknown = [subwords.source_labels[token] for token in source if subwords.source_labels[token] == "<unk>"]
        return ReadText(labels, unknown, module="decoder")

    def _reference_losses(
        self, model: nn.Module, split: str, limit: int | None, reading: Callable[[Tensor], None] | None
    ) -> tuple[Tensor, int]:
        """(N,) nats of each reference in reading order, and how many sub-words they have in all.

        A batch is of one target length: the decoder takes no step on padding.
        """
        assert isinstance(model, Translator)
        pairs = getattr(self.corpus, split)
        count = _count(pairs, limit)
        losses, words = torch.zeros(count), 0
        for indices in evaluation_batches(pairs.lengths[:count], EVALUATION_WORDS):
            batch = padded(pairs, indices).to(self.device)
            if reading is not None:
                reading(batch.inputs)
            with torch.no_grad():
                features = model(batch.source, batch.source_lengths, batch.inputs)
                found = model.loss(features, batch.targets, reduction="none")
            losses[indices] = found.sum(0).float().cpu()
            words += batch.targets.numel()
        return losses, words

    def _scores(
        self, texts: list[str], references: list[str], *, detokenise: bool
    ) -> tuple[dict[str, float], Tensor]:
        """BLEU of tokenised text and the numbers of each sentence that it comes from, and with `detokenise` all scores."""
        both, (_, language), tokenised = (texts, references), self.corpus.languages, self.corpus.tokenised
        statistics = scores.bleu_statistics(*(both if tokenised else [moses.tokenised(lines, language) for lines in both]))
        found = {"bleu": float(scores.bleu_of(statistics.double().sum(0)))}
        if self.config.data.name == "numbers":
            equal = sum(text == reference for text, reference in zip(texts, references, strict=True))
            found["exact_match"] = 100 * equal / len(references)
        if detokenise:
            plain = [moses.detokenised(lines, language) for lines in both] if tokenised else both
            found |= scores.detokenised_scores(*plain)
        return found, statistics

    def _example(self) -> str:
        data = self.config.data
        if data.name in EXAMPLES or data.source in EXAMPLES:
            return EXAMPLES.get(data.name, EXAMPLES.get(data.source, ""))
        sources, _ = self.corpus.lines["valid"]
        return next((line for line in sources if 8 <= len(line.split()) <= 20), sources[0])


def _count(pairs: Pairs, limit: int | None) -> int:
    return len(pairs) if limit is None else min(limit, len(pairs))
