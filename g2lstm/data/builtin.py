"""English that every Python carries: the prose of the language reference, as `pydoc_data.topics` holds it.

About 48,000 tokens, enough to watch a small model learn without any download. The text differs a little between
Python versions, so perplexities on it compare only within one; `origin` names the version.
"""

import importlib
import platform
import re

from g2lstm.data.sources import RawText
from g2lstm.errors import UserError

_BLOCK = 50  # sentences: each block gives 40 to train, then 5 to valid, then 5 to test, so every topic is in all three

_MARKUP = re.compile(r"[*\"`“”]")
_TOKEN = re.compile(r"[a-z_]+(?:['’-][a-z_]+)*|\d+(?:\.\d+)*|[^\w\s]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"*])")


def builtin_text() -> RawText:
    """The prose of Python's language reference, a tokenised sentence a line, none twice; train, valid and test as 8 : 1 : 1.

    Raises:
        UserError: this Python was installed without `pydoc_data`.
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise UserError(
            f"Python {platform.python_version()} has no pydoc_data: install the full standard library, "
            "or train on your own text with task=text data.dir=..."
        ) from None
    splits: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for index, line in enumerate(_sentences(topics)):
        place = index % _BLOCK * 10 // _BLOCK
        splits["valid" if place == 8 else "test" if place == 9 else "train"].append(line)
    return RawText(splits, f"pydoc_data.topics of Python {platform.python_version()}")


def _sentences(topics: dict[str, str]) -> list[str]:
    # Topics share whole sections: each sentence counts once, or test sentences would have been seen in train.
    lines: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in re.split(r"\n[ \t]*\n", topics[name]):
            if not _is_prose(paragraph):
                continue
            text = " ".join(re.sub(r"-\n\s*", "-", paragraph).split())
            lines.update(dict.fromkeys(tokenize(sentence) for sentence in _SENTENCE_END.split(text)))
    return [line for line in lines if line]


def _is_prose(paragraph: str) -> bool:
    """Leaves out code, grammar rules, tables and headings."""
    words = paragraph.split()
    if len(words) < 8 or words[-1][-1] not in ".:;" or any(mark in paragraph for mark in (">>>", "::=", "|", " = ")):
        return False
    return sum(character.isalpha() for character in paragraph) >= 0.8 * len("".join(words))


def tokenize(text: str) -> str:
    """Lower-case words, numbers as `N` and punctuation, with a space between; emphasis and quotation marks go."""
    tokens = _TOKEN.findall(_MARKUP.sub("", text).lower())
    return " ".join("N" if token[0].isdigit() else token for token in tokens)
