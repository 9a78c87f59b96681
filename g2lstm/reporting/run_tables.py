"""Tables of runs: one row a gate over its seeds, and differences from the plain LSTM paired by seed."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import exp, inf
from pathlib import Path
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from g2lstm.decoding.scores import bleu_of, paired_bootstrap
from g2lstm.errors import UserError
from g2lstm.reporting.comparison import BLOCK, equivalence_test, loss_difference, mean_interval, sign_flip_test
from g2lstm.reporting.figures import gate_kind, gate_label, gate_order
from g2lstm.reporting.tables import SPREAD, interval, markdown, metric_title, number, spread
from g2lstm.runs.run import Run, labels
from g2lstm.training.task import Metric

BASELINE = "sigmoid"
NONE = "(no run is recorded yet)"
NEEDED = {"parameters": int, "threads": int | None, "seconds": int | float, "hardware": str, "torch": str}  # of a summary
DRAWS = 1000  # of the bootstrap over sentences
ONE_SEED = "one seed: no interval"
UNPAIRED = re.compile(r"_(without_finetune|recorded_weights)$")  # what a summary says of other weights
Groups = dict[str, list[Run]]
Published = Mapping[str, Mapping[str, float]]  # by gate, and key of a summary


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


def by_metric(groups: Groups) -> list[Groups]:
    """Those that are judged by the same metric, together."""
    found: dict[str, Groups] = defaultdict(dict)
    for name, runs in groups.items():
        found[runs[0].config.task_class.metric.name][name] = runs
    return list(found.values())


def metric_of(groups: Groups) -> Metric:
    """What the task of the runs is judged by."""
    return next(iter(groups.values()))[0].config.task_class.metric


def recorded(folder: Path) -> str:
    """What documents quote of a folder of results: the runs, and their differences from the plain LSTM."""
    groups = recorded_runs(folder)
    return "\n\n".join(part for part in (run_table(groups), difference_table(groups)) if part) if groups else NONE


def columns(groups: Groups) -> dict[str, str]:
    """Keys of summaries by title: of the metric "valid", "test", "valid + cache", ..., then of what is beside it."""
    metric = metric_of(groups)
    keys = dict.fromkeys(key for runs in groups.values() for run in runs for key in run.summary)
    beside = {f"test_{name}": f"test: {title}" for name, title in metric.beside.items()}
    found = {}
    for key in keys:
        split, _, name = key.partition("_")
        variant_of = not metric.beside and name.startswith(f"{metric.name}_")  # else `beside` says what is shown
        if split in ("valid", "test") and (name == metric.name or variant_of) and not UNPAIRED.search(key):
            variant = name[len(metric.name) + 1 :]
            found[f"{split} + {variant}" if variant else split] = key
    ordered = sorted(found.items(), key=lambda item: ("+" in item[0], item[0].startswith("test"), item[0]))
    return dict(ordered) | {title: key for key, title in beside.items() if key in keys}


def run_table(groups: Groups, published: Published = MappingProxyType({})) -> str:
    """One row a gate: mean ± standard deviation over seeds, the paper's `published` values, and what the runs took."""
    keys, metric = columns(groups), metric_of(groups)
    known = {name: published.get(name.rpartition("/")[2], {}) if _whole(runs) else {} for name, runs in groups.items()}
    paper = {key for found in known.values() for key in found}
    titles = [part for title, key in keys.items() for part in (title, *(["paper"] if key in paper else []))]
    lines = [["gate", *titles, "seeds", "parameters", "threads", "minutes", f"{metric.unit}/s"]]
    for name, runs in groups.items():
        cells = []
        for key in keys.values():
            cells.append(spread(values(runs, key), metric.digits))
            cells += [number(known[name].get(key), 1)] if key in paper else []
        here = [run for run in runs if not run.summary.get("resumed_on_another_environment")]  # what time means there
        size, minutes = _mean(runs, "parameters", 1e6), _mean(here, "seconds", 60)
        cells += [str(len(runs)), f"{number(size)}M", _all_of(run.summary.get("threads", "-") for run in runs)]
        cells += [number(minutes, 0), number(_mean(here, f"{metric.unit}_per_second"), 0)]
        lines.append([gate_label(name), *cells])
    summaries = [run.summary for runs in groups.values() for run in runs if run.summary]
    hardware = _all_of((f"{s.get('hardware', '-')}, torch {s.get('torch', '-')}" for s in summaries), "; ")
    over = f", {SPREAD} over seeds" if any(len(runs) > 1 for runs in groups.values()) else ""
    scores = f"{metric_title(metric.name)}{' in valid and test' if metric.beside else ''}"
    text = f"{scores}{over}; measured on {hardware}."
    if len(precisions := {s["precision"] for s in summaries if "precision" in s}) > 1:
        text += f" Trained with products in {' and '.join(sorted(precisions))}."
    if len(texts := {s["train_pairs"] for s in summaries if "train_pairs" in s}) > 1:
        text += f" Trained on {' and '.join(f'{pairs:,}' for pairs in sorted(texts))} pairs: not the same text."
    limits = [(run.own_config.values.get("eval") or {}).get("limit") for runs in groups.values() for run in runs]
    if some := [limit for limit in limits if limit]:
        which = "Evaluated" if len(some) == len(limits) else f"{len(some)} of the {len(limits)} runs evaluated"
        text += f" {which} on the first {_all_of(f'{limit:,}' for limit in some)} pairs of valid and of test alone."
    if moved := sum(bool(s.get("resumed_on_another_environment")) for s in summaries):
        text += f" {moved} of the {len(summaries)} runs went on elsewhere (`environment.json`); their time means nothing."
    return markdown(lines, text)


