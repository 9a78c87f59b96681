"""Corpora of sentence pairs as ids. The sub-words of a text and its encoded pairs are kept in the user's cache folder."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from g2lstm.data.download import cache_folder, write_to_cache
from g2lstm.data.lines import Text, text_of
from g2lstm.data.moses import CODES, TextForm, has_escapes, has_tokens, language_code
from g2lstm.data.pair_sources import find_pairs, known_source
from g2lstm.data.pairs import SHARD, Pairs, cached_pairs, encode_pairs, refuse_none_left
from g2lstm.data.sources import SPLITS
from g2lstm.data.subwords import Subwords
from g2lstm.errors import UserError
from g2lstm.files import read_text

LONGEST = 64  # sub-words of a training sentence, as in the paper
# Pairs that sub-words are learned from, evenly spread over a larger text; number words are few.
_SAMPLE = 1_000_000
_SAMPLE_NUMBERS = 5_000


@dataclass(frozen=True, eq=False)
class ParallelCorpus:
    """Sentence pairs as ids, and what is needed to say them in words.

    Attributes:
        train: pairs without those that have an empty side or too many sub-words.
        valid: all pairs with two sides; so is `test`.
        lines: source and target lines of "valid" and "test" as they were found, one for each pair.
        subwords: of both languages.
        form: the languages, and what becomes of a line before it is cut into sub-words.
        origin: where the text comes from and how much it is, in a line.
        counts: pairs of each split and those left out, as for a summary.
        digests: of the text of each split.
    """

    train: Pairs
    valid: Pairs
    test: Pairs
    lines: dict[str, tuple[list[str], list[str]]]
    subwords: Subwords
    form: TextForm
    origin: str
    counts: dict[str, int]
    digests: dict[str, str]


def load_parallel(
    name: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = True,
    files: Mapping[str, Sequence[str | Path]] | None = None,
    languages: tuple[str, str] | None = None,
    split: str = "mixer",
    extra: bool = False,
    tokenised: bool | None = None,
    lowercase: bool | None = None,
    escaped: bool | None = None,
    own: tuple[Mapping[str, str], bool] | None = None,
    vocabulary_size: int,
    joint: bool,
    longest: int = LONGEST,
    subwords: Subwords | None = None,
) -> ParallelCorpus:
    """Reads a corpus for translation; it is encoded once and opened from the cache folder after that.

    Args:
        name: `iwslt14`, `wmt14`, `parallel` (anyone's files) or `numbers` (no files needed).
        data_dir: the only folder to look in; without it `$G2LSTM_DATA/<name>`, `data/<name>`, the cache folder, the Hub.
        download: whether the network may be used.
        files: for train, valid and test a source and a target file, or one with both in columns; instead of a folder.
        languages: source and target, as the files end; by default the corpus's own.
        split: of iwslt14, `mixer` or `fairseq`.
        extra: of iwslt14 with `mixer`, trains on fairseq's valid too where train is a part, less what another split holds.
        tokenised: whether the text has Moses' tokens; by default looked up. Other text is tokenised.
        lowercase: whether the text is used in lower case; by default as the corpus is.
        escaped: whether tokens have Moses' escapes; by default looked up where the text is tokenised.
        own: digests of the text that a run was trained on, and whether that is tokenised: then the same text is so again.
        vocabulary_size: sub-words, of both languages if `joint`, else of each.
        joint: one vocabulary for both languages.
        longest: the most sub-words of a training sentence.
        subwords: to use instead of learning some, as when a finished run is evaluated.

    Raises:
        UserError: the text can't be found, read or used, or the text gives fewer sub-words.
    """
    texts, found, counts = find_pairs(name, data_dir, download, files, languages, split, extra)
    if own and tokenised is None and all(texts[key].digest == digest for key, digest in own[0].items()):
        tokenised = own[1]
    form = _form(name, texts, languages or _endings(files), tokenised, lowercase, escaped)
    train = texts["train"]
    keep = name != "numbers"  # which is made faster than it is read
    if subwords is None:
        subwords = _learn(train, form, vocabulary_size, joint, keep=keep)

    def encode(sources: Sequence[str], targets: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        return subwords.encode_source(form.source(sources)), subwords.encode_target(form.target(targets))

    def encoded(text: Text, longest: int | None) -> Pairs:
        if not keep:
            return encode_pairs(text.read(), encode, longest=longest)
        folder = cache_folder("parallel") / _key(text.digest, subwords.digest, form, longest)
        return cached_pairs(folder, text, encode, longest=longest)

    pairs = {"train": encoded(train, longest)}
    lines = {}
    for key in ("valid", "test"):
        whole = [pair for pair in texts[key].read() if all(pair)]
        pairs[key] = encoded(text_of(whole), None)
        lines[key] = ([source for source, _ in whole], [target for _, target in whole])
    refuse_none_left(pairs["train"], "train", empty=pairs["train"].counts["dropped_empty"], longest=longest)
    for key in lines:
        refuse_none_left(pairs[key], key, empty=texts[key].pairs)
    counts |= {f"{key}_pairs": len(pairs[key]) for key in SPLITS} | pairs["train"].counts
    counts["held_out_dropped_empty"] = sum(texts[key].pairs - len(pairs[key]) for key in lines)
    return ParallelCorpus(
        **pairs,
        lines=lines,
        subwords=subwords,
        form=form,
        origin=f"{found}: {train.pairs:,} pairs, {len(pairs['train']):,} of them to train on",
        counts=counts,
        digests={key: text.digest for key, text in texts.items()},
    )


def _form(
    name: str,
    texts: Mapping[str, Text],
    languages: tuple[str, str] | None,
    tokenised: bool | None,
    lowercase: bool | None,
    escaped: bool | None,
) -> TextForm:
    if name == "numbers":
        form = TextForm(("de", "en"), tokenised=True, lowercase=False)
        for option, value in {"languages": languages, "tokenised": tokenised, "lowercase": lowercase}.items():
            if value not in (None, getattr(form, option)):
                raise UserError(f"data.{option}={value} is of no use to task=numbers, which has its own text: leave it out")
        return form
    source = known_source(name)
    if tokenised is None:
        tokenised = has_tokens({split: texts[split] for split in ("valid", "test", "train")})
    if escaped is None:
        escaped = not tokenised or has_escapes(texts["train"])
    lower = source.lowercase if lowercase is None else lowercase
    return TextForm(languages or source.languages, tokenised, lower, escaped)


def _endings(files: Mapping[str, Sequence[str | Path]] | None) -> tuple[str, str] | None:
    """The languages by which two training files end."""
    endings = [Path(str(path).removesuffix(".gz")).suffix[1:] for path in (files or {}).get("train", ())]
    known = [ending for ending in endings if language_code(ending) in CODES]
    return (known[0], known[1]) if len(known) == 2 else None


def _key(*parts: object) -> str:
    """Of what something is made from, the libraries among it."""
    versions = [version(package) for package in ("sacremoses", "tokenizers") if find_spec(package)]
    return hashlib.sha256(json.dumps([*map(str, parts), *versions]).encode()).hexdigest()[:16]


def _learn(train: Text, form: TextForm, size: int, joint: bool, *, keep: bool) -> Subwords:
    path = cache_folder("parallel") / f"subwords-{_key(train.digest, form, size, joint)}.json"
    if keep and path.is_file():
        return Subwords.parse(read_text(path), where=str(path), advice="delete it")
    step = math.ceil(train.pairs / (_SAMPLE if keep else _SAMPLE_NUMBERS))

    def lines(side: int) -> Iterator[str]:
        chosen = (pair[side] for pair in islice(train.read(), 0, None, step))
        prepare = (form.source, form.target)[side]
        for block in iter(lambda: list(islice(chosen, SHARD)), []):
            yield from prepare(block)

    subwords = Subwords.train(lines(0), lines(1), size=size, joint=joint)
    if keep:
        write_to_cache(path, subwords.text())
    return subwords
