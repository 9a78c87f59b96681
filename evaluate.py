"""Evaluates runs and compressed models: python evaluate.py run=RUN_DIR split=test eval.cache.enabled=true."""

import gc
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback
    gc.disable()  # until they are done: a command starts and ends in two thirds of the time

from g2lstm.cli import main as run
from g2lstm.commands.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    run(main)
