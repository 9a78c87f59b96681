"""Command lines: how options are written, and how a command ends whose output finds no room."""

import os
import sys
from pathlib import Path

import pytest

from g2lstm import cli
from g2lstm.errors import UserError


def parser() -> cli.OptionParser:
    found = cli.OptionParser(("text", "threads"), prog="command")
    found.add_argument("--quick", action="store_true")
    found.add_argument("--check", type=cli.flag, nargs="?", const=True, default=False)
    return found


@pytest.mark.parametrize("value", ["a = b", "a=b", "quick", "check=b"])
def test_a_value_may_have_an_equals_sign_in_both_ways_to_write_an_option(value: str) -> None:
    ways = [parser().parse_options(way) for way in ([f"text={value}"], [f"--text={value}"], ["--text", value])]
    assert [way.text for way in ways] == [value] * 3


def test_an_option_behind_one_that_needs_no_value_is_an_option() -> None:
    assert vars(parser().parse_options(["--quick", "text=a", "--check", "threads=2"])) == {
        "text": "a", "threads": 2, "quick": True, "check": True,
    }  # fmt: skip
    assert parser().parse_options(["--check", "false", "text=a"]).text == "a"


def test_other_options_are_written_in_both_ways_too() -> None:
    for others in (["data.dir=/x/a=b"], ["--data.dir", "/x/a=b"], ["--data.dir=/x/a=b"]):
        options, found = parser().parse_with_others([*others, "text=c"])
        assert (options.text, found) == ("c", {"data.dir": "/x/a=b"})
    with pytest.raises(UserError, match="there is no option other"):
        parser().parse_options(["--other", "a=b"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(("wrong", "line"), [(None, "No space left on device"), (UserError("no such run"), "no such run")])
def test_output_that_finds_no_room_is_one_line(wrong, line, monkeypatch, capsys) -> None:
    """Also where it is short, and waits in a buffer until the command has ended."""

    def command() -> int:
        sys.stdout.write("found")
        if wrong:
            raise wrong
        return 0

    with Path("/dev/full").open("w") as full:  # closing it would fail if anything were left to write there
        monkeypatch.setattr(sys, "stdout", full)
        assert cli.guarded(command) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_reader_that_has_enough_ends_a_command_without_a_word(monkeypatch, capsys) -> None:
    taken, given = os.pipe()
    os.close(taken)
    with open(given, "w") as pipe:  # noqa: PTH123 - it has no path
        monkeypatch.setattr(sys, "stdout", pipe)
        assert cli.guarded(lambda: 0 * sys.stdout.write("found")) == 141
    assert capsys.readouterr().err == ""


def test_a_command_without_an_output_ends_as_any(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.guarded(lambda: 0) == 0
