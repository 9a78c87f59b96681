"""Evaluates trained models under many compression settings, in parallel, and never twice the same.

A finished evaluation is a row of `sweep.json`, which is written after each: an interrupted sweep goes on where it was.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.compression.targets import Target, compress, find_blocks
from g2lstm.errors import UserError
from g2lstm.gates import HardGate, is_plain
from g2lstm.lstm import G2LSTM
from g2lstm.runs.run import Run, blamed, labels
from g2lstm.runs.store import Row, Store, key_of

NEEDED = (
    *("run", "gate", "seed", "setting", "variant", "split", "metric", "value", "weights"),
    *("gates", "matrices", "layers", "difference", "rank", "bits_per_gate_parameter"),
)  # in each row
ALL, PLAIN = "all", "plain"  # variants of evaluation: every one, and the one without a name


def open_store(path: Path) -> Store:
    """The rows of a `sweep.json`, also of one that an earlier version wrote; a UserError where it is something else."""
    return Store(path, NEEDED, upgrade=lambda content: list(map(_upgraded, content)) if isinstance(content, list) else [{}])


def _upgraded(row: Any) -> Any:
    """An earlier version said whether the cache pointer was used, not in which variant a model was evaluated."""
    if not isinstance(row, dict) or "cache" not in row:
        return row
    rest = {name: value for name, value in row.items() if name != "cache"}
    return rest | {"variant": "cache" if row["cache"] else ""}


def of_one_target(rows: list[Row]) -> list[Row]:
    """The originals, and what was compressed as the first compressed row was.

    Of rows that say the same of one run the first: others are of another text, or of other options of the evaluation.
    """
    first: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        first.setdefault(_identity(row), row)
    compressed = [row for row in first.values() if row["setting"] != ORIGINAL]
    chosen = [row for row in compressed if all(row[name] == compressed[0][name] for name in ("gates", "matrices", "layers"))]
    return [row for row in first.values() if row["setting"] == ORIGINAL] + chosen


@dataclass(frozen=True)
class Subject:
    """A run as a sweep sees it, plain enough for another process."""

    path: Path  # what opens it
    overrides: Mapping[str, Any]
    gate: str  # what it is called without the seed, as "gumbel-p0.5"
    seed: int  # its seed
    variants: tuple[str, ...]  # of evaluation that its task has
    weights: str  # digest of its weights
    digest: str  # of all else that the values depend on apart from compression
    limit: int | None = None  # the first so many items of the split; None where that is all


@dataclass(frozen=True)
class Evaluation:
    """One evaluation that a sweep asks for: of a subject under a method, in a variant, on a split."""

    subject: Subject
    method: Method
    target: Target
    variant: str
    split: str

    @property
    def key(self) -> str:
        """Names the evaluation by all that its result depends on."""
        target = str(self.target) if self.method.steps else ""
        return key_of(self.subject.weights, self.subject.digest, str(self.method), target, self.variant, self.split)

    def about(self) -> Row:
        """What a row says of the evaluation itself, under the run's present name."""
        run, target = self.subject, self.target
        layers = "all" if target.layers is None else ",".join(map(str, target.layers))
        row = {"run": run.path.as_posix(), "gate": run.gate, "seed": run.seed, "setting": str(self.method)}
        row |= {"variant": self.variant, "split": self.split, "limit": run.limit}
        return row | {"gates": "".join(target.gates), "matrices": "+".join(target.matrices), "layers": layers}


def subjects(runs: Sequence[Run], target: Target, split: str, limit: int | None = None) -> list[Subject]:
    """The runs of a sweep; a UserError where one has no weights, no data, or no such blocks in its model."""
    found = []
    for run, gate in zip(runs, labels(runs), strict=True):
        with blamed(run):
            weights, task = run.weights, run.task()
            try:
                find_blocks(run.bare_model(task), target)
            except ValueError as error:
                raise UserError(str(error)) from None
            part = None if limit is None or task.size(split, limit) == task.size(split) else limit
            digest = task.digest(split, part)
        found.append(Subject(run.path, run.overrides, gate, run.seed, tuple(task.variants), weights, digest, part))
    return found


def plan(
    subjects: Sequence[Subject], methods: Sequence[Method], target: Target, split: str, *, variants: str = ALL
) -> list[Evaluation]:
    """Every evaluation of a sweep, run by run.

    `variants` is "all", or names as "plain,cache"; of each run those that its task has, a UserError where none has it.
    """
    known = list(dict.fromkeys(variant for subject in subjects for variant in subject.variants))
    names = [variant or PLAIN for variant in known]
    wanted = names if variants == ALL else variants.split(",")
    for name in wanted:
        if name not in names:
            raise UserError(f"there is no variant {name}: choose of {', '.join(names)}, or {ALL}")
    return [
        Evaluation(subject, method, target, variant, split)
        for subject in subjects
        for variant in subject.variants
        if (variant or PLAIN) in wanted
        for method in methods
    ]


