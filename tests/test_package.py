"""The package as a whole: what importing it brings in, and what its documents say of it."""

import re
import subprocess
import sys
from pathlib import Path

import g2lstm

HEAVY = ("hydra", "omegaconf", "matplotlib", "rich", "datasets", "wandb", "sacrebleu")


def test_import_brings_in_nothing_heavy():
    code = f"""
import sys, torch
before = set(sys.modules)
import g2lstm
print(sorted((set(sys.modules) - before) & set({HEAVY})))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_public_name_is_importable():
    assert all(hasattr(g2lstm, name) for name in g2lstm.__all__)


def test_every_file_that_the_list_of_deviations_names_is_marked():
    root = Path(g2lstm.__file__).parent
    table = (root.parent / "docs" / "deviations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+/?\w*\.py)`", table)) - {"results.py"}  # a default, not a line
    assert len(named) >= 6
    for name in named:
        assert "# deviation:" in (root / name).read_text(encoding="utf-8"), name
