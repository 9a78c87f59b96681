"""Translation of sentences by an encoder-decoder with attention: the paper's second task.

S source steps, T target steps, B batch, N pairs, V vocabulary of the target side.
"""

import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from g2lstm.data.batching import evaluation_batches, padded, padding_share, plan_batches
from g2lstm.data.iwslt14 import cut_last_stop
from g2lstm.data.moses import TextForm, detokenize, language_code
from g2lstm.data.pair_sources import SOURCES
from g2lstm.data.parallel import ParallelCorpus, load_parallel
from g2lstm.data.sources import SPLITS
from g2lstm.data.subwords import Subwords
from g2lstm.data.text import EOS
from g2lstm.decoding import scores
from g2lstm.decoding.beam import Hypothesis
from g2lstm.errors import UserError
from g2lstm.gates import Gate
from g2lstm.models.translation import BOS, PAD, Translator
from g2lstm.schema import values_of
from g2lstm.tasks.language_model import perplexity
from g2lstm.tasks.translation_config import DataConfig, EvalConfig, TranslationConfig
from g2lstm.tasks.translation_reading import LONGEST_LINE, attention_of, read_pair
from g2lstm.tasks.translation_search import search_all
from g2lstm.training import workers
from g2lstm.training.findings import Finding
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

# The paper's Table 2.
IWSLT14 = {"sigmoid": {"test_bleu": 31.00}, "sharpened": {"test_bleu": 29.73}, "gumbel": {"test_bleu": 31.95}}
WMT14 = {"sigmoid": {"test_bleu": 21.89}, "sharpened": {"test_bleu": 21.64}, "gumbel": {"test_bleu": 22.43}}
EVALUATION_TOKENS = 4000  # target sub-words that are read at a time
ENGLISH = ("en", "english", "target")  # codes of a side; the last says nothing of its language
GLANCE = 1000  # sentences of valid that are translated after an epoch


