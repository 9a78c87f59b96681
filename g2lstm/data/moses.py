"""Text as the Moses tokeniser has it: for which languages, and whether a text has its tokens already."""

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from typing import Any

from g2lstm.data.lines import Text
from g2lstm.data.subwords import missing
from g2lstm.errors import UserError

_BLOCK = 5_000  # lines that a process tokenises at a time
_MOST_PROCESSES = 16
_JUDGED = 2_000  # pairs of a split by which its form is judged
_FEW, _SHARE = 5, 0.1  # sentence ends, and of all lines, that say nothing of a text
_STOPS = (".", "。", "؟")  # before other marks some languages have a space in raw text too
_NO_STOP = re.compile(r"(\. ?|\w\.\w)\.$")  # "...", "U.S.": Moses leaves these as they are
_ESCAPES = re.compile("&(apos|quot|amp|lt|gt|#91|#93|#124);")
_LANGUAGES = {
    "asm": "as", "ben": "bn", "cat": "ca", "ces": "cs", "chi": "zh", "cmn": "zh", "cze": "cs", "deu": "de", "dut": "nl",
    "ell": "el", "eng": "en", "est": "et", "fin": "fi", "fra": "fr", "fre": "fr", "ger": "de", "gle": "ga", "gre": "el",
    "guj": "gu", "hin": "hi", "hun": "hu", "ice": "is", "isl": "is", "ita": "it", "jpn": "ja", "kan": "kn", "kor": "ko",
    "lav": "lv", "lit": "lt", "mal": "ml", "mar": "mr", "nld": "nl", "ori": "or", "pan": "pa", "pol": "pl", "por": "pt",
    "ron": "ro", "rum": "ro", "rus": "ru", "slk": "sk", "slo": "sk", "slv": "sl", "spa": "es", "swe": "sv", "tam": "ta",
    "tel": "te", "zho": "zh",
}  # fmt: skip
CODES = frozenset(_LANGUAGES.values())


@dataclass(frozen=True)
class TextForm:
    """What becomes of a line before it is cut into sub-words.

    Attributes:
        languages: source and target.
        tokenised: it has Moses' tokens already.
        lowercase: it is used in lower case.
        escaped: its tokens have Moses' escapes, as `&apos;`.
    """

    languages: tuple[str, str]
    tokenised: bool
    lowercase: bool
    escaped: bool = True

    def source(self, lines: Sequence[str]) -> Sequence[str]:
        return self._side(lines, 0)

    def target(self, lines: Sequence[str]) -> Sequence[str]:
        return self._side(lines, 1)

    def of_raw(self, lines: Sequence[str], side: int) -> list[str]:
        """Raw text of the source (0) or the target (1) in the words that the corpus has."""
        return tokenize(lines, self.languages[side], lower=self.lowercase, escape=self.escaped)

    @property
    def values(self) -> dict[str, Any]:
        """All that is kept of it; of a text with the usual escapes no word of them, as in older runs."""
        return {name: value for name, value in asdict(self).items() if name != "escaped" or not value}

    def __str__(self) -> str:
        return f"TextForm({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"

    @property
    def reading(self) -> tuple[str, str, bool, bool]:
        """What becomes of raw text: that of two models in one ensemble is the same."""
        first, second = map(moses_language, self.languages)
        return first, second, self.lowercase, self.escaped

    def _side(self, lines: Sequence[str], side: int) -> Sequence[str]:
        if not self.tokenised:
            return self.of_raw(lines, side)
        return [line.lower() for line in lines] if self.lowercase else lines


