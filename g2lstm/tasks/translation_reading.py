"""A translation model reads one pair, and says at which target sub-word it is and what of the source it looks at."""

from typing import Any

import torch
from torch import Tensor

from g2lstm.data.batching import padded_sources
from g2lstm.data.moses import detokenize, refuse_escapes
from g2lstm.data.subwords import SPECIALS
from g2lstm.errors import UserError
from g2lstm.models.translation import BOS, EOS, Translator
from g2lstm.training.task import ReadText

LONGEST_LINE = 1000  # sub-words of a line to translate
# Pairs of our own, by task or by languages.
EXAMPLES = {
    "numbers": ("dreiundzwanzigtausendvierhundertelf", "twenty-three thousand four hundred eleven"),
    "de-en": ("Wir wissen noch nicht, ob das im Winter funktioniert.", "We don't know yet whether this works in winter."),
    "en-de": ("We don't know yet whether this works in winter.", "Wir wissen noch nicht, ob das im Winter funktioniert."),
}


def read_pair(task: Any, model: Translator, text: str | None) -> ReadText:
    """The model reads "source ||| target", or of a source alone its own translation; without a text an example.

    Args:
        task: a `TranslationTask`.
        model: in eval mode.
        text: raw.

    Raises:
        UserError: the source has no words, or too many, or there are more than two sides, or text has Moses' escapes.
    """
    refuse_escapes(text or "")
    sides = _example(task) if text is None else text.split("|||")
    if len(sides) > 2:
        raise UserError(f"text has {len(sides)} sides: write one 'source ||| target'")
    (given,) = task.read_by_model(sides[:1])
    (source,) = task.subwords.encode_source([given])
    if not 0 < len(source) <= LONGEST_LINE:
        way = "set text='source' or text='source ||| target'"
        raise UserError(f"text has {len(source)} sub-words, which must be 1 to {LONGEST_LINE}: {way}")
    unknown, subwords = task.subwords.source.unknown(given), task.subwords
    if len(sides) > 1:
        (target,) = task.words_of(sides[1:], 1)
        words, labels = subwords.encode_target([target])[0], subwords.target.shown(target)
        unknown += subwords.target.unknown(target)
    else:
        words = task.search([model], [source], task.config.eval)[0][0].tokens
        labels = [task.labels[token] for token in words]
    words, labels = [BOS, *words], [task.labels[BOS], *labels]
    attention = attention_of(model, source, words, task.device)
    return ReadText(
        labels,
        unknown,
        modules=("decoder", "upper_decoder"),
        source=[*subwords.source.shown(given), SPECIALS[EOS]],
        attention=attention,
        unit="sub-word",
    )


def attention_of(model: Translator, source: list[int], words: list[int], device: torch.device) -> Tensor:
    """(T, S) on the CPU, what a model looks at in the sub-words of a source and their end after each word, `<s>` first."""
    padded, lengths = padded_sources([source])
    with torch.no_grad():
        memory = model.encode(padded.to(device), lengths)
        inputs = torch.tensor(words, device=device).unsqueeze(1)
        _, attention, _ = model.decode(inputs, model.start(memory), memory)  # (T, 1, S)
    return attention[:, 0].float().cpu()


def _example(task: Any) -> tuple[str, str]:
    """A pair of our own, or one of valid where the model does not know its words; raw text."""
    for name in (task.config.data.name, "-".join(task.form.languages)):
        if name in EXAMPLES and not task.unknown(EXAMPLES[name][0]):
            return EXAMPLES[name]
    try:
        pairs = list(zip(*task.corpus.lines["valid"], strict=True))
    except UserError as error:
        raise UserError(f"{error}; or set text='source ||| target'") from None
    source, target = next((pair for pair in pairs if 8 <= len(pair[0].split()) <= 20), pairs[0])
    if not task.form.tokenised:
        return source, target
    first, second = task.form.languages
    return detokenize([source], first)[0], detokenize([target], second)[0]
