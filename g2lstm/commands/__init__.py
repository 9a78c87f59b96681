"""The commands train and evaluate. As installed they come through here: what is behind them needs the extra `train`."""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from subprocess import Popen
from typing import IO

TRAIN = "from g2lstm.commands import train_command; train_command()"


def start_training(
    options: Sequence[str], output: IO[bytes] | None = None, *, threads: int | None = None, **environment: str
) -> "Popen[bytes]":
    """train.py with these options as a process of its own, which Ctrl-C does not reach; what it says goes to `output`."""
    environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", TRAIN, *options]
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
        command.append(f"threads={threads}")
    return Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def train_command() -> None:
    """Trains a model, as the options in sys.argv say."""
    _run("g2lstm.commands.train")


def evaluate_command() -> None:
    """Evaluates runs or compressed models, as the options in sys.argv say."""
    _run("g2lstm.commands.evaluate")


def _run(module: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback
    gc.disable()  # until they are done: a command starts and ends in two thirds of the time
    try:
        cli, command = importlib.import_module("g2lstm.cli"), importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "g2lstm").startswith("g2lstm"):
            raise
        package = (error.name or "").partition(".")[0]
        sys.exit(f"error: the package {package} is missing: pip install 'g2lstm[train]'")
    cli.main(command.main)
