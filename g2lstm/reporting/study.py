"""What the noise probability p and the temperature tau do: a compression sweep and the gates of the same runs, side by side.

Reads what experiments/compression_sweep.py and experiments/gate_histograms.py wrote for runs that differ in p, tau and seed.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from g2lstm.compression import sweep
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL, BLOCK_NAMES, of_one_text, recorded_rows
from g2lstm.reporting.figures import grid, looks
from g2lstm.reporting.paired import difference
from g2lstm.reporting.sweeps import lower_is_better
from g2lstm.reporting.tables import SPREAD, markdown, metric_label, spread
from g2lstm.runs.store import Row

CUT = "gates cut to 0 or 1"


@dataclass(frozen=True)
class Measured:
    """One run."""

    gate: str  # with its options, as "gumbel-tau0.5"
    seed: int
    # noise probability and temperature of its gates; 0 and 1 of a plain LSTM
    p: float
    tau: float
    metric: str  # as "perplexity", of the test split
    losses: bool  # whether a difference is given as what the metric gets lower
    valid: dict[str, float]  # the metric on valid by mode of the gates, "test" and "hard" among them
    # by panel of the figure and column of the table: the metric without compression; how much worse it is by setting, and
    # that on valid where gates are cut to 0 or 1; % of values below 0.1 or above 0.9 over all layers
    panels: dict[str, dict[str, float]]
    digits: int = 2  # of the metric

    @property
    def forms(self) -> tuple[tuple[int, str], ...]:
        """Digits and sign of the values of each panel."""
        return (self.digits, ""), (self.digits, "+"), (1, "")


def read(results: Path, name: str) -> list[Measured]:
    """The runs of results/compression/<name>/sweep.json and results/gates/<name>/gates.json, by p and tau.

    Raises:
        UserError: a file is missing or lacks something, or no run is in both.
    """
    swept, gates = results / "compression" / name / "sweep.json", results / "gates" / name / "gates.json"
    for path, command in ((swept, "compression_sweep.py"), (gates, "gate_histograms.py")):
        if not path.is_file():
            raise UserError(f"no {path}: python experiments/{command} runs='runs/{name}/*' out={path.parent} writes it")
    rows = [row for row in sweep.open_store(swept).all() if row["split"] == "test" and row.get("limit") is None]
    names, found = list(dict.fromkeys(row["run"] for row in rows)), []
    rows, of_gates = sweep.of_one_target(rows), of_one_text(_of_valid(recorded_rows(gates.parent, "gates", "metric")))
    try:
        for name in names:
            if mine := [row for row in of_gates if row["run"] == name]:
                found.append(_measured([row for row in rows if row["run"] == name], mine))
    except (KeyError, TypeError) as error:
        text = f"{swept} or {gates} lacks what a study needs ({error!r})"
        raise UserError(f"{text}: compression_sweep.py writes it, and gate_histograms.py with metric=valid") from None
    if not found:
        raise UserError(f"{swept} and {gates} have no run in common: gate_histograms.py with metric=valid measures gates")
    return sorted(found, key=lambda run: (run.tau != _usual_tau(found), -run.tau, run.p))


def _of_valid(rows: list[Row]) -> list[Row]:
    """Without the measurements whose metric is of another split."""
    others = {row["key"] for row in rows if row["kind"] == "metric" and row.get("split", "valid") != "valid"}
    return [row for row in rows if row["key"] not in others]


def _measured(swept: list[Row], gates: list[Row]) -> Measured:
    """Of the rows of one run."""
    plain = [row for row in swept if not row["variant"]]
    metric, sign = metric_label(plain[0]["metric"]), 1 if all(map(lower_is_better, plain)) else -1
    values = {row["setting"]: row["value"] for row in plain}
    original = values.pop(ORIGINAL)
    valid = {row["mode"]: row["value"] for row in gates if row["kind"] == "metric"}
    losses = {Method.parse(name).label: sign * (value - original) for name, value in values.items()}
    losses[CUT] = sign * (valid["hard"] - valid["test"])
    of_all = [row for row in gates if row["kind"] == "gates" and row["layer"] == ALL]
    binary = {(row["block"], row["mode"]): 100 * row["binary"] for row in of_all}
    shares = {  # a gate without noise is in training as in test
        f"{BLOCK_NAMES[block]} binary, {mode}": binary.get((block, mode), binary[block, "test"])
        for block, mode in product("if", ("training", "test"))
    }
    panels = {f"test {metric}": {f"test {metric}": original}, f"loss of {metric}": losses}
    panels["gate values outside [0.1, 0.9], %"] = shares
    gate, seed, p, tau = swept[0]["gate"], swept[0]["seed"], gates[0]["noise_p"] or 0.0, gates[0]["tau"] or 1.0
    return Measured(gate, seed, p, tau, metric, sign < 0, valid, panels, plain[0].get("digits", 2))


def _shown(runs: list[Measured]) -> dict[str, list[str]]:
    """What every run has, by panel."""
    first = runs[0].panels
    return {title: [name for name in first[title] if all(name in run.panels[title] for run in runs)] for title in first}


def table(runs: list[Measured]) -> str:
    """Markdown: one line for each p and tau, mean ± standard deviation over seeds; below it their differences."""
    columns = [
        (title, name, form)
        for (title, names), form in zip(_shown(runs).items(), runs[0].forms, strict=True)
        for name in names
    ]
    lines = [["p", "tau", *(name for _, name, _ in columns), "n"]]
    for p, tau in dict.fromkeys((run.p, run.tau) for run in runs):
        mine = [run.panels for run in runs if (run.p, run.tau) == (p, tau)]
        cells = [spread([panels[title][name] for panels in mine], *form) for title, name, form in columns]
        lines.append([f"{p:g}", f"{tau:g}", *cells, str(len(mine))])
    metric = runs[0].metric
    what = "Losses, positive where it gets lower," if runs[0].losses else "Differences"
    footnote = (
        f"{what} of the test {metric} under compression, and of the validation {metric} with gates cut to 0 or"
        f" 1. Binary: % of gate values below 0.1 or above 0.9, all layers; in training with noise and temperature."
        f" n seeds, {SPREAD}."
    )
    return "\n\n".join(part for part in (markdown(lines, footnote, texts=0), _differences(runs)) if part)


def _differences(runs: list[Measured]) -> str:
    """Each p less the lowest, at the usual tau, and each other tau less the usual one at the same p, paired by seed."""
    groups: dict[tuple[float, float], dict[int, dict[str, float]]] = {}
    for run in runs:
        groups.setdefault((run.p, run.tau), {})[run.seed] = _with_compressed(run)
    titles = [name for name in _with_compressed(runs[0]) if all(name in of for by in groups.values() for of in by.values())]
    usual, lines = _usual_tau(runs), [["difference, paired by seed", *titles, "n"]]
    lowest = min(p for p, tau in groups if tau == usual)
    _, _, shares = runs[0].panels.values()
    digits = [1 if title in shares else max(1, runs[0].digits - 1) for title in titles]  # fewer: seeds differ by more
    for (p, tau), mine in groups.items():
        peer = (lowest if tau == usual else p, usual)
        if seeds := sorted(mine.keys() & groups.get(peer, {}).keys()) if (p, tau) != peer else []:
            paired = [[mine[seed][title] - groups[peer][seed][title] for seed in seeds] for title in titles]
            cells = list(map(difference, paired, digits))
            lines.append([f"p {p:g}, tau {tau:g} less p {peer[0]:g}, tau {peer[1]:g}", *cells, str(len(seeds))])
    footnote = "Mean over n seeds, in brackets its 95% t-interval, not corrected for the number of intervals."
    return markdown(lines, footnote) if lines[1:] else ""


def _with_compressed(run: Measured) -> dict[str, float]:
    """The metric, losses, the metric after each setting, and binary shares in test."""
    title, (metric, losses, shares) = f"test {run.metric}", run.panels.values()
    under = {name: loss for name, loss in losses.items() if name != CUT}
    values = metric | {f"loss, {name}": loss for name, loss in losses.items()}
    values |= {f"{title}, {name}": metric[title] + (-loss if run.losses else loss) for name, loss in under.items()}
    return values | {name: share for name, share in shares.items() if name.endswith("test")}


def draw(runs: list[Measured]) -> Figure:
    """What p (left, at the usual tau) and tau (right, at the usual p) do to the metric, its loss, and the gates.

    Means over seeds joined by a line, with standard deviations as bars.
    """
    usual = _usual_tau(runs)
    columns = {f"noise probability p (tau {usual:g})": [(run.p, run.panels) for run in runs if run.tau == usual]}
    if others := Counter(run.p for run in runs if run.tau != usual).most_common(1):
        p = others[0][0]
        columns[f"temperature tau (p {p:g})"] = [(run.tau, run.panels) for run in runs if run.p == p]
    figure, panels = grid(3, len(columns), (1.2 + 4.2 * len(columns), 9.6), sharex="col", sharey="row")
    for line, (title, names) in zip(panels, _shown(runs).items(), strict=True):
        for axes, chosen in zip(line, columns.values(), strict=True):
            places = sorted({place for place, _ in chosen})
            for name, (colour, marker) in looks(names).items():
                groups = [[values[title][name] for place, values in chosen if place == x] for x in places]
                bars = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
                means = list(map(mean, groups))
                axes.errorbar(places, means, bars, color=colour, marker=marker, markersize=5, capsize=3, label=name)
            axes.grid(alpha=0.3)
        line[0].set_ylabel(title)
        line[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    _, (losses, shown), _ = _shown(runs).items()
    if all(run.panels[losses][name] >= 0 for run in runs for name in shown):
        panels[1, 0].set_ylim(bottom=0)
    for axes, label in zip(panels[-1], columns, strict=True):
        axes.set_xlabel(label)
    return figure


def _usual_tau(runs: list[Measured]) -> float:
    """The temperature at which most noise probabilities were tried."""
    return Counter(tau for _, tau in {(run.p, run.tau) for run in runs}).most_common(1)[0][0]
