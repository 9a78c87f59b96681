"""Moses tokenisation of text and its way back, by sacremoses: what the field's translation corpora and BLEU stand on."""

from collections.abc import Iterable
from functools import cache
from typing import Any


def tokenised(lines: Iterable[str], language: str) -> list[str]:
    """Words and punctuation between single spaces, special characters escaped as "&apos;".

    Args:
        lines: raw text.
        language: its two letters, as "de"; abbreviations differ.
    """
    return [_tokenizer(language).tokenize(line, return_str=True) for line in lines]


def detokenised(lines: Iterable[str], language: str) -> list[str]:
    """Tokenised text as people write it."""
    return [_detokenizer(language).detokenize(line.split()) for line in lines]


@cache
def _tokenizer(language: str) -> Any:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=language)


@cache
def _detokenizer(language: str) -> Any:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(lang=language)
