"""Language models of runs and files, continuing a text and scoring one: for experiments/generate.py and score.py."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from g2lstm.commands.evaluate import find_model
from g2lstm.compression.readers import TorchReader
from g2lstm.compression.stored import StoredModel
from g2lstm.compression.text_model import TextModel
from g2lstm.data.text import UNK, Vocabulary
from g2lstm.errors import UserError, quoted
from g2lstm.runs.device import build_device
from g2lstm.runs.run import blamed, load_weights
from g2lstm.tasks.language_model import LanguageModelTask, new_model, perplexity


def open_text_model(name: str, overrides: dict[str, Any]) -> TextModel:
    """The language model of a run's folder or a compressed model's file, without its corpus.

    Raises:
        UserError: there is none of this name or are several, it is of another task, or not whole.
    """
    found = find_model(name, overrides)
    if isinstance(found, StoredModel):
        return TextModel.load(found.path)
    with blamed(found):
        config = found.config
        if config.task_class is not LanguageModelTask:
            raise UserError(f"its task is {config.run.task.name}, which writes no text: name a run of a language model")
        _ = found.weights  # says where there are none
        vocabulary = Vocabulary.parse(found.files["vocabulary.json"])
        model = new_model(config.task.model, len(vocabulary), config.gate)
        load_weights(model, found.folder.best, found.identity)
    return TextModel(vocabulary, TorchReader(model.to(build_device(config.run.device)).eval()))


def said_unknown(model: TextModel, text: str) -> str:
    """A line on the words that a text has and the model does not know; "" where there are none."""
    words = model.unknown(text)
    among = f"not among the {len(model.vocabulary):,} words of the vocabulary, read as {UNK}"
    return f"{among}: {quoted(words)}" if words else ""


def score_lines(model: TextModel, lines: Iterable[str]) -> Iterator[str]:
    """Of each line, as if it were the first, its perplexity, a tab and itself; the last has that of all."""
    total, count, unknown = 0.0, 0, 0
    for number, line in enumerate(lines, 1):
        losses, lacking = _scored(model, line, number)
        total, count, unknown = total + losses.sum(), count + len(losses), unknown + lacking
        yield f"{perplexity(losses.mean()):.2f}\t{line.strip()}"
    yield _summary(total, count, unknown, "each line by itself")


def score_text(model: TextModel, lines: Iterable[str]) -> str:
    """The perplexity of a text, each word after all before it."""
    tokens, unknown = list[int](), 0
    for number, line in enumerate(lines, 1):
        tokens += model.vocabulary.encode(line, where=_place(number))
        unknown += _lacking(model, line)
    losses = model.losses(tokens)
    return _summary(losses.sum(), len(losses), unknown, "one text")


def _scored(model: TextModel, line: str, number: int) -> tuple[np.ndarray, int]:
    return model.losses(model.vocabulary.encode(line, where=_place(number))), _lacking(model, line)


def _lacking(model: TextModel, line: str) -> int:
    return sum(word not in model.vocabulary.index for word in line.split())


def _place(number: int) -> str:
    return f"line {number} of the text"


def _summary(total: float, count: int, unknown: int, how: str) -> str:
    if not count:
        raise UserError("there is no text on standard input: give a file, as in < text.txt")
    rest = f", {unknown:,} of them unknown and read as {UNK}" if unknown else ""
    return f"perplexity {perplexity(total / count):.2f} over {count:,} words, ends of lines among them{rest}; {how}"
