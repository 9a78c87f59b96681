"""A language model reads text while its gates are watched. T time, B batch, N tokens, H hidden units."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from g2lstm.data.text import EOS, UNK, Vocabulary, batchify, segments
from g2lstm.errors import UserError
from g2lstm.inspection.gates import GateRecord, watched
from g2lstm.inspection.statistics import GateStatistics, Key, check_numbers
from g2lstm.models.language_model import LanguageModel

GATES = ("i", "f")  # the ones the paper shows
MOST_WORDS = 200
# A sentence of our own in words that the Penn Treebank has.
EXAMPLE = "the company said it expects to report a loss for the third quarter but analysts are n't surprised"


def first_sentences(tokens: Tensor, end: int, count: int | None) -> tuple[Tensor, int]:
    """The first `count` sentences of (N,) tokens, all without it, and how many these are; `end` closes a sentence."""
    ends = (tokens == end).nonzero().flatten()
    if count is None or count >= len(ends):
        return tokens, len(ends)
    return tokens[: int(ends[count - 1]) + 1], count


def read(
    model: nn.Module,
    tokens: Tensor,
    consume: Callable[[GateRecord, Tensor], None],
    *,
    batch_size: int = 10,
    rows: int = 70,
    gates: tuple[str, ...] = GATES,
) -> None:
    """Reads (N,) tokens in parallel streams, the state carried over, as the loss is evaluated.

    Args:
        model: a LanguageModel.
        tokens: the text; the N % B last ones are left out, and each stream's last is only predicted.
        consume: gets each gate record and the (T, B) words it belongs to; its ValueErrors are the user's.
        batch_size: B.
        rows: read at a time; memory grows with it, the values don't depend on it.
        gates: which of "i", "f", "o".

    Raises:
        UserError: a gate value is no number, as of a model that diverged.
    """
    assert isinstance(model, LanguageModel)
    stream, state, words = batchify(tokens, batch_size), None, tokens
    device = model.output_bias.device

    try:
        with torch.no_grad(), watched(model, lambda record: consume(record, words), gates):
            for start, length in segments(len(stream), rows, random=False):
                words = stream[start : start + length].to(device)
                state = model(words, state).state
    except ValueError as error:
        raise UserError(str(error)) from error


def corpus_statistics(
    model: nn.Module, tokens: Tensor, *, batch_size: int = 10, rows: int = 70, words: int | None = None
) -> GateStatistics:
    """The statistics of the input and forget gates over (N,) tokens; of each of `words` words where it is given."""
    statistics = GateStatistics(words=words)
    read(model, tokens, statistics.add, batch_size=batch_size, rows=rows)
    return statistics


def read_sentence(model: nn.Module, vocabulary: Vocabulary, text: str) -> tuple[list[str], list[str], dict[Key, Tensor]]:
    """The gates while the model reads a text, which starts and ends like a sentence of its corpus.

    Args:
        model: a LanguageModel in eval mode.
        vocabulary: its own.
        text: words between white space.

    Returns:
        the words, `<eos>` last; those among them that the model doesn't know; (N, H) values of each layer and gate.

    Raises:
        UserError: the text has no words or too many, or has one that the vocabulary can't take; or as in `read`.
    """
    if not text.split():
        raise UserError("text has no words: set text='the company said it will ...'")
    shown = [*text.split(), EOS]
    if len(shown) > MOST_WORDS:
        raise UserError(f"text has {len(shown) - 1} words, and at most {MOST_WORDS - 1} fit a figure: shorten it")
    unknown = [word for word in dict.fromkeys(shown) if word not in vocabulary.index and word != UNK]
    tokens = torch.tensor([vocabulary.index[EOS], *vocabulary.encode(text, where="text=")])
    found: dict[Key, Tensor] = {}

    def keep(record: GateRecord, _: Tensor) -> None:
        for gate, values in record.values.items():
            check_numbers(values)
            found[Key(record.name, record.layer, record.reverse, gate)] = record.steps(gate)[1:]  # after the first <eos>

    # A stream's last token is only predicted, so one more follows.
    read(model, torch.cat([tokens, tokens[:1]]), keep, batch_size=1, rows=len(tokens))
    return shown, unknown, found


def chosen_layer(names: list[str], asked: str | None) -> str:
    """The layer called `asked`; without it the first one of a decoder, or the first.

    Raises:
        UserError: there is no such layer.
    """
    if asked is not None:
        if asked in names:
            return asked
        raise UserError(f"the model has no layer {asked}: layer=... is one of {', '.join(names)}")
    return next((name for name in names if "decoder" in name), names[0])


def layer_name(key: Key) -> str:
    """ "layers.0", "encoder.1.reverse": what a layer and direction is called in tables and figures."""
    parts = [key.name or "lstm", *([str(key.layer)] if key.layer else []), *(["reverse"] if key.reverse else [])]
    return ".".join(parts)