def difference_table(groups: Groups) -> str:
    """Each gate less the plain LSTM of the same seed: the mean with its interval; "" where nothing can be paired."""
    found, digits = _differences(groups), metric_of(groups).digits
    titles = [title for title in columns(groups) if any(title in of_gate for of_gate in found.values())]
    # A score beside the metric in which nothing differs may be none of the model, as that of a naive forecast.
    titles = [
        title for title in titles if ":" not in title or any(any(of_gate.get(title, ())) for of_gate in found.values())
    ]
    lines = [["difference from the plain LSTM, paired by seed", *titles, "n"]]
    for name, of_gate in found.items():
        cells = ["{1} ({3})".format(*_cells(of_gate[title], digits, "+")) if title in of_gate else "-" for title in titles]
        lines.append([name, *cells, str(max(map(len, of_gate.values())))])
    return markdown(lines, "Mean over n seeds, in brackets its 95% t-interval.") if found else ""


def statistics_table(groups: Groups, margin: float | None = None) -> str:
    """One row a gate and metric: n, mean, standard deviation, 95% t-interval of the mean; then the same of its differences
    from the plain LSTM paired by seed, with tests. Within `margin` a difference counts as none, for one of equivalence.
    """
    tests: dict[str, Callable[[Sequence[float]], float]] = {"p": sign_flip_test}
    name = metric_title(metric_of(groups).name)
    footnote = f"{name}; n runs that differ in their seed. p: exact test of all flips of the n signs, at least 2/2^n."
    if margin is not None:
        tests[f"p of {margin:g} or more"] = partial(equivalence_test, margin=margin)
        footnote += f" p of {margin:g} or more: two one-sided t-tests; below 0.05 it is less than that."
    lines = [["gate", "metric", "n", "mean", "standard deviation", "95% t-interval", *tests]]
    digits, untested = metric_of(groups).digits, ["-"] * len(tests)
    for name, runs in groups.items():
        for title, key in columns(groups).items():
            if found := values(runs, key):
                lines.append([gate_label(name), title, *_cells(found, digits), *untested])
    for name, of_gate in _differences(groups).items():
        for title, d in of_gate.items():
            tested = [f"{test(d):.3g}" for test in tests.values()] if len(d) > 1 else untested
            label = name if " less " in name else f"{name} less plain LSTM"
            lines.append([f"{label}, by seed", title, *_cells(d, digits, "+"), *tested])
    return markdown(lines, footnote, texts=2)


def recorded_losses(results: Path, name: str, seed: int) -> str:
    """The `loss_table` of an experiment's runs with one seed, the plain LSTM first."""
    groups = recorded_runs(results / name)
    runs = [run for of_gate in groups.values() for run in of_gate if run.seed == seed]
    return (
        loss_table(runs, [run.path.name for run in runs])
        if len(runs) > 1 and gate_kind(runs[0].path.name) == BASELINE
        else NONE
    )


def loss_table(runs: Sequence[Run], names: Sequence[str] = ()) -> str:
    """Each run's loss of every token less the first run's, for each kind of evaluation that both keep; BLEU of translations.

    Runs are called by `names`, by their paths without them.

    Raises:
        UserError: a run keeps no losses, or of another text.
    """
    named = zip(names or [run.path.as_posix() for run in runs], runs, strict=True)
    first, *others = [(name, _losses(run.folder.losses)) for name, run in named]
    if all(run.config.task_class.metric.name == "bleu" for run in runs):
        return _bleu_table([first, *others])
    lines = [["run", "split", "tokens", "loss difference a token", "95% interval", "its exponential", "95% interval"]]
    for path, losses in others:
        for name in (name for name in first[1] if name in losses and "_statistics" not in name):
            try:
                less, (low, high) = loss_difference(losses[name], first[1][name])
            except ValueError as error:
                raise UserError(f"{path} can't be compared with {first[0]} on {name}: {error}") from None
            cells = [f"{len(losses[name]):,}", number(less, 4, "+"), interval(low, high, 4, "+")]
            cells += [number(exp(less), 4), interval(exp(low), exp(high), 4)]
            lines.append([path, name.replace("_", " + "), *cells])
    footnote = f"Less {first[0]}, in nats; bootstrap over blocks of {BLOCK} tokens: of this text, not of seeds."
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


def _bleu_table(found: list[tuple[str, dict[str, np.ndarray]]]) -> str:
    """The BLEU of each run, and less that of the first on the same sentences."""
    (first, sums), *_ = found
    lines = [["run", "split", "sentences", "BLEU", "difference", "95% interval", "p"]]
    for path, kept in found:
        for name in (name for name in sums if name in kept and "_statistics" in name):
            cells = [f"{len(kept[name]):,}", number(float(bleu_of(kept[name].sum(0, dtype=np.int64)))), "-", "-", "-"]
            if path != first:
                try:
                    less = paired_bootstrap(torch.from_numpy(kept[name]), torch.from_numpy(sums[name]), draws=DRAWS)
                except ValueError as error:
                    raise UserError(f"{path} can't be compared with {first} on {name}: {error}") from None
                cells[2:] = [number(less.difference, 2, "+"), interval(less.low, less.high, 2, "+"), f"{less.p:.3g}"]
            lines.append([path, name.replace("_statistics", "").replace("_", " + "), *cells])
    text = f"Less {first}; paired bootstrap, {DRAWS:,} draws of all sentences: of this text, not of seeds."
    return markdown(lines, text, texts=2)


def _differences(groups: Groups) -> dict[str, dict[str, list[float]]]:
    """Of each other gate and title, from the plain LSTM of the same seed, by what the gate is called."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, runs in groups.items():
        if gate_kind(name) == BASELINE or (peer := _peer(groups, name)) is None:
            continue
        label = gate_label(name) if _options(peer) in ("", _options(name)) else f"{gate_label(name)} less {gate_label(peer)}"
        baseline = {run.seed: run for run in groups[peer]}
        for title, key in columns(groups).items():
            both = [values([run, baseline[run.seed]], key) for run in runs if run.seed in baseline]
            if differences := [pair[0] - pair[1] for pair in both if len(pair) == 2]:
                found.setdefault(label, {})[title] = differences
    return found


def _peer(groups: Groups, name: str) -> str | None:
    """The plain LSTM that a gate is compared with: of its options, of none, or the only one in its folder."""
    folder = name.rpartition("/")[0]
    plain = [peer for peer in groups if peer.rpartition("/")[0] == folder and gate_kind(peer) == BASELINE]
    alike = [peer for options in (_options(name), "") for peer in plain if _options(peer) == options]
    return next(iter(alike or (plain if len(plain) == 1 else ())), None)


def _options(name: str) -> str:
    """ "x/gumbel-p0.5" -> "-p0.5"."""
    return name.rpartition("/")[2].removeprefix(gate_kind(name))


def _cells(values: Sequence[float], digits: int, sign: str = "") -> list[str]:
    """n, mean, standard deviation and interval."""
    found = mean_interval(values)
    deviation = stdev(values) if len(values) > 1 else None
    span = interval(*found, digits, sign) if found else ONE_SEED
    return [str(len(values)), number(mean(values), digits, sign), number(deviation, digits), span]


def _whole(runs: list[Run]) -> bool:
    """Whether runs had all of the paper's training text, where their summaries say how many pairs there were."""
    told = [run.summary for run in runs if "train_pairs" in run.summary]
    used = [sum(one.get(key, 0) for key in ("train_pairs", "dropped_empty", "dropped_long")) for one in told]
    return all(pairs >= 0.99 * one.get("train_pairs_of_whole", inf) for pairs, one in zip(used, told, strict=True))


def _mean(runs: list[Run], key: str, scale: float = 1) -> float | None:
    found = values(runs, key)
    return mean(found) / scale if found else None


def _all_of(values: Iterable[Any], joint: str = ", ") -> str:
    return joint.join(sorted({str(value) for value in values}))
