"""What a finished run leaves: `summary.json`, and its record under `results/` that anyone can compress and inspect."""

import shutil
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save
from torch import Tensor, nn

from g2lstm.build import build_cache, build_gate, build_language_model, vocabulary_of
from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.methods import Method
from g2lstm.compression.targets import Target
from g2lstm.config import as_dict, load_config
from g2lstm.data.text import Vocabulary
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.gates import has_temperature
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.environment import checkout, commit
from g2lstm.training.loop import Position, set_temperature
from g2lstm.training.rundir import RunDirectory
from g2lstm.training.tasks import LanguageModelTask, metrics_of

LARGEST_RECORDED_MODEL = 4_000_000  # parameters


def load_best(run: RunDirectory, model: nn.Module, *, before_finetune: bool = False) -> nn.Module:
    """Gives `model` the run's best weights, or the best of its main stage, and their temperature, in eval mode."""
    content = load_checkpoint(run.best_before_finetune if before_finetune else run.best)
    model.load_state_dict(content["model"])
    set_temperature(model, content["tau"])
    return model.eval()


def evaluate_model(
    task: LanguageModelTask,
    model: nn.Module,
    splits: tuple[str, ...],
    config: DictConfig,
    losses: dict[str, Tensor] | None = None,
) -> dict[str, float]:
    """Perplexity in float32 of each split, without and, where the config has it enabled, with the cache pointer.

    The losses of the single words go to `losses` as float16, by split, "_cache" behind it with the cache pointer.
    """
    metrics: dict[str, float] = {}
    variants = {"": None, "_cache": build_cache(config.eval.cache)} if config.eval.cache.enabled else {"": None}
    for split in splits:
        for name, cache in variants.items():
            found = task.token_losses(model, split, cache)
            metrics[f"{split}_perplexity{name}"] = metrics_of(found)["perplexity"]
            if losses is not None:
                losses[f"{split}{name}"] = found.half()
    return metrics


def write_summary(
    run: RunDirectory, task: LanguageModelTask, model: nn.Module, config: DictConfig, position: Position
) -> dict[str, Any]:
    """Evaluates the best weights on valid and test and writes `summary.json`.

    Returns:
        the summary.
    """
    started = time.monotonic()
    gate = build_gate(config.gate)
    losses: dict[str, Tensor] = {}
    metrics = evaluate_model(task, load_best(run, model), ("valid", "test"), config, losses)
    write_atomically(run.losses, save(losses))
    if run.best_before_finetune.is_file():
        earlier = evaluate_model(task, load_best(run, model, before_finetune=True), ("valid", "test"), config)
        metrics |= {f"{name}_without_finetune": value for name, value in earlier.items()}
        load_best(run, model)
    environment = run.read_json("environment.json")
    summary: dict[str, Any] = {
        "task": config.task.name,
        "experiment": config.experiment_name,
        "gate": config.gate.name,
        "gate_tau": gate.tau if has_temperature(gate) else None,
        "gate_noise_p": getattr(gate, "noise_p", None),
        "seed": config.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": position.evaluated_epochs,
        "best_epoch": position.best_epoch,
        "steps": position.step,
        "finished": position.done,
        **{f"{split}_perplexity_cache": None for split in ("valid", "test")},
        **metrics,
        "seconds": round(position.seconds + time.monotonic() - started, 1),
        "words_per_second": round(position.count / max(position.train_seconds, 1e-9), 1),
        "precision": config.precision,
        **{key: environment[key] for key in ("hardware", "threads", "torch", "commit")},
        **({"resumed_on_another_environment": True} if "resumed_on" in environment else {}),
    }
    run.write_json("summary.json", summary)
    return summary


def deploy_run(run: RunDirectory, method: Method, target: Target | None = None, *, rest: str = "float32") -> Deployed:
    """A run's best weights, compressed, with all that evaluating them again takes: its config and its vocabulary.

    Args:
        run: the run.
        method, target, rest: as in `deploy`.
    """
    config, vocabulary = load_config(run.config), vocabulary_of(run.path)
    model = load_best(run, build_language_model(config, len(vocabulary)))
    notes = {"config": as_dict(_anywhere(config)), "vocabulary": list(vocabulary.tokens)}
    return deploy(model, method, target, rest=rest, notes=notes)


def origin(deployed: Deployed, path: Path) -> tuple[DictConfig, Vocabulary]:
    """The config and the vocabulary of the run that a compressed model comes from.

    Raises:
        UserError: it does not come from a run.
    """
    if deployed.kind != "language_model" or not {"config", "vocabulary"} <= set(deployed.notes):
        raise UserError(f"{path} does not say what it was trained on: only models made from a run can be evaluated")
    return DictConfig(deployed.notes["config"]), Vocabulary(tuple(deployed.notes["vocabulary"]))


def check_output(path: Path) -> None:
    """Raises a UserError where a model's file can't be written to `path` without a loss."""
    if path.exists() and (path.parent / "config.yaml").is_file() and path.suffix not in (".g2", ".onnx"):
        raise UserError(f"out={path} belongs to the run {path.parent}: choose another name, as model.g2")


def recorded_folder(config: DictConfig, results: Path) -> Path:
    """`results/<experiment>/<run name>`."""
    return results / config.experiment_name / config.run_name


def check_recordable(results: Path) -> None:
    """Raises a UserError where a record would say a commit that its run did not come from."""
    root = checkout()
    if root is not None and results.absolute().is_relative_to(root) and commit().endswith("-dirty"):
        raise UserError(f"record=true writes to {results}, with uncommitted changes in {root}: commit them, or record=false")


def is_recorded(config: DictConfig, results: Path) -> bool:
    """Whether a run of this name stands under `results`."""
    return (recorded_folder(config, results) / "summary.json").is_file()


def record(run: RunDirectory, task: LanguageModelTask, model: nn.Module, config: DictConfig, results: Path) -> Path:
    """Copies a finished run to its folder under `results`: all but the checkpoints.

    The best weights of a small model go with it in bf16, unless the config has record_weights=false. What only this
    machine knows, as the corpus's folder, is left out of the config.

    Returns:
        the folder.
    """
    folder = recorded_folder(config, results)
    target = RunDirectory(folder.with_name(f".{folder.name}"))  # takes its name when it is complete
    shutil.rmtree(target.path, ignore_errors=True)
    target.path.mkdir(parents=True)
    for name in ("environment.json", "metrics.jsonl", "vocabulary.json", run.losses.name):
        shutil.copyfile(run.path / name, target.path / name)
    write_atomically(target.config, OmegaConf.to_yaml(_anywhere(config)))
    summary = run.read_json("summary.json")
    if config.get("record_weights", True) and summary["parameters"] <= LARGEST_RECORDED_MODEL:
        content = load_checkpoint(run.best)
        content["model"] = {name: tensor.bfloat16() for name, tensor in content["model"].items()}
        save_checkpoint(target.best, content)
        plain = config.copy()
        plain.eval.cache.enabled = False
        rounded = evaluate_model(task, load_best(target, model), ("valid", "test"), plain)
        summary |= {f"{name}_recorded_weights": value for name, value in rounded.items()}
    target.write_json("summary.json", summary)
    return target.path.rename(folder)


def _anywhere(config: DictConfig) -> DictConfig:
    """The config without what only this machine knows."""
    return DictConfig(OmegaConf.merge(config, {"data": {"dir": None}, "run_dir": None}))
