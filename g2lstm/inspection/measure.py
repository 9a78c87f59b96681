"""What is measured of trained gates, as rows of a store: their spread and the metric in each mode, and words that shut them.

A row has its "kind": "gates", "metric" or "words". The rows of kind "gates" and "metric" with one key are one measurement:
those of a run on a text.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from g2lstm.errors import UserError
from g2lstm.files import read_json
from g2lstm.gates import has_temperature
from g2lstm.inspection.gates import GateRecord, layer_name, lstm_layers, watched
from g2lstm.inspection.modes import gated_layers, modes_of
from g2lstm.inspection.statistics import GateStatistics, Tally
from g2lstm.inspection.words import class_means, compare_classes, word_rows
from g2lstm.layout import endings
from g2lstm.runs.run import Run
from g2lstm.runs.store import Row, Store, key_of

ALL = "all layers"
SHOWN = ("i", "f")  # the gates that the paper shows
BLOCK_NAMES = {"i": "input gate", "f": "forget gate", "o": "output gate"}
MOST_ENDS = 50  # words with the lowest and with the highest gates in a row
_ABOUT = {"kind", "run", "gate", "seed", "weights"}
_NEEDED = {
    "gates": _ABOUT | {"mode", "split", "size", "layer", "block", "mean", "binary", "entropy", "histogram"},
    "metric": _ABOUT | {"mode", "split", "metric", "value"},
    "words": _ABOUT | {"split", "size", "layer", "min_count", "types", "classes", "test", "lowest_and_highest"},
}


def open_store(folder: Path) -> Store:
    """What was measured of gates and left in a folder, also by an earlier version; a UserError where it is not that."""
    path = folder / "gates.json"
    return Store(path, upgrade=partial(_upgrade, path))


def recorded_rows(folder: Path, *kinds: str, names: Mapping[str, str] | None = None) -> list[Row]:
    """The rows of some kinds that stand in a folder; of `names`, what runs are called now by their weights, those alone."""
    rows = [row for row in open_store(folder).all() if row["kind"] in kinds]
    words = folder / "words.json"
    if not rows and "words" in kinds and words.is_file():  # as an earlier version kept them
        rows = _upgrade(words, read_json(words, dict))
    return rows if names is None else [row | {"gate": names[row["weights"]]} for row in rows if row["weights"] in names]


def keep_first(store: Store, rows: list[Row]) -> None:
    """Puts rows before all others of a store, and drops what was measured of the same runs with other weights."""
    weights = {row["run"]: row["weights"] for row in rows}
    stale = [row for row in store.all() if row["weights"] != weights.get(row["run"], row["weights"])]
    store.keep((row["key"] for row in rows), stale)


def measure_gates(
    store: Store, run: Run, name: str, *, split: str, limit: int | None = None, metric_split: str | None = None
) -> list[Row]:
    """Histograms and metric of a run in each mode, from the store where they are there.

    Args:
        store: takes what is measured: a row for each mode, layer and gate, and a row for each mode's metric.
        run, name: with weights, and what it is called beside the others.
        split, limit: the text whose gate values are counted, as `Task.evaluate` has them.
        metric_split: "valid", "test" or None for no metrics.
    """
    task = run.task()
    metric = metric_split and [metric_split, task.digest(metric_split)]
    key = key_of("gates", run.weights, split, task.digest(split, limit), metric)
    if key in store:
        return _named(store, key, run, name)
    model, rows = run.model(task), list[Row]()
    about = _about(run, name, model)
    read = {"split": split, "size": task.size(split, limit)}
    for mode, switched_on in modes_of(model):
        with switched_on:
            if mode != "hard":
                found = rows_of(corpus_statistics(task, model, split, limit))
                rows += [{"kind": "gates"} | about | {"mode": mode} | read | row for row in found]
            if metric_split is not None:
                value = task.evaluate(model, metric_split).metrics[task.metric.name]
                measured = {"split": metric_split, "metric": task.metric.name, "variant": "", "value": value}
                measured["digits"] = task.metric.digits
                rows.append({"kind": "metric"} | about | {"mode": mode} | measured)
    return store.add(key, rows)


def measure_words(
    store: Store, run: Run, name: str, layer: str, *, split: str, limit: int | None = None, min_count: int = 20
) -> Row:
    """Which words have the lowest mean forget gate over a text, and the test of the paper's observation.

    As `measure_gates`; words seen less than `min_count` times are left out.

    Raises:
        UserError: no word is left, or the layer is of an encoder, which reads other words than the task's labels.
    """
    task = run.task()
    if task.labels is None:
        raise UserError(f"task {run.config.run.task.name} reads no words to compare: set words=none")
    if "decoder" not in layer and any("decoder" in other for other in layer_names(run.bare_model(task))):
        raise UserError(f"layer {layer} does not read the words that are said: name one of the decoder's")
    key = key_of("words", run.weights, split, task.digest(split, limit), layer, min_count)
    if key in store:
        return _named(store, key, run, name)[0]
    model = run.model(task)
    statistics = corpus_statistics(task, model, split, limit, words=len(task.labels))
    sums = statistics.tallies[layer, "f"].words
    assert sums is not None
    types = word_rows(sums, task.labels, min_count, task.word_of)
    if not types:
        raise UserError(f"no word stands {min_count} times in {split}: set min_count lower, or words=train")
    row = {"kind": "words"} | _about(run, name, model) | {"layer": layer, "split": split, "size": task.size(split, limit)}
    row |= {"min_count": min_count, "types": len(types), "classes": class_means(types), "test": compare_classes(types)}
    ends = types if len(types) <= 2 * MOST_ENDS else types[:MOST_ENDS] + types[-MOST_ENDS:]
    rounded = [{n: round(v, 5) if isinstance(v, float) else v for n, v in asdict(word).items()} for word in ends]
    return store.add(key, [row | {"lowest_and_highest": rounded}])[0]


def corpus_statistics(
    task: Any, model: nn.Module, split: str, limit: int | None = None, *, words: int | None = None
) -> GateStatistics:
    """The statistics of the input and forget gates while a split is evaluated; of each of `words` words where given."""
    statistics, numbers, calls = GateStatistics(words=words), list[Tensor](), Counter[str]()

    def reading(read: Tensor) -> None:
        numbers[:] = [read]
        calls.clear()

    def add(record: GateRecord) -> None:
        shape, step = next(iter(record.values.values())).shape[:2], calls[record.layer_name]
        calls[record.layer_name] += 1
        read = numbers[0] if words is not None and numbers else None
        if read is not None and shape[0] == 1:  # a cell, or a layer that is called for each step
            read = read[step : step + 1]
        statistics.add(record, read if read is not None and read.shape == shape else None)

    try:
        with watched(model, add, SHOWN):
            task.evaluate(model, split, task.gate_variant, limit=limit, reading=reading)
    except ValueError as error:
        raise UserError(str(error)) from error
    return statistics


def rows_of(statistics: GateStatistics) -> list[Row]:
    """A row for each layer and gate, and for each gate of all layers together."""
    rows, parts = [], dict[str, list[Tally]]()
    for (layer, gate), tally in statistics.tallies.items():
        parts.setdefault(gate, []).append(tally)
        rows.append(_row(layer, gate, [tally]))
    return rows + [_row(ALL, gate, tallies) for gate, tallies in parts.items()]


def of_one_text(rows: Iterable[Row], weights: Iterable[str] | None = None) -> list[Row]:
    """The rows, of kind "gates" and "metric", of the first text on which gates of all `weights`, or any, were measured."""
    measured: dict[str, list[Row]] = {}
    for row in rows:
        measured.setdefault(row["key"], []).append(row)
    texts: dict[tuple, dict[str, list[Row]]] = {}
    for found in measured.values():
        gates = next((row for row in found if row["kind"] == "gates"), None)
        if gates is not None:
            metric = next((row["split"] for row in found if row["kind"] == "metric"), None)
            texts.setdefault((gates["split"], gates["size"], metric), {}).setdefault(gates["weights"], found)
    for by_weights in texts.values():
        if weights is None or set(weights) <= by_weights.keys():
            chosen = by_weights if weights is None else dict.fromkeys(weights)
            return [row for digest in chosen for row in by_weights[digest]]
    return []


def layer_names(model: nn.Module) -> list[str]:
    """What the layers and directions of a model are called in rows."""
    layers = [(name, *layer) for name, module in lstm_layers(model).items() for layer in enumerate(endings(module))]
    return [layer_name(name, number, bool(reverse)) for name, number, ends in layers for reverse, _ in enumerate(ends)]


def chosen_layer(names: Iterable[str], asked: str | None) -> str:
    """The layer called `asked`; without it the first one of a decoder, or the first."""
    known = list(dict.fromkeys(names))
    if asked is not None:
        if asked in known:
            return asked
        raise UserError(f"the model has no layer {asked}: layer=... is one of {', '.join(known)}")
    return next((name for name in known if "decoder" in name), known[0])


def joined(shares: Sequence[float], bins: int) -> list[float]:
    """A histogram with neighbouring bins joined to `bins` bins."""
    width = len(shares) // bins
    return [sum(shares[start : start + width]) for start in range(0, len(shares), width)]


def _about(run: Run, name: str, model: nn.Module) -> Row:
    """What every row says of a run: the temperature that its best weights have, and the share of noise that it was given."""
    layer = next(iter(gated_layers(model)), None)
    row = {"run": run.path.as_posix(), "gate": name, "seed": run.seed, "weights": run.weights}
    tau = layer.tau if layer is not None and has_temperature(layer.gate) else None
    return row | {"tau": tau, "noise_p": getattr(run.config.gate, "noise_p", None)}


def _named(store: Store, key: str, run: Run, name: str) -> list[Row]:
    """What was measured before, with the run's present place and name."""
    rows = [row | {"run": run.path.as_posix(), "gate": name, "seed": run.seed} for row in store.rows(key)]
    return rows if rows == store.rows(key) else store.add(key, rows)


