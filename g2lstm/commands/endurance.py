"""Kills a run again and again, at random moments, and compares what it ends as with a run that nobody killed."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from g2lstm.commands import start_training
from g2lstm.errors import UserError
from g2lstm.runs.record import evaluate_model
from g2lstm.runs.run import Run
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.folder import RunFolder

GRACE = 30.0  # seconds that workers have to end once one of them was killed, as torchrun gives them
TIMINGS = ("eta", "seconds")  # and speeds, in words, images, ... a second
Start = Callable[[list[str], int], list[Any]]  # options, workers -> processes, with poll, terminate and kill


def endure(
    options: list[str], folder: Path, start: Start, *, kills: int = 20, workers: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Trains a run twice: in `folder`/straight undisturbed, in `folder`/killed under kills, after each of which the same
    command goes on.

    A quarter of the moments lie anywhere in the start of a command, the others anywhere in training, one in each stretch of
    it. Of several workers one is killed, or all at once. After each kill the folder has to open, its checkpoints have to
    load and its best weights have to be evaluated.

    Args:
        options: of train.py.
        start: starts so many workers with options, as torchrun does.
        seed: of the moments.

    Returns:
        each kill, whether the final weights and the curve are those of the straight run, bit for bit, and on what it ran.

    Raises:
        UserError: a command failed that nobody killed, or the run ended before it was killed often enough.
    """
    options = ["checkpoint_minutes=0", "log_every=1", "threads=1", *options]
    straight, killed = folder / "straight", folder / "killed"
    with _running(start, options, straight, workers) as processes:
        starting, training = _times(processes, straight)
    lines, draw = size(straight), random.Random(seed)
    found: list[dict[str, Any]] = []
    while len(found) < kills:
        in_start, wait, share = draw.random() < 0.25, draw.random(), (len(found) + draw.random()) / (kills + 1)
        victims = [draw.randrange(workers)] if draw.random() < 0.5 else list(range(workers))
        began, until = time.monotonic(), max(size(killed) + 1, int(share * lines))
        with _running(start, options, killed, workers) as processes:
            if not in_start:
                _watch(processes, lambda: size(killed) >= until)  # noqa: B023 - called here
            end = time.monotonic() + wait * (starting if in_start else 2 * training / lines)
            _watch(processes, lambda: time.monotonic() > end)  # noqa: B023
            for victim in victims:
                processes[victim].kill()
            moment = {"after_seconds": round(time.monotonic() - began, 3), "while": "starting" if in_start else "training"}
            _end(processes)
        found.append(moment | {"workers": victims, "lines": size(killed), "unreadable": unreadable(killed)})
    with _running(start, options, killed, workers) as processes:
        _finish(processes)
    kept = [path.name for path in sorted(straight.glob("*.safetensors")) if path.name != "losses.safetensors"]
    return {
        "options": options,
        "workers": workers,
        "kills": len(found),
        "unreadable": sum(moment["unreadable"] is not None for moment in found),
        "same_weights": all(same_weights(straight / name, killed / name) for name in kept),
        "compared": kept,
        "same_curve": curve(straight) == curve(killed),
        "lines": lines,
        "seed": seed,
        "environment": RunFolder(straight).read_json("environment.json"),
        "moments": found,
    }


def started(folder: Path) -> Start:
    """Starts commands as processes whose output goes to files in `folder`."""

    def start(options: list[str], workers: int) -> list[Any]:
        places: list[dict[str, Any]] = [{}]
        if workers > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(workers)}
            places = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(workers)]
        found = []
        for rank, place in enumerate(places):
            with (folder / f"output-{rank}.txt").open("ab") as output:
                found.append(start_training(options, output, **place))
        return found

    return start


def unreadable(path: Path) -> str | None:
    """Why a killed run can't be read; None where it can, or was killed before it was one."""
    if not (path / "config.yaml").is_file():
        return None
    try:
        run = Run.open(path)
        task = run.task()
        run.folder.curve()
        for file in path.glob("*.safetensors"):
            load_checkpoint(file) if file != run.folder.losses else file.read_bytes()
        if run.folder.best.is_file():
            evaluate_model(task, run.model(task), ("valid",), (task.epoch_variant,))
    except Exception as error:  # whatever it is
        return f"{type(error).__name__}: {error}"
    return None


def same_weights(a: Path, b: Path) -> bool:
    """Whether the models of two checkpoints are equal bit for bit."""
    models = [load_checkpoint(path)["model"] if path.is_file() else {} for path in (a, b)]
    return models[0].keys() == models[1].keys() and all(
        _bits(tensor).equal(_bits(models[1][name])) for name, tensor in models[0].items()
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def curve(run: Path) -> list[dict[str, Any]]:
    """What a run found, without what depends on the time it took."""
    return [
        {key: value for key, value in line.items() if key not in TIMINGS and not key.endswith("_per_second")}
        for line in RunFolder(run).curve()
    ]


def size(run: Path) -> int:
    """Lines of the curve that a resumed run will not cut."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@contextmanager
def _running(start: Start, options: list[str], run: Path, workers: int) -> Iterator[list[Any]]:
    """Processes of which none is left."""
    processes = start([*options, f"run_dir={run}"], workers)
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def _times(processes: list[Any], run: Path) -> tuple[float, float]:
    """Seconds to the first step of an undisturbed run, and from there to its end."""
    began = time.monotonic()
    _watch(processes, lambda: size(run) > 0)
    trained = time.monotonic()
    _finish(processes)
    return trained - began, time.monotonic() - trained


def _watch(processes: list[Any], ready: Callable[[], bool]) -> None:
    while not ready():
        if any(process.poll() is not None for process in processes):
            raise UserError("a command ended that nobody had killed: see what it said, or train for more epochs")
        time.sleep(0.002)


def _finish(processes: list[Any]) -> None:
    while any(process.poll() is None for process in processes):
        time.sleep(0.01)
    if any(process.poll() for process in processes):
        raise UserError("a command failed that nobody had killed: see what it said")


def _end(processes: list[Any]) -> None:
    """Ends the workers whose companion was killed, as torchrun does."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        time.sleep(0.002)
