"""Tables come from recorded runs, and documents quote no other numbers."""

import json
from pathlib import Path

import pytest
import tables

from g2lstm.errors import UserError


def recorded(folder: Path, name: str, **values: object) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    summary = {"valid_perplexity": 92.0, "test_perplexity": 88.0}
    summary |= {"valid_perplexity_cache": 85.0, "test_perplexity_cache": 84.0, "parameters": 3_454_800}
    summary |= {"seconds": 1500.0, "words_per_second": 9000.0, "hardware": "a machine", "torch": "2.13", "threads": 2}
    (run / "summary.json").write_text(json.dumps(summary | values))
    curve = [{"kind": "valid", "epoch": epoch, "perplexity": 200.0 / epoch} for epoch in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))
    return run


def test_a_table_has_a_row_for_each_gate_with_mean_and_deviation_over_seeds(tmp_path) -> None:
    recorded(tmp_path / "x", "sigmoid-seed1", test_perplexity=88.0)
    recorded(tmp_path / "x", "sigmoid-seed2", test_perplexity=90.0)
    recorded(tmp_path / "x", "gumbel-p0.5-seed1", test_perplexity=86.0)
    rows = tables.table(tmp_path / "x").splitlines()
    assert rows[2].startswith("| plain LSTM | 92.00 ± 0.00 | 89.00 ± 1.41 |")
    assert rows[3].startswith("| G2-LSTM (p0.5) | 92.00 | 86.00 |")
    assert "a machine, torch 2.13" in rows[-1]


def test_a_run_without_cache_has_a_dash(tmp_path) -> None:
    recorded(tmp_path / "x", "gumbel-seed1", valid_perplexity_cache=None, test_perplexity_cache=None)
    assert "| 88.00 | - | - | 1 |" in tables.table(tmp_path / "x")


def test_only_what_stands_between_the_marks_is_replaced(tmp_path) -> None:
    recorded(tmp_path / "x", "sigmoid-seed1")
    document = "before\n<!-- table: x -->\nold\n<!-- end of table -->\nafter\n"
    filled = tables.filled(document, tmp_path)
    assert filled.startswith("before\n<!-- table: x -->\n| gate |")
    assert filled.endswith("<!-- end of table -->\nafter\n")
    assert tables.filled(filled, tmp_path) == filled


def test_what_a_command_wrote_is_quoted_whole(tmp_path) -> None:
    (tmp_path / "compression" / "x").mkdir(parents=True)
    (tmp_path / "compression" / "x" / "sweep.md").write_text("| a |\n| b |\n")
    document = "<!-- table: compression/x:sweep -->\nold\n<!-- end of table -->"
    assert "-->\n| a |\n| b |\n<!--" in tables.filled(document, tmp_path)
    assert "(no study is recorded yet)" in tables.filled(document.replace("compression/x:sweep", "x:study"), tmp_path)


def test_a_table_of_the_benchmark_is_made_from_its_file(tmp_path) -> None:
    sizes = {"section": "recurrence", "size": [7, 2, 4, 6], "dtype": "float32", "mode": "train"}
    rows = [sizes | {"engine": "nn.LSTM", "ms": 12.34, "ratio": 1.0, "memory_mb": 5.0, "memory_ratio": 1.0}]
    rows += [sizes | {"engine": "auto", "ms": 6.17, "ratio": 0.5, "memory_mb": None, "memory_ratio": None}]
    content = {"hardware": "a machine", "torch": "2.13", "threads": 2, "rows": rows}
    content["summary"] = {"train_speedup_over_loop": 2.5}
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "a.json").write_text(json.dumps(content))
    filled = tables.filled("<!-- table: speed:train -->\nold\n<!-- end of table -->", tmp_path)
    lines = filled.splitlines()
    assert lines[1:4] == [
        "| T, B, D -> H | dtype | nn.LSTM, ms | auto |",
        "| --- | --- | ---: | ---: |",
        "| 7, 2, 4 -> 6 | float32 | 12.3 | 0.50 |",
    ]
    assert "a machine, torch 2.13, 2 threads" in filled
    assert "2.50 times as fast" in filled
    none = tables.filled("<!-- table: speed:eval -->\nold\n<!-- end of table -->", tmp_path)
    assert "(no measurement is recorded yet)" in none


def test_curves_are_drawn(tmp_path) -> None:
    recorded(tmp_path / "x", "sigmoid-seed1")
    recorded(tmp_path / "x", "gumbel-seed1")
    tables.draw_curves(tmp_path / "x")
    for kind in ("png", "svg"):
        assert (tmp_path / "x" / f"curves.{kind}").stat().st_size > 10_000


def test_no_results_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match="no folder"):
        tables.tables([f"results={tmp_path / 'none'}"])


def test_the_documents_quote_what_results_has() -> None:
    assert tables.tables(["check=true"]) == 0
