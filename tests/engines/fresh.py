"""Code in processes of its own, in which the package is imported and has not looked for its kernel yet.

Each is forked from one that has the imports behind it, which saves seconds.
"""

import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import g2lstm  # noqa: F401 what each process has

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])


@dataclass
class Started:
    """A running process."""

    process: BaseProcess
    folder: Path

    def communicate(self) -> tuple[str, str]:
        """What it wrote on stdout and stderr until it ended without an error."""
        self.process.join(250)
        out, err = ((self.folder / name).read_text() for name in ("out", "err"))
        assert self.process.exitcode == 0, err
        return out, err


def start(code: str, folder: Path, *arguments: str, environment: Mapping[str, str] = os.environ) -> Started:
    """Starts it with its output in a folder within `folder`."""
    own = Path(tempfile.mkdtemp(prefix="output-", dir=folder))
    process = FORKS.Process(target=_run, args=(code, own, arguments, dict(environment)))
    process.start()
    return Started(process, own)


def _run(code: str, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may be another there
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["-c", *arguments]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    exec(code, {"__name__": "__main__"})
