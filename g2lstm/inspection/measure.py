"""The numbers behind the gate figures: flat rows for `gates.json`."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.figures import gate_label
from g2lstm.gates import HardGate, SharpenedGate, has_temperature
from g2lstm.inspection.modes import gated_layers, noisy_gate, training_gates, with_gate
from g2lstm.inspection.reading import corpus_statistics, layer_name
from g2lstm.inspection.statistics import GateStatistics, Tally
from g2lstm.training.rundir import RunDirectory
from g2lstm.training.tasks import LanguageModelTask

Row = dict[str, Any]
ALL = "all layers"
MODES = {
    "training": "training: noise and temperature",
    "test": "test",
    "tempered": "test at the temperature of training",
    "hard": "test, gates cut to 0 or 1",
}
BLOCK_NAMES = {"i": "input gate", "f": "forget gate", "o": "output gate"}


def modes_of(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    """The modes in which a trained model's gates are worth a look, each with what switches it on.

    A gate without noise is in training as in test, so a plain or sharpened model has only "test" and "hard".
    """
    device = next(model.parameters()).device
    found = noisy_gate(model)
    if found is not None:
        yield "training", training_gates(model, torch.Generator(device).manual_seed(seed))
    yield "test", nullcontext()
    if found is not None:
        gate, tau = found
        yield "tempered", with_gate(model, SharpenedGate(tau, gate.gates))
    own = next((layer.gate.gates for layer in gated_layers(model)), ())
    yield "hard", with_gate(model, HardGate(own) if own else HardGate())


def about_run(path: Path, gate: str, seed: int, model: nn.Module) -> Row:
    """What every row says of a run.

    Args:
        path, gate, seed: the run's directory, the name of its gate and its seed.
        model: with the run's best weights, whose present temperature is told.
    """
    layer = gated_layers(model)[0]
    row: Row = {"run": path.as_posix(), "gate": gate, "label": gate_label(gate), "seed": seed}
    row |= {"weights": weights_digest(path), "tau": layer.tau if has_temperature(layer.gate) else None}
    return row | {"noise_p": getattr(layer.gate, "noise_p", None)}


def weights_digest(path: Path) -> str:
    """What tells a run's best weights from any others."""
    return hashlib.sha256(RunDirectory(path).best.read_bytes()).hexdigest()[:20]


def measure(
    task: LanguageModelTask, model: nn.Module, tokens: Tensor, about: Row, *, metric_split: str | None = "valid"
) -> tuple[list[Row], list[Row]]:
    """Histograms and metric of a model in each mode.

    Args:
        task, model: the model in eval mode, and what evaluates it.
        tokens: (N,) the text whose gate values are counted.
        about: what every row says of the run, as `about_run` gives it.
        metric_split: "valid", "test" or None for no metrics.

    Returns:
        a row for each mode, layer and gate, and a row for each mode's metrics.
    """
    rows: list[Row] = []
    metrics: list[Row] = []
    for mode, switched_on in modes_of(model):
        with switched_on:
            if mode != "hard":
                statistics = corpus_statistics(model, tokens, batch_size=task.valid_batch_size, rows=task.eval_bptt)
                rows += [about | {"mode": mode} | row for row in rows_of(statistics)]
            if metric_split is not None:
                metrics.append(about | {"mode": mode, "split": metric_split} | task.evaluate(model, metric_split))
    return rows, metrics


def rows_of(statistics: GateStatistics) -> list[Row]:
    """A row for each layer and gate, and for each gate of all layers together."""
    rows, parts = [], dict[str, list[Tally]]()
    for key, tally in statistics.tallies.items():
        parts.setdefault(key.gate, []).append(tally)
        rows.append(_row(layer_name(key), key.gate, [tally]))
    return rows + [_row(ALL, gate, tallies) for gate, tallies in parts.items()]


def _row(layer: str, block: str, tallies: list[Tally]) -> Row:
    count = sum(tally.count for tally in tallies)
    weights = [tally.count / max(count, 1) for tally in tallies]
    summaries, shares = [tally.summary() for tally in tallies], [tally.shares() for tally in tallies]
    row: Row = {"layer": layer, "block": block, "values": count}
    row |= {name: round(_mixed(weights, [s[name] for s in summaries]), 6) for name in summaries[0]}
    return row | {"histogram": [round(_mixed(weights, bins), 7) for bins in zip(*shares, strict=True)]}


def _mixed(weights: list[float], values: Any) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def joined(shares: list[float], bins: int) -> list[float]:
    """A histogram with neighbouring bins joined to `bins` bins."""
    width = len(shares) // bins
    return [sum(shares[start : start + width]) for start in range(0, len(shares), width)]
