"""Tables of runs: one row a gate over its seeds, and differences from the plain LSTM paired by seed."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import exp
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from g2lstm.errors import UserError
from g2lstm.reporting.comparison import BLOCK, equivalence_test, loss_difference, sample, sign_flip_test
from g2lstm.reporting.figures import gate_kind, gate_label, gate_order
from g2lstm.reporting.tables import SPREAD, interval, markdown, number, spread
from g2lstm.runs.run import Run, labels
from g2lstm.training.task import Metric

BASELINE = "sigmoid"
NONE = "(no run is recorded yet)"
NEEDED = {"parameters": int, "threads": int | None, "seconds": int | float, "hardware": str, "torch": str}  # of a summary
ONE_SEED = "one seed: no interval"
UNPAIRED = re.compile(r"_(without_finetune|recorded_weights)$")  # what a summary says of other weights
Groups = dict[str, list[Run]]


def grouped(runs: Sequence[Run]) -> Groups:
    """Runs by what they are called, the paper's three gates first and seeds in order."""
    groups: Groups = defaultdict(list)
    for name, run in sorted(zip(labels(runs), runs, strict=True), key=lambda found: (gate_order(found[0]), found[1].seed)):
        groups[name].append(run)
    return dict(groups)


def ended(runs: Sequence[Run]) -> Groups:
    """The same of runs that have ended.

    Raises:
        UserError: one has no summary, or one that was edited.
    """
    for run in runs:
        summary = run.folder.read_json("summary.json")
        wrong = [key for key, kind in NEEDED.items() if key not in summary or not isinstance(summary[key], kind)]
        if wrong:
            raise UserError(f"{run.folder.summary} has no usable {', '.join(wrong)}: it was edited; leave the run out")
    return grouped(runs)


def recorded_runs(folder: Path) -> Groups:
    """The runs of a folder of results."""
    found = [Run.open(path.parent) for path in sorted(folder.glob("*/summary.json"))]
    return ended(found) if found else {}


def metric_of(groups: Groups) -> Metric:
    """What the task of the runs is judged by."""
    return next(iter(groups.values()))[0].config.task_class.metric


def recorded(folder: Path) -> str:
    """What documents quote of a folder of results: the runs, and their differences from the plain LSTM."""
    groups = recorded_runs(folder)
    return "\n\n".join(part for part in (run_table(groups), difference_table(groups)) if part) if groups else NONE


def columns(groups: Groups) -> dict[str, str]:
    """Keys of the metric in summaries by title: {"valid": ..., "test": ..., "valid + cache": ..., ...}."""
    metric = metric_of(groups).name
    found = {}
    for key in dict.fromkeys(key for runs in groups.values() for run in runs for key in run.summary):
        split, _, name = key.partition("_")
        known = split in ("valid", "test") and (name == metric or name.startswith(f"{metric}_"))
        if known and not UNPAIRED.search(key):
            variant = name[len(metric) + 1 :]
            found[f"{split} + {variant}" if variant else split] = key
    return dict(sorted(found.items(), key=lambda item: ("+" in item[0], item[0].startswith("test"), item[0])))


def run_table(groups: Groups) -> str:
    """One row a gate: mean ± standard deviation over seeds, and what the runs took."""
    keys, metric = columns(groups), metric_of(groups)
    unit, digits = metric.unit, metric.digits
    lines = [["gate", *keys, "seeds", "parameters", "threads", "minutes", f"{unit}/s"]]
    for name, runs in groups.items():
        found, speeds = [run.summary for run in runs], values(runs, f"{unit}_per_second")
        cells = [spread(values(runs, key), digits) for key in keys.values()]
        cells += [str(len(runs)), f"{found[0]['parameters'] / 1e6:.2f}M", _all_of(s["threads"] for s in found)]
        cells += [number(mean(s["seconds"] / 60 for s in found), 0), number(mean(speeds) if speeds else None, 0)]
        lines.append([gate_label(name), *cells])
    summaries = [run.summary for runs in groups.values() for run in runs]
    hardware = _all_of((f"{s['hardware']}, torch {s['torch']}" for s in summaries), "; ")
    over = f", {SPREAD} over seeds" if any(len(runs) > 1 for runs in groups.values()) else ""
    return markdown(lines, f"{metric.name.replace('_', ' ').capitalize()}{over}; measured on {hardware}.")


def difference_table(groups: Groups) -> str:
    """Each gate less the plain LSTM of the same seed: the mean with its interval; "" where nothing can be paired."""
    paired, digits = [(name, pairs) for name, pairs in _paired(groups) if pairs], metric_of(groups).digits
    keys = {title: key for title, key in columns(groups).items() if any(_differences(pairs, key) for _, pairs in paired)}
    if not keys:
        return ""
    lines = [["difference from the plain LSTM, paired by seed", *keys, "n"]]
    for name, pairs in paired:
        found = [_differences(pairs, key) for key in keys.values()]
        cells = ["{1} ({3})".format(*_cells(d, digits, "+")) if d else "-" for d in found]
        lines.append([gate_label(name), *cells, str(len(pairs))])
    return markdown(lines, "Mean over n seeds, in brackets its 95% t-interval.")


