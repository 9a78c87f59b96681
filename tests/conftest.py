"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A busy machine is no failure, and a test run leaves no folder behind.
settings.register_profile("quiet", deadline=None, database=None)
settings.load_profile("quiet")

torch.set_num_threads(1)  # the tensors here are small: more threads only wait for each other

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ptb_dir() -> Path:
    """The folder of the real Penn Treebank; the test is skipped where there is none."""
    roots = [ROOT / "data", ROOT.parent / "shared" / "data"]
    if os.environ.get("G2LSTM_DATA"):
        roots.insert(0, Path(os.environ["G2LSTM_DATA"]))
    for root in roots:
        if (root / "ptb" / "ptb.train.txt").is_file():
            return root / "ptb"
    pytest.skip("no Penn Treebank: set $G2LSTM_DATA, or put ptb.train.txt, ptb.valid.txt, ptb.test.txt under data/ptb")
