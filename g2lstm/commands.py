"""What the installed commands g2lstm-train and g2lstm-evaluate call: the modules behind them need the extra `train`."""

import importlib
import signal
import sys


def train() -> None:
    """Trains a model, as the options in sys.argv say."""
    _run("g2lstm.runs.train")


def evaluate() -> None:
    """Evaluates a run or a compressed model, as the options in sys.argv say."""
    _run("g2lstm.runs.evaluate")


def _run(module: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback
    try:
        command = importlib.import_module(module).command
    except ModuleNotFoundError as error:
        if (error.name or "g2lstm").startswith("g2lstm"):
            raise
        sys.exit(f"error: the package {error.name} is missing: pip install 'g2lstm[train]'")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command()
