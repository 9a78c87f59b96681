"""Where corpora come from. Every network place is a local one here: 127.0.0.1, parquet files on disk."""

import functools
import hashlib
import http.server
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from g2lstm.data import download
from g2lstm.data.download import HubFiles, RawFile, UnavailableError, cache_folder, fetch, open_hub, read_hub
from g2lstm.data.sources import CORPORA, Corpus, Counts, find_splits, load_lines, read_lines
from g2lstm.errors import UserError

LINES = {"train": ["a b c", "b a"], "valid": ["c a"], "test": ["b b", "a"]}
COUNTS = Counts({"train": 7, "valid": 3, "test": 5}, vocabulary=4)
NOWHERE = "http://127.0.0.1:1"  # nothing listens on port 1: refused at once


def write_splits(folder: Path, pattern: str = "{}.txt", lines: dict[str, list[str]] = LINES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in lines.items():
        (folder / pattern.format(split)).write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def assert_one_line(error: pytest.ExceptionInfo[UserError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture(autouse=True)
def no_corpora_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for variable in ("G2LSTM_DATA", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    for variable in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between tries


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """The folder behind `server`."""
    return write_splits(tmp_path / "remote", "toy.{}.txt")


@dataclass
class Server:
    """A web server: its address, what it was asked for, and how many answers it still cuts short."""

    url: str
    asked: list[str] = field(default_factory=list)
    short: int = 0


@pytest.fixture
def server(remote: Path) -> Iterator[Server]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.path)
            if not answers.short:
                return super().do_GET()
            answers.short -= 1
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"0123456789")
            return None

        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(remote))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        answers = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
        yield answers
        httpd.shutdown()


@pytest.fixture
def toy(remote: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus "toy" whose raw files lie in a folder behind a web server and whose counts are known."""
    names = {split: f"toy.{split}.txt" for split in LINES}
    raw = {split: RawFile(f"{server.url}/{name}", md5(remote / name)) for split, name in names.items()}
    monkeypatch.setitem(CORPORA, "toy", Corpus(raw=raw, counts=COUNTS))
    return remote


@pytest.mark.parametrize("pattern", ["{}.txt", "ptb.{}.txt", "my.own.{}.txt", "wiki.{}.tokens"])
def test_each_naming_of_the_splits_is_read(tmp_path: Path, pattern: str) -> None:
    raw = load_lines("text", data_dir=write_splits(tmp_path / "mine", pattern))
    assert raw.splits == LINES
    assert raw.origin == str(tmp_path / "mine")


def test_two_files_for_one_split_are_named(tmp_path: Path) -> None:
    write_splits(tmp_path / "mine")
    write_splits(tmp_path / "mine", "b.{}.txt")
    with pytest.raises(UserError) as error:
        load_lines("text", data_dir=tmp_path / "mine")
    assert_one_line(error, "train.txt", "b.train.txt", "keep one")


def test_a_corpus_prefers_its_own_file_names(tmp_path: Path, toy: Path) -> None:
    write_splits(toy, "toy.char.{}.txt")
    assert find_splits(toy, CORPORA["toy"])["valid"] == toy / "toy.valid.txt"


def test_hidden_files_are_not_splits(tmp_path: Path) -> None:
    folder = write_splits(tmp_path / "mine")
    write_splits(folder, "._copy.{}.txt")
    assert load_lines("text", data_dir=folder).splits == LINES


def test_missing_split_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    folder = write_splits(tmp_path / "mine")
    (folder / "valid.txt").unlink()
    with pytest.raises(UserError) as error:
        load_lines("text", data_dir=folder)
    assert_one_line(error, "valid.txt", str(folder), "data.dir=")


def test_given_folder_without_files_fails_at_once_though_other_places_have_them(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_splits(tmp_path / "all" / "toy", "toy.{}.txt")
    monkeypatch.setenv("G2LSTM_DATA", str(tmp_path / "all"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        load_lines("toy", data_dir=tmp_path / "empty")
    assert_one_line(error, "toy.train.txt", str(tmp_path / "empty"), "data.dir=")


def test_given_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_lines("text", data_dir=tmp_path / "nowhere")
    assert_one_line(error, str(tmp_path / "nowhere"), "not a folder", "data.dir=")


def test_environment_folder_comes_before_the_working_directory(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_splits(Path("data/toy"), "toy.{}.txt")
    assert load_lines("toy", download=False).origin == str(tmp_path / "work" / "data" / "toy")
    write_splits(tmp_path / "all" / "toy", "toy.{}.txt")
    monkeypatch.setenv("G2LSTM_DATA", str(tmp_path / "all"))
    assert load_lines("toy", download=False).origin == str(tmp_path / "all" / "toy")


def test_unknown_corpus_names_the_known_ones() -> None:
    with pytest.raises(UserError) as error:
        load_lines("ptv")
    assert_one_line(error, "'ptv'", "builtin", "ptb", "text")


def test_bom_and_windows_line_endings_simply_work(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffgrüße an\r\n\r\nalle\r\n".encode())
    assert read_lines(path) == ["grüße an", "", "alle"]


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes("a\x0bb\x0cc\u2028d\x85e\nf".encode())
    assert len(read_lines(path)) == 2


def test_utf16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("the text\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"train\.txt is UTF-16, not UTF-8"):
        read_lines(path)


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't read .*: Is a directory: check the file and its permissions"):
        read_lines(tmp_path)


def test_hub_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnavailableError, match=r"no/where on the Hub \(the package datasets is missing: pip install"):
        open_hub(HubFiles("no/where", None, {}, "text"))


def test_invalid_utf8_names_file_offset_and_line(tmp_path: Path) -> None:
    folder = write_splits(tmp_path / "mine")
    (folder / "valid.txt").write_bytes(b"\xef\xbb\xbfgood\nna\xefve\n")
    with pytest.raises(UserError) as error:
        load_lines("text", data_dir=folder)
    assert_one_line(error, str(folder / "valid.txt"), "0xef", "offset 10", "line 2", "iconv")


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n", b"\xef\xbb\xbf"])
def test_empty_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_splits(tmp_path / "mine")
    (folder / "test.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_lines("text", data_dir=folder)
    assert_one_line(error, str(folder / "test.txt"), "empty")


def test_wrong_counts_say_both(tmp_path: Path, toy: Path) -> None:
    (toy / "toy.test.txt").write_text("b b\n")
    with pytest.raises(UserError) as error:
        load_lines("toy", data_dir=toy)
    assert_one_line(error, "7 / 3 / 3", "7 / 3 / 5", "vocabulary of 4", "task=text")


def test_download_keeps_the_files_in_the_cache_folder_for_the_next_run(toy: Path, server: Server) -> None:
    assert load_lines("toy").splits == LINES
    assert load_lines("toy", download=False).origin == str(cache_folder("toy"))
    assert len(server.asked) == 3
    assert list(Path.cwd().iterdir()) == []


def test_data_of_an_earlier_version_under_the_working_directory_is_still_found(toy: Path, server: Server) -> None:
    write_splits(Path("data/toy"), "toy.{}.txt")
    assert load_lines("toy").origin == str(Path("data/toy").absolute())
    assert server.asked == []


def test_half_a_download_is_completed(toy: Path, server: Server) -> None:
    load_lines("toy")
    (cache_folder("toy") / "toy.valid.txt").unlink()
    assert load_lines("toy").splits == LINES
    assert server.asked[3:] == ["/toy.valid.txt"]


def test_corrupt_download_leaves_nothing_and_says_both_sums(toy: Path) -> None:
    (toy / "toy.test.txt").write_text("B b\na\n")  # same length, another md5
    with pytest.raises(UserError) as error:
        load_lines("toy")
    assert_one_line(error, "toy.test.txt", "does not match", CORPORA["toy"].raw["test"].md5, md5(toy / "toy.test.txt"))
    assert not (cache_folder("toy") / "toy.test.txt").exists()


def test_a_truncated_download_is_tried_again(toy: Path, server: Server) -> None:
    server.short = download.RETRIES
    assert load_lines("toy").splits == LINES
    assert server.asked.count("/toy.train.txt") == download.RETRIES + 1


def test_a_download_that_stays_truncated_leaves_nothing(tmp_path: Path, toy: Path, server: Server) -> None:
    server.short = download.RETRIES + 1
    with pytest.raises(UnavailableError, match="10 bytes read, 990 more expected"):
        fetch(RawFile(f"{server.url}/toy.test.txt", None), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_http_error_is_a_reason_not_a_traceback(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UnavailableError, match="HTTP 404"):
        fetch(RawFile(f"{server.url}/absent", None), tmp_path)


def test_nowhere_to_write_is_a_reason_not_a_traceback(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match=r"Not a directory|File exists"):
        fetch(RawFile(f"{server.url}/toy.test.txt", None), tmp_path / "file" / "folder")


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_members_of_an_archive_are_unpacked_and_found_again(
    remote: Path, server: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, names = remote / f"toy.{kind}", {split: f"inner/toy.{split}.txt" for split in LINES}
    if kind == "tgz":
        with tarfile.open(archive, "w:gz") as tar:
            for name in names.values():
                tar.add(remote / Path(name).name, name)
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in names.values():
                zipped.write(remote / Path(name).name, name)
    raw = {split: RawFile(f"{server.url}/toy.{kind}", md5(archive), name) for split, name in names.items()}
    monkeypatch.setitem(CORPORA, "toy", Corpus(raw=raw, counts=COUNTS))
    assert load_lines("toy").splits == LINES
    assert load_lines("toy", download=False).splits == LINES
    assert server.asked == [f"/toy.{kind}"]
    with pytest.raises(UnavailableError, match="absent"):
        fetch(RawFile(f"{server.url}/toy.{kind}", md5(archive), "inner/absent"), cache_folder("toy"))


def test_nothing_anywhere_is_one_message_with_all_places_and_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HubFiles("some/toy", "main", {"train": "*"}, "sentence")
    raw = {split: RawFile(f"{NOWHERE}/toy.{split}.txt", "0" * 32) for split in LINES}
    monkeypatch.setitem(CORPORA, "toy", Corpus(hub, raw))
    monkeypatch.setenv("G2LSTM_DATA", str(tmp_path / "all"))
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        load_lines("toy")
    assert time.monotonic() - start < 2 * download.READ_TIMEOUT
    places = (str(tmp_path / "all" / "toy"), str(Path("data/toy").absolute()), "some/toy on the Hub", f"{NOWHERE}/toy")
    assert_one_line(error, *places, "data.dir=", "$G2LSTM_DATA/toy", "try again with a network")
    assert list(Path.cwd().iterdir()) == []


def test_forbidden_download_is_offered_and_touches_no_network(toy: Path) -> None:
    with pytest.raises(UserError) as error:
        load_lines("toy", download=False)
    assert_one_line(error, "data.dir=", "$G2LSTM_DATA/toy", "data.download=true")


def write_parquet(folder: Path, lines: dict[str, list[str]]) -> HubFiles:
    """Parquet files in the layout of `refs/convert/parquet`."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = {"train": "train", "valid": "validation", "test": "test"}
    for split, name in names.items():
        (folder / "config" / name).mkdir(parents=True)
        parquet.write_table(arrow.table({"sentence": lines[split]}), folder / "config" / name / "0000.parquet")
    patterns = {split: f"config/{name}/*.parquet" for split, name in names.items()}
    return HubFiles(str(folder), None, patterns, "sentence")


def test_hub_parquet_gives_the_lines_and_keeps_them(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = write_parquet(tmp_path / "hub", LINES)
    monkeypatch.setitem(CORPORA, "toy", Corpus(hub, CORPORA["toy"].raw, COUNTS))
    raw = load_lines("toy")
    assert raw.splits == LINES
    assert raw.origin.startswith(str(tmp_path / "hub"))
    kept = load_lines("toy", download=False)
    assert (kept.splits, kept.origin) == (LINES, str(cache_folder("toy")))


def test_hub_with_other_counts_gives_way_to_the_raw_files(
    tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = write_parquet(tmp_path / "hub", LINES | {"test": ["a"]})
    monkeypatch.setitem(CORPORA, "toy", Corpus(hub, CORPORA["toy"].raw, COUNTS))
    assert load_lines("toy").origin == str(cache_folder("toy"))


def test_hub_without_the_column_is_a_reason_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub = write_parquet(tmp_path / "hub", LINES)
    monkeypatch.setitem(CORPORA, "toy", Corpus(HubFiles(hub.path, None, hub.data_files, "words")))
    with pytest.raises(UserError) as error:
        load_lines("toy")
    assert_one_line(error, hub.path, "words")


@pytest.mark.corpus
def test_penn_treebank_files_have_the_registered_md5(ptb_dir: Path) -> None:
    for file in CORPORA["ptb"].raw.values():
        assert md5(ptb_dir / file.name) == file.md5


@pytest.mark.network
def test_the_hub_has_the_penn_treebank_as_registered():
    hub = CORPORA["ptb"].hub
    assert hub is not None
    assert {split: len(lines) for split, lines in read_hub(hub).items()} == {"train": 42068, "valid": 3370, "test": 3761}


@pytest.mark.network
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_the_raw_files_are_where_they_are_registered(split, tmp_path):
    file = CORPORA["ptb"].raw[split]
    assert fetch(file, tmp_path).stat().st_size > 300_000
