"""What is compared of two runs that should have ended alike."""

import json
from pathlib import Path

import torch

from g2lstm.training.checkpoint import load_checkpoint

TIMINGS = ("eta", "seconds", "evaluation_seconds", "peak_memory_mib")


def curve(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [untimed(line) for line in lines]


def untimed(content: dict) -> dict:
    return {key: value for key, value in content.items() if key not in TIMINGS and not key.endswith("_per_second")}


def same(a, b) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def assert_same_run(a: Path, b: Path) -> None:
    assert curve(a) == curve(b)
    for name in ("best", "last"):
        contents = [load_checkpoint(run / f"{name}.safetensors") for run in (a, b)]
        for content in contents:
            content.pop("metrics_size", None)  # timings have more digits or fewer
            for timing in ("seconds", "train_seconds"):
                content.get("position", {}).pop(timing, None)
        assert same(*contents)
    summaries = [json.loads((run / "summary.json").read_text()) for run in (a, b)]
    assert untimed(summaries[0]) == untimed(summaries[1])
    assert not list(b.glob(".*"))
