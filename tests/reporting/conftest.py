"""Runs as they lie in results/, without weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config, experiment_name, run_name

RecordRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_figure_stays():
    yield
    plt.close("all")


@pytest.fixture(scope="session")
def record_run() -> RecordRun:
    """Writes a run: record_run(folder, seed, "gate=gumbel", ..., key_of_summary=value). Its own curve goes with curve=[]."""
    composed: dict[tuple[str, ...], dict[str, Any]] = {}

    def record(folder: Path, seed: int, *overrides: str, curve: list[dict[str, Any]] | None = None, **summary: Any) -> Path:
        if overrides not in composed:
            composed[overrides] = compose(list(overrides))
        values = composed[overrides]
        name = run_name(values["gate"]["name"], seed, overrides)
        about = {"run_name": name, "experiment_name": experiment_name(values["task"]["name"], overrides)}
        path = folder / name
        path.mkdir(parents=True)
        config = Config.parse(values | about | {"seed": seed, "overrides": list(overrides)})
        (path / "config.yaml").write_text(config.dump())
        found = {
            "valid_perplexity": 92.0,
            "test_perplexity": 88.0,
            "valid_perplexity_cache": 85.0,
            "test_perplexity_cache": 84.0,
        }
        found |= {"parameters": 3_454_800, "epochs": 3, "best_epoch": 2, "seconds": 1500.0, "words_per_second": 9000.0}
        found |= {"hardware": "a machine", "torch": "2.13", "threads": 2} | summary
        (path / "summary.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
        (path / "environment.json").write_text(json.dumps({"hardware": "a machine", "commit": "abc"}))
        if curve is None:
            curve = [{"kind": "train", "epoch": 1, "step": step, "loss": 6 - step / 20} for step in range(1, 40)]
            curve += [{"kind": "valid", "epoch": n, "step": 10 * n, "loss": 5.0, "perplexity": 200.0 / n} for n in (1, 2, 3)]
        (path / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))
        return path

    return record
