"""The archive of IWSLT14, made here in small: both ways to split it, and what is wrong with a file."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from g2lstm.data import iwslt14, pair_sources
from g2lstm.data.download import RawFile, UnavailableError, cache_folder
from g2lstm.data.iwslt14 import LANGUAGES, TESTS, read_archive
from g2lstm.data.parallel import load_parallel
from g2lstm.errors import UserError

HEAD = ["<url>http://x</url>", "<keywords>talks, {0}</keywords>", "<talkid>1</talkid>"]
TITLE = ["<title>Ein Titel, {0}</title>", "<description>TED: Worum es geht</description>"]
# 23 short pairs, one of 60 tokens, one whose sides differ too much, one with an empty side, 22 more short ones
SIDES = [[f"Es ist {n}." for n in range(23)], [f"It is {n}." for n in range(23)]]
SIDES[0] += ["wort " * 60, "eins zwei drei vier", "", *(f"Sagen wir {n} U.S.A." for n in range(22))]
SIDES[1] += ["word " * 60, "one two", "nothing", *(f"Let's say {n} & more" for n in range(22))]
SEGMENTS = ["Das ist’s, mehr.", "Und usw."]


def archive(path: Path, changed: dict[str, list[str] | None] | None = None) -> Path:
    """An archive of the published layout; `changed` has other lines of a file, or None for a missing one."""
    files = {f"train.tags.de-en.{name}": [*HEAD, *TITLE, *side] for name, side in zip(LANGUAGES, SIDES, strict=True)}
    for number, test in enumerate(TESTS):
        segments = [f'<seg id="{place}"> {number} {text} </seg>' for place, text in enumerate(SEGMENTS, 1)]
        text = ["<mteval>", "<title>no text</title>", *segments, "</doc>"]
        files |= {f"IWSLT14.{test}.de-en.{language}.xml": text for language in LANGUAGES}
    with tarfile.open(path, "w:gz") as file:
        for name, lines in (files | (changed or {})).items():
            if lines is not None:
                content = "".join(f"{line}\n" for line in lines).encode()
                entry = tarfile.TarInfo(f"de-en/{name}")
                entry.size = len(content)
                file.addfile(entry, io.BytesIO(content))
    return path


def test_both_ways_to_split_keep_every_23rd_pair_for_validation(tmp_path: Path):
    whole = archive(tmp_path / "de-en.tgz")
    train, valid, test = read_archive(whole, "mixer")
    assert (len(train), len(valid), len(test)) == (45, 2, 10)  # 25 + 22 pairs of 50 tokens or less and like lengths
    assert train[:3] == [("ein titel , { 0 }",) * 2, ("ted : worum es geht",) * 2, ("es ist 0 .", "it is 0 .")]
    assert valid == [("es ist 20 .", "it is 20 ."), ("sagen wir 20 u.s.a .", "let &apos;s say 20 &amp; more")]
    assert test[:2] == [("0 das ist &apos; s , mehr .", "0 das ist &apos;s , mehr ."), ("0 und usw .",) * 2]
    assert [len(side) for side in read_archive(whole, "fairseq")] == [46, 2, 10]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.tags.de-en.en": None}, "train.tags.de-en.en"),
        ({"IWSLT14.TED.tst2011.de-en.de.xml": None}, "IWSLT14.TED.tst2011.de-en.de.xml"),
        ({"train.tags.de-en.en": ["one line alone"]}, "shorter"),
    ],
)
def test_an_archive_that_lacks_something_is_told(tmp_path: Path, changed: dict, message: str):
    with pytest.raises(UnavailableError, match=message):
        read_archive(archive(tmp_path / "de-en.tgz", changed), "mixer")


def test_a_cut_archive_is_told(tmp_path: Path):
    path = archive(tmp_path / "de-en.tgz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnavailableError, match=r"de-en\.tgz"):
        read_archive(path, "mixer")


def test_the_archive_is_the_last_place_that_is_looked_in_and_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("G2LSTM_DATA", raising=False)
    cache_folder("iwslt14").mkdir(parents=True)
    path = archive(cache_folder("iwslt14") / "de-en.tgz")  # what has the right sum is not fetched again
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    source = replace(pair_sources.SOURCES["iwslt14"], archive=RawFile(iwslt14.ARCHIVE.url, md5))
    monkeypatch.setitem(pair_sources.SOURCES, "iwslt14", source)
    options = {"vocabulary_size": 60, "joint": True}
    with pytest.raises(
        UserError, match=r"\A[^\n]*on the Hub[^\n]*de-en.tgz \(train has 45 pairs, expected 153,326\)[^\n]*\Z"
    ):
        load_parallel("iwslt14", **options)
    monkeypatch.setitem(pair_sources.COUNTS["iwslt14"], "mixer", {"train": (45,), "valid": (2,), "test": (10,)})
    corpus = load_parallel("iwslt14", **options)
    assert corpus.form.tokenised
    assert corpus.lines["valid"][1] == ["it is 20 .", "let &apos;s say 20 &amp; more"]
    path.unlink()
    assert load_parallel("iwslt14", download=False, **options).digests == corpus.digests
    other_way = load_parallel("iwslt14", download=False, languages=("en", "de"), **options)
    assert other_way.lines["valid"] == corpus.lines["valid"][::-1]
