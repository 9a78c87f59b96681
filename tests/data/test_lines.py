"""Text in two languages as people have it, good and bad."""

import gzip
from pathlib import Path

import pytest

from g2lstm.data import lines
from g2lstm.data.lines import decoded, find_text, open_text, text_of
from g2lstm.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lines, "cache_folder", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache"


def two(folder: Path, source: bytes, target: bytes) -> list[Path]:
    paths = [folder / "a.de", folder / "a.en"]
    for path, content in zip(paths, (source, target), strict=True):
        path.write_bytes(content)
    return paths


def refused(*parts: str):
    """A UserError of one line that has these parts in turn."""
    return pytest.raises(UserError, match=r"\A[^\n]*" + r"[^\n]*".join(parts) + r"[^\n]*\Z")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (b"eins zwei\ndrei\n", b"one two\nthree\n"),
        (b"eins zwei\ndrei", b"one two\nthree"),  # no line feed at the end
        (b"eins zwei\r\ndrei\r\n", b"one two\nthree\n"),
        (b"\xef\xbb\xbfeins zwei\ndrei\n", b"\xef\xbb\xbfone two\nthree\n"),
        (b"  eins \t zwei \ndrei\n", "one\u00a0two\nthree\n".encode()),
        ("eins\u2028zwei\ndrei\n".encode(), "one\u0085two\nthree\n".encode()),  # no ends of lines
        (b"eins\x0czwei\ndrei\n", b"one\rtwo\nthree\n"),
        (b"e\x00ins \x07 zwei\ndrei\n", b"one two\n\x1bthree\n"),  # control characters
    ],
)
def test_lines_end_at_line_feeds_and_words_have_one_space_between_them(tmp_path: Path, source: bytes, target: bytes):
    text = open_text(two(tmp_path, source, target))
    assert text.pairs == 2
    for _ in range(2):  # read anew
        assert list(text.read()) == [("eins zwei", "one two"), ("drei", "three")]


def test_packed_files_and_columns_say_the_same(tmp_path: Path):
    plain = list(open_text(two(tmp_path, b"eins\nzwei\n", b"one\ntwo\n")).read())
    packed = [tmp_path / "b.de.gz", tmp_path / "b.en.gz"]
    for path, content in zip(packed, (b"eins\nzwei\n", b"one\ntwo\n"), strict=True):
        path.write_bytes(gzip.compress(content))
    columns = tmp_path / "c.tsv.gz"
    columns.write_bytes(gzip.compress(b"eins\tone\r\nzwei\ttwo"))
    assert list(open_text(packed).read()) == list(open_text([columns]).read()) == plain == [("eins", "one"), ("zwei", "two")]
    assert open_text([columns]).pairs == 2


def test_the_digest_is_of_what_the_files_say(tmp_path: Path):
    first = open_text(two(tmp_path, b"eins\n", b"one\n")).digest
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\n"))
    assert open_text([tmp_path / "a.de.gz", tmp_path / "a.en"]).digest == first
    assert open_text(two(tmp_path, b"zwei\n", b"one\n")).digest != first
    assert text_of([("eins", "one")]).digest != text_of([("eins", "two")]).digest


