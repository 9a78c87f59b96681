"""What options of the gates do to perplexity, to cutting gates to 0 or 1, and to compression, beside the plain LSTM."""

import re
from collections.abc import Callable
from statistics import mean

from matplotlib.figure import Figure

from g2lstm.reporting.figures import COLOURS, gate_kind, gate_label, gate_order, grid
from g2lstm.reporting.paired import difference
from g2lstm.reporting.run_tables import BASELINE
from g2lstm.reporting.study import CUT, Measured
from g2lstm.reporting.tables import SPREAD, markdown, spread

CLOSE = 1.0  # % above the plain LSTM that an LSTM with bits as gates was to stay within
TEMPERED = "at its last temperature"
Groups = dict[str, dict[int, Measured]]
Column = tuple[Callable[[Measured], float], int, str]  # value, digits and sign


def need(runs: list[Measured]) -> bool:
    """Whether the runs differ in more than noise probability and temperature, as their names say."""
    return any(not re.fullmatch(r"(-(p|tau)[\d.e+-]*\d)*", run.gate.removeprefix(gate_kind(run.gate))) for run in runs)


def table(runs: list[Measured]) -> str:
    """Markdown: a line for each gate with its options, mean ± standard deviation over seeds; then differences from plain."""
    groups, columns = _groups(runs), _columns(runs)
    lines = [["gate", *columns, "n"]]
    for gate, mine in groups.items():
        cells = [spread([value(run) for run in mine.values()], digits, sign) for value, digits, sign in columns.values()]
        lines.append([gate_label(gate), *cells, str(len(mine))])
    metric = runs[0].metric
    footnote = (
        f"Cut: the gates that were trained so are 0 or 1, of a plain LSTM input and forget gate. {TEMPERED.capitalize()}:"
        f" tau under the gates, no noise. Loss: how much worse the test {metric} gets under compression."
        f" Binary: % of gate values below 0.1 or above 0.9, all layers, in test. n seeds, {SPREAD}."
    )
    return "\n\n".join(part for part in (markdown(lines, footnote), _differences(groups, columns, metric)) if part)


def _differences(groups: Groups, columns: dict[str, Column], metric: str) -> str:
    """Each gate less the plain LSTM of the same seed; with gates cut also in % of the plain LSTM's metric as it is."""
    plain, lines = _plain(groups), [["difference from the plain LSTM, paired by seed", *columns, "n"]]
    in_percent = all(run.valid["test"] for run in plain.values())
    lines[0][1:1] = [f"valid {metric}, cut, less the plain LSTM's as it is, %"] if in_percent else []
    for gate, mine in groups.items():
        if gate_kind(gate) != BASELINE and (seeds := sorted(mine.keys() & plain.keys())):
            cut = [100 * (mine[seed].valid["hard"] / plain[seed].valid["test"] - 1) for seed in seeds] if in_percent else []
            cells = [difference(cut, 1)] if cut else []
            for value, digits, _ in columns.values():
                cells.append(difference([value(mine[seed]) - value(plain[seed]) for seed in seeds], digits))
            lines.append([gate_label(gate), *cells, str(len(seeds))])
    footnote = "Mean over n seeds, in brackets its 95% t-interval, not corrected for the number of intervals."
    return markdown(lines, footnote) if lines[1:] else ""


def _plain(groups: Groups) -> dict[int, Measured]:
    """The plain LSTM by seed: the one without options, or the only one."""
    found = [gate for gate in groups if gate_kind(gate) == BASELINE]
    name = BASELINE if BASELINE in found or len(found) != 1 else found[0]
    return groups.get(name, {})


def draw(runs: list[Measured]) -> Figure:
    """A line for each gate, the best when cut first: the metric on valid as it is and cut, beside what is close to plain."""
    groups, lower = _groups(runs), not runs[0].losses
    means = {gate: mean(run.valid["hard"] for run in mine.values()) for gate, mine in groups.items()}
    order = sorted(groups, key=lambda gate: means[gate] if lower else -means[gate])
    figure, panels = grid(1, 1, (11.0, 1.6 + 0.34 * len(groups)))
    axes = panels[0, 0]
    if plain := [run.valid["test"] for run in _plain(groups).values()]:
        low, high = (mean(plain) * (1 + side * CLOSE / 100) for side in (-1, 1))
        axes.axvspan(low, high, color="0.88", label=f"within {CLOSE:g}% of the plain LSTM as it is")
    for place, mine in enumerate(groups[gate] for gate in order):
        for mode, label, marker, colour, offset in (
            ("test", "as it is", "o", COLOURS["sigmoid"], -0.17),
            ("hard", "gates cut to 0 or 1", "D", COLOURS["gumbel"], 0.17),
        ):  # fmt: skip
            values = [run.valid[mode] for run in mine.values()]
            axes.plot(
                values, [place + offset] * len(values), marker, color=colour, markersize=5, label=None if place else label
            )
    axes.set_yticks(range(len(order)), map(gate_label, order))
    axes.invert_yaxis()
    axes.set_xlabel(f"valid {runs[0].metric}, a mark a seed")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _groups(runs: list[Measured]) -> Groups:
    """Runs by gate and seed, the plain LSTM first."""
    found: Groups = {}
    for run in sorted(runs, key=lambda run: (gate_order(run.gate), run.seed)):
        found.setdefault(run.gate, {})[run.seed] = run
    return found


def _columns(runs: list[Measured]) -> dict[str, Column]:
    """Title and value of what every run has."""
    scores, losses, shares = runs[0].panels  # titles of the panels
    score, digits = next(iter(runs[0].panels[scores])), runs[0].digits
    found: dict[str, Column] = {
        score: (lambda run: run.panels[scores][score], digits, ""),
        f"valid {runs[0].metric}": (lambda run: run.valid["test"], digits, ""),
        f"valid {runs[0].metric}, cut": (lambda run: run.valid["hard"], digits, ""),
        f"valid {runs[0].metric}, {TEMPERED}": (lambda run: run.valid.get("tempered", run.valid["test"]), digits, ""),
    }
    for panel, form in ((shares, (1, "")), (losses, (digits, "+"))):
        for name in runs[0].panels[panel]:
            if name != CUT and not name.endswith("training") and all(name in run.panels[panel] for run in runs):
                title = f"loss, {name}" if panel == losses else name.removesuffix(", test")
                found[title] = (_reader(panel, name), *form)
    return found


def _reader(panel: str, name: str) -> Callable[[Measured], float]:
    return lambda run: run.panels[panel][name]
