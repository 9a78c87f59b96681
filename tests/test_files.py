"""Files are written whole or not at all."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from g2lstm.errors import UserError
from g2lstm.files import write_atomically


def test_writes_text_and_bytes_into_new_folders(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "text", "grün\n")
    write_atomically(tmp_path / "a" / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "grün\n".encode()
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00\xff"


def test_parts_are_one_file_and_a_failure_between_them_leaves_the_old_one(tmp_path):
    write_atomically(tmp_path / "file", (f"{n} ü\n" for n in range(3)))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "0 ü\n1 ü\n2 ü\n"
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file", (f"{1 / (2 - n)}\n" for n in range(3)))
    assert (tmp_path / "file").read_text(encoding="utf-8") == "0 ü\n1 ü\n2 ü\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (Path, "replace")), fail)
    with pytest.raises(UserError, match=r"file \(disk full\)"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["fsync", "mkstemp"])
def test_a_failure_leaves_none_of_the_folders_made_for_the_file(tmp_path, monkeypatch, fails):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if fails == "fsync" else (tempfile, "mkstemp")), fail)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="No space left on device"):
        write_atomically(tmp_path / "there" / "a" / "b" / "file", "new")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_an_interruption_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
