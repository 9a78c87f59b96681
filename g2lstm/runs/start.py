"""Starting a run and going on with one: config -> objects -> training -> summary -> record."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.lstm import engines_of
from g2lstm.runs.config import Config, experiment_name, given, run_name, value_of
from g2lstm.runs.device import build_device, set_threads
from g2lstm.runs.record import LARGEST_RECORDED_MODEL, is_recorded, record, recorded_folder
from g2lstm.runs.run import Run, blamed
from g2lstm.runs.summary import in_a_line, summarise, valid_metric
from g2lstm.training import workers
from g2lstm.training.environment import check_committed, environment, multiplies_bfloat16
from g2lstm.training.folder import RunFolder
from g2lstm.training.interruption import Interrupted, StopSignals
from g2lstm.training.loop import Trainer
from g2lstm.training.profiling import StepProfiler
from g2lstm.training.progress import Reporter, say
from g2lstm.training.tracking import Tracker, build_tracker

try:
    import fcntl
except ImportError:  # not on this system
    fcntl = None  # type: ignore[assignment]

RESULTS = Path("results")
# As the framework has it: "CUDA out of memory", "not enough memory: you tried to allocate", "can't allocate memory".
_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|allocate memory", re.IGNORECASE)
# What may change when a run is resumed: nothing that its numbers depend on, but for rounding.
RESUME_OPTIONS = (
    *("max_steps", "checkpoint_minutes", "log_every", "profile", "threads", "device"),
    *("record", "record_weights", "record_unfinished"),
)


def start(values: dict[str, Any], overrides: list[str], folder: Path, console: Console, *, several: bool = False) -> float:
    """Trains what a config describes in a new folder, or goes on where `folder` holds an unfinished run of the same.

    Args:
        values: of the config.
        overrides: the command line's.
        folder: where to; another beside it where it holds something else.
        console: where to say what is done.
        several: it is one of many, of which those that have finished are not done again.

    Returns:
        the validation metric.

    Raises:
        Interrupted: the run was asked to stop; it is saved.
        UserError: a bad option, no data, ...
    """
    config = _named(values, overrides, console)
    return _together(lambda: _start(config, folder, console, several=several), console)


def _together(lead: Callable[[], float], console: Console) -> float:
    """Does what `lead` does with all workers that torchrun has started."""
    with workers.joined():
        found = workers.led(lead, lambda told: _follow(told, console))
    return math.nan if found is None else found


def _follow(told: tuple[Path, dict[str, Any], bool], console: Console) -> float:
    """What a worker does that is not the first one."""
    path, values, resumed = told
    with workers.all_or_none():
        run, config = Run.open(path), Config.parse(values)
        device, task, _ = _load(config, console, run.files)
    return _train(run.folder, config, task, device, console, resumed=resumed)


def _start(config: Config, folder: Path, console: Console, *, several: bool) -> float:
    if config.run.record:
        check_committed(recorded_folder(config, RESULTS))
    earlier = _same_run(config, folder, finished=several)
    if earlier is not None:
        taken, asked = (*RESUME_OPTIONS, "tracker"), config.run.keep_epochs
        config = Config.parse(earlier.config.values | {name: config.values[name] for name in taken})
        if not earlier.summary:
            say(console, f"{earlier.path} holds an unfinished run of the same options: going on with it")
            if (own := earlier.config.run.keep_epochs) != asked:
                say(console, f"keep_epochs={own} stays, as the run began with it")
            return _go_on(earlier, config, console)
        say(console, f"{earlier.path} has finished before")
        if _to_record(config, finished=bool(earlier.summary.get("finished"))) and not is_recorded(config, RESULTS):
            _record_later(earlier, config, console)
        return valid_metric(earlier.summary, config)
    config = _settled(config, console)
    device, task, found = _load(config, console)
    with _free(folder) as run:
        try:
            run.write_json("environment.json", found)
            for name, text in task.files().items():
                write_atomically(run.path / name, text)
            write_atomically(run.config, config.dump())  # last: with it the folder is a run
            say(console, f"{task.origin}; writing to {run.path}")
            return _train(run, config, task, device, console, resumed=False)
        except UserError:
            if not run.metrics_size() and not run.last.exists():  # it never began; what others put there stays
                for name in ("environment.json", *task.files(), "config.yaml", "tracker.json", "metrics.jsonl"):
                    (run.path / name).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    run.path.rmdir()
            raise


def resume(arguments: list[str], console: Console) -> float:
    """Goes on with a run: ["resume=RUN_DIR", "max_steps=100", ...].

    Returns, Raises:
        as `start`; also no such run, a damaged checkpoint, or an option that a resumed run can't change.
    """
    options = _resume_options(arguments)
    run = Run.open(Path(options.pop("resume")))
    finished = run.summary.get("finished")
    to_the_end = {"max_steps": None} if run.summary and not finished else {}
    config = Config.parse(run.config.values | to_the_end | options)
    wanted = config.run.record and not (finished and is_recorded(config, RESULTS))
    if finished and not wanted:
        raise UserError(f"{run.path} is finished: python evaluate.py run={run.path} evaluates it again")
    if wanted:
        check_committed(recorded_folder(config, RESULTS))
    if not finished:
        return _together(lambda: _go_on(run, config, console), console)
    if workers.first():
        _record_later(run, config, console)
    return valid_metric(run.summary, config)


def _named(values: dict[str, Any], overrides: list[str], console: Console) -> Config:
    """The config with what its run is called; that an experiment is recorded holds for the experiment's own task."""
    config, chosen = Config.parse(values), given(overrides)
    experiment = experiment_name(config.run.task.name, overrides)
    names: dict[str, Any] = {"experiment_name": experiment, "overrides": list(overrides)}
    names["run_name"] = run_name(config.run.gate.name, config.run.seed, overrides)
    if config.run.record and "record" not in chosen and chosen.get("experiment", "null") not in ("null", experiment):
        say(console, f"not recorded, as experiment={chosen['experiment']} on its own task would be: record=true records it")
        names["record"] = False
    return Config.parse(config.values | names)