def test_a_large_file_is_read_whole_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "_REMEMBERED", 1)
    paths = two(tmp_path, b"eins\n", b"one\n")
    first = open_text(paths)
    assert len(list(own_cache.glob("parallel/file-*.json"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr(lines, "_read_whole", None)
        assert (open_text(paths).digest, open_text(paths).pairs) == (first.digest, first.pairs)
    assert open_text(two(tmp_path, b"eins\nzwei\n", b"one\ntwo\n")).pairs == 2  # another size: another file


@pytest.mark.parametrize(
    ("source", "target", "parts"),
    [
        (b"eins\nzwei\n", b"one\n", ["a.de has 2 lines", "a.en 1:"]),
        (b"", b"one\n", ["a.de is empty"]),
        (b"eins\n", b" \n\n", ["a.en is empty"]),
        (b"eins\n", b"eins\n", ["a.de", "a.en hold the same text"]),
    ],
)
def test_two_files_that_are_no_pairs_are_refused_at_once(tmp_path: Path, source: bytes, target: bytes, parts: list[str]):
    with refused(*parts):
        open_text(two(tmp_path, source, target))


def test_a_missing_file_and_a_wrong_number_of_files_are_told(tmp_path: Path):
    with refused("no file", "gone.de"):
        open_text([tmp_path / "gone.de", tmp_path / "gone.en"])
    with refused("can't read"):
        open_text([tmp_path, tmp_path])
    with refused("3 files for one split"):
        open_text([tmp_path] * 3)


def test_invalid_utf8_is_told_with_byte_and_line(tmp_path: Path):
    text = open_text(two(tmp_path, b"eins\nzw\xe4lf\n", b"one\ntwelve\n"))
    with refused("a.de is not UTF-8", "0xe4", "byte 3 of line 2"):
        list(text.read())


def test_other_encodings_and_line_ends_are_named(tmp_path: Path):
    utf16 = "eins\nzwei\n".encode("utf-16")
    for refuse in (lambda: open_text(two(tmp_path, utf16, b"one\ntwo\n")), lambda: list(decoded([utf16], "a.de"))):
        with refused("a.de is UTF-16", "iconv -f UTF-16 -t UTF-8"):
            refuse()
    for old in (b"one\rtwo\r", b"one\rtwo", b"one\rtwo\rthree\r\n"):
        with refused("a.en ends its lines by carriage returns alone", r"tr '\\r' '\\n'"):
            open_text(two(tmp_path, b"eins\nzwei\n", old))
    assert open_text(two(tmp_path, b"eins\r\n", b"one\r")).pairs == 1
    assert open_text(two(tmp_path, b"eins\nzw\rei\n", b"one\r\ntwo\r\n")).pairs == 2


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["a.de", "a.de.gz", "a.en"], ["a.de and a.de.gz: keep one"]),
        (["a.tsv", "a.tsv.gz"], ["a.tsv and a.tsv.gz: keep one"]),
        (["a.de", "a.en.gz", "a.tsv"], ["a.de and a.en.gz, and a.tsv: keep the two or the one"]),
    ],
)
def test_more_files_than_a_split_has_are_no_guess(tmp_path: Path, names: list[str], parts: list[str]):
    for name in names:
        (tmp_path / name).touch()
    with refused(*parts):
        find_text(tmp_path, "a", ("de", "en"))


@pytest.mark.parametrize("cut", [-1, -9, 30])
def test_a_truncated_gz_is_told(tmp_path: Path, cut: int):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"".join(b"%d eins\tone %d\n" % (n, n * n) for n in range(999)))[:cut])
    with refused("a.tsv.gz is no whole .gz file"):
        open_text([path])
    path.write_bytes(b"eins\tone\n")
    with refused("a.tsv.gz is no whole .gz file"):
        open_text([path])


@pytest.mark.parametrize(("line", "columns"), [("zwei", "one column"), ("zwei\ttwo\tCC-BY", "3 columns")])
def test_a_line_without_two_columns_is_told(tmp_path: Path, line: str, columns: str):
    path = tmp_path / "a.tsv"
    path.write_text(f"eins\tone\n{line}\n")
    with refused("a.tsv line 2 has", columns):
        list(open_text([path]).read())


def test_a_blank_line_of_columns_is_a_pair_without_words(tmp_path: Path):
    path = tmp_path / "a.tsv"
    path.write_text("eins\tone\n\n \t\n\t\t\nzwei\ttwo\n\n")
    text = open_text([path])
    assert list(text.read()) == [("eins", "one"), *[("", "")] * 3, ("zwei", "two"), ("", "")]
    assert text.pairs == 6


def test_a_side_that_is_missing_in_a_folder_is_told(tmp_path: Path):
    assert find_text(tmp_path, "train", ("de", "en")) == ()
    (tmp_path / "train.en.gz").touch()
    with refused("train.en and no train.de"):
        find_text(tmp_path, "train", ("de", "en"))
    (tmp_path / "train.de").touch()
    assert find_text(tmp_path, "train", ("de", "en")) == (tmp_path / "train.de", tmp_path / "train.en.gz")
    (tmp_path / "valid.tsv").touch()
    assert find_text(tmp_path, "valid", ("de", "en")) == (tmp_path / "valid.tsv",)
