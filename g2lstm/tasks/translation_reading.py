"""A translation model reads one pair, and says at which target sub-word it is and what of the source it looks at."""

from typing import Any

import torch

from g2lstm.data.batching import padded_sources
from g2lstm.data.lines import detokenize
from g2lstm.errors import UserError
from g2lstm.models.translation import BOS, UNK, Translator
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
        UserError: the source has no words, or too many.
    """
    sides = _example(task) if text is None else text.split("|||")
    sources = task.read_by_model(sides[:1])
    (source,) = task.subwords.encode_source(sources)
    if not 0 < len(source) <= LONGEST_LINE:
        way = "set text='source' or text='source ||| target'"
        raise UserError(f"text has {len(source)} sub-words, which must be 1 to {LONGEST_LINE}: {way}")
    if len(sides) > 1:
        target = task.words_of(sides[1:2], 1)
        words = [BOS, *task.subwords.encode_target(target)[0]]
    else:
        words = [BOS, *task.search([model], [source], task.config.eval)[0][0].tokens]
    given, lengths = padded_sources([source])
    with torch.no_grad():
        memory = model.encode(given.to(task.device), lengths)
        inputs = torch.tensor(words, device=task.device).unsqueeze(1)
        _, attention, _ = model.decode(inputs, model.start(memory), memory)  # (T, 1, S)
    encoded = task.subwords.encode_source(sources[0].split())
    unknown = [word for word, pieces in zip(sources[0].split(), encoded, strict=True) if UNK in pieces]
    return ReadText(
        [task.labels[token] for token in words],
        unknown,
        module="decoder",
        source=[task.subwords.source_labels[token] for token in given[:, 0].tolist()],
        attention=attention[:, 0].float().cpu(),
    )


def _example(task: Any) -> tuple[str, str]:
    """A pair of our own, or one of valid; raw text."""
    for name in (task.config.data.name, "-".join(task.form.languages)):
        if name in EXAMPLES:
            return EXAMPLES[name]
    pairs = list(zip(*task.corpus.lines["valid"], strict=True))
    source, target = next((pair for pair in pairs if 8 <= len(pair[0].split()) <= 20), pairs[0])
    if not task.form.tokenised:
        return source, target
    first, second = task.form.languages
    return detokenize([source], first)[0], detokenize([target], second)[0]
