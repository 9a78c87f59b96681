"""Where sentence pairs come from: a local folder, else the Hugging Face Hub, else an archive by URL.

A split is two files, `train.de` and `train.en`, or one of `source TAB target`, `train.tsv`; each may be a .gz. What came
over the network is kept in the user's cache folder.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from g2lstm.data import iwslt14
from g2lstm.data.download import HubFiles, RawFile, UnavailableError, cache_folder, fetch, open_hub, write_to_cache
from g2lstm.data.lines import Text, find_text, open_text, text_of
from g2lstm.data.moses import looks_tokenised
from g2lstm.data.numbers import number_pairs
from g2lstm.data.pairs import SHARD
from g2lstm.data.sources import SPLITS, local_folders
from g2lstm.errors import UserError

EXTRA = "valid-fairseq"  # of iwslt14: may be trained on where it isn't held out


@dataclass(frozen=True)
class ParallelSource:
    """What is known of one corpus.

    Args:
        languages: source and target, as its files end.
        files: for each way to split it, the names of train, valid and test before the language.
        hub: its parquet files; the splits are called by the last names of `files`.
        archive: what `g2lstm.data.iwslt14` reads.
        lowercase: whether its text is used in lower case.
    """

    languages: tuple[str, str]
    files: Mapping[str, tuple[str, str, str]]
    hub: HubFiles | None = None
    archive: RawFile | None = None
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
        archive=iwslt14.ARCHIVE,
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
# Where any part is trained on: newstest2013, alone or with 2012 as in the paper; newstest2014, also its first edition.
HELD_OUT = {"wmt14": {"valid": (3_000, 6_003), "test": (3_003, 2_737)}}
APART = 0.001  # share of pairs that sacremoses may keep or leave out where Moses doesn't
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


def find_pairs(
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
    source = known_source(name)
    languages = languages or source.languages
    if data_dir and files:
        raise UserError("data.dir and data.files both name the text: set one to null")
    if extra and split != "mixer":
        raise UserError(
            f"data.extra=true with data.split={split}, which tests on that text: set data.extra=false, or data.split=mixer"
        )
    if files:
        absent = [key for key in SPLITS if not files.get(key)]
        if absent:
            raise UserError(f"data.files has no {', '.join(absent)}: name the files of train, valid and test")
        texts = {key: open_text([Path(path).expanduser() for path in files[key]]) for key in SPLITS}
        return texts, f"{name} from {files['train'][0]}", {}
    names = source.files.get(split if len(source.files) > 1 else "")
    if names is None:
        raise UserError(f"data.split={split} is no split of {name}: choose one of {', '.join(source.files)}")
    folder = _folder(name, split, names, languages, data_dir, download, extra)
    texts = {key: _open(name, split, folder, stem, languages) for key, stem in zip(SPLITS, names, strict=True)}
    whole, found = _whole(name, split), texts["train"].pairs
    counts = {"train_pairs_of_whole": whole} if whole else {}
    if extra and found < (1 - APART) * whole:
        if not find_text(folder, EXTRA, languages):
            raise UserError(
                f"data.extra=true adds {EXTRA}.{languages[0]} and .{languages[1]} to a part of the training text, "
                f"and {folder} has none: put them there, or set data.extra=false"
            )
        texts["train"] = _with_extra(texts, _open(name, "fairseq", folder, EXTRA, languages))
    if extra:
        counts["train_pairs_extra"] = texts["train"].pairs - found
    return texts, f"{name} under {folder}", counts


def known_source(name: str) -> ParallelSource:
    if name not in SOURCES:
        raise UserError(f"no corpus is called {name!r}: choose one of {', '.join([*SOURCES, 'numbers'])}")
    return SOURCES[name]


def _whole(name: str, split: str) -> int:
    """Pairs of the whole training text; 0 where that is not known."""
    if name in COUNTS:
        return COUNTS[name][split]["train"][0]
    return HUB_COUNTS.get(name, {}).get("train", 0)


def _folder(
    name: str, split: str, stems: Sequence[str], languages: tuple[str, str], data_dir: str | Path | None, download: bool,
    extra: bool,
) -> Path:  # fmt: skip
    """The first folder that has all files; else one that they are written to from the network."""
    source, tried, instead = known_source(name), [], ""
    folders = [Path(data_dir).expanduser()] if data_dir else local_folders(name)
    if source.archive and not data_dir:
        folders.append(_prepared(name, split))
    own = (cache_folder(name), _prepared(name, split))
    for folder in folders:
        absent = [stem for stem in stems if not _has(folder, stem, languages, written_here=folder in own)]
        if not absent:
            return folder
        tried.append(f"{folder} ({'no ' + ', '.join(absent) if folder.is_dir() else 'no such folder'})")
    online = download and not data_dir
    if source.hub and online:
        if set(stems) <= set(source.hub.data_files):
            try:
                return _from_hub(name, source.hub, languages)
            except UnavailableError as error:
                tried.append(str(error))
        else:
            lacking = " or ".join(sorted({*stems} - {*source.hub.data_files}))
            tried.append(f"{source.hub.path} on the Hub (has no {lacking})")
            there = [other for other, names in source.files.items() if set(names) <= set(source.hub.data_files)]
            less = " data.extra=false" if extra else ""
            instead = "".join(f"; or set data.split={other}{less}, which the Hub has" for other in there)
    if source.archive and online:
        try:
            return _from_archive(name, split, source.archive, stems)
        except UnavailableError as error:
            tried.append(str(error))
    wanted = ", ".join(f"{stem}.{languages[0]} and .{languages[1]}" for stem in stems)
    others = " (or .tsv of both; data.languages=[de,en] says other endings)" if name == "parallel" else ""
    raise UserError(
        f"no {name} corpus: looked in {'; '.join(tried)}. Ways out: set data.dir=FOLDER to one with {wanted}{others}"
        f"; or put them under $G2LSTM_DATA/{name}{instead}"
    )


def _has(folder: Path, stem: str, languages: tuple[str, str], *, written_here: bool) -> bool:
    """Whether a folder has a split; in one that is written here a side alone is what a killed download left, and is not."""
    try:
        return bool(find_text(folder, stem, languages))
    except UserError:
        if written_here:
            return False
        raise


def _prepared(name: str, split: str) -> Path:
    """Where the pairs of an archive are kept."""
    return cache_folder(f"{name}-{split}")


def _from_archive(name: str, split: str, archive: RawFile, stems: Sequence[str]) -> Path:
    """Writes the pairs of a corpus' archive to the cache folder, as files of lines."""
    found = dict(zip(stems, iwslt14.read_archive(fetch(archive, cache_folder(name)), split), strict=True))
    for stem, pairs in found.items():
        expected = COUNTS[name][split][stem][0]
        if abs(len(pairs) - expected) > APART * expected:
            raise UnavailableError(f"{archive.url} ({stem} has {len(pairs):,} pairs, expected {expected:,})")
    for stem, pairs in found.items():
        for language, side in zip(iwslt14.LANGUAGES, zip(*pairs, strict=True), strict=True):
            write_to_cache(_prepared(name, split) / f"{stem}.{language}", "".join(f"{line}\n" for line in side))
    return _prepared(name, split)


