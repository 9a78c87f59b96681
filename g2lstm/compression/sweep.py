"""Evaluates trained models under many compression settings, in parallel, and never twice the same.

A finished evaluation is a row of `sweep.json`, which is written after each: an interrupted sweep goes on where it was.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.compression.targets import Target, compress
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.gates import HardGate, is_plain
from g2lstm.lstm import G2LSTM
from g2lstm.training.tasks import CacheSettings, Task

Row = dict[str, Any]
NEEDED = {"run", "gate", "seed", "setting", "cache", "split", "metric", "value", "weights", "key"}  # in each row


@dataclass(frozen=True)
class Subject:
    """A trained model and what it is evaluated on.

    Attributes:
        task: its `evaluate` gives the metrics; one with `evaluate_with_cache` is also evaluated with the cache pointer.
        model: in eval mode.
        cache: the cache pointer's settings.
    """

    task: Task
    model: nn.Module
    cache: CacheSettings


@dataclass(frozen=True)
class Run:
    """What a row says of the run it is about.

    Attributes:
        path: where it is.
        gate: its name without the seed, as "gumbel-p0.5".
        seed: its seed.
        has_cache: whether its task knows the cache pointer.
        weights: digest of its weights.
        evaluated: digest of all else that the values depend on apart from compression: the text, and how it is read.
    """

    path: Path
    gate: str
    seed: int
    has_cache: bool
    weights: str
    evaluated: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that a sweep asks for."""

    run: Run
    method: Method
    target: Target
    cache: bool
    split: str

    @property
    def key(self) -> str:
        """Names the evaluation by all that its result depends on."""
        parts = (
            self.run.weights,
            self.run.evaluated,
            str(self.method),
            "" if not self.method.steps else str(self.target),
            self.cache,
            self.split,
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


Loader = Callable[[Path], Subject]


class Results:
    """The rows of a `sweep.json`.

    Args:
        path: the file; one that does not exist yet has no rows.

    Raises:
        UserError: the file is not one that a sweep wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = self._read()

    def __contains__(self, evaluation: Evaluation) -> bool:
        return evaluation.key in self._rows

    def add(self, row: Row) -> None:
        """Takes a row in and writes the file, with what another sweep may have written to it meanwhile."""
        self._rows = self._read() | self._rows | {row["key"]: row}
        write_atomically(self.path, json.dumps(list(self._rows.values()), indent=1) + "\n")

    def rows(self, evaluations: list[Evaluation]) -> list[Row]:
        """The finished ones of `evaluations`, each with its difference to the original."""
        found = [self._rows[evaluation.key] | _present(evaluation) for evaluation in evaluations if evaluation in self]
        originals = {(row["run"], row["cache"]): row["value"] for row in found if row["setting"] == ORIGINAL}
        for row in found:
            original = originals.get((row["run"], row["cache"]))
            row["difference"] = None if original is None else row["value"] - original
        return found

    def finish(self, evaluations: list[Evaluation]) -> list[Row]:
        """Writes the differences as well, and puts the rows in order.

        Rows that a sweep of other settings left stay, behind them; those of weights that are no more are dropped.

        Returns:
            the rows of `evaluations`.
        """
        rows = self.rows(evaluations)
        weights = {evaluation.run.path.as_posix(): evaluation.run.weights for evaluation in evaluations}
        keys = {row["key"] for row in rows}
        others = [
            row
            for row in (self._read() | self._rows).values()
            if row["key"] not in keys and weights.get(row["run"], row["weights"]) == row["weights"]
        ]
        self._rows = {row["key"]: row for row in rows + others}
        write_atomically(self.path, json.dumps([*rows, *others], indent=1) + "\n")
        return rows

    def _read(self) -> dict[str, Row]:
        try:
            rows = json.loads(self.path.read_text(encoding="utf-8"))
            if not all(row.keys() >= NEEDED for row in rows):
                raise ValueError
            return {row["key"]: row for row in rows}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{self.path} is not what a sweep wrote: remove it, or set out=...") from None


def plan(runs: list[Run], methods: list[Method], target: Target, caches: tuple[bool, ...], split: str) -> list[Evaluation]:
    """Every evaluation of a sweep, run by run. Without and with the cache only where a run's task has one."""
    return [
        Evaluation(run, method, target, cache, split)
        for run in runs
        for cache in caches
        for method in methods
        if run.has_cache or not cache
    ]


def evaluate(subject: Subject, evaluation: Evaluation) -> Row:
    """Compresses a copy of the model and evaluates it."""
    started = time.monotonic()
    compressed = compress(subject.model, evaluation.method, evaluation.target)
    model = without_gates(compressed.applied_to(subject.model))
    if evaluation.cache:
        metrics = subject.task.evaluate_with_cache(model, evaluation.split, subject.cache)  # type: ignore[attr-defined]
    else:
        metrics = subject.task.evaluate(model, evaluation.split)
    metric = next((name for name in metrics if name != "loss"), "loss")
    return _present(evaluation) | {
        "metric": metric,
        "value": metrics[metric],
        "difference": None,
        "bits_per_gate_parameter": compressed.bits_per_parameter,
        "rank": compressed.mean_rank,
        "seconds": round(time.monotonic() - started, 2),
        "weights": evaluation.run.weights,
        "key": evaluation.key,
    }


def without_gates(model: nn.Module) -> nn.Module:
    """Replaces, in this model, sharpened layers by the nn.LSTM that computes the same and is faster."""
    for name, module in list(model.named_modules()):
        if (
            isinstance(module, G2LSTM)
            and name
            and not isinstance(module.gate, HardGate)
            and not is_plain(module.gate, False)
        ):
            model.set_submodule(name, module.to_lstm())
    return model


def run_sweep(
    evaluations: list[Evaluation],
    results: Results,
    load: Loader,
    *,
    jobs: int = 1,
    threads: int | None = None,
    finished: Callable[[Row, int, int, float], None] = lambda *_: None,
) -> None:
    """Does the evaluations that `results` does not hold.

    Args:
        evaluations: all of the sweep.
        results: where the rows go.
        load: loads a run; for several jobs, a function that another process can import.
        jobs: processes, of `threads` CPU threads each.
        threads: without it, a share of the machine's threads.
        finished: called after each with its row, the number done now, the number to do, and the seconds left.

    Raises:
        UserError: a process ended unexpectedly.
    """
    missing = list({evaluation.key: evaluation for evaluation in evaluations if evaluation not in results}.values())
    started = time.monotonic()
    for number, row in enumerate(_evaluated(missing, load, jobs, threads), 1):
        results.add(row)
        left = (time.monotonic() - started) / number * (len(missing) - number)
        finished(row, number, len(missing), left)


def _evaluated(evaluations: list[Evaluation], load: Loader, jobs: int, threads: int | None) -> Iterator[Row]:
    """The rows, as they come."""
    if jobs == 1 or len(evaluations) < 2:
        if threads:
            torch.set_num_threads(threads)
        worker = _Worker(load)
        for evaluation in evaluations:
            yield worker(evaluation)
        return
    jobs = min(jobs, len(evaluations))
    with _processes(jobs, load, threads or max(1, torch.get_num_threads() // jobs)) as pool:
        pending: set[Future[Row]] = {pool.submit(_evaluate_in_process, evaluation) for evaluation in evaluations}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    yield future.result()
                except BrokenProcessPool:
                    text = "a process of the sweep ended unexpectedly, perhaps for want of memory"
                    raise UserError(f"{text}: the same command goes on; set a smaller jobs=...") from None


class _Worker:
    """Evaluates, and keeps the run of the last evaluation loaded."""

    def __init__(self, load: Loader) -> None:
        self.load = load
        self.loaded: tuple[Path, Subject] | None = None

    def __call__(self, evaluation: Evaluation) -> Row:
        path = evaluation.run.path
        try:
            if self.loaded is None or self.loaded[0] != path:
                self.loaded = (path, self.load(path))
            return evaluate(self.loaded[1], evaluation)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; leave it out of runs=... to go on with the others") from None


_worker: _Worker | None = None  # of a process that a sweep started


def _start_process(load: Loader, threads: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C shows no traceback of each process
    torch.set_num_threads(threads)
    _worker = _Worker(load)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _evaluate_in_process(evaluation: Evaluation) -> Row:
    assert _worker is not None
    return _worker(evaluation)


@contextmanager
def _processes(jobs: int, load: Loader, threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are gone afterwards, whatever happened."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a forked process can't use the threads and GPUs of its parent
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_process, initargs=(load, threads))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _present(evaluation: Evaluation) -> Row:
    """What a row says of the evaluation itself, under the run's present name."""
    run, target = evaluation.run, evaluation.target
    return {
        "run": run.path.as_posix(),
        "gate": run.gate,
        "seed": run.seed,
        "setting": str(evaluation.method),
        "cache": evaluation.cache,
        "split": evaluation.split,
        "gates": "".join(target.gates),
        "matrices": "+".join(target.matrices),
        "layers": "all" if target.layers is None else ",".join(map(str, target.layers)),
    }