def statistics_table(groups: Groups) -> str:
    """One row a gate and metric: n, mean, standard deviation, 95% t-interval of the mean."""
    metric, lines = metric_of(groups), [["gate", "metric", "n", "mean", "standard deviation", "95% t-interval"]]
    for name, runs in groups.items():
        for title, key in columns(groups).items():
            if found := values(runs, key):
                lines.append([gate_label(name), title, *_cells(found, metric.digits)])
    return markdown(lines, f"{metric.name.replace('_', ' ').capitalize()}; n runs that differ in their seed.", texts=2)


def paired_table(groups: Groups, margin: float | None = None) -> str:
    """One row a gate and metric: its difference from the plain LSTM paired by seed, with interval and tests.

    Within `margin` a difference counts as none, for a test of equivalence.
    """
    lines = [["difference from the plain LSTM", "metric", "n", "mean", "standard deviation", "95% t-interval", "p"]]
    footnote = "Paired by seed, n seeds. p: exact test of all flips of the n signs, at least 2/2^n."
    if margin is not None:
        lines[0].append(f"p of {margin:g} or more")
        footnote += f" p of {margin:g} or more: two one-sided t-tests; below 0.05 it is less than that."
    for name, pairs in _paired(groups):
        for title, key in columns(groups).items():
            if d := _differences(pairs, key):
                cells = [*_cells(d, metric_of(groups).digits, "+"), f"{sign_flip_test(d):.3g}" if len(d) > 1 else "-"]
                if margin is not None:
                    cells.append(f"{equivalence_test(d, margin):.3g}" if len(d) > 1 else "-")
                lines.append([gate_label(name), title, *cells])
    if len(lines) == 1:
        return "(no run has a plain LSTM of the same seed beside it)"
    return markdown(lines, footnote, texts=2)


def loss_table(runs: Sequence[Run]) -> str:
    """Each run's loss of every token less the first run's, for each kind of evaluation that both keep.

    Raises:
        UserError: a run keeps no losses, or of another text.
    """
    first, *others = [(run.path, _losses(run.folder.losses)) for run in runs]
    lines = [["run", "split", "tokens", "loss difference a token", "95% interval", "its exponential", "95% interval"]]
    for path, losses in others:
        for name in (name for name in first[1] if name in losses):
            try:
                d = loss_difference(losses[name], first[1][name])
            except ValueError as error:
                raise UserError(f"{path} can't be compared with {first[0]} on {name}: {error}") from None
            cells = [f"{d.tokens:,}", number(d.mean, 4, "+"), interval(*d.interval, 4, "+")]
            cells += [number(exp(d.mean), 4), interval(exp(d.interval[0]), exp(d.interval[1]), 4)]
            lines.append([path.as_posix(), name.replace("_", " + "), *cells])
    footnote = f"Less {first[0].as_posix()}, in nats; bootstrap over blocks of {BLOCK} tokens: of this text, not of seeds."
    return markdown(lines, footnote, texts=2)


def values(runs: list[Run], key: str) -> list[float]:
    """What the summaries say under a key, where they have a number there."""
    return [run.summary[key] for run in runs if isinstance(run.summary.get(key), int | float)]


def _losses(file: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        text = "runs recorded earlier keep no losses" if not file.exists() else f"it is damaged ({error})"
        raise UserError(f"can't read {file}: {text}; train again, or leave the run out") from None


def _paired(groups: Groups) -> list[tuple[str, list[tuple[Run, Run]]]]:
    """For each other gate its runs, each with the plain LSTM's of the same seed; of the same variant where there is one."""
    found = []
    for name, runs in groups.items():
        folder, _, rest = name.rpartition("/")
        plain = f"{folder}/{BASELINE}" if folder else BASELINE
        variant = plain + rest[len(gate_kind(name)) :]
        baseline = {run.seed: run for run in groups.get(variant, groups.get(plain, []))}
        if gate_kind(name) != BASELINE:
            found.append((name, [(run, baseline[run.seed]) for run in runs if run.seed in baseline]))
    return found


def _differences(pairs: list[tuple[Run, Run]], key: str) -> list[float]:
    both = [values([run, plain], key) for run, plain in pairs]
    return [found[0] - found[1] for found in both if len(found) == 2]


def _cells(values: Sequence[float], digits: int, sign: str = "") -> list[str]:
    """n, mean, standard deviation and interval."""
    found = sample(values)
    span = interval(*found.interval, digits, sign) if found.interval else ONE_SEED
    return [str(found.n), number(found.mean, digits, sign), number(found.sd, digits), span]


def _all_of(values: Iterable[Any], joint: str = ", ") -> str:
    return joint.join(sorted({str(value) for value in values}))
