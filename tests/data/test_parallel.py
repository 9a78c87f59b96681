"""Corpora of sentence pairs: folders, files, the Hub's layout, counts, and what of a text is used."""

import gzip
from pathlib import Path

import pytest
import torch

from g2lstm.data import download, pair_sources, parallel
from g2lstm.data.batching import padding_share, plan_batches
from g2lstm.data.numbers import number_pairs
from g2lstm.data.parallel import ParallelCorpus, load_parallel
from g2lstm.data.subwords import Subwords
from g2lstm.errors import UserError

SPLITS = {key: pairs[:count] for (key, pairs), count in zip(number_pairs(300).items(), (20, 30, 300), strict=True)}


@pytest.fixture(autouse=True)
def no_corpora_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setattr(download, "RETRIES", 0)
    if "corpus" not in request.keywords:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("G2LSTM_DATA", raising=False)


def write(folder: Path, splits: dict[str, list[tuple[str, str]]], languages: tuple[str, str] = ("source", "target")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        for side, language in enumerate(languages):
            lines = "".join(f"{pair[side]}\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text(lines, encoding="utf-8")
    return folder


def load(name: str = "parallel", **options: object) -> ParallelCorpus:
    return load_parallel(name, **{"vocabulary_size": 120, "joint": True, "download": False} | options)


def refused(*parts: str):
    return pytest.raises(UserError, match=r"\A[^\n]*" + r"[^\n]*".join(parts) + r"[^\n]*\Z")


def test_a_folder_of_files_becomes_pairs(tmp_path: Path):
    corpus = load(data_dir=write(tmp_path / "mine", SPLITS))
    assert [len(split) for split in (corpus.train, corpus.valid, corpus.test)] == [300, 30, 20]
    for split in ("valid", "test"):
        assert list(zip(*corpus.lines[split], strict=True)) == SPLITS[split]
    decoded = [corpus.subwords.decode(corpus.train.target(n).tolist()) for n in range(300)]
    assert decoded == [target for _, target in SPLITS["train"]]
    assert corpus.origin == f"parallel under {tmp_path / 'mine'}: 300 pairs, 300 of them to train on"
    assert corpus.counts["train_pairs"] == 300


def test_files_columns_and_packed_ones_give_the_same(tmp_path: Path):
    expected = load(data_dir=write(tmp_path / "mine", SPLITS))
    files: dict[str, list[Path]] = {}
    for split, pairs in SPLITS.items():
        columns = tmp_path / f"{split}.tsv.gz"
        columns.write_bytes(gzip.compress("".join(f"{source}\t{target}\r\n" for source, target in pairs).encode()))
        files[split] = [columns]
    for corpus in (load(data_dir=tmp_path), load(files=files), load("wmt14", files=files)):
        assert corpus.lines == expected.lines
        assert corpus.subwords.text() == expected.subwords.text()
        assert (corpus.train.lengths == expected.train.lengths).all()


@pytest.mark.parametrize(
    ("endings", "languages"),
    [
        (("fr", "en"), ("fr", "en")),
        (("deu.gz", "en"), ("deu", "en")),
        (("b", "en"), ("source", "target")),  # one of them is no language
        (("fr", "tsv"), ("source", "target")),
    ],
)
def test_files_that_are_named_have_the_languages_by_which_they_end(tmp_path: Path, endings, languages):
    files: dict[str, list[Path]] = {}
    for split, pairs in SPLITS.items():
        files[split] = [tmp_path / f"{split}.{ending}" for ending in endings]
        for side, path in enumerate(files[split]):
            content = "".join(f"{pair[side]}\n" for pair in pairs).encode()
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert load(files=files).form.languages == languages
    assert load(files=files, languages=("xx", "yy")).form.languages == ("xx", "yy")


def test_the_second_reading_learns_and_encodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = load(data_dir=write(tmp_path / "mine", SPLITS))
    monkeypatch.setattr(Subwords, "train", None)
    monkeypatch.setattr("g2lstm.data.pairs.shard", None)
    again = load(data_dir=tmp_path / "mine")
    assert again.subwords.digest == first.subwords.digest
    assert load(data_dir=tmp_path / "mine", subwords=first.subwords).subwords is first.subwords


def test_a_changed_text_has_another_digest_and_is_encoded_anew(tmp_path: Path):
    folder = write(tmp_path / "mine", SPLITS)
    first = load(data_dir=folder)
    write(folder, {"train": SPLITS["train"][::-1]})
    again = load(data_dir=folder, subwords=first.subwords)
    assert again.digests["train"] != first.digests["train"]
    assert again.digests["valid"] == first.digests["valid"]
    assert again.train.source(0).tolist() == first.train.source(299).tolist()


def test_what_is_left_out_is_counted(tmp_path: Path):
    bad = [("\x07", "one"), ("eins", " "), ("", ""), ("eins " * 10_000, "one"), ("eins", "one " * 10_000)]
    held_out = {split: [*SPLITS[split], ("eins", "\x00 \x1b"), ("eins " * 70, "one")] for split in ("valid", "test")}
    corpus = load(data_dir=write(tmp_path / "mine", held_out | {"train": SPLITS["train"] + bad}))
    assert corpus.counts == {
        "train_pairs": 300, "valid_pairs": 31, "test_pairs": 21,
        "dropped_empty": 3, "dropped_long": 2, "held_out_dropped_empty": 2,
    }  # fmt: skip
    assert len(corpus.lines["test"][0]) == len(corpus.test) == 21  # long pairs stay there


def test_every_pair_too_long_is_told(tmp_path: Path):
    with refused("no pair is left of train: 0 have an empty side, 300 more than data.longest=1 sub-words"):
        load(data_dir=write(tmp_path / "mine", SPLITS), longest=1)


def test_held_out_text_with_no_pair_of_two_sides_is_told(tmp_path: Path):
    held_out = {"valid": [("eins", ""), ("", "one"), ("", "")]}
    with refused("no pair is left of valid: 3 have an empty side: mend the text$"):
        load(data_dir=write(tmp_path / "mine", SPLITS | held_out))


def test_raw_text_is_tokenised_and_its_lines_stay_as_they_were_found(tmp_path: Path):
    splits = {
        split: [(f"{source.title()}, Ja.", f"{target}.") for source, target in pairs] for split, pairs in SPLITS.items()
    }
    folder = write(tmp_path / "mine", splits, ("de", "en"))
    corpus = load(data_dir=folder, languages=("de", "en"), lowercase=True)
    assert not corpus.form.tokenised
    assert corpus.form.languages == ("de", "en")
    assert corpus.lines["valid"][1][0] == splits["valid"][0][1]
    assert corpus.subwords.decode(corpus.valid.target(0).tolist()) == f"{SPLITS['valid'][0][1]} ."
    assert "".join(corpus.subwords.source_labels[4:]).islower()
    as_it_is = load(data_dir=folder, languages=("de", "en"), tokenised=True)
    assert as_it_is.subwords.decode(as_it_is.valid.target(0).tolist()) == splits["valid"][0][1]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"name": "books"}, ["'books'", "iwslt14, wmt14, parallel, numbers"]),
        ({"data_dir": "nowhere"}, ["looked in nowhere", "no such folder", "train.source and .target", "or .tsv"]),
        ({}, ["no parallel corpus", "data.dir="]),
        ({"name": "iwslt14", "split": "mine"}, ["data.split=mine", "mixer, fairseq"]),
        (
            {"name": "iwslt14", "split": "fairseq", "extra": True},
            ["data.extra=true", "set data.extra=false, or data.split=mixer"],
        ),
        ({"name": "numbers", "data_dir": "x"}, ["task=numbers", "task=parallel"]),
        ({"name": "numbers", "lowercase": True}, ["data.lowercase=True", "task=numbers"]),
        ({"files": {"train": ["a", "b"]}}, ["data.files has no valid, test"]),
        ({"files": {"train": ["a", "b"]}, "data_dir": "x"}, ["data.dir and data.files both", "set one to null"]),
        ({"name": "numbers", "extra": True, "split": "fairseq"}, ["data.extra=true", "iwslt14", "leave it out"]),
        ({"name": "wmt14", "split": "fairseq"}, ["data.split=fairseq", "iwslt14"]),
        ({"name": "iwslt14", "extra": True, "files": {"train": ["a", "b"]}}, ["data.extra=true", "own folder"]),
        (
            {"name": "iwslt14", "download": True},
            ["has no test or valid", "de-en.tgz", "set data.split=fairseq, which the Hub has"],
        ),
    ],
)
def test_options_that_name_no_text_are_one_line(options: dict, parts: list[str]):
    with refused(*parts):
        load(**options)