def _settled(config: Config, console: Console) -> Config:
    """The config with what precision=auto is on this device."""
    if config.run.precision != "auto":
        return config
    device = build_device(config.run.device)
    precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    if precision == "float32":
        say(console, f"precision=float32, as bfloat16 is not known to be fast on this {device.type}")
    return Config.parse(config.values | {"precision": precision})


def _same_run(config: Config, folder: Path, *, finished: bool) -> Run | None:
    """The first unfinished run of the same config in `folder` and its neighbours; else, if asked for, one that has ended."""
    ended = None
    for path in takewhile(lambda path: RunFolder(path).config.is_file(), _neighbours(folder)):
        with contextlib.suppress(UserError):
            run = Run.open(path)
            if not _is_same(config, run.own_config):
                continue
            if not run.summary:
                return run
            ended = ended or run
    return ended if finished else None


def _is_same(config: Config, own: Config) -> bool:
    """Whether a run with `own` is what `config` asks for; precision=auto is what it was settled as when that run started."""
    if config.run.precision == "auto":
        config = Config.parse(config.values | {"precision": own.run.precision})
    compared = [(one.identity({}), one.places, one.run.max_steps) for one in (config, own)]
    return compared[0] == compared[1]


def _neighbours(path: Path) -> Iterator[Path]:
    """`path`, and beside it with -2, -3, ... appended."""
    yield path
    whole = path if path.name else path.absolute()
    yield from (whole.with_name(f"{whole.name}-{number}") for number in count(2))


def _resume_options(arguments: list[str]) -> dict[str, Any]:
    """{"resume": folder, option: value, ...}"""
    options: dict[str, Any] = {}
    for argument in arguments:
        name, separator, text = argument.partition("=")
        if name != "resume" and (not separator or name not in RESUME_OPTIONS):
            raise UserError(f"a resumed run keeps its config, {name} can't be given: only {', '.join(RESUME_OPTIONS)} can")
        options[name] = text if name == "resume" else value_of(name, text)
    return options


class _BusyError(UserError):
    """Another process trains in the folder."""


@contextlib.contextmanager
def _free(path: Path) -> Iterator[RunFolder]:
    """A new folder at `path`, or beside it: no run is written over."""
    for free in _neighbours(path):
        with contextlib.suppress(_BusyError), _locked(RunFolder.at(free)) as run:
            if not run.config.exists():
                yield run
                return