def evaluate(task: Any, model: nn.Module, evaluation: Evaluation) -> Row:
    """Compresses a copy of the model and evaluates it."""
    started = time.monotonic()
    compressed = compress(model, evaluation.method, evaluation.target)
    runs = without_gates(compressed.applied_to(model))
    found = task.evaluate(runs, evaluation.split, evaluation.variant, limit=evaluation.subject.limit)
    return evaluation.about() | {
        "metric": task.metric.name,
        "lower_is_better": task.metric.lower_is_better,
        "digits": task.metric.digits,
        "value": found.metrics[task.metric.name],
        "difference": None,
        "bits_per_gate_parameter": compressed.bits_per_parameter,
        "rank": compressed.mean_rank,
        "seconds": round(time.monotonic() - started, 2),
        "weights": evaluation.subject.weights,
    }


def without_gates(model: nn.Module) -> nn.Module:
    """Replaces, in this model, sharpened layers by the nn.LSTM that computes the same and is faster."""
    layers = [(name, module) for name, module in model.named_modules() if name and isinstance(module, G2LSTM)]
    for name, layer in layers:
        if not (isinstance(layer.gate, HardGate) or is_plain(layer.gate, False) or any(layer.zoneout)):
            model.set_submodule(name, layer.to_lstm())
    return model


def finish(store: Store, evaluations: Sequence[Evaluation]) -> list[Row]:
    """The rows of `evaluations` that are there, each with its difference to the original of the same run; in the store too.

    Rows that a sweep of other settings left stay, behind them; those of weights that are no more are dropped, and those that
    an earlier version named by another key.
    """
    rows = [store.rows(one.key)[0] | one.about() for one in evaluations if one.key in store]
    originals = {(row["run"], row["variant"]): row["value"] for row in rows if row["setting"] == ORIGINAL}
    for row in rows:
        original = originals.get((row["run"], row["variant"]))
        row["difference"] = None if original is None else row["value"] - original
        if store.rows(row["key"]) != [row]:
            store.add(row["key"], [row])
    weights = {one.subject.path.as_posix(): one.subject.weights for one in evaluations}
    again = {_identity(row) for row in rows}
    stale = [
        row
        for row in store.all()
        if weights.get(row["run"], row["weights"]) != row["weights"] or ("limit" not in row and _identity(row) in again)
    ]
    store.keep([row["key"] for row in rows], stale)
    return rows


def _identity(row: Row) -> tuple[Any, ...]:
    names = ("gates", "matrices", "layers") if row["setting"] != ORIGINAL else ()
    return tuple(row.get(name) for name in ("run", "setting", "variant", "split", "limit", *names))


def run_sweep(
    evaluations: Sequence[Evaluation],
    store: Store,
    *,
    jobs: int = 1,
    threads: int | None = None,
    finished: Callable[[Row, int, int, float], None] = lambda *_: None,
) -> list[Row]:
    """The rows of all evaluations, after those that the store does not hold are done.

    Args:
        jobs, threads: processes, and CPU threads of each; without it, a share of the machine's threads.
        finished: called after each with its row, the number done now, the number to do, and the seconds left.

    Raises:
        UserError: a model can't be evaluated, or a process ended unexpectedly.
    """
    missing = list({one.key: one for one in evaluations if one.key not in store}.values())
    started = time.monotonic()
    for number, (evaluation, row) in enumerate(_evaluated(missing, jobs, threads), 1):
        store.add(evaluation.key, [row])
        left = (time.monotonic() - started) / number * (len(missing) - number)
        finished(row, number, len(missing), left)
    return finish(store, evaluations)


def _evaluated(evaluations: list[Evaluation], jobs: int, threads: int | None) -> Iterator[tuple[Evaluation, Row]]:
    """The rows, as they come. Processes are gone afterwards, whatever happened."""
    if jobs == 1 or len(evaluations) < 2:
        if threads:
            torch.set_num_threads(threads)
        yield from ((evaluation, _work(evaluation)) for evaluation in evaluations)
        return
    jobs = min(jobs, len(evaluations))
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # a forked process can't use the threads and GPUs of its parent
    threads = threads or max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, context, initializer=_start_process, initargs=(threads,))
    try:
        pending = {pool.submit(_work, one): one for one in evaluations}
        for future in as_completed(pending):
            yield pending[future], future.result()
    except BrokenProcessPool:
        text = "a process of the sweep ended unexpectedly, perhaps for want of memory"
        raise UserError(f"{text}: the same command goes on; set a smaller jobs=...") from None
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)  # evaluations come run by run
def _loaded(path: Path, overrides: tuple, *_: str) -> tuple[Any, nn.Module]:
    run = Run.open(path, dict(overrides))
    task = run.task()
    return task, run.model(task)


def _work(evaluation: Evaluation) -> Row:
    subject = evaluation.subject
    try:
        return evaluate(*_loaded(subject.path, (*subject.overrides.items(),), subject.weights, subject.digest), evaluation)
    except ValueError as error:
        raise UserError(f"{subject.path}: {error}; leave it out of runs=... to go on with the others") from None


def _start_process(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C shows no traceback of each process
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
