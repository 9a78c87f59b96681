"""What a compression sweep found, as the paper's table."""

from collections.abc import Callable
from statistics import mean

from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.reporting.figures import gate_label, gate_order
from g2lstm.reporting.tables import SPREAD, markdown, number, spread
from g2lstm.runs.store import Row

MOST_SETTINGS = 6  # beside the original, in one table


def tables(rows: list[Row]) -> str:
    """Markdown: a table in the paper's shape for each metric and variant of evaluation, and what the settings cost.

    One row a gate, one column a setting: the mean over seeds and, in brackets, the mean difference to the original of the
    same run, with standard deviations where there are several runs.
    """
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    parts = []
    for metric, variant in dict.fromkeys((row["metric"], row["variant"]) for row in rows):
        chosen = [row for row in rows if (row["metric"], row["variant"]) == (metric, variant)]
        better = "" if lower_is_better(chosen[0]) else "; higher is better"
        title = measured(chosen[0])
        title = f"{title[0].upper()}{title[1:]} (and difference to the original{better})"
        parts.append(f"{title}\n\n{_table(chosen, settings, _cell)}")
    if cost := list({(row["run"], row["setting"]): row for row in rows}.values()):
        parts.append(f"Bits for each parameter of the compressed blocks\n\n{_table(cost, settings, _bits_cell)}")
        parts.append(_footnote(rows))
    return "\n\n".join(parts) + "\n"


def lower_is_better(row: Row) -> bool:
    """The direction of a row's metric; rows of earlier versions, which all had the perplexity, don't tell."""
    return row.get("lower_is_better", True)


def measured(row: Row) -> str:
    """ "test perplexity with cache"."""
    return f"{row['split']} {row['metric'].replace('_', ' ')}" + (f" with {row['variant']}" if row["variant"] else "")


def _table(rows: list[Row], settings: list[str], cell: Callable[[list[Row]], str]) -> str:
    """One row a gate and one column a setting; many settings make several tables below each other."""
    compressed = [setting for setting in settings if setting != ORIGINAL]
    gates = {
        gate: [row for row in rows if row["gate"] == gate] for gate in sorted({r["gate"] for r in rows}, key=gate_order)
    }
    parts = []
    for start in range(0, max(1, len(compressed)), MOST_SETTINGS):
        shown = [ORIGINAL] * (ORIGINAL in settings) + compressed[start : start + MOST_SETTINGS]
        lines = [["gate", *(Method.parse(setting).label for setting in shown), "n"]]
        for gate, mine in gates.items():
            cells = [cell([row for row in mine if row["setting"] == setting]) for setting in shown]
            lines.append([gate_label(gate), *cells, str(len({row["run"] for row in mine}))])
        parts.append(markdown(lines))
    return "\n\n".join(parts)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return "-"
    text = spread([row["value"] for row in rows])
    differences = [row["difference"] for row in rows if row["difference"] is not None]
    return text if rows[0]["setting"] == ORIGINAL or not differences else f"{text} ({spread(differences, sign='+')})"


def _bits_cell(rows: list[Row]) -> str:
    return number(mean(row["bits_per_gate_parameter"] for row in rows) if rows else None)


def _footnote(rows: list[Row]) -> str:
    row = next((row for row in rows if row["setting"] != ORIGINAL), rows[0])
    layers = "all layers" if row["layers"] == "all" else f"layers {row['layers']}"
    matrices = row["matrices"].replace("+", " and ")
    part = f"Evaluated on the first {row['limit']} of the {row['split']} split alone. " if row.get("limit") else ""
    return part + (
        f"Compressed: the {', '.join(row['gates'])} blocks of the {matrices} matrices of {layers}, each block by itself; "
        f"no biases. n runs that differ in their seed; with several, {SPREAD}."
    )
