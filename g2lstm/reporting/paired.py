"""Gates beside each other, paired by seed: test metric, what compression costs, how binary gates are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from g2lstm.compression import sweep
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL, BLOCK_NAMES, of_one_text, recorded_rows
from g2lstm.reporting.comparison import equivalence_test, mean_interval, sign_flip_test
from g2lstm.reporting.figures import NAMES, gate_kind, gate_label, gate_order
from g2lstm.reporting.gate_tables import text_read
from g2lstm.reporting.run_tables import BASELINE, ONE_SEED, columns, metric_of, recorded_runs, values
from g2lstm.reporting.sweeps import lower_is_better
from g2lstm.reporting.tables import interval, markdown, metric_label, number
from g2lstm.runs.store import Row

OURS, PEERS = "gumbel", (BASELINE, "sharpened")
FOOTNOTE = "Means over the n seeds that all gates have; of differences, paired by seed, also the 95% t-interval."
TERMS = {"loss": "how much worse test gets under compression", "binary": "below 0.1 or above 0.9 without noise, all layers"}
NOTHING = "(nothing is measured of all gates yet)"
Pair = tuple[str, str]  # of gates: one less the other
Measured = dict[tuple[str, int], dict[str, dict[int, float]]]  # by title and its digits, gate and seed


def recorded(name: str, results: Path, pairs: Sequence[Pair] = ()) -> str:
    """The table of an experiment; of "compression/NAME" and "gates/NAME" that part alone, the first in more detail.

    Args:
        name: of the experiment, or of that part.
        results: the folder of recorded runs.
        pairs: which of its gates are compared, by what their runs are called; the paper's three without it.
    """
    part, _, experiment = name.rpartition("/")
    found = {} if part else _scores(results / experiment)
    if part in ("", "compression"):
        found |= _losses(results / "compression" / experiment, compressed=bool(part))
    rows: list[Row] = []
    if part in ("", "gates"):
        rows = of_one_text(recorded_rows(results / "gates" / experiment, "gates", "metric"))
        found |= _gates(rows)
    return table(found, pairs, *(text_read(row) for row in rows[:1]))


def tests(name: str, results: Path, margin: float, pairs: Sequence[Pair]) -> str:
    """Test metrics of `pairs` with what says how sure their differences are, and that they are within `margin`."""
    lines = [["", "difference paired by seed", "95% t-interval", "sign-flip p", f"p, beyond ±{margin:g}", "n"]]
    for (title, digits), of_gate in _scores(results / name).items():
        for one, other in pairs:
            found = _differences(of_gate, (one, other))
            if (span := mean_interval(found)) is not None:
                cells = [number(mean(found), digits, "+"), interval(*span, digits, "+")]
                cells += [f"{p:.3f}" for p in (sign_flip_test(found), equivalence_test(found, margin))]
                lines.append([f"{title}, {_less(one, other)}", *cells, str(len(found))])
    text = (
        f"p, beyond ±{margin:g}: two one-sided t-tests; below 0.025 the interval lies within -{margin:g} to +{margin:g}. "
        "The sign-flip p of n pairs is 2/2^n at least. Not corrected for the number of intervals."
    )
    return markdown(lines, text) if lines[1:] else NOTHING


def table(measured: Measured, pairs: Sequence[Pair] = (), text: str = "") -> str:
    """A line for each title; a column for each gate, and for the differences of `pairs`, or of G2-LSTM from the others.

    `text` is what gates were measured on.
    """
    pairs = pairs or _of_ours(_of_each([gate for of_gate in measured.values() for gate in of_gate]))
    gates = sorted({gate for pair in pairs for gate in pair}, key=gate_order)
    lines = [["", *map(gate_label, gates), *(_less(*pair) for pair in pairs), "n"]]
    for (title, digits), of_gate in measured.items() if pairs else ():
        if seeds := sorted(set.intersection(*(set(of_gate.get(gate, ())) for gate in gates))):
            kept = {gate: {seed: of_gate[gate][seed] for seed in seeds} for gate in gates}
            cells = [number(mean(kept[gate].values()), digits) for gate in gates]
            cells += [difference(_differences(kept, pair), digits) for pair in pairs]
            lines.append([title, *cells, str(len(seeds))])
    used = {line[0].partition(" ")[0] for line in lines}
    terms = [f"{term.capitalize()}: {meaning}." for term, meaning in TERMS.items() if term in used]
    terms += [f"Gates: {text[0].lower()}{text[1:]}."] if text and "binary" in used else []
    return markdown(lines, " ".join([FOOTNOTE, *terms])) if lines[1:] else NOTHING


def difference(found: list[float], digits: int) -> str:
    """The mean of paired differences with its 95% t-interval."""
    span = mean_interval(found)
    return f"{number(mean(found), digits, '+')} ({interval(*span, digits, '+') if span else ONE_SEED})"


def _differences(of_gate: Mapping[str, Mapping[int, float]], pair: Pair) -> list[float]:
    """One less the other, by seed, of the seeds that both have."""
    one, other = (of_gate.get(gate, {}) for gate in pair)
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def _less(one: str, other: str) -> str:
    return f"{gate_label(one)} less {gate_label(other)}"


def _of_ours(names: Mapping[str, str]) -> list[Pair]:
    return [(names[OURS], names[kind]) for kind in PEERS if kind in names and OURS in names]


def _of_each(names: list[str]) -> dict[str, str]:
    """The name of each of the three gates: without options or, where only one variant of it is there, with its options."""
    variants = {kind: [name for name in dict.fromkeys(names) if gate_kind(name) == kind] for kind in NAMES}
    return {
        kind: kind if kind in found else found[0] for kind, found in variants.items() if kind in found or len(found) == 1
    }


def _scores(folder: Path) -> Measured:
    """The test metric, in each variant of its evaluation."""
    found: Measured = {}
    groups = recorded_runs(folder)
    for title, key in columns(groups).items() if groups else ():
        if title.startswith("test") and ":" not in title:
            metric = metric_of(groups)
            of_gate = found.setdefault((title.replace("test", f"test {metric_label(metric.name)}"), metric.digits), {})
            for gate, runs in groups.items():
                of_gate[gate] = {run.seed: value for run in runs for value in values([run], key)}
    return found


def _losses(folder: Path, *, compressed: bool) -> Measured:
    """What each setting costs on test, on its beginning where no more was read; also the metric of `compressed` models."""
    losses, scores = Measured(), Measured()
    rows = [row for row in sweep.open_store(folder / "sweep.json").all() if row["split"] == "test"]
    limits: set[int] = {row.get("limit") or 0 for row in rows}
    limit = 0 if 0 in limits else max(limits, default=0)
    rows, part = [row for row in rows if (row.get("limit") or 0) == limit], f", first {limit:,}" if limit else ""
    for row in sweep.of_one_target(rows) if rows else ():
        if row["setting"] != ORIGINAL and not row["variant"]:
            if row["difference"] is None:
                raise UserError(f"{folder / 'sweep.json'} lacks the uncompressed {row['run']}: repeat the sweep")
            label, digits = Method.parse(row["setting"]).label + part, row.get("digits", 2)
            loss = row["difference"] if lower_is_better(row) else -row["difference"]
            losses.setdefault((f"loss under {label}", digits), {}).setdefault(row["gate"], {})[row["seed"]] = loss
            score = scores.setdefault((f"{metric_label(row['metric'])} under {label}", digits), {})
            score.setdefault(row["gate"], {})[row["seed"]] = row["value"]
    return losses | scores if compressed else losses


def _gates(rows: list[Row]) -> Measured:
    """Binary shares, and what cutting gates to 0 or 1 changes."""
    found: Measured = {}
    in_test = {(row["gate"], row["seed"]): row["value"] for row in rows if (row["kind"], row["mode"]) == ("metric", "test")}
    for row in rows:
        if row["kind"] == "metric" and row["mode"] == "hard":
            title = f"change of {row['split']} {metric_label(row['metric'])} by cutting gates to 0 or 1"
            digits, value = row.get("digits", 2), row["value"] - in_test[row["gate"], row["seed"]]
        elif row["kind"] == "gates" and (row["mode"], row["layer"]) == ("test", ALL) and row["block"] in "if":
            title, digits, value = f"binary values of the {BLOCK_NAMES[row['block']]}, %", 1, 100 * row["binary"]
        else:
            continue
        found.setdefault((title, digits), {}).setdefault(row["gate"], {})[row["seed"]] = value
    return found
