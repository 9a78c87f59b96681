"""Corpora of sentence pairs: where each comes from, and how it becomes sub-words.

A split is two files, `train.de` and `train.en`, or one of `source TAB target`, `train.tsv`; each may be a .gz. What came
over the network, the sub-words of a text and its encoded pairs are kept in the user's cache folder.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from g2lstm.data.download import HubFiles, UnavailableError, cache_folder, open_hub
from g2lstm.data.lines import Text, find_text, looks_tokenised, open_text, text_of, tokenize
from g2lstm.data.numbers import number_pairs
from g2lstm.data.pairs import SHARD, Pairs, cached_pairs, encode_pairs, refuse_none_left
from g2lstm.data.sources import SPLITS, local_folders
from g2lstm.data.subwords import Subwords
from g2lstm.errors import UserError
from g2lstm.files import read_text, write_atomically, writing

EXTRA = "valid-fairseq"  # of iwslt14: may be trained on where it isn't held out
LONGEST = 64  # sub-words of a training sentence, as in the paper
# Pairs that sub-words are learned from, evenly spread over a larger text; number words are few.
_SAMPLE = 1_000_000
_SAMPLE_NUMBERS = 5_000


@dataclass(frozen=True)
class ParallelSource:
    """What is known of one corpus.

    Args:
        languages: source and target, as its files end.
        files: for each way to split it, the names of train, valid and test before the language.
        hub: its parquet files; the splits are called by the last names of `files`.
        lowercase: whether its text is used in lower case.
    """

    languages: tuple[str, str]
    files: Mapping[str, tuple[str, str, str]]
    hub: HubFiles | None = None
    lowercase: bool = False


_PLAIN = {"": SPLITS}
SOURCES: dict[str, ParallelSource] = {
    "iwslt14": ParallelSource(
        languages=("de", "en"),
        files={"mixer": SPLITS, "fairseq": ("train", "valid-fairseq", "test-fairseq")},
        hub=HubFiles(
            path="bbaaaa/iwslt14-de-en-preprocess",
            revision="refs/convert/parquet",
            data_files={
                "train": "*/train/*.parquet",
                "valid-fairseq": "*/validation/*.parquet",
                "test-fairseq": "*/test/*.parquet",
            },
            column="translation",
        ),
        lowercase=True,
    ),
    "wmt14": ParallelSource(
        languages=("en", "de"),
        files=_PLAIN,
        hub=HubFiles(
            path="wmt/wmt14",
            revision=None,
            data_files={
                "train": "de-en/train-*.parquet",
                "valid": "de-en/validation-*.parquet",
                "test": "de-en/test-*.parquet",
            },
            column="translation",
        ),
    ),
    "parallel": ParallelSource(languages=("source", "target"), files=_PLAIN),
}

# Pairs that a file of a corpus may hold in each way to split it, and the word counts of a tokenised one. The first is the
# whole of it, 58,795 the part that is passed around. fairseq's training text has much of mixer's valid in it.
COUNTS: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {
    "iwslt14": {
        "mixer": {"train": (153_326, 58_795), "valid": (6_969,), "test": (6_750,)},
        "fairseq": {"train": (160_239, 58_795), "valid-fairseq": (7_283,), "test-fairseq": (6_750,)},
    },
}
HUB_COUNTS = {
    "iwslt14": {"train": 160_239, "valid-fairseq": 7_283, "test-fairseq": 6_750},
    "wmt14": {"train": 4_508_785, "valid": 3_000, "test": 3_003},
}
WORDS: dict[str, dict[str, tuple[int, int]]] = {
    "iwslt14": {
        "valid": (122_327, 129_091),
        "test": (125_738, 131_141),
        "valid-fairseq": (140_433, 148_225),
        "test-fairseq": (125_754, 131_156),
    },
}


@dataclass(frozen=True)
class TextForm:
    """What becomes of a line before it is cut into sub-words.

    Attributes:
        languages: source and target.
        tokenised: it has Moses' tokens already.
        lowercase: it is used in lower case.
    """

    languages: tuple[str, str]
    tokenised: bool
    lowercase: bool

    def source(self, lines: Sequence[str]) -> Sequence[str]:
        return self._side(lines, 0)

    def target(self, lines: Sequence[str]) -> Sequence[str]:
        return self._side(lines, 1)

    def _side(self, lines: Sequence[str], side: int) -> Sequence[str]:
        if not self.tokenised:
            return tokenize(lines, self.languages[side], lower=self.lowercase)
        return [line.lower() for line in lines] if self.lowercase else lines


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
        extra: of iwslt14 with `mixer`, trains on fairseq's valid too, less what another split holds.
        tokenised: whether the text has Moses' tokens; by default looked up in valid. Other text is tokenised.
        lowercase: whether the text is used in lower case; by default as the corpus is.
        vocabulary_size: sub-words, of both languages if `joint`, else of each.
        joint: one vocabulary for both languages.
        longest: the most sub-words of a training sentence.
        subwords: to use instead of learning some, as when a finished run is evaluated.

    Raises:
        UserError: the text can't be found, read or used, or the text gives fewer sub-words.
    """
    texts, found, counts = _find(name, data_dir, download, files, languages, split, extra)
    form = _form(name, texts, languages, tokenised, lowercase)
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
    for key in SPLITS:
        refuse_none_left(pairs[key], key, longest)
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
    name: str, texts: Mapping[str, Text], languages: tuple[str, str] | None, tokenised: bool | None, lowercase: bool | None
) -> TextForm:
    if name == "numbers":
        form = TextForm(("de", "en"), tokenised=True, lowercase=False)
        for option, value in {"languages": languages, "tokenised": tokenised, "lowercase": lowercase}.items():
            if value not in (None, getattr(form, option)):
                raise UserError(f"data.{option}={value} is of no use to task=numbers, which has its own text: leave it out")
        return form
    source = _source(name)
    if tokenised is None:
        tokenised = looks_tokenised(target for _, target in texts["valid"].read())
    return TextForm(languages or source.languages, tokenised, source.lowercase if lowercase is None else lowercase)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _learn(train: Text, form: TextForm, size: int, joint: bool, *, keep: bool) -> Subwords:
    path = cache_folder("parallel") / f"subwords-{_key(train.digest, form, size, joint)}.json"
    if keep and path.is_file():
        return Subwords.parse(read_text(path), where=str(path))
    step = math.ceil(train.pairs / (_SAMPLE if keep else _SAMPLE_NUMBERS))

    def lines(side: int) -> Iterator[str]:
        chosen = (pair[side] for pair in islice(train.read(), 0, None, step))
        prepare = (form.source, form.target)[side]
        for block in iter(lambda: list(islice(chosen, SHARD)), []):
            yield from prepare(block)

    subwords = Subwords.train(lines(0), lines(1), size=size, joint=joint)
    if keep:
        write_atomically(path, subwords.text())
    return subwords


