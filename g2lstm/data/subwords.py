"""Sub-words: byte-pair encoding of the words between white space, one vocabulary for both languages or one for each.

The same lines give the same vocabulary in every process. V vocabulary.
"""

import ctypes
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from g2lstm.errors import UserError
from g2lstm.models.translation import UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
_FORMAT = "g2lstm-subwords-1"
_MOST_WORDS = 500_000  # whose ids are remembered: about 200 MB


@dataclass(frozen=True, eq=False)
class Encoder:
    """The sub-words of one vocabulary; a word seen before costs a look-up."""

    tokenizer: "Tokenizer"
    _ids: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[type["Encoder"], tuple["Tokenizer"]]:
        return Encoder, (self.tokenizer,)  # what other processes need; the words they see themselves

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The sub-words by id."""
        vocabulary = self.tokenizer.get_vocab()
        return tuple(sorted(vocabulary, key=vocabulary.__getitem__))

    def first(self, n: int) -> tuple[str | None, ...]:
        """The first n sub-words, without a list of all; None where there are fewer."""
        return tuple(map(self.tokenizer.id_to_token, range(n)))

    def encode(self, lines: Iterable[str]) -> list[list[int]]:
        """The ids of each line, without special ones; characters never seen in training are `UNK`."""
        words = [line.split() for line in lines]
        ids = self._ids
        if len(ids) > _MOST_WORDS:
            ids.clear()
        new = list({word: None for line in words for word in line if word not in ids})
        ids.update(zip(new, (encoding.ids for encoding in self.tokenizer.encode_batch_fast(new)), strict=True))
        return [[id for word in line for id in ids[word]] for line in words]

    def unknown(self, line: str) -> list[str]:
        """The words of a line that have characters never seen in training, each once and as people write them."""
        words = dict.fromkeys(line.split())
        return [html.unescape(word) for word, ids in zip(words, self.encode(words), strict=True) if UNK in ids]

    def shown(self, line: str) -> list[str]:
        """The sub-words of a line as figures have them: a character never seen in training is itself with a star."""
        labels = []
        for word in line.split():
            found = self.tokenizer.encode(word)
            pieces = zip(found.ids, found.tokens, found.offsets, strict=True)
            labels += [f"{word[start:end]}*" if id == UNK else token for id, token, (start, end) in pieces]
        return labels


@dataclass(frozen=True, eq=False)
class Subwords:
    """The sub-words of a source and a target language; one object where both share theirs."""

    source: Encoder
    target: Encoder

    @classmethod
    def train(cls, source: Iterable[str], target: Iterable[str], *, size: int, joint: bool) -> "Subwords":
        """Learns the sub-words of some lines.

        Args:
            source: lines of the training text, words between white space.
            target: the lines that they translate to.
            size: of a vocabulary, V, the four special ones among them.
            joint: one vocabulary over both languages; else one for each.

        Raises:
            UserError: the text gives fewer, or its characters alone are more.
        """
        if joint:
            both = Encoder(_train(_chain(source, target), size, "source and target text"))
            found = cls(both, both)
        else:
            found = cls(Encoder(_train(source, size, "source text")), Encoder(_train(target, size, "target text")))
        with suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)  # learning from a large text leaves more than 1 GiB that is free but kept
        return found

    @property
    def joint(self) -> bool:
        return self.source is self.target

    @property
    def source_labels(self) -> tuple[str, ...]:
        return self.source.labels

    @property
    def target_labels(self) -> tuple[str, ...]:
        return self.target.labels

    def encode_source(self, lines: Iterable[str]) -> list[list[int]]:
        return self.source.encode(lines)

    def encode_target(self, lines: Iterable[str]) -> list[list[int]]:
        return self.target.encode(lines)

    def decode(self, ids: Sequence[int]) -> str:
        """The words of some target ids, a space between them; special ones are left out."""
        return self.target.tokenizer.decode([id for id in ids if id >= len(SPECIALS)])

    def text(self) -> str:
        """Both vocabularies and their merges as JSON."""
        sides = [self.source] if self.joint else [self.source, self.target]
        content = {"format": _FORMAT, "tokenizers": [json.loads(side.tokenizer.to_str()) for side in sides]}
        return json.dumps(content, ensure_ascii=False) + "\n"

    @cached_property
    def digest(self) -> str:
        return _digest(self.text())

    @classmethod
    def parse(
        cls, text: str, *, where: str = "subwords.json", advice: str = "copy it again from its run, or rerun"
    ) -> "Subwords":
        """Reads what `text` gave.

        Raises:
            UserError: these are no whole sub-words.
        """
        library = _library()
        try:
            content = json.loads(text)
            if not isinstance(content, dict) or content.get("format") != _FORMAT:
                raise ValueError(f"not marked {_FORMAT}")
            sides = [Encoder(library.Tokenizer.from_str(json.dumps(part))) for part in content["tokenizers"]]
            if len(sides) not in (1, 2) or any(side.first(len(SPECIALS)) != SPECIALS for side in sides):
                raise ValueError("no vocabulary with the special sub-words first")
        except Exception as error:  # the library raises bare ones
            raise UserError(f"{where} has no whole sub-words ({error}): {advice}") from None
        found = cls(sides[0], sides[-1])
        found.__dict__["digest"] = _digest(text)  # to write it again takes as long as to read it
        return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise missing("tokenizers") from None
    return tokenizers


def missing(package: str) -> UserError:
    """The error for a package that only translation needs."""
    return UserError(f"the package {package} is missing: pip install 'g2lstm[translation]'")


def _chain(*sides: Iterable[str]) -> Iterator[str]:
    for side in sides:
        yield from side


def _train(lines: Iterable[str], size: int, what: str) -> "Tokenizer":
    library = _library()
    from tokenizers import decoders, models, pre_tokenizers, trainers

    learner = library.Tokenizer(models.BPE())
    # No merge may spell a special sub-word, which the learner would take for the word itself.
    apart = pre_tokenizers.Split(library.Regex("<(?=/?s>|pad>|unk>)"), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), apart])
    learner.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=size, special_tokens=list(SPECIALS), show_progress=False)
    )
    found = learner.get_vocab_size()
    if found != size:
        bound = "at most" if found < size else "at least"
        raise UserError(
            f"data.vocabulary_size={size:,}: the {what} gives {bound} {found:,} sub-words: set one of {bound} {found:,}"
        )
    # A new tokenizer: the learner takes "</s>" in a text for the special sub-word.
    content = json.loads(learner.model.__getstate__())
    merges = [tuple(pair) for pair in content["merges"]]
    tokenizer = library.Tokenizer(models.BPE(content["vocab"], merges, unk_token=SPECIALS[UNK]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer
