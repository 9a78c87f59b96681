"""Tables of runs: one row a gate over its seeds, and differences from the plain LSTM paired by seed."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from g2lstm.errors import UserError
from g2lstm.figures import gate_kind, gate_label, gate_order
from g2lstm.reporting.comparison import BLOCK, Sample, equivalence_test, loss_difference, sample, sign_flip_test
from g2lstm.reporting.tables import SPREAD, interval, markdown, number, spread

BASELINE = "sigmoid"
NONE = "(no run is recorded yet)"
NEEDED = ("seed", "parameters", "threads", "seconds", "words_per_second", "hardware", "torch")  # of a summary
ONE_SEED = "one seed: no interval"
UNPAIRED = re.compile(r"_(without_finetune|recorded_weights)$")  # what a summary says of other weights


@dataclass(frozen=True)
class Finished:
    """A run with a summary.

    Attributes:
        path: its folder.
        name: its folder's without the seed, the same for runs that differ in their seed only.
        seed: its seed.
        summary: what it says of itself.
    """

    path: Path
    name: str
    seed: int
    summary: dict[str, Any]

    @classmethod
    def read(cls, path: Path, prefix: str = "") -> "Finished":
        """Reads a run's folder.

        Raises:
            UserError: it has no summary.
        """
        try:
            summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
            if missing := [key for key in NEEDED if key not in summary]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            return cls(path, prefix + re.sub(r"-seed\d+$", "", path.name), int(summary["seed"]), summary)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"can't read {path / 'summary.json'} ({error}): name runs that have ended") from None


Groups = dict[str, list[Finished]]


def read_runs(paths: Iterable[Path]) -> Groups:
    """Runs by name, the paper's three gates first; with their folder's name where they are of several."""
    paths = sorted(paths)
    several = len({path.parent.name for path in paths}) > 1
    groups: Groups = defaultdict(list)
    for path in paths:
        run = Finished.read(path, f"{path.parent.name}/" if several else "")
        groups[run.name].append(run)
    return dict(sorted(groups.items(), key=lambda item: gate_order(item[0])))


def recorded_runs(folder: Path) -> Groups:
    """The runs of a folder of results."""
    return read_runs(path.parent for path in folder.glob("*/summary.json"))


def recorded(folder: Path) -> str:
    """What documents quote of a folder of results: the runs, and their differences from the plain LSTM."""
    groups = recorded_runs(folder)
    return "\n\n".join(part for part in (run_table(groups), difference_table(groups)) if part) if groups else NONE


def columns(groups: Groups) -> dict[str, str]:
    """Keys of the metric by title: {"valid": "valid_perplexity", "test + cache": "test_perplexity_cache", ...}."""
    keys = dict.fromkeys(
        key for runs in groups.values() for run in runs for key in run.summary if key.startswith(("valid_", "test_"))
    )
    metric = _metric(groups)
    found = {}
    for key in keys:
        split, _, name = key.partition("_")
        if (name == metric or name.startswith(f"{metric}_")) and not UNPAIRED.search(key):
            variant = name[len(metric) + 1 :]
            found[f"{split} + {variant}" if variant else split] = key
    return dict(sorted(found.items(), key=lambda item: ("+" in item[0], item[0].startswith("test"), item[0])))


def run_table(groups: Groups) -> str:
    """One row a gate: mean ± standard deviation over seeds, and what the runs took."""
    keys = columns(groups)
    lines = [["gate", *keys, "seeds", "parameters", "threads", "minutes", "words/s"]]
    for name, runs in groups.items():
        found = [run.summary for run in runs]
        cells = [spread(_values(runs, key)) for key in keys.values()]
        cells += [str(len(runs)), f"{found[0]['parameters'] / 1e6:.2f}M", _all_of(s["threads"] for s in found)]
        cells += [number(mean(s["seconds"] / 60 for s in found), 0), number(mean(s["words_per_second"] for s in found), 0)]
        lines.append([gate_label(name), *cells])
    summaries = [run.summary for runs in groups.values() for run in runs]
    hardware = _all_of((f"{s['hardware']}, torch {s['torch']}" for s in summaries), "; ")
    over = f", {SPREAD} over seeds" if any(len(runs) > 1 for runs in groups.values()) else ""
    return markdown(lines, f"{_metric(groups).replace('_', ' ').capitalize()}{over}; measured on {hardware}.")


def difference_table(groups: Groups) -> str:
    """Each gate less the plain LSTM of the same seed: the mean with its interval; "" where nothing can be paired."""
    found = [(name, pairs) for name, pairs in _paired(groups) if pairs]
    keys = {title: key for title, key in columns(groups).items() if any(_differences(pairs, key) for _, pairs in found)}
    if not keys:
        return ""
    lines = [["difference from the plain LSTM, paired by seed", *keys, "n"]]
    for name, pairs in found:
        cells = [_with_interval(sample(d)) if (d := _differences(pairs, key)) else "-" for key in keys.values()]
        lines.append([gate_label(name), *cells, str(len(pairs))])
    return markdown(lines, "Mean over n seeds, in brackets its 95% t-interval.")


def statistics_table(groups: Groups) -> str:
    """One row a gate and metric: n, mean, standard deviation, 95% t-interval of the mean."""
    lines = [["gate", "metric", "n", "mean", "standard deviation", "95% t-interval"]]
    for name, runs in groups.items():
        for title, key in columns(groups).items():
            if values := _values(runs, key):
                lines.append([gate_label(name), title, *_cells(sample(values))])
    return markdown(lines, f"{_metric(groups).replace('_', ' ').capitalize()}; n runs that differ in their seed.", texts=2)


def paired_table(groups: Groups, margin: float | None = None) -> str:
    """One row a gate and metric: its difference from the plain LSTM paired by seed, with interval and tests.

    Args:
        groups: runs.
        margin: within which a difference counts as none, for a test of equivalence.
    """
    lines = [["difference from the plain LSTM", "metric", "n", "mean", "standard deviation", "95% t-interval", "p"]]
    lines[0] += [] if margin is None else [f"p of {margin:g} or more"]
    for name, pairs in _paired(groups):
        for title, key in columns(groups).items():
            if d := _differences(pairs, key):
                cells = [*_cells(sample(d), "+"), f"{sign_flip_test(d):.3g}" if len(d) > 1 else "-"]
                if margin is not None:
                    cells.append(f"{equivalence_test(d, margin):.3g}" if len(d) > 1 else "-")
                lines.append([gate_label(name), title, *cells])
    if len(lines) == 1:
        return "(no run has a plain LSTM of the same seed beside it)"
    footnote = "Paired by seed, n seeds. p: exact test of all flips of the n signs, at least 2/2^n."
    footnote += (
        "" if margin is None else f" p of {margin:g} or more: two one-sided t-tests; below 0.05 it is less than that."
    )
    return markdown(lines, footnote, texts=2)


def loss_table(paths: list[Path]) -> str:
    """Each run's loss of every token less the first run's, for each kind of evaluation that both keep.

    Raises:
        UserError: a run keeps no losses, or of another text.
    """
    first, *others = [(path, _losses(path)) for path in paths]
    lines = [["run", "split", "tokens", "loss difference a token", "95% interval", "perplexity ratio", "95% interval"]]
    for path, losses in others:
        for name in (name for name in first[1] if name in losses):
            try:
                d = loss_difference(losses[name], first[1][name])
            except ValueError as error:
                raise UserError(f"{path} can't be compared with {first[0]} on {name}: {error}") from None
            cells = [f"{d.tokens:,}", number(d.mean, 4, "+"), interval(*d.interval, 4, "+")]
            cells += [number(d.perplexity_ratio, 4), interval(*d.ratio_interval, 4)]
            lines.append([path.as_posix(), name.replace("_", " + "), *cells])
    footnote = f"Less {first[0].as_posix()}, in nats; bootstrap over blocks of {BLOCK} tokens: of this text, not of seeds."
    return markdown(lines, footnote, texts=2)


def _losses(path: Path) -> dict[str, np.ndarray]:
    file = path / "losses.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        text = "runs recorded earlier keep no losses" if not file.exists() else f"it is damaged ({error})"
        raise UserError(f"can't read {file}: {text}; train again, or leave the run out") from None


def _paired(groups: Groups) -> list[tuple[str, list[tuple[Finished, Finished]]]]:
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


def _differences(pairs: list[tuple[Finished, Finished]], key: str) -> list[float]:
    values = [(run.summary.get(key), plain.summary.get(key)) for run, plain in pairs]
    return [ours - theirs for ours, theirs in values if ours is not None and theirs is not None]


def _values(runs: list[Finished], key: str) -> list[float]:
    return [run.summary[key] for run in runs if run.summary.get(key) is not None]


def _with_interval(found: Sample) -> str:
    text = number(found.mean, sign="+")
    return f"{text} ({interval(*found.interval, sign='+') if found.interval else ONE_SEED})"


def _cells(found: Sample, sign: str = "") -> list[str]:
    span = interval(*found.interval, sign=sign) if found.interval else ONE_SEED
    return [str(found.n), number(found.mean, sign=sign), number(found.sd), span]


def _metric(groups: Groups) -> str:
    """What the summaries call their metric: the shortest name of a value of valid."""
    names = [key for runs in groups.values() for run in runs for key in run.summary if key.startswith("valid_")]
    return min(names, key=len, default="valid_perplexity").removeprefix("valid_")


def _all_of(values: Iterable[Any], joint: str = ", ") -> str:
    return joint.join(sorted({str(value) for value in values}))
