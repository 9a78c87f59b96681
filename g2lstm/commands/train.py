"""Trains a model: python train.py task=ptb gate=gumbel seed=1. Without arguments it says what it can do."""

import os
import re
import sys
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.runs.compose import BAD_CONFIG, CONF, OVERVIEW, explain, plain
from g2lstm.runs.start import resume, start
from g2lstm.training import workers
from g2lstm.training.interruption import Interrupted
from g2lstm.training.progress import Output


class JobError(UserError):
    """A job of a sweep failed and has said why; the others go on."""


class UnheardJobError(JobError):
    """The same, where what a job says goes to a launcher's file."""


class _WithoutHydrasLine:
    """A stream without "Error executing job with overrides": what is wrong is said in one line of ours."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Error executing job") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main(arguments: list[str]) -> int:
    """The exit status of the command with its arguments."""
    if not arguments:
        print(OVERVIEW)
        return 0
    try:
        if workers.started() and {"-m", "--multirun"} & set(arguments):
            raise UserError("several workers train one run at a time: leave -m out, or start the sweep without torchrun")
        if any(text.startswith("resume=") for text in arguments):
            resume(arguments, _console())
        else:
            _with_hydra(arguments)
    except Interrupted:
        return 130
    except (JobError, workers.Ended) as error:
        if isinstance(error, UnheardJobError):
            cli.say_error(error)
        return 2
    except UserError as error:
        if workers.first() or isinstance(error, workers.WorkerError):
            raise
        return 2  # the first worker says it
    return 0


def _with_hydra(arguments: list[str]) -> None:
    before, traceback = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [before[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its exceptions come through, and `cli.guarded` makes a line of them
    try:
        with redirect_stderr(_WithoutHydrasLine(sys.stderr)):
            hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(job)()
    except BAD_CONFIG as error:
        if traceback == "1" or isinstance(error, UserError):
            raise
        raise UserError(explain(error, [text for text in arguments if not text.startswith("-")])) from None
    except BrokenProcessPool:
        raise UserError("a process of the sweep was ended, perhaps for want of memory: the same command goes on") from None
    except RuntimeError as error:
        if type(error).__module__.startswith("submitit."):
            raise UserError(_lost_job(str(error))) from None
        if "srun" not in str(error):
            raise
        raise UserError("hydra/launcher=submitit_slurm finds no srun here: use submitit_local where no Slurm is") from None
    finally:
        sys.argv = before
        if traceback is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _lost_job(said: str) -> str:
    """One line of what submitit says of a job that left no result: its own error, or that something ended it."""
    way, found = "the others went on; the same command goes on", re.findall(r"^\S*Error: (.*)$", said, re.MULTILINE)
    log = re.search(r"\S+_log\.\w+", said)
    where = f" ({log[0]} has what it said)" if log else ""
    return f"{found[-1]}: {way}" if found else f"a job of the sweep was ended, perhaps for want of memory{where}: {way}"


def _console() -> Console:
    output: Any = Output()
    return Console(quiet=not workers.first(), file=output)


def job(config: DictConfig) -> float:
    """What Hydra and its launchers call for each run: the validation metric, for a sweeper to optimise."""
    found = HydraConfig.get()
    several, folder = found.mode == RunMode.MULTIRUN, Path(found.runtime.output_dir)
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    console, overrides = _console(), list(found.overrides.task)
    if several:
        console.print(f"run {found.job.num + 1}: {' '.join(overrides)}", highlight=False, markup=False, soft_wrap=True)
    try:
        return start(plain(config), overrides, folder, console, several=several)
    except Interrupted:
        raise KeyboardInterrupt from None  # ends a sweep as well
    except (UserError, OSError) as error:
        if not several:
            raise
        cli.say_error(error)
        said = str(error)
    finally:  # what Hydra made for a run that never began goes; of a folder elsewhere not those above it
        with suppress(OSError):
            for path in (folder, *(list(folder.parents)[:-1] if folder.parts[:1] == ("runs",) else [])):
                path.rmdir()
    # Not where the error was met: Hydra keeps the exception, and with it the frames that hold the model and its memory.
    raise (UnheardJobError if "SUBMITIT_EXECUTOR" in os.environ else JobError)(said)
