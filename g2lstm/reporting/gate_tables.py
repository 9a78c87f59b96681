"""Tables of how gates are spread, in training and in test, and at which words."""

import json
from pathlib import Path
from typing import Any

from g2lstm.inspection.measure import ALL, BLOCK_NAMES, MODES
from g2lstm.reporting.tables import SPREAD, interval, markdown, spread

Row = dict[str, Any]
TABLES = ("binary", "modes", "words")


def recorded(folder: Path, kind: str) -> str:
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
        f" with several, {SPREAD}."
    )
    return markdown(_modes(content), footnote, texts=2) if kind == "modes" else markdown(_binary(content), footnote)


def word_table(rows: list[Row]) -> str:
    """The table "words" of the rows of `words.json`: function words, punctuation and sentence ends against content words."""
    columns = {"sentence end": "sentence end", "function": "function words", "content": "content words"}
    lines = [["mean forget gate", *columns.values(), "difference", "95% interval", "p", "n"]]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        means = [{found["class"]: found["mean_of_types"] for found in row["classes"]} for row in mine]
        tests = [row["test"] for row in mine if row["test"] is not None]
        cells = [spread([found[kind] for found in means if kind in found], 3) for kind in columns]
        cells.append(spread([test["difference"] for test in tests], 3))
        cells.append(interval(tests[0]["low"], tests[0]["high"], 3) if len(tests) == 1 else "-")
        lines.append([label, *cells, f"{max(test['p'] for test in tests):.2g}" if tests else "-", str(len(mine))])
    row = rows[0]
    footnote = (
        f"{row['layer']}, {row['sentences']:,} sentences of {row['split']}, the {row['types']:,} words seen"
        f" {row['min_count']} times or more; every word counts once. Difference:"
        " sentence end, punctuation and function words - content words,"
        f" with a bootstrap interval and the p of a permutation test; of several seeds {SPREAD} and the"
        " largest p."
    )
    return markdown(lines, footnote)


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
            cells.append(_percent(values) if name == "binary" else spread(values, 3))
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
                cells += [spread([row["mean"] for row in mine], 3), _percent([row["binary"] for row in mine])]
            cells.append(spread([row["perplexity"] for row in metrics], 2))
            lines.append([label, name, *cells, str(len({row["run"] for row in rows or metrics}))])
    return lines


def _percent(values: list[float]) -> str:
    return f"{spread([100 * value for value in values], 1)}%" if values else "-"
