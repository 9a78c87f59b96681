"""What a run leaves under `results/`: all but its checkpoints, from committed code, for anyone to compress and inspect."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.files import write_atomically
from g2lstm.runs.config import Config
from g2lstm.runs.run import load_weights
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.folder import RunFolder

LARGEST_RECORDED_MODEL = 5_000_000  # parameters


def metric_key(metric: str, split: str, variant: str = "") -> str:
    """ "test_perplexity_cache": what a summary calls it."""
    return f"{split}_{metric}" + (f"_{variant}" if variant else "")


def evaluate_model(
    task: Any, model: nn.Module, splits: tuple[str, ...], variants: tuple[str, ...] | None = None,
    *, losses: dict[str, Tensor] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The metrics in float32 of each split in each variant of evaluation, all of the task's without `variants`.

    The losses of the single items go to `losses` by split and variant, as "test_cache": as float16, or as float32 where
    they are sums over a sentence, which have statistics beside them.
    """
    found: dict[str, float] = {}
    for split, variant in product(splits, task.variants if variants is None else variants):
        evaluation = task.evaluate(model, split, variant)
        found |= {metric_key(name, split, variant): value for name, value in evaluation.metrics.items() if name != "loss"}
        if losses is not None and evaluation.losses is not None:
            dtype = torch.float16 if evaluation.statistics is None else torch.float32
            losses[split + (f"_{variant}" if variant else "")] = evaluation.losses.to(dtype)
        if losses is not None and evaluation.statistics is not None:
            losses[metric_key("statistics", split, variant)] = evaluation.statistics
    return found


def recorded_folder(config: Config, results: Path) -> Path:
    """`results/<experiment>/<run name>`."""
    return results / config.run.experiment_name / config.run.run_name


def is_recorded(config: Config, results: Path) -> bool:
    """Whether a run of this name stands under `results`."""
    return (recorded_folder(config, results) / "summary.json").is_file()


def record(run: RunFolder, config: Config, task: Any, model: nn.Module, results: Path) -> Path:
    """Copies a finished run to its folder under `results`: all but the checkpoints.

    The best weights of a small model go with it in bf16, unless the config has record_weights=false. What only this
    machine knows, as the corpus's folder, is left out of the config.

    Returns:
        the folder.
    """
    folder = recorded_folder(config, results)
    target = RunFolder(folder.with_name(f".{folder.name}"))  # takes its name when it is complete
    shutil.rmtree(target.path, ignore_errors=True)
    target.path.mkdir(parents=True)
    for name in ("environment.json", "metrics.jsonl", *config.task_class.FILES):
        shutil.copyfile(run.path / name, target.path / name)
    if run.losses.is_file():
        shutil.copyfile(run.losses, target.losses)
    recorded = Config.parse(config.anywhere())
    write_atomically(target.config, recorded.dump())
    summary = run.read_json("summary.json")
    if config.run.record_weights and summary["parameters"] <= LARGEST_RECORDED_MODEL:
        content = load_checkpoint(run.best)
        content["model"] = {name: tensor.bfloat16() for name, tensor in content["model"].items()}
        save_checkpoint(target.best, content)
        rounded = load_weights(model, target.best, recorded.identity(task.files()))
        found = evaluate_model(task, rounded, ("valid", "test"), ("",))
        summary |= {f"{name}_recorded_weights": value for name, value in found.items()}
    target.write_json("summary.json", summary)
    return target.path.rename(folder)
