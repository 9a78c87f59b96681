"""Text as a language model reads it: a vocabulary, one long stream of token ids a split, and its columns and segments.

N tokens, T time, B batch. Every line ends in `<eos>`; a blank line is an `<eos>` alone, as WikiText is counted everywhere.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from g2lstm.data.builtin import builtin_text
from g2lstm.data.sources import load_lines
from g2lstm.errors import UserError

EOS = "<eos>"
UNK = "<unk>"
_FORMAT = "g2lstm-vocabulary-1"


@dataclass(frozen=True)
class Vocabulary:
    """Distinct tokens without white space, each one's id its place.

    Raises:
        ValueError: a token twice or with white space, or no `<eos>`.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.index) != len(self.tokens):
            raise ValueError(f"a token stands twice: {Counter(self.tokens).most_common(1)[0][0]!r}")
        if EOS not in self.index:
            raise ValueError(f"no {EOS} among {len(self.tokens):,} tokens")
        for token in self.tokens:
            if token.split() != [token]:
                raise ValueError(f"a token is empty or has white space: {token!r}")

    @cached_property
    def index(self) -> dict[str, int]:
        return {token: id for id, token in enumerate(self.tokens)}

    @classmethod
    def build(cls, lines: Iterable[str], *, min_count: int = 1, max_vocabulary: int | None = None) -> "Vocabulary":
        """The tokens of the train lines by first appearance, `<eos>` included.

        Args:
            lines: of the train split.
            min_count: words seen fewer times become `<unk>`; above 1 the vocabulary always has an `<unk>`.
            max_vocabulary: keeps the most frequent words only, `<eos>` and `<unk>` counted; the others become `<unk>`.
        """
        words = [line.split() for line in lines]
        seen = dict.fromkeys(word for line in words for word in [*line, EOS])
        if min_count == 1 and max_vocabulary is None:
            return cls(tuple(seen))
        counts = Counter(word for line in words for word in line if word not in (EOS, UNK))
        limit = None if max_vocabulary is None else max_vocabulary - 2
        kept = {word for word, count in counts.most_common(limit) if count >= min_count} | {EOS, UNK}
        return cls(tuple(dict.fromkeys([*(word if word in kept else UNK for word in seen), UNK])))

    def encode(self, line: str, *, where: str = "the text") -> list[int]:
        """The ids of a line's words, between white space, and of `<eos>` after them.

        Raises:
            UserError: a word outside a vocabulary that has no `<unk>`, told with `where` it stands.
        """
        index, words = self.index, line.split()
        unknown = index.get(UNK, -1)
        ids = [index.get(word, unknown) for word in words]
        if -1 in ids:
            word = words[ids.index(-1)]
            raise UserError(
                f"{word!r} ({where}) is not in the vocabulary of {len(self):,} train words, which has no {UNK}: "
                f"set data.min_count=2, so that words seen once in train become {UNK}, or put {UNK} in the text"
            )
        return [*ids, index[EOS]]

    def __len__(self) -> int:
        return len(self.tokens)

    def text(self) -> str:
        """The vocabulary as JSON, a token a line."""
        return json.dumps({"format": _FORMAT, "tokens": self.tokens}, ensure_ascii=False, indent=0) + "\n"

    @classmethod
    def parse(cls, text: str, *, where: str = "vocabulary.json") -> "Vocabulary":
        """Reads what `text` gave; a UserError where it is not a whole vocabulary."""
        try:
            content = json.loads(text)
            if content["format"] != _FORMAT:
                raise ValueError(f"not marked {_FORMAT}")
            return cls(tuple(content["tokens"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{where} is no whole vocabulary ({error}): copy it again from its run, or rerun") from None


@dataclass(frozen=True, eq=False)
class TextCorpus:
    """A vocabulary and the token ids of each split: int64 (N,)."""

    vocabulary: Vocabulary
    train: Tensor
    valid: Tensor
    test: Tensor
    origin: str


def load_corpus(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    min_count: int = 1,
    max_vocabulary: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> TextCorpus:
    """Reads a corpus for word-level language modelling.

    Args:
        name: `ptb`, `text` (any folder with train, valid and test text) or `builtin` (no files needed).
        data_dir, download: as in `sources.load_lines`.
        min_count, max_vocabulary: as in `Vocabulary.build`.
        vocabulary: a vocabulary to use instead of building one, as when a finished run is evaluated.

    Raises:
        UserError: the text can't be found or read, or has a word the vocabulary can't take.
    """
    if name == "builtin" and data_dir:
        raise UserError(f"data.dir={data_dir} with the builtin corpus, which reads no files: use task=text")
    raw = builtin_text() if name == "builtin" else load_lines(name, data_dir=data_dir, download=download)
    if vocabulary is None:
        vocabulary = Vocabulary.build(raw.splits["train"], min_count=min_count, max_vocabulary=max_vocabulary)
    streams = {}
    for split, lines in raw.splits.items():
        ids: list[int] = []
        for number, line in enumerate(lines, 1):
            ids += vocabulary.encode(line, where=f"line {number} of {split} in {raw.origin}")
        streams[split] = torch.tensor(ids, dtype=torch.int64)  # (N,)
    return TextCorpus(vocabulary, **streams, origin=raw.origin)


def batchify(tokens: Tensor, batch_size: int) -> Tensor:
    """Cuts a stream (N,) into B = batch_size columns that are read side by side; the N % B last tokens are left out.

    Returns:
        (N // B, B); column b holds the tokens from b * (N // B) on.

    Raises:
        UserError: fewer than 2 rows, so that no token has a next one.
    """
    rows = tokens.numel() // batch_size
    if rows < 2:
        raise UserError(
            f"{tokens.numel():,} tokens are too few for batch_size {batch_size}, which needs {2 * batch_size:,}: "
            "lower the batch size or bring more text"
        )
    return tokens[: rows * batch_size].view(batch_size, rows).t().contiguous()  # (N // B, B)


def segments(
    length: int, bptt: int, generator: torch.Generator | None = None, *, random: bool = True
) -> list[tuple[int, int]]:
    """Cuts the rows of `batchify` into stretches for truncated back-propagation through time.

    AWD-LSTM draws each length: `max(5, int(N(base, 5)))`, base = bptt with probability 0.95, else bptt / 2. The last
    stretch is what is left. The inputs of (start, T) are rows start .. start + T - 1, the targets one row later. The
    same generator state gives the same list, so a place in an epoch is found again by computing it anew.

    Args:
        length: number of rows.
        bptt: mean stretch, in rows.
        generator: source of the draws; torch's default generator when absent.
        random: False gives stretches of exactly `bptt`, as for evaluation.

    Returns:
        (start, T) pairs that cover rows 0 .. length - 2 without gap or overlap.
    """
    pairs: list[tuple[int, int]] = []
    start, steps = 0, bptt
    while start < length - 1:  # deviation: AWD-LSTM leaves out a last stretch of one row
        if random:
            base = bptt if torch.rand((), generator=generator).item() < 0.95 else bptt / 2
            steps = max(5, int(base + 5 * torch.randn((), generator=generator).item()))
        pairs.append((start, min(steps, length - 1 - start)))
        start += steps
    return pairs
