"""The commands train and evaluate. As installed they come through here: what is behind them needs the extra `train`."""

import gc
import importlib
import signal
import sys


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
