"""What the noise probability p and the temperature tau do: a compression sweep and the gates of the same runs, side by side.

Reads what experiments/compression_sweep.py and experiments/gate_histograms.py wrote for runs that differ in p, tau and seed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from g2lstm.compression import sweep
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL, BLOCK_NAMES, of_one_text, recorded_rows
from g2lstm.reporting.figures import COLOURS, MARKERS, MORE_LINES
from g2lstm.reporting.sweep_tables import lower_is_better
from g2lstm.reporting.tables import SPREAD, markdown, spread
from g2lstm.runs.store import Row

Value = Callable[["Measured"], float]
BLOCKS = ("i", "f")
TARGET = ("gates", "matrices", "layers")
LINES = (*((COLOURS[gate], MARKERS[gate]) for gate in COLOURS), *MORE_LINES)


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        p, tau: noise probability and temperature of its gates; 0 and 1 of a plain LSTM.
        metric: the plain metric of the test split by setting, ORIGINAL among them.
        name, others: of the metric, as "perplexity", and of the other variants that it was evaluated in.
        sign: 1, or -1 where a higher metric is better.
        binary: share of values below 0.1 or above 0.9 by (mode, gate block), over all layers; mode "training" or "test".
        hard: how much worse the validation metric is where gates are cut to 0 or 1.
    """

    p: float
    tau: float
    metric: dict[str, float]
    name: str
    others: tuple[str, ...]
    sign: int
    binary: dict[tuple[str, str], float]
    hard: float

    def loss(self, setting: str) -> float:
        """How much worse the metric is under a setting."""
        return self.sign * (self.metric[setting] - self.metric[ORIGINAL])

    def original(self) -> float:
        """The metric without compression."""
        return self.metric[ORIGINAL]

    def percent(self, mode: str, block: str) -> float:
        """Share of a gate's values that are binary."""
        return 100 * self.binary[mode, block]


def read(results: Path, name: str) -> list[Measured]:
    """The runs of results/compression/<name>/sweep.json and results/gates/<name>/gates.json, by p and tau.

    Raises:
        UserError: a file is missing or lacks something, or no run is in both.
    """
    swept, gates = results / "compression" / name / "sweep.json", results / "gates" / name / "gates.json"
    for path, command in ((swept, "compression_sweep.py"), (gates, "gate_histograms.py")):
        if not path.is_file():
            raise UserError(f"no {path}: python experiments/{command} runs='runs/{name}/*' out={path.parent} writes it")
    rows, of_gates = sweep.open_store(swept).all(), of_one_text(recorded_rows(gates.parent, "gates", "metric"))
    try:
        found = [_measured(*group) for group in _by_run(_of_one_target(rows), of_gates)]
    except (KeyError, TypeError) as error:
        text = f"{swept} or {gates} lacks what a study needs ({error!r})"
        raise UserError(f"{text}: compression_sweep.py writes it, and gate_histograms.py with metric=valid") from None
    if not found:
        raise UserError(f"{swept} and {gates} have no run in common")
    return sorted(found, key=lambda run: (run.tau != _usual_tau(found), -run.tau, run.p))


def settings(runs: Iterable[Measured]) -> list[str]:
    """The settings that every run was measured under, in the sweep's order."""
    runs = list(runs)
    return [name for name in runs[0].metric if name != ORIGINAL and all(name in run.metric for run in runs)]


def table(runs: list[Measured]) -> str:
    """Markdown: one line for each p and tau, mean ± standard deviation over seeds."""
    chosen = settings(runs)
    columns: list[tuple[str, Value, int, str]] = [(f"test {runs[0].name}", Measured.original, 2, "")]
    columns += [(Method.parse(name).label, partial(Measured.loss, setting=name), 2, "+") for name in chosen]
    columns.append(("gates cut to 0 or 1", attrgetter("hard"), 2, "+"))
    for block in BLOCKS:
        for mode in ("training", "test"):
            columns.append(
                (f"{BLOCK_NAMES[block]} binary, {mode}", partial(Measured.percent, mode=mode, block=block), 1, "")
            )
    lines = [["p", "tau", *(title for title, *_ in columns), "n"]]
    for p, tau in dict.fromkeys((run.p, run.tau) for run in runs):
        mine = [run for run in runs if (run.p, run.tau) == (p, tau)]
        cells = [spread([value(run) for run in mine], digits, sign) for _, value, digits, sign in columns]
        lines.append([f"{p:g}", f"{tau:g}", *cells, str(len(mine))])
    without = f"; without {' or '.join(runs[0].others)}" if runs[0].others else ""
    what = "Differences" if runs[0].sign > 0 else "Losses, positive where it gets lower,"
    footnote = (
        f"{what} of the test {runs[0].name} under compression, and of the validation {runs[0].name} with gates cut to 0 or"
        f" 1{without}. Binary: % of gate values below 0.1 or above 0.9, all layers; in training with noise and temperature."
        f" n seeds, {SPREAD}."
    )
    return markdown(lines, footnote, texts=0)


