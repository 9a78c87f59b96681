"""Imported by each script before what takes long to import: Ctrl-C shows no traceback meanwhile."""

import signal
import sys
from pathlib import Path

if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