def _find(
    name: str,
    data_dir: str | Path | None,
    download: bool,
    files: Mapping[str, Sequence[str | Path]] | None,
    languages: tuple[str, str] | None,
    split: str,
    extra: bool,
) -> tuple[dict[str, Text], str, dict[str, int]]:
    """The text of each split, where it comes from, and the counts that only its source knows."""
    if (extra or split != "mixer") and (name != "iwslt14" or files):
        given = "data.extra=true" if extra else f"data.split={split}"
        raise UserError(
            f"{given} is for iwslt14 in its own folder alone: leave it out, or set data.extra=false data.split=mixer"
        )
    if name == "numbers":
        if data_dir or files:
            raise UserError(
                "data.dir and data.files are of no use to task=numbers, which reads no files: task=parallel does"
            )
        return {key: text_of(pairs) for key, pairs in number_pairs().items()}, "number words, made here", {}
    source = _source(name)
    languages = languages or source.languages
    if data_dir and files:
        raise UserError("data.dir and data.files both name the text: set one to null")
    if extra and split != "mixer":
        raise UserError(f"data.extra=true with data.split={split}, which tests on that text: set data.split=mixer")
    if files:
        absent = [key for key in SPLITS if not files.get(key)]
        if absent:
            raise UserError(f"data.files has no {', '.join(absent)}: name the files of train, valid and test")
        texts = {key: open_text([Path(path).expanduser() for path in files[key]]) for key in SPLITS}
        return texts, f"{name} from {files['train'][0]}", {}
    names = source.files.get(split if len(source.files) > 1 else "")
    if names is None:
        raise UserError(f"data.split={split} is no split of {name}: choose one of {', '.join(source.files)}")
    folder = _folder(name, names, languages, data_dir, download)
    texts = {key: _open(name, split, folder, stem, languages) for key, stem in zip(SPLITS, names, strict=True)}
    known = COUNTS.get(name)
    counts = {"train_pairs_of_whole": known[split]["train"][0]} if known else {}
    if extra:
        before = texts["train"].pairs
        texts["train"] = _with_extra(texts, _open(name, "fairseq", folder, EXTRA, languages))
        counts["train_pairs_extra"] = texts["train"].pairs - before
    return texts, f"{name} under {folder}", counts


