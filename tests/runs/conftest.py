"""Runs that were never trained, with checkpoints of drawn numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config
from g2lstm.runs.run import Run
from g2lstm.training.checkpoint import save_checkpoint

WriteRun = Callable[..., Run]


@pytest.fixture(scope="session")
def write_run() -> WriteRun:
    """Writes an unfinished run: write_run(path, step, seed=..., summary={...}, curve=[...])."""
    values = compose(["task=text", "data.dir=x"]) | {"experiment_name": "text", "run_name": "gumbel-seed1"}

    def write(path: Path, step: int = 7, *, seed: int = 1, hardware: str = "x", summary: Any = None, curve: Any = ()) -> Run:
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(Config.parse(values | {"seed": seed}).dump())
        (path / "environment.json").write_text(json.dumps({"hardware": hardware}))
        (path / "vocabulary.json").write_text('["a", "b"]')
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
        if summary is not None:
            (path / "summary.json").write_text(json.dumps(summary))
        draw = torch.Generator().manual_seed(step)
        mean = {"a.weight": torch.randn(40, 50, generator=draw), "a.bias": torch.randn(40, generator=draw)}
        near = [{k: v + torch.randn(v.shape, generator=draw) / 20 for k, v in mean.items()} for _ in range(3)]
        squares = {"square_avg": near[0]["a.weight"].square() / 1000, "signed": near[0]["a.weight"]}
        average = {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in mean.items()}}
        last = {"position": {"step": step}, "model": near[0], "optimizer": {"state": {0: squares}}, "average": average}
        save_checkpoint(path / "last.safetensors", last | {"carried": [torch.randn(2, 40, generator=draw)]})
        save_checkpoint(path / "last-but-one.safetensors", {"position": {"step": step - 1}})
        save_checkpoint(path / "best.safetensors", {"model": near[1], "tau": 0.9})
        save_checkpoint(path / "best-before-finetune.safetensors", {"model": near[2]})
        return Run.open(path)

    return write