def _row(layer: str, block: str, tallies: list[Tally]) -> Row:
    count = sum(tally.count for tally in tallies)
    weights = np.array([tally.count / max(count, 1) for tally in tallies])
    means = weights @ np.array([list(tally.summary().values()) for tally in tallies])
    row: Row = {"layer": layer, "block": block, "values": count}
    row |= {name: round(float(mean), 6) for name, mean in zip(tallies[0].summary(), means, strict=True)}
    return row | {"histogram": [round(float(share), 7) for share in weights @ np.array([t.shares() for t in tallies])]}


def _upgrade(path: Path, content: Any) -> list[Row]:
    """The rows of a file, checked; of {"rows": ..., ...} too, as an earlier version wrote its gates.json and words.json."""
    try:
        rows = content if isinstance(content, list) else _earlier(content)
        if all(row.keys() >= _NEEDED[row["kind"]] and "key" in row for row in rows):
            return rows
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration):
        pass
    raise UserError(f"{path} is not what gate_histograms.py or gate_heatmap.py writes: remove it, or set out=...")


def _earlier(content: Row) -> list[Row]:
    rows: list[Row] = []
    for row in content["rows"]:
        kind, of = ("gates", content) if "metrics" in content else ("words", row)
        size = f"{of['sentences']:,} sentences ({of['words']:,} words)"
        rows.append(row | {"kind": kind, "split": of["split"], "size": size})
    for row in content.get("metrics", ()):
        name = next(reversed(row))  # the metric came last
        rows.append(row | {"kind": "metric", "metric": name, "variant": "", "value": row[name]})
    for row in rows:  # the first records said nothing of weights
        row |= {"weights": row.get("weights") or row["run"], "key": key_of(row["kind"] == "words", row["run"])}
    return rows