@contextlib.contextmanager
def _locked(run: RunFolder) -> Iterator[RunFolder]:
    """Nobody else trains in the folder meanwhile; the lock is the folder's own and goes with its process."""
    if fcntl is None:
        yield run
        return
    handle = os.open(run.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _BusyError(f"another process trains in {run.path}: wait for it, or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield run
    finally:
        os.close(handle)


def _load(
    config: Config, console: Console, files: dict[str, str] | None = None
) -> tuple[torch.device, Any, dict[str, str | int]]:
    """The device, the task on it, and what the run runs on, the engines that train its layers included.

    Raises:
        UserError: there is no such device, no data, or an engine that was asked for can't.
    """
    set_threads(config.run.threads)
    device, bfloat16 = build_device(config.run.device), config.run.precision == "bfloat16"
    if bfloat16 and device.type in ("cpu", "cuda") and not multiplies_bfloat16(device):
        say(
            console,
            f"bfloat16 is not known to be fast on this {device.type}: a run with precision=float32 is probably faster",
        )
    task = config.build_task(device, files)
    with torch.device("meta"):
        model = task.build_model()
    try:
        engines = engines_of(model, device, torch.bfloat16 if bfloat16 else torch.float32)
    except ValueError as error:
        raise UserError(str(error)) from None
    return device, task, environment(device, ", ".join(engines)) | {"data": task.digest("train")}


def _go_on(run: Run, config: Config, console: Console) -> float:
    with _locked(run.folder), blamed(run):
        run.folder.remove_unfinished()
        device, task, now = _load(config, console, run.files)
        _refuse_other_data(task)
        _warn_if_elsewhere(run.folder, now, console)
        return _train(run.folder, config, task, device, console, resumed=True)


def _refuse_other_data(task: Any) -> None:
    if refuse := getattr(task, "refuse_other_data", None):
        refuse()


def _warn_if_elsewhere(run: RunFolder, now: dict[str, Any], console: Console) -> None:
    """Says in one line, and writes down, where the run can't be expected to continue bit for bit."""
    then = run.read_json("environment.json")
    compared = ["hardware", "threads", "torch", "device", "engine", "workers", *(["data"] if "data" in then else [])]
    changed = [key for key in compared if then.get(key) != now.get(key)]
    if changed:
        run.write_json("environment.json", then | {"resumed_on": [*then.get("resumed_on", []), now]})
        differences = ", ".join(f"{key} {then.get(key)} -> {now.get(key)}" for key in changed)
        say(console, f"warning: the run goes on, but not bit for bit the same ({differences})")


def _train(run: RunFolder, config: Config, task: Any, device: torch.device, console: Console, *, resumed: bool) -> float:
    if workers.first():
        workers.tell((run.path, config.values, resumed))
        with workers.all_or_none():
            pass
        tracker = _tracker(run, config, console, resumed=resumed)
    else:
        tracker = Tracker()
    smaller = config.run.task.smaller
    reporter = Reporter(console, advice=f"{smaller} is a smaller model for a laptop" if smaller else "")
    try:
        with StopSignals() as stop:
            trainer = Trainer(
                task, config.settings, run, device, tracker, reporter,
                identity=config.identity(task.files()), stop=stop, resume=resumed,
                profiler=StepProfiler(run.path, device, reporter.say) if config.run.profile and workers.first() else None,
            )  # fmt: skip
            size = sum(parameter.numel() for parameter in trainer.model.parameters())
            say(console, f"{type(trainer.model).__name__} with {size:,} parameters on {device.type}")
            position = trainer.fit()
            reporter.stop()
            with stop.at_once():
                summary = summarise(run, config, task, trainer.model, position)
                say(console, in_a_line(summary, task, run))
                if _to_record(config, finished=position.done) and workers.first():
                    with workers.alone():
                        _record(run, config, task, trainer.model, console)
        numbers = {f"summary/{key}": value for key, value in summary.items() if isinstance(value, int | float)}
        tracker.log(numbers, step=position.step)
    except Interrupted:
        reporter.stop()
        say(console, f"stopped and saved; go on with: python train.py resume={run.path}")
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and workers.lost(error):
            if not workers.first():
                raise workers.Ended from None
            raise UserError(f"a worker has gone: the same command, or train.py resume={run.path}, goes on") from None
        if isinstance(error, RuntimeError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise UserError("not enough memory for this model and batch: set a smaller batch_size or model") from None
    finally:
        reporter.stop()
        tracker.finish()
    if not position.done:
        say(console, f"max_steps ended the run; go on with: python train.py resume={run.path}")
    return valid_metric(summary, config)


def _tracker(run: RunFolder, config: Config, console: Console, *, resumed: bool) -> Tracker:
    """The tracker of `config`, going on with the run's own where there is one."""
    file, options = run.path / "tracker.json", config.run.tracker
    told = run.read_json(file.name) if resumed and file.is_file() else {}
    tracker = build_tracker(
        options.name, project=options.project, config=config.values, run_dir=run.path, run_name=config.run.run_name,
        run_id=told.get("run_id") if told.get("tracker", options.name) == options.name else None,
        group=options.group or config.run.experiment_name, mode=options.mode, say=lambda text: say(console, text),
        tags=options.tags or (config.run.task.name, config.run.gate.name),
    )  # fmt: skip
    if tracker.run_id is not None:
        run.write_json(file.name, {"tracker": options.name, "run_id": tracker.run_id})
    return tracker


def _to_record(config: Config, *, finished: bool) -> bool:
    return config.run.record and (finished or config.run.record_unfinished)


def _record(run: RunFolder, config: Config, task: Any, model: nn.Module, console: Console) -> None:
    """Copies the run to results/, but never over an earlier record."""
    if is_recorded(config, RESULTS):
        text = f"{recorded_folder(config, RESULTS)} holds an earlier record, which stays; to replace it, remove it and run: "
        say(console, f"{text}python train.py resume={run.path} record=true")
    else:
        folder = record(run, config, task, model, RESULTS)
        lacks = config.run.record_weights and not RunFolder(folder).best.is_file()
        largest = f"{LARGEST_RECORDED_MODEL / 1e6:g}M parameters"
        say(console, f"recorded in {folder}" + (f", without weights: the model has more than {largest}" if lacks else ""))


def _record_later(run: Run, config: Config, console: Console) -> None:
    """The record of a run that ended without one."""
    with _locked(run.folder), blamed(run):
        device, task, _ = _load(config, console, run.files)
        if config.run.record_weights:  # which are evaluated; all else was made of the run's own data
            _refuse_other_data(task)
        _record(run.folder, config, task, task.build_model().to(device), console)
