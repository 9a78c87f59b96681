"""The numbers behind the gate figures: flat rows for `gates.json`, and the tables that are made from them."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import mean, stdev
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
TABLES = ("binary", "modes", "words")
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


def markdown(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of the gates measured in a folder: mean ± standard deviation over seeds.

    Raises:
        ValueError: there is no such table.
    """
    if kind not in TABLES:
        raise ValueError(f"the table must be one of {', '.join(TABLES)}, got {kind!r}")
    path = folder / ("words.json" if kind == "words" else "gates.json")
    if not path.is_file():
        return "(no gates are measured yet)"
    content = json.loads(path.read_text(encoding="utf-8"))
    return word_table(content["rows"]) if kind == "words" else gate_table(content, kind)


def text_read(content: Row) -> str:
    """ "First 10,000 sentences of train (222,247 words)" of what `gates.json` holds."""
    return f"First {content['sentences']:,} sentences of {content['split']} ({content['words']:,} words)"


def gate_table(content: Row, kind: str) -> str:
    """The table "binary" or "modes" of what `gates.json` holds."""
    footnote = (
        f"{text_read(content)}. Binary: the share of gate values below 0.1 or above 0.9. n runs that differ in their seed;"
        " with several, mean ± standard deviation."
    )
    return _lines(_modes(content), 2, footnote) if kind == "modes" else _lines(_binary(content), 1, footnote)


def word_table(rows: list[Row]) -> str:
    """The table "words" of the rows of `words.json`: function words, punctuation and sentence ends against content words."""
    columns = {"sentence end": "sentence end", "function": "function words", "content": "content words"}
    lines = [["mean forget gate", *columns.values(), "difference", "95% interval", "p", "n"]]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        means = [{found["class"]: found["mean_of_types"] for found in row["classes"]} for row in mine]
        tests = [row["test"] for row in mine if row["test"] is not None]
        cells = [_spread([found[kind] for found in means if kind in found], 3) for kind in columns]
        cells.append(_spread([test["difference"] for test in tests], 3))
        cells.append(f"{tests[0]['low']:.3f} to {tests[0]['high']:.3f}" if len(tests) == 1 else "-")
        lines.append([label, *cells, f"{max(test['p'] for test in tests):.2g}" if tests else "-", str(len(mine))])
    row = rows[0]
    footnote = (
        f"{row['layer']}, {row['sentences']:,} sentences of {row['split']}, the {row['types']:,} words seen"
        f" {row['min_count']} times or more; every word counts once. Difference:"
        " sentence end, punctuation and function words - content words,"
        " with a bootstrap interval and the p of a permutation test; of several seeds mean ± standard deviation and the"
        " largest p."
    )
    return _lines(lines, 1, footnote)


def _lines(lines: list[list[str]], texts: int, footnote: str) -> str:
    """Markdown, the first columns of which are texts."""
    lines.insert(1, ["---"] * texts + ["---:"] * (len(lines[0]) - texts))
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", footnote])


def _binary(content: Row) -> list[list[str]]:
    """A line a gate: binary share and entropy of input and forget gates, in the layer of the figure and in all."""
    rows = [row for row in content["rows"] if row["mode"] == "test"]
    layers = [content["layer"], *([ALL] if len({row["layer"] for row in rows}) > 2 else [])]
    columns = [(layer, block, name) for layer in layers for block in ("i", "f") for name in ("binary", "entropy")]
    units = {"binary": "binary", "entropy": "entropy, bits"}
    lines = [["gate in test", *(f"{layer}, {BLOCK_NAMES[b]}: {units[name]}" for layer, b, name in columns), "n"]]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        cells = []
        for layer, block, name in columns:
            values = [row[name] for row in mine if (row["layer"], row["block"]) == (layer, block)]
            cells.append(_percent(values) if name == "binary" else _spread(values, 3))
        lines.append([label, *cells, str(len({row["run"] for row in mine}))])
    return lines


def _modes(content: Row) -> list[list[str]]:
    """A line a gate and mode: means and binary shares over all layers, and the metric."""
    split = next((row["split"] for row in content["metrics"]), "valid")
    lines = [["gate", "mode", "input gate: mean", "binary", "forget gate: mean", "binary", f"{split} perplexity", "n"]]
    for label in dict.fromkeys(row["label"] for row in content["rows"]):
        for mode, name in MODES.items():
            rows = [row for row in content["rows"] if (row["label"], row["mode"], row["layer"]) == (label, mode, ALL)]
            metrics = [row for row in content["metrics"] if (row["label"], row["mode"]) == (label, mode)]
            if not rows and not metrics:
                continue
            cells = []
            for block in ("i", "f"):
                mine = [row for row in rows if row["block"] == block]
                cells += [_spread([row["mean"] for row in mine], 3), _percent([row["binary"] for row in mine])]
            cells.append(_spread([row["perplexity"] for row in metrics], 2))
            lines.append([label, name, *cells, str(len({row["run"] for row in rows or metrics}))])
    return lines


def _percent(values: list[float]) -> str:
    return f"{_spread([100 * value for value in values], 1)}%" if values else "-"


def _spread(values: list[float], digits: int) -> str:
    """The mean, with the standard deviation where there are several values."""
    if not values:
        return "-"
    text = f"{mean(values):,.{digits}f}"
    return f"{text} ± {stdev(values):,.{digits}f}" if len(values) > 1 else text
