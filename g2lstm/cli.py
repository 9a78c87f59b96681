"""Plain command lines: `name=value` and `--name value` mean the same, so that paths and free text need no quoting rules."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from g2lstm.errors import UserError


class OptionParser(argparse.ArgumentParser):
    """argparse that also takes `name=value`, and says one line about a mistake."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def parse_options(self, arguments: list[str]) -> argparse.Namespace:
        named = [f"--{text}" if "=" in text and not text.startswith("-") else text for text in arguments]
        return self.parse_args(named)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: python {self.prog} --help lists the options")


def flag(text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def folder(text: str) -> Path:
    """Where files can be put; it need not exist."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"{place} is a file: name a folder")
    return path


def file(text: str) -> Path:
    """Where a file can be put; it need not exist."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder: name a file in it")
    folder(str(path.parent))
    return path


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; a mistake of the user's becomes one line on stderr and status 2 (HYDRA_FULL_ERROR=1: a traceback)."""
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except (UserError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        console = Console(stderr=True)
        console.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return 2


def main(command: Callable[[list[str]], int]) -> NoReturn:
    """Entry point of a script: `command` gets the arguments and returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # scripts leave it to the system while their imports run
    sys.exit(guarded(lambda: command(sys.argv[1:])))
