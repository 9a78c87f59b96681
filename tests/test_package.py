"""What `import g2lstm` brings with it."""

import subprocess
import sys

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
