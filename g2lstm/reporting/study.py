"""What the noise probability p and the temperature tau do: a compression sweep and the gates of the same runs, side by side.

Reads what experiments/compression_sweep.py and experiments/gate_histograms.py wrote for runs that differ in p, tau and seed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from operator import attrgetter
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from g2lstm.compression import sweep
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL, BLOCK_NAMES, of_one_text, recorded_rows
from g2lstm.reporting.figures import COLOURS, MARKERS, MORE_LINES, grid
from g2lstm.reporting.sweep_tables import lower_is_better
from g2lstm.reporting.tables import SPREAD, markdown, spread
from g2lstm.runs.store import Row

BLOCKS = ("i", "f")
LINES = (*((COLOURS[gate], MARKERS[gate]) for gate in COLOURS), *MORE_LINES)


@dataclass(frozen=True)
class Measured:
    """One run."""

    # noise probability and temperature of its gates; 0 and 1 of a plain LSTM
    p: float
    tau: float
    # of the test split: what the metric is called, as "perplexity", and its value without compression
    name: str
    original: float
    others: tuple[str, ...]  # the other variants that it was evaluated in
    sign: int  # 1, or -1 where a higher metric is better
    losses: dict[str, float]  # how much worse the metric is, by setting
    hard: float  # how much worse the validation metric is where gates are cut to 0 or 1
    # % of values below 0.1 or above 0.9 by (gate block, "training" or "test"), over all layers
    binary: dict[tuple[str, str], float]


class Quantity(NamedTuple):
    """A column of the table and a line of the figure: titles there, the value of a run, and how the table writes it."""

    column: str
    line: str
    of: Callable[[Measured], float]
    digits: int = 2
    sign: str = ""


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
    found_rows = (sweep.of_one_target(rows), of_one_text(recorded_rows(gates.parent, "gates", "metric")))
    runs = dict.fromkeys(row["run"] for row in rows)
    both = [[[row for row in found if row["run"] == run] for found in found_rows] for run in runs]
    try:
        found = [_measured(mine, of_gates) for mine, of_gates in both if of_gates]
    except (KeyError, TypeError) as error:
        text = f"{swept} or {gates} lacks what a study needs ({error!r})"
        raise UserError(f"{text}: compression_sweep.py writes it, and gate_histograms.py with metric=valid") from None
    if not found:
        raise UserError(f"{swept} and {gates} have no run in common")
    return sorted(found, key=lambda run: (run.tau != _usual_tau(found), -run.tau, run.p))


def quantities(runs: list[Measured]) -> dict[str, list[Quantity]]:
    """What is shown, by panel of the figure; settings are those that every run was measured under, in the sweep's order."""
    settings = [name for name in runs[0].losses if all(name in run.losses for run in runs)]
    labels = {name: Method.parse(name).label for name in settings}
    losses = [Quantity(labels[name], labels[name], partial(_get, "losses", name), 2, "+") for name in settings]
    cut = "gates cut to 0 or 1"
    shares = [
        Quantity(f"{BLOCK_NAMES[at[0]]} binary, {at[1]}", f"{BLOCK_NAMES[at[0]]}, {at[1]}", partial(_get, "binary", at), 1)
        for at in product(BLOCKS, ("training", "test"))
    ]
    name = runs[0].name
    return {
        f"test {name}": [Quantity(f"test {name}", "original", attrgetter("original"))],
        f"loss of {name}": [*losses, Quantity(cut, f"{cut} (valid)", attrgetter("hard"), 2, "+")],
        "gate values outside [0.1, 0.9], %": shares,
    }


def _get(name: str, key: Any, run: Measured) -> float:
    return getattr(run, name)[key]


def table(runs: list[Measured]) -> str:
    """Markdown: one line for each p and tau, mean ± standard deviation over seeds."""
    columns = list(chain.from_iterable(quantities(runs).values()))
    lines = [["p", "tau", *(one.column for one in columns), "n"]]
    for p, tau in dict.fromkeys((run.p, run.tau) for run in runs):
        mine = [run for run in runs if (run.p, run.tau) == (p, tau)]
        cells = [spread([one.of(run) for run in mine], one.digits, one.sign) for one in columns]
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
    usual = _usual_tau(runs)
    columns = {f"noise probability p (tau {usual:g})": ("p", [run for run in runs if run.tau == usual])}
    if others := Counter(run.p for run in runs if run.tau != usual).most_common(1):
        p = others[0][0]
        columns[f"temperature tau (p {p:g})"] = ("tau", [run for run in runs if run.p == p])
    figure, panels = grid(3, len(columns), (1.2 + 4.2 * len(columns), 9.6), sharex="col", sharey="row")
    for line, (title, shown) in zip(panels, quantities(runs).items(), strict=True):
        for axes, (place, chosen) in zip(line, columns.values(), strict=True):
            _lines(axes, chosen, attrgetter(place), shown)
        line[0].set_ylabel(title)
        line[-1].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    panels[1, 0].set_ylim(bottom=0)
    for axes, label in zip(panels[-1], columns, strict=True):
        axes.set_xlabel(label)
    return figure


def _lines(axes: Axes, runs: list[Measured], place: Callable[[Measured], float], shown: list[Quantity]) -> None:
    """Means over seeds joined by a line, with standard deviations as bars."""
    places = sorted({place(run) for run in runs})
    for one, (colour, marker) in zip(shown, LINES, strict=False):
        groups = [[one.of(run) for run in runs if place(run) == x] for x in places]
        deviations = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
        means = [mean(group) for group in groups]
        axes.errorbar(places, means, deviations, color=colour, marker=marker, markersize=5, capsize=3, label=one.line)
    axes.grid(alpha=0.3)


def _measured(swept: list[Row], gates: list[Row]) -> Measured:
    """Of the rows of one run."""
    plain, others = ([row for row in swept if bool(row["variant"]) == other] for other in (False, True))
    of_all = [row for row in gates if row["kind"] == "gates" and row["layer"] == ALL and row["block"] in BLOCKS]
    binary = {(row["block"], row["mode"]): 100 * row["binary"] for row in of_all}
    for block in BLOCKS:  # a gate without noise is in training as in test
        binary.setdefault((block, "training"), binary[block, "test"])
    valid = {row["mode"]: row["value"] for row in gates if row["kind"] == "metric"}
    values = {row["setting"]: row["value"] for row in plain}
    sign = 1 if all(lower_is_better(row) for row in plain) else -1
    return Measured(
        p=gates[0]["noise_p"] or 0.0,
        tau=gates[0]["tau"] or 1.0,
        name=plain[0]["metric"],
        original=values[ORIGINAL],
        others=tuple(dict.fromkeys(row["variant"] for row in others)),
        sign=sign,
        losses={name: sign * (value - values[ORIGINAL]) for name, value in values.items() if name != ORIGINAL},
        hard=sign * (valid["hard"] - valid["test"]),
        binary=binary,
    )


def _usual_tau(runs: list[Measured]) -> float:
    """The temperature at which most noise probabilities were tried."""
    return Counter(tau for _, tau in {(run.p, run.tau) for run in runs}).most_common(1)[0][0]