@dataclass(frozen=True)
class TranslationTask:
    """The task on its pairs, which are looked up when they are first needed: to translate takes sub-words alone.

    Attributes:
        subwords: of both languages.
        form: the languages, and what becomes of a line before it is cut into sub-words.
        text: digests of train, valid and test; a run of an older version has train alone.
        gate: of the layers.
        device: where the batches go.
        config: how the model is built, trained and searched with.
    """

    Config: ClassVar[type] = TranslationConfig
    FILES: ClassVar[tuple[str, ...]] = ("subwords.json", "text.json")
    metric: ClassVar[Metric] = Metric("bleu", "subwords", lower_is_better=False, beside=scores.BESIDE)
    variants: ClassVar[tuple[str, ...]] = ("",)
    # To translate all of valid after each epoch would take as long as the epoch.
    epoch_variant: ClassVar[str] = f"greedy, up to {GLANCE:,} pairs"
    gate_variant: ClassVar[str] = "forced"

    subwords: Subwords
    form: TextForm
    text: Mapping[str, str]
    gate: Gate
    device: torch.device
    config: TranslationConfig

    @classmethod
    def from_config(
        cls, config: TranslationConfig, *, gate: Gate, device: torch.device, files: Mapping[str, str] | None = None
    ) -> "TranslationTask":
        if (config.batch_tokens is None) == (config.batch_size is None):
            raise UserError("set batch_tokens or batch_size, and the other to null")
        if files is None:
            if config.model.tied == "all" and not config.data.joint:
                raise UserError(
                    "model.tied=all is one embedding for both languages, and data.joint=false a vocabulary for each: "
                    "set data.joint=true, or model.tied=target"
                )
            corpus = _load(config.data)
            text = {split: corpus.digests[split] for split in SPLITS}
            task = cls(corpus.subwords, corpus.form, text, gate, device, config)
            task.__dict__["corpus"] = corpus
            return task
        subwords = Subwords.parse(files["subwords.json"])
        try:
            found = json.loads(files["text.json"])
            flags = found["tokenised"], found["lowercase"], found.get("escaped", True)
            form = TextForm(tuple(found["languages"]), *map(bool, flags))
            text = {split: str(found[split]) for split in SPLITS if split in found or split == "train"}
        except (ValueError, TypeError, KeyError):
            raise UserError("text.json does not say what the text is: copy it again from its run, or rerun") from None
        return cls(subwords, _form_at_hand(config.data, subwords, form), text, gate, device, config)

    @cached_property
    def corpus(self) -> ParallelCorpus:
        """The pairs; a UserError where they can't be had. Its `form` says whether the text at hand has Moses' tokens."""
        return _load(self.config.data, self.subwords, self.form, self.text)

    @property
    def origin(self) -> str:
        return self.corpus.origin

    @property
    def facts(self) -> dict[str, Any]:
        read = [getattr(self.corpus, split).lengths[: self._count(split, None), 0] for split in ("valid", "test")]
        long = sum(int((lengths > LONGEST_LINE).sum()) for lengths in read)
        padding = padding_share(self.corpus.train.lengths, self._drawn(torch.Generator().manual_seed(0)))
        own = {"held_out_not_translated": long, "padding_share": round(padding, 4)}
        return self.corpus.counts | own | scores.signatures()

    @property
    def published(self) -> Mapping[str, Mapping[str, float]]:
        data, tables = self.config.data, {"iwslt14": IWSLT14, "wmt14": WMT14}
        if data.name not in tables or data.files or data.split != "mixer":
            return {}
        return tables[data.name] if self.form.languages == SOURCES[data.name].languages else {}

    @property
    def labels(self) -> tuple[str, ...]:
        return self.subwords.target_labels

    def word_of(self, label: str) -> str | None:
        """The word that a sub-word starts, without the mark of a start and Moses' escapes; None where it is not English."""
        if label == "</s>":
            return EOS
        if language_code(self.form.languages[1]) not in ENGLISH:
            return None
        return html.unescape(label[1:]) or None if label.startswith("\u2581") else None

    def files(self) -> dict[str, str]:
        text = json.dumps(self.form.values | dict(self.text), indent=1)
        return {"subwords.json": self.subwords.text(), "text.json": text + "\n"}

    def build_model(self) -> Translator:
        sizes = len(self.subwords.source_labels), len(self.subwords.target_labels)
        try:
            return Translator(*sizes, **values_of(self.config.model), gate=self.gate)
        except ValueError as error:
            raise UserError(f"model: {error}") from None

    def refuse_other_data(self) -> None:
        self.refuse_other_text(SPLITS)

    def refuse_other_text(self, splits: Sequence[str]) -> None:
        for split in splits:
            if self.text.get(split, "") not in ("", self.corpus.digests[split]):  # an older run does not know all
                raise UserError(f"the {split} text has changed since the run began ({self.corpus.origin}): put it back")

    def plan(self, generator: torch.Generator) -> list[list[int]]:
        """The pairs of each batch of an epoch."""
        self.refuse_other_data()
        return self._drawn(generator)

    def _drawn(self, generator: torch.Generator) -> list[list[int]]:
        options = self.config
        return plan_batches(
            self.corpus.train.lengths, generator=generator, tokens=options.batch_tokens, sentences=options.batch_size
        )

    def loss(self, model: nn.Module, item: list[int], carried: Any) -> LossResult:  # noqa: ARG002
        assert isinstance(model, Translator)
        whole, part = padded(self.corpus.train, item), workers.part(len(item))
        own = whole.columns(part)
        words, count = (int((some.targets != PAD).sum()) for some in (whole, own))  # here, not on a GPU to be waited for
        batch = own.to(self.device)
        with part.drawn(len(batch.source)):
            features = model(batch.source, batch.source_lengths, batch.inputs)
        loss = model.loss(features, batch.targets, smoothing=self.config.label_smoothing)
        # The mean over words, or the sum over a sentence's words and then the mean over sentences.
        objective = loss * (words / len(item)) if self.config.loss_per == "sentence" else loss
        share = 0.0 if part.idle else count / words
        return LossResult(objective, loss, words * share, None, share=share)

    def restore(self, carried: Any, device: torch.device) -> Any:  # noqa: ARG002
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

        Variants are "" for the beam of `eval`, `epoch_variant`, which translates the first `GLANCE` sentences greedily, and
        "forced", in which nothing is translated.
        """
        losses = self._reference_losses(model, split, limit, reading)
        pairs, count = getattr(self.corpus, split), len(losses)
        loss = losses.double().sum().item() / (int(pairs.lengths[:count, 1].sum()) + count)
        metrics = {"loss": loss, "perplexity": perplexity(loss)}
        if variant == self.gate_variant:
            return Evaluation(metrics, losses)
        options, whole = self.config.eval, variant == ""
        if not whole:
            options, count = replace(options, beam=1), min(count, GLANCE)
        short = [index for index in range(count) if pairs.lengths[index, 0] <= LONGEST_LINE]  # the others stay empty
        texts, mine = [""] * count, short[workers.rank() :: workers.count()]
        found = zip(mine, self.search([model], [pairs.source(index) for index in mine], options), strict=True)
        for said in workers.everyones({index: self.subwords.decode(best[0].tokens) for index, best in found}):
            for index, text in said.items():
                texts[index] = text
        own, statistics = self._scores(texts, self.corpus.lines[split][1][:count], detokenise=whole)
        return Evaluation(metrics | own, losses, statistics)

    def search(
        self, models: Sequence[nn.Module], sources: Sequence[Any], options: EvalConfig, **given: Any
    ) -> list[list[Hypothesis]]:
        """Translations of sources as sub-words by an ensemble, best first; `given` goes to `beam_search`."""
        penalties = {"length_penalty": options.length_penalty, "coverage_penalty": options.coverage_penalty}
        return search_all(models, sources, self.device, beam=options.beam, **penalties, **given)  # type: ignore[arg-type]

    def translate(
        self, models: Sequence[nn.Module], lines: Sequence[str], options: EvalConfig, **given: Any
    ) -> list[list[tuple[str, Hypothesis]] | None]:
        """Lines of raw text in the source language -> translations as people write them, best first, as `search` has them.

        A line without words has a translation without words, and one of more than `LONGEST_LINE` sub-words has None.
        """
        sources = self.sources(lines)
        found: list[list[tuple[str, Hypothesis]] | None] = [[("", Hypothesis([], 0.0))] for _ in lines]
        for index, source in enumerate(sources):
            if len(source) > LONGEST_LINE:
                found[index] = None
        full = [index for index, source in enumerate(sources) if 0 < len(source) <= LONGEST_LINE]
        for index, best in zip(full, self.search(models, [sources[i] for i in full], options, **given), strict=True):
            texts = detokenize([self.subwords.decode(one.tokens) for one in best], self.form.languages[1])
            found[index] = list(zip(texts, best, strict=True))
        return found

    def attention(
        self, models: Sequence[Translator], line: str, tokens: Sequence[int]
    ) -> tuple[Tensor, list[str], list[str]]:
        """(T, S) what an ensemble looks at in a line of raw text for each sub-word of a translation and its end.

        Returns:
            The attention, and the source and target sub-words that its columns and rows stand for.
        """
        words, (source,) = [BOS, *tokens], self.sources([line])
        looked = torch.stack([attention_of(model, source, words, self.device) for model in models]).mean(0)
        columns = self.subwords.source.shown(self.read_by_model([line])[0])
        rows = [self.subwords.target_labels[token] for token in tokens]
        return looked, [*columns, "</s>"], [*rows, "</s>"]

    def sources(self, lines: Sequence[str]) -> list[list[int]]:
        """The sub-words of raw text in the source language."""
        return self.subwords.encode_source(self.read_by_model(lines))

    def unknown(self, line: str) -> list[str]:
        """The words of raw text in the source language that have characters which the training text doesn't have."""
        return self.subwords.source.unknown(self.read_by_model([line])[0])

    def findings(self, model: nn.Module, split: str) -> list[Finding]:  # noqa: ARG002
        return []

    def digest(self, split: str, limit: int | None = None) -> str:
        """Of the text, of its sub-words, and of how translations are searched."""
        form = replace(self.form, tokenised=self.corpus.form.tokenised)
        parts = [self.corpus.digests[split], self.subwords.digest, form.values, values_of(self.config.eval), limit]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        pairs, count = getattr(self.corpus, split), self._count(split, limit)
        return f"{count:,} pairs ({int(pairs.lengths[:count, 1].sum()) + count:,} target sub-words)"

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """The model reads a pair as "source ||| target"; of a source alone it reads its own translation."""
        assert isinstance(model, Translator)
        return read_pair(self, model, text)

    def read_by_model(self, lines: Sequence[str]) -> list[str]:
        """Raw text of the source language in the words that the corpus has."""
        return self.words_of(lines, 0)

    def words_of(self, lines: Sequence[str], side: int) -> list[str]:
        """The same of the source (0) or the target language (1)."""
        found = self.form.of_raw(lines, side)
        published = self.config.data.name == "iwslt14" and self.form.tokenised  # else sacremoses made the training text
        return [cut_last_stop(line) for line in found] if published else found

    def _count(self, split: str, limit: int | None) -> int:
        """Pairs that are read of a split."""
        limits = [limit, None if split == "train" else self.config.eval.limit]
        return min([len(getattr(self.corpus, split)), *(one for one in limits if one is not None)])

    def _reference_losses(
        self, model: nn.Module, split: str, limit: int | None, reading: Callable[[Tensor], None] | None
    ) -> Tensor:
        """(N,) nats of each reference, in reading order."""
        assert isinstance(model, Translator)
        pairs = getattr(self.corpus, split)
        losses = torch.zeros(self._count(split, limit))
        batches = evaluation_batches(pairs.lengths[: len(losses)], EVALUATION_TOKENS)
        for indices in batches[workers.rank() :: workers.count()]:
            batch = padded(pairs, indices).to(self.device)
            if reading is not None:
                reading(batch.inputs)
            with torch.no_grad():
                features = model(batch.source, batch.source_lengths, batch.inputs)
                losses[indices] = model.loss(features, batch.targets, reduction="none").sum(0).float().cpu()
        return workers.summed(losses)

    def _scores(self, texts: list[str], references: list[str], *, detokenise: bool) -> tuple[dict[str, float], Tensor]:
        """BLEU of tokenised text and the numbers of each sentence that it comes from, and with `detokenise` all scores."""
        form = self.corpus.form
        tokenised, language = list(form.target(references)), form.languages[1]
        statistics = scores.bleu_statistics(texts, tokenised)
        found = {"bleu": float(scores.bleu_of(statistics.double().sum(0)))}
        if self.config.data.name == "numbers":
            found["exact_match"] = 100 * sum(map(str.__eq__, texts, tokenised)) / len(texts)
        if detokenise:
            plain = detokenize(tokenised, language) if form.tokenised or form.lowercase else references
            found |= scores.detokenised_scores(detokenize(texts, language), plain)
        return found, statistics