def _source(name: str) -> ParallelSource:
    if name not in SOURCES:
        raise UserError(f"no corpus is called {name!r}: choose one of {', '.join([*SOURCES, 'numbers'])}")
    return SOURCES[name]


def _folder(
    name: str, stems: Sequence[str], languages: tuple[str, str], data_dir: str | Path | None, download: bool
) -> Path:
    """The first folder that has all files; else one that they are written to from the Hub."""
    tried, instead = [], ""
    for folder in [Path(data_dir).expanduser()] if data_dir else local_folders(name):
        absent = [stem for stem in stems if not find_text(folder, stem, languages)]
        if not absent:
            return folder
        tried.append(f"{folder} ({'no ' + ', '.join(absent) if folder.is_dir() else 'no such folder'})")
    source = _source(name)
    hub = source.hub
    if hub and download and not data_dir:
        if set(stems) <= set(hub.data_files):
            try:
                return _from_hub(name, hub, languages)
            except UnavailableError as error:
                tried.append(str(error))
        else:
            tried.append(f"{hub.path} on the Hub (has no {' or '.join(sorted({*stems} - {*hub.data_files}))})")
            there = [split for split, names in source.files.items() if set(names) <= set(hub.data_files)]
            instead = "".join(f"; or set data.split={split}, which the Hub has" for split in there)
    wanted = ", ".join(f"{stem}.{languages[0]} and .{languages[1]}" for stem in stems)
    raise UserError(
        f"no {name} corpus: looked in {'; '.join(tried)}. Ways out: set data.dir=FOLDER to one with {wanted}"
        f"{' (or .tsv of both in columns)' if name == 'parallel' else ''}; or put them under $G2LSTM_DATA/{name}{instead}"
    )


def _from_hub(name: str, hub: HubFiles, languages: tuple[str, str]) -> Path:
    """Writes a dataset of the Hub to the cache folder, as files of lines."""
    splits, folder = open_hub(hub), cache_folder(name)
    found = {stem: len(rows) for stem, rows in splits.items()}
    if found != HUB_COUNTS[name]:
        raise UnavailableError(f"{hub.path} on the Hub (it has {found}, expected {HUB_COUNTS[name]})")
    for stem, rows in splits.items():
        for language in languages:
            path = folder / f"{stem}.{language}"
            part = path.with_name(f".{path.name}")
            with writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                with part.open("w", encoding="utf-8") as file:
                    for block in rows.iter(SHARD):
                        file.writelines(" ".join(pair[language].split()) + "\n" for pair in block[hub.column])
                part.replace(path)
    return folder


def _open(name: str, split: str, folder: Path, stem: str, languages: tuple[str, str]) -> Text:
    """A split in a folder that has it, its counts checked."""
    files = find_text(folder, stem, languages)
    if not files:
        raise UserError(f"no {stem}.{languages[0]} under {folder}, nor {stem}.tsv: put it there")
    text = open_text(files)
    pairs, words = COUNTS.get(name, {}).get(split, {}).get(stem), WORDS.get(name, {}).get(stem)
    wrong = None
    if pairs and text.pairs not in pairs:
        wrong = f"{text.pairs:,} pairs, expected {' or '.join(f'{count:,}' for count in pairs)} with data.split={split}"
    elif words and looks_tokenised(target for _, target in text.read()):
        found = tuple(sum(len(line.split()) for line in side) for side in zip(*text.read(), strict=True))
        if found != words:
            wrong = f"{found[0]:,} and {found[1]:,} words, expected {words[0]:,} and {words[1]:,}"
    if wrong:
        raise UserError(f"{files[0]} has {wrong}: put the published files there, or train on yours with task=parallel")
    return text


def _with_extra(texts: Mapping[str, Text], extra: Text) -> Text:
    """The training text and those pairs of another that no split holds."""
    held = set(chain.from_iterable(text.read() for text in texts.values()))
    more = [pair for pair in dict.fromkeys(extra.read()) if pair not in held]
    train, added = texts["train"], text_of(more)
    digest = hashlib.sha256(f"{train.digest} {added.digest}".encode()).hexdigest()
    return Text(lambda: chain(train.read(), more), train.pairs + len(more), digest)
