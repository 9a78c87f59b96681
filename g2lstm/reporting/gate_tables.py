"""Tables of how gates are spread, in training and in test, and at which words."""

from itertools import product
from pathlib import Path

from g2lstm.inspection.measure import ALL, BLOCK_NAMES, chosen_layer, of_one_text, recorded_rows
from g2lstm.inspection.modes import MODES
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.tables import SPREAD, interval, markdown, metric_label, spread
from g2lstm.runs.store import Row

TABLES = ("binary", "modes", "words")


def recorded(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of the gates measured in a folder: mean ± standard deviation over seeds."""
    rows = recorded_rows(folder, "words") if kind == "words" else of_one_text(recorded_rows(folder, "gates", "metric"))
    if not rows:
        return "(no gates are measured yet)"
    return word_table(rows) if kind == "words" else gate_table(rows, kind)


def by_gate(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each gate."""
    return {gate: [row for row in rows if row["gate"] == gate] for gate in dict.fromkeys(row["gate"] for row in rows)}


def text_read(row: Row) -> str:
    """ "First 10,000 sentences of train (222,247 words)", which a row was measured on."""
    count, bracket, rest = row["size"].partition(" (")
    return f"First {count} of {row['split']}{bracket}{rest}"


def gate_layer(rows: list[Row], asked: str | None = None) -> str:
    """The layer of figures and tables, as `inspection.measure.chosen_layer`; also `ALL` where it is asked for."""
    return asked if asked == ALL else chosen_layer((row["layer"] for row in rows if row.get("layer", ALL) != ALL), asked)


def gate_table(rows: list[Row], kind: str, layer: str | None = None) -> str:
    """The table "binary", with one layer beside all, or "modes" of rows of kind "gates" and "metric" of one text."""
    gates = [row for row in rows if row["kind"] == "gates"]
    footnote = (
        f"{text_read(gates[0])}. Binary: the share of gate values below 0.1 or above 0.9. n runs that differ in their seed;"
        f" with several, {SPREAD}."
    )
    if kind == "modes":
        return markdown(_modes(gates, [row for row in rows if row["kind"] == "metric"]), footnote, texts=2)
    return markdown(_binary(gates, gate_layer(gates, layer)), footnote)


def word_table(rows: list[Row]) -> str:
    """Of rows of kind "words": function words, punctuation and sentence ends against content words; "" without words.

    Of rows of several layers, texts or `min_count` those that the most runs have, and of each run what was measured last.
    """
    ways: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        ways.setdefault(tuple(row[name] for name in ("layer", "split", "size", "min_count")), {})[row["run"]] = row
    rows = list(max(ways.values(), key=len).values()) if ways else []
    if all(found["class"] == "other" for row in rows for found in row["classes"]):
        return ""
    columns = {"sentence end": "sentence end", "function": "function words", "content": "content words"}
    lines = [["mean forget gate", *columns.values(), "difference", "95% interval", "p", "n"]]
    for gate, mine in by_gate(rows).items():
        means = [{found["class"]: found["mean_of_types"] for found in row["classes"]} for row in mine]
        tests = [row["test"] for row in mine if row["test"] is not None]
        cells = [spread([found[kind] for found in means if kind in found], 3) for kind in columns]
        cells.append(spread([test["difference"] for test in tests], 3))
        cells.append(interval(tests[0]["low"], tests[0]["high"], 3) if len(tests) == 1 else "-")
        cells.append(f"{max(test['p'] for test in tests):.2g}" if tests else "-")
        lines.append([gate_label(gate), *cells, str(len(mine))])
    row = rows[0]
    footnote = (
        f"{row['layer']}, {row['size'].partition(' (')[0]} of {row['split']}, the {row['types']:,} words seen"
        f" {row['min_count']} times or more; every word counts once. Difference:"
        " sentence end, punctuation and function words - content words,"
        f" with a bootstrap interval and the p of a permutation test; of several seeds {SPREAD} and the"
        " largest p."
    )
    return markdown(lines, footnote)


def _binary(rows: list[Row], layer: str) -> list[list[str]]:
    """A line a gate: binary share and entropy of input and forget gates, in one layer and in all."""
    rows = [row for row in rows if row["mode"] == "test"]
    layers = [layer, *([ALL] if layer != ALL and len({row["layer"] for row in rows}) > 2 else [])]
    places = list(product(layers, ("i", "f")))
    titles = [f"{at}, {BLOCK_NAMES[block]}: {name}" for at, block in places for name in ("binary", "entropy, bits")]
    lines = [["gate in test", *titles, "n"]]
    for gate, mine in by_gate(rows).items():
        of_place = [[row for row in mine if (row["layer"], row["block"]) == place] for place in places]
        cells = [cell for found in of_place for cell in (_percent(found), _spread(found, "entropy"))]
        lines.append([gate_label(gate), *cells, str(len({row["run"] for row in mine}))])
    return lines


def _modes(gates: list[Row], metrics: list[Row]) -> list[list[str]]:
    """A line a gate and mode: means and binary shares over all layers, and the metric."""
    titles = [f"{row['split']} {metric_label(row['metric'])}" for row in metrics[:1]]
    lines = [["gate", "mode", "input gate: mean", "binary", "forget gate: mean", "binary", *titles, "n"]]
    for (gate, of_gate), (mode, name) in product(by_gate(gates).items(), MODES.items()):
        rows = [row for row in of_gate if (row["mode"], row["layer"]) == (mode, ALL)]
        values = [row["value"] for row in metrics if (row["gate"], row["mode"]) == (gate, mode)]
        if rows or values:
            blocks = [[row for row in rows if row["block"] == block] for block in ("i", "f")]
            cells = [cell for found in blocks for cell in (_spread(found, "mean"), _percent(found))]
            cells += [spread(values, metrics[0].get("digits", 2))] if titles else []
            lines.append([gate_label(gate), name, *cells, str(max(len({row["run"] for row in rows}), len(values)))])
    return lines


def _spread(rows: list[Row], name: str) -> str:
    return spread([row[name] for row in rows], 3)


def _percent(rows: list[Row]) -> str:
    return f"{spread([100 * row['binary'] for row in rows], 1)}%" if rows else "-"
