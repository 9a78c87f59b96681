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
    lines = result.stdout.splitlines()
    assert any("plain LSTM" in line and "G2-LSTM" in line for line in lines)
    for name in ("validation perplexity", "outside [0.1, 0.9]", "round 0.5", "round 0.3 & clip 0.6", "SVD 2", "SVD 1"):
        assert any(name in line and line.count("│") == 4 for line in lines), name
    for gate in ("sigmoid", "gumbel"):
        assert (tmp_path / "runs" / "demo" / gate / "summary.json").is_file()
    assert "runs/demo/report.html" in result.stdout.replace("\n", " ")
    assert "</html>" in (tmp_path / "runs" / "demo" / "report.html").read_text(encoding="utf-8")