def draw(runs: list[Measured]) -> Figure:
    """What p (left, at the usual tau) and tau (right, at the usual p) do to the metric, its loss, and the gates."""
    usual_tau, usual_p = _usual_tau(runs), _most_common(run.p for run in runs if run.tau != _usual_tau(runs))
    axes_of: list[tuple[str, Value, list[Measured]]] = [
        (f"noise probability p (tau {usual_tau:g})", attrgetter("p"), [run for run in runs if run.tau == usual_tau])
    ]
    if usual_p is not None:
        chosen = [run for run in runs if run.p == usual_p]
        axes_of.append((f"temperature tau (p {usual_p:g})", attrgetter("tau"), chosen))
    size = (1.2 + 4.2 * len(axes_of), 9.6)
    figure, panels = plt.subplots(
        3, len(axes_of), figsize=size, sharex="col", sharey="row", layout="constrained", squeeze=False
    )
    losses: dict[str, Value] = {Method.parse(name).label: partial(Measured.loss, setting=name) for name in settings(runs)}
    losses["gates cut to 0 or 1 (valid)"] = attrgetter("hard")
    shares: dict[str, Value] = {
        f"{BLOCK_NAMES[block]}, {mode}": partial(Measured.percent, mode=mode, block=block)
        for block in BLOCKS
        for mode in ("training", "test")
    }
    rows: dict[str, dict[str, Value]] = {
        f"test {runs[0].name}": {"original": Measured.original},
        f"loss of {runs[0].name}": losses,
        "gate values outside [0.1, 0.9], %": shares,
    }
    for line, (title, values) in zip(panels, rows.items(), strict=True):
        for axes, (_, place, chosen) in zip(line, axes_of, strict=True):
            _lines(axes, chosen, place, values)
        line[0].set_ylabel(title)
        line[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    panels[1, 0].set_ylim(bottom=0)
    for axes, (label, _, _) in zip(panels[-1], axes_of, strict=True):
        axes.set_xlabel(label)
    return figure


def _lines(
    axes: Axes,
    runs: list[Measured],
    place: Value,
    values: dict[str, Value],
) -> None:
    """Means over seeds joined by a line, with standard deviations as bars."""
    for (label, value), (colour, marker) in zip(values.items(), LINES, strict=False):
        places = sorted({place(run) for run in runs})
        groups = [[value(run) for run in runs if place(run) == x] for x in places]
        deviations = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
        means = [mean(group) for group in groups]
        axes.errorbar(places, means, deviations, color=colour, marker=marker, markersize=5, capsize=3, label=label)
    axes.grid(alpha=0.3)


def _of_one_target(rows: list[Row]) -> list[Row]:
    """The originals and what was compressed as the first compressed row was, on the whole test split."""
    rows = [row for row in rows if row["split"] == "test" and row.get("limit") is None]
    target = next(([row[name] for name in TARGET] for row in rows if row["setting"] != ORIGINAL), None)
    return [row for row in rows if row["setting"] == ORIGINAL or [row[name] for name in TARGET] == target]


def _by_run(rows: list[Row], gates: list[Row]) -> Iterable[tuple[list[Row], list[Row]]]:
    """(sweep rows, gate and metric rows) of each run that both files have."""
    for run in dict.fromkeys(row["run"] for row in rows):
        found = [row for row in gates if row["run"] == run]
        if found:
            yield [row for row in rows if row["run"] == run], found


def _measured(swept: list[Row], gates: list[Row]) -> Measured:
    plain, others = ([row for row in swept if bool(row["variant"]) == other] for other in (False, True))
    of_all = [row for row in gates if row["kind"] == "gates" and row["layer"] == ALL and row["block"] in BLOCKS]
    binary = {(row["mode"], row["block"]): row["binary"] for row in of_all}
    for block in BLOCKS:  # a gate without noise is in training as in test
        binary.setdefault(("training", block), binary["test", block])
    valid = {row["mode"]: row["value"] for row in gates if row["kind"] == "metric"}
    sign = 1 if all(lower_is_better(row) for row in plain) else -1
    return Measured(
        p=gates[0]["noise_p"] or 0.0,
        tau=gates[0]["tau"] or 1.0,
        metric={row["setting"]: row["value"] for row in plain},
        name=plain[0]["metric"],
        others=tuple(dict.fromkeys(row["variant"] for row in others)),
        sign=sign,
        binary=binary,
        hard=sign * (valid["hard"] - valid["test"]),
    )


def _usual_tau(runs: list[Measured]) -> float:
    """The temperature at which most noise probabilities were tried."""
    usual = _most_common(tau for _, tau in {(run.p, run.tau) for run in runs})
    assert usual is not None
    return usual


def _most_common(values: Iterable[float]) -> float | None:
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None