def has_tokens(texts: Mapping[str, Text]) -> bool:
    """Whether the text has Moses' tokens, by the ends of its sentences.

    Raises:
        UserError: one side or split has and another has not.
    """
    found: dict[str, bool] = {}
    spaced = total = 0
    for name, text in texts.items():
        for side, language in enumerate(("source", "target")):
            lines = [pair[side] for pair in islice(text.read(), _JUDGED)]
            apart, ends = _ends(lines)
            spaced, total = spaced + apart, total + ends
            if ends >= max(_FEW, _SHARE * len(lines)):
                found[f"{language} of {name}"] = apart * 2 > ends
    if len({*found.values()}) > 1:
        have, have_not = ([name for name, value in found.items() if value is wanted] for wanted in (True, False))
        raise UserError(
            f"the {have[0]} has a space before its full stops, as after the Moses tokeniser, the {have_not[0]} has none: "
            "tokenise all or nothing, or set data.tokenised=true to read all as it is, false to read all as raw text"
        )
    return next(iter(found.values()), spaced * 2 > total)


def looks_tokenised(lines: Iterable[str]) -> bool:
    """Whether most sentences that end in a full stop have a space before it."""
    spaced, total = _ends(lines)
    return spaced * 2 > total


def _ends(lines: Iterable[str]) -> tuple[int, int]:
    """Sentences that end in a full stop after a space, and in any full stop."""
    before = [line[-2:-1] for line in lines if line[-1:] in _STOPS and not _NO_STOP.search(line)]
    return before.count(" "), len(before)


def has_escapes(text: Text) -> bool:
    """Whether tokenised text has Moses' escapes, or nothing that they would stand for. A few are leftovers."""
    lines = [line for pair in islice(text.read(), _JUDGED) for line in pair]
    bare = sum("'" in line or '"' in line for line in lines)
    return sum(_ESCAPES.search(line) is not None for line in lines) >= bare


def refuse_escapes(text: str) -> None:
    """A UserError where text that should be raw has Moses' escapes."""
    if found := _ESCAPES.search(text):
        raise UserError(f"text has {found[0]!r}, an escape of the Moses tokeniser: write raw text, as people do")


def language_code(name: str) -> str:
    """How a language is called, without its region and in two letters where a code has three: `eng` and `en_US` are `en`."""
    first = re.split("[-_.]", name.lower())[0]
    return _LANGUAGES.get(first, first)


@cache
def moses_language(name: str) -> str:
    """The language whose Moses rules are used for a side that is called so: `en`, `eng`, `English` and `en_US` are `en`.

    For a name that says nothing, as `source`, and a language without rules of its own these are the English ones, whose
    tokeniser and detokeniser at least undo each other.
    """
    _need_moses()
    from sacremoses.corpus import NonbreakingPrefixes

    rules = NonbreakingPrefixes().available_langs  # by name
    code = language_code(name)
    code = rules.get(code, code)
    return code if code in {*rules.values(), "ja", "ko", "zh"} else "en"


def tokenize(lines: Sequence[str], language: str, *, lower: bool = False, escape: bool = True) -> list[str]:
    """Lines as the Moses tokeniser has them: a space around punctuation, and its escapes; many lines use all cores."""

    def of_block(block: Sequence[str]) -> list[str]:  # a local function goes to other processes without our imports
        from sacremoses import MosesTokenizer

        moses = MosesTokenizer(code)
        return [moses.tokenize(line, return_str=True, escape=escape) for line in block]

    _need_moses()
    code = moses_language(language)
    if len(lines) <= 2 * _BLOCK:
        tokenised = of_block(lines)
    else:
        import joblib

        blocks = (lines[start : start + _BLOCK] for start in range(0, len(lines), _BLOCK))
        run = joblib.Parallel(n_jobs=min(_MOST_PROCESSES, os.cpu_count() or 1))
        tokenised = [line for block in run(joblib.delayed(of_block)(block) for block in blocks) for line in block]
    return [line.lower() for line in tokenised] if lower else tokenised


def detokenize(lines: Iterable[str], language: str) -> list[str]:
    """What `tokenize` gave as people write it; letters stay as they are."""
    _need_moses()
    from sacremoses import MosesDetokenizer

    moses = MosesDetokenizer(moses_language(language))
    return [moses.detokenize(line.split()) for line in lines]


def _need_moses() -> None:
    if importlib.util.find_spec("sacremoses") is None:
        raise missing("sacremoses")
