"""Plain command lines: `name=value` and `--name value` mean the same, so that paths and free text need no quoting rules."""

import argparse
import difflib
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from g2lstm.errors import UserError

# What a run writes besides what its task saves, and what only commands write.
RUN_FILES = {
    *("config.yaml", "environment.json", "metrics.jsonl", "summary.json", "tracker.json", "trace.json.gz", "profile.txt"),
    *("best.safetensors", "best-before-finetune.safetensors", "last.safetensors", "losses.safetensors"),
}
OUTPUTS = (".g2", ".onnx", ".html")
MOST_THREADS = 1024  # a system ends a process that asks for 100,000
LARGEST_SEED = 2**32 - 1


class OptionParser(argparse.ArgumentParser):
    """argparse that also takes `name=value`, and says one line about a mistake; `shared` names options of `SHARED`."""

    def __init__(self, shared: Iterable[str] = (), **options: Any) -> None:
        epilog = f"{options.pop('epilog', '')} name=value and --name value mean the same.".strip()
        super().__init__(allow_abbrev=False, epilog=epilog, **options)
        for name in shared:
            self.add_argument(f"--{name}", **SHARED[name])

    def parse_options(self, arguments: list[str]) -> argparse.Namespace:
        options, rest = self.parse_known_args(self._named(arguments))
        if rest:
            self._refuse(rest[0])
        return options

    def parse_with_others(self, arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
        """The options of this parser, and the texts of all others by name."""
        options, rest = self.parse_known_args(self._named(arguments))
        others: dict[str, str] = {}
        while rest:
            name, separator, value = rest.pop(0).partition("=")
            if not separator and rest and not rest[0].startswith("--"):
                separator, value = "=", rest.pop(0)
            if not separator or not re.match("--.", name) or self._near(name):
                self._refuse(name)
            others[name.removeprefix("--")] = value
        return options, others

    def _named(self, arguments: list[str]) -> list[str]:
        """`name=value` as `--name=value`, unless it is the value of a `--name` before it."""
        found, awaited = list[str](), False
        for text in arguments:
            found.append(text if awaited or text.startswith("-") or "=" not in text else f"--{text}")
            action = self._option_string_actions.get(text)
            may_lack = action is not None and action.nargs is not None  # 0 or "?": what comes next is an option of its own
            awaited = not awaited and text.startswith("--") and "=" not in text and not may_lack
        return found

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument --([\w.-]+):(?= (must )?)", lambda found: found[1] + ("" if found[2] else ":"), message)
        advised = ": " in re.sub(r"'[^']*'", "", message).partition(": ")[2]
        raise UserError(message if advised else f"{message}: python {self.prog} --help lists the options")

    def _refuse(self, text: str) -> NoReturn:
        """Says what is wrong with a text that is no option of this parser."""
        name = text.partition("=")[0].removeprefix("--")
        if f"--{text}" in self._option_string_actions:
            raise UserError(f"{text} has no value: write {text}=...")
        if not name or not text.startswith("--"):
            self.error(f"{text!r} is no option, which is name=value")
        if near := self._near(text):
            raise UserError(f"there is no option {name}: did you mean {near}=...?")
        self.error(f"there is no option {name}")

    def _near(self, text: str) -> str | None:
        """The option of a similar name."""
        names = [name for action in self._actions for name in action.option_strings]
        known = [name.removeprefix("--") for name in names if not name.endswith(".X")]  # which stands for many
        found = difflib.get_close_matches(text.partition("=")[0].removeprefix("--"), known, n=1, cutoff=0.75)
        return found[0] if found else None


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of a run's config."""
    found = {name: getattr(options, name, None) for name in ("data.dir", "device")}
    return {name: value for name, value in found.items() if value is not None}


def flag(text: str) -> bool:
    """true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number from `low` on, at most `high`."""

    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) < low or int(text) > (high or int(text)):
            limit = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"must be a whole number {limit}, got {text[:50]!r}")
        return int(text)

    return parse


positive = whole(1)


def real(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text[:50]!r}") from None


def penalty(text: str) -> float:
    """A number from 0 to 10."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 10, got {text[:50]!r}")
    return value


threads = whole(1, MOST_THREADS)
seed = whole(0, LARGEST_SEED)


def folder(text: str) -> Path:
    """Where files can be put; it need not exist."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"{place} is a file: name a folder")
    return path


def file(text: str, *, own: str = "") -> Path:
    """Where a command can put a file; it need not exist. A file that belongs to a run is refused, and a device, and
    a model of another kind than the command's `own`."""
    path, wrong = Path(text), ""
    of_a_run = path.name in RUN_FILES or (path.exists() and path.suffix not in OUTPUTS)
    if path.is_dir():
        wrong = "is a folder: name a file in it"
    elif path.exists() and not path.is_file():
        wrong = "is no ordinary file, and would be replaced by one: name another"
    elif of_a_run and (path.parent / "config.yaml").is_file():
        wrong = f"belongs to the run {path.parent}: choose another name"
    elif path.exists() and path.suffix in (".g2", ".safetensors") and path.suffix != own:
        wrong = "is a model, and would be replaced: name another file"
    if wrong:
        raise argparse.ArgumentTypeError(f"{path} {wrong}")
    folder(str(path.parent))
    return path


# Options of several commands.
SHARED: dict[str, dict[str, Any]] = {
    "runs": {"required": True, "metavar": "DIRS", "help": "run directories: names or patterns, comma-separated"},
    "text": {"help": "words between white space, as the corpus writes them, of translations raw 'source ||| target'"},
    "gates": {"default": "if", "help": "which of i, f, g, o; if without it"},
    "matrices": {"default": "both", "help": "input, recurrent or both"},
    "layers": {"default": "all", "help": "numbers or names, comma-separated; all without it"},
    "layer": {"metavar": "NAME", "help": "the decoder's first layer, or the first, without it"},
    "threads": {"type": threads, "metavar": "N", "help": "CPU threads"},
    "average": {"type": positive, "metavar": "N", "help": "the mean of the weights of the last N epochs (keep_epochs=N)"},
    "device": {"default": "auto"},
    "data.dir": {"metavar": "DIR", "help": "where the data are, if not where the run found them"},
}


def guarded(command: Callable[[], int]) -> int:
    """Runs a command; a mistake of the user's becomes one line on stderr and status 2 (HYDRA_FULL_ERROR=1: a traceback)."""
    try:
        status = command()
        _flush()  # here: at the interpreter's exit a full disk would be two lines and status 120
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # as by head: who reads has had enough
        _mute()
        return 141
    except (UserError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        say_error(error)
        try:
            _flush()
        except OSError:
            _mute()
        return 2


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _mute() -> None:
    """Throws away what stdout can't take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say_error(error: Exception) -> None:
    """One line on stderr."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"can't use {error.filename} ({error.strerror}): name another" if error.filename else error.strerror
    line = f"error: {' '.join(text.split())}"
    Console(stderr=True).print(line, style="red", highlight=False, markup=False, emoji=False, soft_wrap=True)


def main(command: Callable[[list[str]], int]) -> NoReturn:
    """Entry point of a script: `command` gets the arguments and returns the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # scripts leave it to the system while their imports run
    gc.freeze()  # and collect no garbage meanwhile: what is there stays
    gc.enable()
    sys.exit(guarded(lambda: command(sys.argv[1:])))