def _form_at_hand(data: DataConfig, subwords: Subwords, form: TextForm) -> TextForm:
    """What a run was trained on, in files that may have other endings or tokens now.

    Raises:
        UserError: an option differs that its sub-words or its training text have for good.
    """
    trained = {"lowercase": form.lowercase, "joint": subwords.joint, "vocabulary_size": len(subwords.target_labels)}
    for name, value in trained.items():
        if (given := getattr(data, name)) not in (None, value):
            raise UserError(
                f"data.{name}={json.dumps(given)}, but the run was trained with {json.dumps(value)}: leave it out"
            )
    first, second = form.languages
    if first != second and data.languages == (second, first):
        raise UserError(f"the run translates {first} to {second}, and data.languages is the other way round: leave it out")
    tokenised = form.tokenised if data.tokenised is None else data.tokenised
    return replace(form, languages=data.languages or form.languages, tokenised=tokenised)


def _load(
    data: DataConfig, subwords: Subwords | None = None, form: TextForm | None = None, own: Mapping[str, str] | None = None
) -> ParallelCorpus:
    options = values_of(data) | {"subwords": subwords}
    if form is not None:
        options |= asdict(form) | {"tokenised": data.tokenised, "own": (own, form.tokenised)}
        options |= {"extra": False} if data.files else {}  # of the text that it was trained on
    name, folder = options.pop("name"), options.pop("dir")
    return load_parallel(name, data_dir=folder, **options)
