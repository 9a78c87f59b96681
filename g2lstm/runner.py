"""Starting a run and going on with one: config -> objects -> training -> summary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from g2lstm import build
from g2lstm.config import as_dict, check_values, experiment_name, load_config, run_name
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.lstm import engines_of
from g2lstm.results import check_recordable, is_recorded, record, recorded_folder, write_summary
from g2lstm.training.environment import environment, processor_has_bfloat16
from g2lstm.training.interruption import Interrupted, StopSignals
from g2lstm.training.loop import Trainer
from g2lstm.training.profiling import StepProfiler
from g2lstm.training.progress import Reporter, duration, say
from g2lstm.training.rundir import RunDirectory
from g2lstm.training.tasks import LanguageModelTask
from g2lstm.training.tracking import Tracker, build_tracker

RESULTS = Path("results")
# What may change when a run is resumed: nothing that its numbers depend on.
RESUME_OPTIONS: dict[str, Callable[[str], Any]] = {
    "max_steps": lambda text: None if text == "null" else int(text),
    "checkpoint_minutes": float,
    "record": lambda text: {"true": True, "false": False}[text.lower()],
    "profile": lambda text: {"true": True, "false": False}[text.lower()],
}


def start(config: DictConfig, overrides: list[str], console: Console | None = None) -> int:
    """Trains what `config` describes in a new run directory.

    Returns:
        0, or 130 where the run was interrupted.
    """
    console = console or Console()
    build.build_settings(config)  # a bad value is found before anything is read or written
    device = _prepare(config, console)
    corpus = build.build_corpus(config.data)
    task = build.build_task(config, corpus, device)
    config = _named(config, overrides)
    if config.record:
        check_recordable(RESULTS)
    found = _environment(config, task, device)
    run = RunDirectory.create(Path(config.run_dir or f"runs/{config.experiment_name}/{config.run_name}"))
    run.write_json("environment.json", found)
    corpus.vocabulary.save(run.vocabulary)
    write_atomically(run.config, OmegaConf.to_yaml(config))  # last: with it the folder is a run
    say(console, f"{corpus.origin}: {len(corpus.train):,} words to train on; writing to {run.path}")
    return _train(run, config, task, device, console, resumed=False)


def resume(arguments: list[str], console: Console | None = None) -> int:
    """Goes on with a run: ["resume=RUN_DIR", "max_steps=100", ...].

    Returns:
        0, or 130 where the run was interrupted.

    Raises:
        UserError: no such run, a damaged checkpoint, or an option that a resumed run can't change.
    """
    console = console or Console()
    options = _resume_options(arguments)
    run = RunDirectory.open(Path(options.pop("resume")))
    config = load_config(run.config)
    if run.summary.is_file():  # max_steps was reached: on to the end
        config.max_steps = None
    for name, value in options.items():
        config[name] = value
    check_values(config)
    finished = run.summary.is_file() and run.read_json("summary.json").get("finished")
    if finished and not (config.record and not is_recorded(config, RESULTS)):
        raise UserError(f"{run.path} is finished: python evaluate.py run={run.path} evaluates it again")
    run.remove_unfinished()
    device = _prepare(config, console)
    if config.record:
        check_recordable(RESULTS)
    task = build.build_task(config, build.build_corpus(config.data, build.vocabulary_of(run.path)), device)
    _warn_if_elsewhere(run, _environment(config, task, device), console)
    return _train(run, config, task, device, console, resumed=True)


def _resume_options(arguments: list[str]) -> dict[str, Any]:
    """{"resume": folder, option: value, ...}"""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if name != "resume" and (not separator or name not in RESUME_OPTIONS):
            raise UserError(f"a resumed run keeps its config, {name} can't be given: only {', '.join(RESUME_OPTIONS)} can")
        try:
            options[name] = text if name == "resume" else RESUME_OPTIONS[name](text)
        except (ValueError, KeyError):
            raise UserError(f"{argument} does not parse: give a number, or true or false for record and profile") from None
    return options


def _prepare(config: DictConfig, console: Console) -> torch.device:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = build.build_device(config.device)
    if config.precision == "bfloat16" and device.type == "cpu" and not processor_has_bfloat16():
        say(console, "this processor has no bfloat16 instructions: precision=float32 may be faster")
    return device


def _environment(config: DictConfig, task: LanguageModelTask, device: torch.device) -> dict[str, Any]:
    """What the run runs on, with the engines that train its layers."""
    with torch.device("meta"):
        model = task.build_model()
    dtype = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    return environment(device, ", ".join(engines_of(model, device, dtype)))


def _named(config: DictConfig, overrides: list[str]) -> DictConfig:
    """The config with the names of the experiment and of the run in it."""
    names = {"experiment_name": experiment_name(config, overrides), "run_name": run_name(config, overrides)}
    return DictConfig(as_dict(config) | names)


def _train(
    run: RunDirectory, config: DictConfig, task: LanguageModelTask, device: torch.device, console: Console, *, resumed: bool
) -> int:
    tracker = _tracker(run, config, console, resumed=resumed)
    smaller = {"ptb": "experiment=ptb_cpu", "text": "experiment=ptb_cpu task=text"}.get(config.task.name)
    advice = f"{smaller} is a smaller model for a laptop" if smaller else ""
    reporter = Reporter(console, advice=advice)
    try:
        with StopSignals() as stop:
            settings = build.build_settings(config)
            profiler = StepProfiler(run.path, device, reporter.say) if config.get("profile") else None
            trainer = Trainer(task, settings, run, device, tracker, reporter, stop=stop, resume=resumed, profiler=profiler)
            position = trainer.fit()
            reporter.stop()
            with stop.at_once():
                summary = write_summary(run, task, trainer.model, config, position)
                say(console, _result(summary, run))
                if config.record and (position.done or config.get("record_unfinished")):
                    _record(run, task, trainer.model, config, console)
        numbers = {f"summary/{key}": value for key, value in summary.items() if isinstance(value, int | float)}
        tracker.log(numbers, step=position.step)
    except Interrupted:
        reporter.stop()
        say(console, f"stopped and saved; go on with: python train.py resume={run.path}")
        return 130
    finally:
        reporter.stop()
        tracker.finish()
    if not position.done:
        say(console, f"max_steps ended the run; go on with: python train.py resume={run.path}")
    return 0


def _record(run: RunDirectory, task: LanguageModelTask, model: nn.Module, config: DictConfig, console: Console) -> None:
    """Copies the run to results/, but never over an earlier record."""
    if is_recorded(config, RESULTS):
        text = f"{recorded_folder(config, RESULTS)} holds an earlier record, which stays; to replace it, remove it and run: "
        say(console, f"{text}python train.py resume={run.path} record=true")
    else:
        say(console, f"recorded in {record(run, task, model, config, RESULTS)}")


def _tracker(run: RunDirectory, config: DictConfig, console: Console, *, resumed: bool) -> Tracker:
    """The tracker of `config`, going on with the run's own where there is one."""
    file = run.path / "tracker.json"
    tracker = build_tracker(
        config.tracker.name,
        project=config.tracker.get("project", "g2lstm"),
        config=as_dict(config),
        run_dir=run.path,
        run_id=run.read_json(file.name)["run_id"] if resumed and file.is_file() else None,
        mode=config.tracker.get("mode"),
        say=lambda text: say(console, text),
    )
    if tracker.run_id is not None:
        run.write_json(file.name, {"run_id": tracker.run_id})
    return tracker


def _result(summary: dict[str, Any], run: RunDirectory) -> str:
    """One line about what a run found."""
    text = f"{summary['gate']}: valid perplexity {summary['valid_perplexity']:.2f}, test {summary['test_perplexity']:.2f}"
    if summary["test_perplexity_cache"] is not None:
        text += f", test with cache {summary['test_perplexity_cache']:.2f}"
    return f"{text}, {duration(summary['seconds'])}; in {run.path}"


def _warn_if_elsewhere(run: RunDirectory, now: dict[str, Any], console: Console) -> None:
    """Says in one line, and writes down, where the run can't be expected to continue bit for bit."""
    then = run.read_json("environment.json")
    changed = [key for key in ("hardware", "threads", "torch", "device", "engine") if then.get(key) != now[key]]
    if changed:
        run.write_json("environment.json", then | {"resumed_on": [*then.get("resumed_on", []), now]})
        differences = ", ".join(f"{key} {then.get(key)} -> {now[key]}" for key in changed)
        say(console, f"warning: the run goes on, but not bit for bit the same ({differences})")
