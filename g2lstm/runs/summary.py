"""The summary of a run: its best weights evaluated on valid and test, `summary.json`, and a line of it."""

import time
from itertools import product
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from g2lstm.files import write_atomically
from g2lstm.runs.config import Config
from g2lstm.runs.record import evaluate_model, metric_key
from g2lstm.runs.run import load_weights
from g2lstm.training import workers
from g2lstm.training.environment import peak_memory
from g2lstm.training.folder import RunFolder
from g2lstm.training.loop import Position
from g2lstm.training.progress import duration


def summarise(run: RunFolder, config: Config, task: Any, model: nn.Module, position: Position) -> dict[str, Any]:
    """Evaluates the best weights on valid and test and writes `summary.json` and the losses."""
    started, identity, gate = time.monotonic(), config.identity(task.files()), config.gate
    metrics: dict[str, float] = {}
    losses: dict[str, torch.Tensor] = {}
    if run.best_before_finetune.is_file():
        earlier = evaluate_model(task, load_weights(model, run.best_before_finetune, identity), ("valid", "test"))
        metrics = {f"{name}_without_finetune": value for name, value in earlier.items()}
    best = evaluate_model(task, load_weights(model, run.best, identity), ("valid", "test"), losses=losses)
    evaluated = time.monotonic() - started
    if workers.first():
        write_atomically(run.losses, save(losses))
    environment, most = run.read_json("environment.json"), peak_memory(next(model.parameters()).device)
    summary: dict[str, Any] = {
        "task": config.run.task.name,
        "experiment": config.run.experiment_name,
        "gate": config.run.gate.name,
        "gate_tau": getattr(gate, "tau", None) if config.temperature else None,
        "gate_noise_p": getattr(gate, "noise_p", None),
        "seed": config.run.seed,
        "metric": task.metric.name,
        **task.facts,  # before "parameters"; metrics are behind it, where a model card looks for them
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": position.evaluated_epochs,
        "best_epoch": position.best_epoch,
        "steps": position.step,
        "finished": position.done,
        **best,
        **metrics,
        "seconds": round(position.seconds + time.monotonic() - started, 1),
        "evaluation_seconds": round(evaluated, 2),
        "peak_memory_mib": most and round(most, 1),
        f"{task.metric.unit}_per_second": round(position.count / max(position.train_seconds, 1e-9), 1),
        "precision": config.run.precision,
        **{key: environment.get(key) for key in ("hardware", "threads", "torch", "commit", "engine")},
        **({"workers": workers.count()} if workers.count() > 1 else {}),
        **({"resumed_on_another_environment": True} if "resumed_on" in environment else {}),
    }
    if workers.first():
        run.write_json("summary.json", summary)
    return summary


def in_a_line(summary: dict[str, Any], task: Any, run: RunFolder) -> str:
    """One line about what a run found: gate, metric, time, folder."""
    metric, found = task.metric, []
    for variant, split in product(task.variants, ("valid", "test")):
        value = summary[metric_key(metric.name, split, variant)]
        found.append(f"{split}{f' with {variant}' if variant else ''} {value:.{metric.digits}f}")
    return f"{summary['gate']}: {metric.name} {', '.join(found)}; {duration(summary['seconds'])}; in {run.path}"


def valid_metric(summary: dict[str, Any], config: Config) -> float:
    """The metric on valid by which runs of its task are chosen."""
    return float(summary[metric_key(config.task_class.metric.name, "valid")])