def test_a_folder_without_a_split_is_told(tmp_path: Path):
    folder = write(tmp_path / "mine", {"train": SPLITS["train"], "test": SPLITS["test"]})
    with refused(str(folder), "no valid"):
        load(data_dir=folder)


@pytest.fixture
def iwslt14(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of that corpus' layout, whose whole training text would have 400 pairs and whose known part has 300."""
    counts = {
        "mixer": {"train": (400, 300), "valid": (30,), "test": (20,)},
        "fairseq": {"train": (299, 300), "valid-fairseq": (34,), "test-fairseq": (20,)},
    }
    monkeypatch.setitem(pair_sources.COUNTS, "iwslt14", counts)
    monkeypatch.setitem(pair_sources.WORDS, "iwslt14", {})
    extra = [*SPLITS["valid"], SPLITS["test"][0], SPLITS["train"][0], ("neu", "new"), ("neu", "new")]
    splits = SPLITS | {"valid-fairseq": extra, "test-fairseq": SPLITS["test"]}
    return write(tmp_path / "data" / "iwslt14", splits, ("de", "en"))


def test_a_known_part_of_a_corpus_is_taken_and_its_counts_stand_beside_the_whole(iwslt14: Path):
    corpus = load("iwslt14", tokenised=True)
    assert corpus.counts["train_pairs"] == 300
    assert corpus.counts["train_pairs_of_whole"] == 400
    assert len(corpus.valid) == 30
    other = load("iwslt14", split="fairseq", tokenised=True)
    assert len(other.valid) == 34
    assert other.counts["train_pairs_of_whole"] == 299


def test_the_whole_training_text_of_the_other_split_is_refused(iwslt14: Path):
    write(iwslt14, {"train": SPLITS["train"][1:]}, ("de", "en"))
    assert len(load("iwslt14", split="fairseq", tokenised=True).train) == 299
    with refused("train.de has 299 pairs, expected 400 or 300 with data.split=mixer"):
        load("iwslt14", tokenised=True)


def test_extra_pairs_are_those_that_no_split_holds(iwslt14: Path):
    corpus = load("iwslt14", extra=True, tokenised=True)
    assert corpus.counts["train_pairs_extra"] == 1
    assert corpus.subwords.decode(corpus.train.target(300).tolist()) == "new"
    assert corpus.digests["train"] != load("iwslt14", tokenised=True).digests["train"]


def test_extra_pairs_are_for_a_part_of_the_training_text(iwslt14: Path, monkeypatch: pytest.MonkeyPatch):
    for language in ("de", "en"):
        (iwslt14 / f"valid-fairseq.{language}").unlink()
    with refused("data.extra=true adds valid-fairseq.de and .en", str(iwslt14), "or set data.extra=false"):
        load("iwslt14", extra=True, tokenised=True)
    monkeypatch.setitem(pair_sources.COUNTS["iwslt14"]["mixer"], "train", (300,))
    whole = load("iwslt14", extra=True, tokenised=True)
    assert (whole.counts["train_pairs"], whole.counts["train_pairs_extra"]) == (300, 0)
    assert whole.digests["train"] == load("iwslt14", tokenised=True).digests["train"]


def test_a_part_of_wmt14_is_known_as_a_part_and_its_test_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write(tmp_path / "wmt", SPLITS, ("en", "de"))
    with refused("valid.en has 30 pairs, expected 3,000 or 6,003: put"):
        load("wmt14", data_dir=folder, tokenised=True)
    monkeypatch.setitem(pair_sources.HELD_OUT, "wmt14", {"valid": (30,), "test": (20, 21)})
    assert load("wmt14", data_dir=folder, tokenised=True).counts["train_pairs_of_whole"] == 4_508_785


def test_what_the_hub_has_is_named_with_all_that_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unavailable(*_: object) -> Path:
        raise download.UnavailableError("the archive (nothing there)")

    monkeypatch.setattr(pair_sources, "_from_archive", unavailable)
    with refused("or set data.split=fairseq data.extra=false, which the Hub has"):
        load("iwslt14", extra=True, download=True)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_other_counts_than_the_published_ones_are_refused(iwslt14: Path, split: str):
    write(iwslt14, {split: SPLITS[split][1:]}, ("de", "en"))
    with refused(f"{split}.de has {len(SPLITS[split]) - 1} pairs, expected", "task=parallel"):
        load("iwslt14")


def test_other_words_than_the_published_ones_are_refused(iwslt14: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(pair_sources.WORDS, "iwslt14", {"test": (20, 1)})
    monkeypatch.setattr(pair_sources, "looks_tokenised", lambda _: True)
    with refused("test.de has 20 and", "words, expected 20 and 1: "):
        load("iwslt14")


def test_a_corpus_may_be_read_in_the_other_direction(iwslt14: Path, monkeypatch: pytest.MonkeyPatch):
    words = tuple(sum(len(pair[side].split()) for pair in SPLITS["test"]) for side in (0, 1))
    monkeypatch.setitem(pair_sources.WORDS, "iwslt14", {"test": words})
    monkeypatch.setattr(pair_sources, "looks_tokenised", lambda _: True)
    there, back = load("iwslt14"), load("iwslt14", languages=("en", "de"))
    assert words[0] != words[1]
    assert back.lines["test"] == there.lines["test"][::-1]


def test_kept_subwords_that_are_damaged_are_named_and_learned_again_without_them(tmp_path: Path):
    folder = write(tmp_path / "mine", SPLITS)
    first = load(data_dir=folder)
    (kept,) = (tmp_path / "home").rglob("subwords-*.json")
    kept.write_bytes(kept.read_bytes()[:100])
    with refused(f"{kept.name} has no whole sub-words", ": delete it$"):
        load(data_dir=folder)
    kept.unlink()
    assert load(data_dir=folder).subwords.digest == first.subwords.digest


def test_a_cache_folder_that_cannot_be_made_is_said_with_another_way(tmp_path: Path):
    folder = write(tmp_path / "mine", SPLITS)
    (tmp_path / "home").write_text("a file")  # which holds for root too
    with refused(r"can't write .*subwords-\w+\.json", r"\(the cache folder, on Linux: XDG_CACHE_HOME=FOLDER\)"):
        load(data_dir=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "mine"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local folder with parquet files as WMT14 has them on the Hub, in the place of that."""
    pytest.importorskip("datasets")
    import pyarrow.parquet

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder = tmp_path / "wmt14"
    (folder / "de-en").mkdir(parents=True)
    for split, published in (("train", "train"), ("valid", "validation"), ("test", "test")):
        rows = [{"de": f"{source.title()},\nja.", "en": f"{target}."} for source, target in SPLITS[split]]
        shape = pyarrow.struct([("de", pyarrow.string()), ("en", pyarrow.string())])
        table = pyarrow.table({"translation": pyarrow.array(rows, shape)})
        pyarrow.parquet.write_table(table, folder / "de-en" / f"{published}-00000-of-00001.parquet")
    source = pair_sources.SOURCES["wmt14"]
    monkeypatch.setitem(
        pair_sources.SOURCES,
        "wmt14",
        pair_sources.ParallelSource(
            source.languages,
            source.files,
            pair_sources.HubFiles(str(folder), None, source.hub.data_files, source.hub.column),
        ),
    )
    return folder


def test_parquet_files_of_the_hub_become_files_that_are_there_the_next_time(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with refused("no wmt14 corpus", "expected", "4508785"):
        load("wmt14", download=True)
    monkeypatch.setitem(pair_sources.HUB_COUNTS, "wmt14", {"train": 300, "valid": 30, "test": 20})
    monkeypatch.setitem(pair_sources.HELD_OUT, "wmt14", {"valid": (30,), "test": (20,)})
    with refused("on the Hub .has de and en, not fr"):
        load("wmt14", download=True, languages=("en", "fr"))
    assert not list((tmp_path / "home").rglob("train.*"))
    corpus = load("wmt14", download=True)
    assert corpus.form.languages == ("en", "de")
    assert not corpus.form.tokenised
    source, target = SPLITS["test"][0]
    assert [side[0] for side in corpus.lines["test"]] == [f"{target}.", f"{source.title()}, ja."]
    kept = next((tmp_path / "home").rglob("train.de"))
    whole = kept.read_bytes()
    kept.unlink()  # as of a download that was killed between the two sides
    with refused("no wmt14 corpus", "no train"):
        load("wmt14")
    assert load("wmt14", download=True).digests == corpus.digests
    assert kept.read_bytes() == whole
    monkeypatch.setattr(pair_sources, "open_hub", None)
    assert load("wmt14").digests == corpus.digests


def test_number_words_need_no_files(tmp_path: Path):
    corpus = load("numbers")
    assert [len(split) for split in (corpus.train, corpus.valid, corpus.test)] == [26_000, 2000, 2000]
    assert corpus.form.tokenised
    assert not list((tmp_path / "home").rglob("*.arrow"))


def test_subwords_are_learned_from_a_part_of_a_large_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_SAMPLE", 100)
    every_third = SPLITS["train"][::3]
    expected = Subwords.train(*([pair[side] for pair in every_third] for side in (0, 1)), size=100, joint=True)
    assert load(data_dir=write(tmp_path / "mine", SPLITS), vocabulary_size=100).subwords.digest == expected.digest


@pytest.mark.corpus
def test_the_real_iwslt14_has_its_counts_and_little_padding(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parallel, "_SAMPLE", 1_500)  # pairs to learn sub-words from, which takes seconds of all
    try:
        corpus = load("iwslt14", vocabulary_size=3000, extra=True)
    except UserError as error:
        pytest.skip(str(error))
    assert corpus.form.tokenised
    assert (len(corpus.valid), len(corpus.test)) == (6_969, 6_750)
    batches = plan_batches(corpus.train.lengths, generator=torch.Generator().manual_seed(1), tokens=1500)
    assert padding_share(corpus.train.lengths, batches) < 0.06
    assert len(corpus.train) > 0.9 * (corpus.counts["train_pairs"] + corpus.counts["dropped_long"])
    found = corpus.counts["train_pairs"] + corpus.counts["dropped_long"]
    assert found == 65_737 or found == pytest.approx(153_326, rel=pair_sources.APART)