def _from_hub(name: str, hub: HubFiles, languages: tuple[str, str]) -> Path:
    """Writes a dataset of the Hub to the cache folder, as files of lines."""
    splits, folder = open_hub(hub), cache_folder(name)
    found = {stem: len(rows) for stem, rows in splits.items()}
    if found != HUB_COUNTS[name]:
        raise UnavailableError(f"{hub.path} on the Hub (it has {found}, expected {HUB_COUNTS[name]})")
    there = next(iter(splits.values()))[0][hub.column]
    if absent := [language for language in languages if language not in there]:
        raise UnavailableError(f"{hub.path} on the Hub (has {' and '.join(sorted(there))}, not {' and '.join(absent)})")
    for stem, rows in splits.items():
        for language in languages:
            sides = (pair[language] for block in rows.iter(SHARD) for pair in block[hub.column])
            write_to_cache(folder / f"{stem}.{language}", (" ".join(side.split()) + "\n" for side in sides))
    return folder


def _open(name: str, split: str, folder: Path, stem: str, languages: tuple[str, str]) -> Text:
    """A split in a folder that has it, its counts checked."""
    files = find_text(folder, stem, languages)
    if not files:
        raise UserError(f"no {stem}.{languages[0]} under {folder}, nor {stem}.tsv: put it there")
    text = open_text(files)
    if folder == _prepared(name, split):  # was checked when it was written
        return text
    pairs = (COUNTS[name][split] if name in COUNTS else HELD_OUT.get(name, {})).get(stem)
    words = WORDS.get(name, {}).get(stem)
    if words and languages == known_source(name).languages[::-1]:
        words = words[::-1]
    wrong = None
    if pairs and text.pairs not in pairs:
        of_split = f" with data.split={split}" if name in COUNTS else ""
        wrong = f"{text.pairs:,} pairs, expected {' or '.join(f'{count:,}' for count in pairs)}{of_split}"
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
