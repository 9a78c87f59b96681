"""Starting a run and going on with one: config -> objects -> training -> summary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from g2lstm import build
from g2lstm.config import check_values, experiment_name, run_name
from g2lstm.errors import UserError
from g2lstm.results import record, write_summary
from g2lstm.training.environment import environment
from g2lstm.training.loop import Interrupted, Trainer
from g2lstm.training.progress import Reporter, duration
from g2lstm.training.rundir import RunDirectory
from g2lstm.training.tasks import LanguageModelTask
from g2lstm.training.tracking import build_tracker

# What may change when a run is resumed: nothing that its numbers depend on.
RESUME_OPTIONS: dict[str, Callable[[str], Any]] = {
    "max_steps": lambda text: None if text == "null" else int(text),
    "checkpoint_minutes": float,
    "record": lambda text: {"true": True, "false": False}[text.lower()],
}


def start(config: DictConfig, overrides: list[str], console: Console | None = None) -> int:
    """Trains what `config` describes in a new run directory.

    Returns:
        0, or 130 where the run was interrupted.
    """
    console = console or Console()
    device = _prepare(config)
    corpus = build.build_corpus(config.data)
    task = build.build_task(config, corpus, device)
    config = _named(config, overrides)
    build.build_settings(config)  # a bad value is found before anything is written
    run = RunDirectory.create(Path(config.run_dir or f"runs/{config.experiment_name}/{config.run_name}"))
    run.config.write_text(OmegaConf.to_yaml(config))
    run.write_json("environment.json", environment(device, config.model.engine))
    corpus.vocabulary.save(run.vocabulary)
    console.print(f"{corpus.origin}: {len(corpus.train):,} words to train on; writing to {run.path}", highlight=False)
    return _train(run, config, task, device, console, resumed=False)


def resume(arguments: list[str], console: Console | None = None) -> int:
    """Goes on with a run: ["resume=RUN_DIR", "max_steps=100", ...].

    Returns:
        0, or 130 where the run was interrupted.

    Raises:
        UserError: no such run, a damaged checkpoint, or an option that a resumed run can't change.
    """
    console = console or Console()
    options = dict(text.split("=", 1) for text in arguments if "=" in text)
    run = RunDirectory.open(Path(options.pop("resume")))
    config = DictConfig(OmegaConf.load(run.config))
    for name, text in options.items():
        if name not in RESUME_OPTIONS:
            raise UserError(f"a resumed run keeps its config, {name} can't be changed: only {', '.join(RESUME_OPTIONS)} can")
        try:
            config[name] = RESUME_OPTIONS[name](text)
        except (ValueError, KeyError):
            raise UserError(f"{name}={text} does not parse: give a number, or true or false") from None
    if "max_steps" not in options:
        config.max_steps = None
    check_values(config)
    if run.summary.is_file() and run.read_json("summary.json").get("finished"):
        raise UserError(f"{run.path} is finished: python evaluate.py run={run.path} evaluates it again")
    device = _prepare(config)
    _warn_if_elsewhere(run, environment(device, config.model.engine), console)
    corpus = build.build_corpus(config.data, build.vocabulary_of(run.path))
    return _train(run, config, build.build_task(config, corpus, device), device, console, resumed=True)


def _prepare(config: DictConfig) -> torch.device:
    if config.threads:
        torch.set_num_threads(config.threads)
    return build.build_device(config.device)


def _named(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The config with the names of the experiment and of the run in it."""
    names = {"experiment_name": experiment_name(config, overrides), "run_name": run_name(config, overrides)}
    plain = {key: value for key, value in OmegaConf.to_container(config).items() if key != "hydra"}
    return OmegaConf.create(plain | names)


def _train(
    run: RunDirectory, config: DictConfig, task: LanguageModelTask, device: torch.device, console: Console, *, resumed: bool
) -> int:
    settings = build.build_settings(config)
    tracker_file = run.path / "tracker.json"
    tracker = build_tracker(
        config.tracker.name,
        project=config.tracker.get("project", "g2lstm"),
        config=OmegaConf.to_container(config),
        run_dir=run.path,
        run_id=run.read_json(tracker_file.name)["run_id"] if resumed and tracker_file.is_file() else None,
        mode=config.tracker.get("mode"),
        say=lambda text: console.print(text, highlight=False),
    )
    if tracker.run_id is not None:
        run.write_json(tracker_file.name, {"run_id": tracker.run_id})
    advice = "experiment=ptb_cpu is a smaller model for a laptop" if config.task.name == "ptb" else ""
    reporter = Reporter(console, advice=advice)
    try:
        trainer = Trainer(task, settings, run, device, tracker, reporter, resume=resumed and run.last.is_file())
        position = trainer.fit()
    except Interrupted:
        reporter.stop()
        console.print(f"stopped and saved; go on with: python train.py resume={run.path}", highlight=False)
        return 130
    finally:
        reporter.stop()
        tracker.finish()
    summary = write_summary(run, task, trainer.model, config, position)
    console.print(
        f"{config.gate.name}: valid perplexity {summary['valid_perplexity']:.2f}, test {summary['test_perplexity']:.2f}"
        + (f", test with cache {summary['test_perplexity_cache']:.2f}" if "test_perplexity_cache" in summary else "")
        + f", {duration(summary['seconds'])}; in {run.path}",
        highlight=False,
    )
    if config.record and position.done:
        console.print(f"recorded in {record(run, task, trainer.model, config, Path('results'))}", highlight=False)
    return 0


def _warn_if_elsewhere(run: RunDirectory, now: dict[str, Any], console: Console) -> None:
    """Says in one line where the run can't be expected to continue bit for bit."""
    then = run.read_json("environment.json")
    changed = [key for key in ("hardware", "threads", "torch", "device", "engine") if then.get(key) != now[key]]
    if changed:
        differences = ", ".join(f"{key} {then.get(key)} -> {now[key]}" for key in changed)
        console.print(f"warning: the run goes on, but not bit for bit the same ({differences})", style="yellow")
