"""The paper's three gates beside each other, paired by seed: test metric, what compression costs, how binary gates are."""

from collections.abc import Collection
from pathlib import Path
from statistics import mean

from g2lstm.compression import sweep
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.inspection.measure import ALL, BLOCK_NAMES, of_one_text, recorded_rows
from g2lstm.reporting.comparison import mean_interval
from g2lstm.reporting.figures import NAMES, gate_kind, gate_label
from g2lstm.reporting.run_tables import BASELINE, ONE_SEED, columns, metric_of, recorded_runs, values
from g2lstm.reporting.sweeps import lower_is_better
from g2lstm.reporting.tables import interval, markdown, number

OURS, PEERS = "gumbel", (BASELINE, "sharpened")
FOOTNOTE = "Means over the n seeds that all gates have; of differences, paired by seed, also the 95% t-interval."
TERMS = {"loss": "how much worse test gets under compression", "binary": "below 0.1 or above 0.9 in test, all layers"}
Measured = dict[tuple[str, int], dict[str, dict[int, float]]]  # by title and its digits, gate and seed


def recorded(name: str, results: Path) -> str:
    """The table of an experiment; of "compression/NAME" and "gates/NAME" that part alone, the first in more detail."""
    part, _, experiment = name.rpartition("/")
    found = {} if part else _scores(results / experiment)
    if part in ("", "compression"):
        found |= _losses(results / "compression" / experiment, compressed=bool(part))
    if part in ("", "gates"):
        found |= _gates(results / "gates" / experiment)
    return table(found)


def table(measured: Measured) -> str:
    """A line for each title; a column for each gate, and for G2-LSTM's differences from the others."""
    gates = [gate for gate in NAMES if any(gate in of_gate for of_gate in measured.values())]
    peers = [gate for gate in PEERS if gate in gates and OURS in gates]
    lines = [["", *map(gate_label, gates), *(f"{gate_label(OURS)} less {gate_label(peer)}" for peer in peers), "n"]]
    for (title, digits), of_gate in measured.items():
        seeds = sorted(set.intersection(*(set(of_gate.get(gate, ())) for gate in gates)))
        if seeds:
            cells = [number(mean(of_gate[gate][seed] for seed in seeds), digits) for gate in gates]
            cells += [_difference([of_gate[OURS][n] - of_gate[peer][n] for n in seeds], digits) for peer in peers]
            lines.append([title, *cells, str(len(seeds))])
    used = {line[0].partition(" ")[0] for line in lines}
    terms = [f"{term.capitalize()}: {text}." for term, text in TERMS.items() if term in used]
    return markdown(lines, " ".join([FOOTNOTE, *terms])) if lines[1:] else "(nothing is measured of all gates yet)"


def _difference(found: list[float], digits: int) -> str:
    span = mean_interval(found)
    return f"{number(mean(found), digits, '+')} ({interval(*span, digits, '+') if span else ONE_SEED})"


def _of_each(names: Collection[str]) -> dict[str, str]:
    """The gates by name, those without options; in place of one that has none, its only variant."""
    found: dict[str, str] = {}
    for kind in NAMES:
        variants = [name for name in dict.fromkeys(names) if gate_kind(name) == kind]
        if kind in variants or len(variants) == 1:
            found[kind if kind in variants else variants[0]] = kind
    return found


def _scores(folder: Path) -> Measured:
    """The test metric, in each variant of its evaluation."""
    found: Measured = {}
    every = recorded_runs(folder)
    groups = {kind: every[gate] for gate, kind in _of_each(every).items()}
    for title, key in columns(groups).items() if groups else ():
        if title.startswith("test") and ":" not in title:
            metric = metric_of(groups)
            of_gate = found.setdefault((title.replace("test", f"test {metric.name}".replace("_", " ")), metric.digits), {})
            for gate, runs in groups.items():
                of_gate[gate] = {run.seed: value for run in runs for value in values([run], key)}
    return found


def _losses(folder: Path, *, compressed: bool) -> Measured:
    """What each setting costs on all of test; also the metric of the `compressed` models."""
    losses, scores = Measured(), Measured()
    rows = [row for row in sweep.open_store(folder / "sweep.json").all() if row["split"] == "test" and not row.get("limit")]
    rows = sweep.of_one_target(rows) if rows else []
    gates = _of_each([row["gate"] for row in rows])
    for row in rows:
        if (gate := gates.get(row["gate"])) and row["setting"] != ORIGINAL and not row["variant"]:
            label, digits = Method.parse(row["setting"]).label, row.get("digits", 2)
            loss = row["difference"] if lower_is_better(row) else -row["difference"]
            losses.setdefault((f"loss under {label}", digits), {}).setdefault(gate, {})[row["seed"]] = loss
            score = scores.setdefault((f"{row['metric'].replace('_', ' ')} under {label}", digits), {})
            score.setdefault(gate, {})[row["seed"]] = row["value"]
    return losses | scores if compressed else losses


def _gates(folder: Path) -> Measured:
    """Binary shares, and what cutting gates to 0 or 1 changes."""
    found: Measured = {}
    rows = of_one_text(recorded_rows(folder, "gates", "metric"))
    gates = _of_each([row["gate"] for row in rows])
    rows = [row | {"gate": gates[row["gate"]]} for row in rows if row["gate"] in gates]
    in_test = {(row["gate"], row["seed"]): row["value"] for row in rows if (row["kind"], row["mode"]) == ("metric", "test")}
    for row in rows:
        if row["kind"] == "metric" and row["mode"] == "hard":
            title = f"change of {row['split']} {row['metric'].replace('_', ' ')} by cutting gates to 0 or 1"
            digits, value = row.get("digits", 2), row["value"] - in_test[row["gate"], row["seed"]]
        elif row["kind"] == "gates" and (row["mode"], row["layer"]) == ("test", ALL) and row["block"] in "if":
            title, digits, value = f"binary values of the {BLOCK_NAMES[row['block']]}, %", 1, 100 * row["binary"]
        else:
            continue
        found.setdefault((title, digits), {}).setdefault(row["gate"], {})[row["seed"]] = value
    return found
