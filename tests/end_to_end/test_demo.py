"""The demo trains both models and prints what it measured."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_demo_trains_two_models_and_prints_their_table(tmp_path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "demo.py"), "epochs=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"COLUMNS": "120"},
    )
    assert result.returncode == 0, result.stderr + result.stdout
    for gate, name in (("sigmoid", "plain LSTM"), ("gumbel", "G2-LSTM")):
        assert any(name in line and "%" in line and "│" in line for line in result.stdout.splitlines())
        assert (tmp_path / "runs" / "demo" / gate / "summary.json").is_file()
    assert "runs/demo" in result.stdout
