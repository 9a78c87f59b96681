"""What options of the gates do to perplexity, to cutting gates to 0 or 1, and to compression, beside the plain LSTM."""

from collections.abc import Callable
from statistics import mean

from matplotlib.figure import Figure

from g2lstm.reporting.comparison import mean_interval
from g2lstm.reporting.figures import COLOURS, gate_kind, gate_label, gate_order, grid
from g2lstm.reporting.run_tables import BASELINE, ONE_SEED
from g2lstm.reporting.study import CUT, Measured
from g2lstm.reporting.tables import SPREAD, interval, markdown, number, spread

CLOSE = 1.0  # % of the plain LSTM's metric, within which bits would cost next to nothing
Groups = dict[str, dict[int, Measured]]
Column = tuple[Callable[[Measured], float], int, str]  # value, digits and sign


def differ(runs: list[Measured]) -> bool:
    """Whether p and tau alone don't tell the runs apart."""
    gates, settings = {run.gate for run in runs}, {(run.p, run.tau) for run in runs}
    return len({(run.gate, run.p, run.tau) for run in runs}) > min(len(gates), len(settings))


def table(runs: list[Measured]) -> str:
    """Markdown: a line for each gate with its options, mean ± standard deviation over seeds; then differences from plain."""
    groups, columns = _groups(runs), _columns(runs)
    lines = [["gate", *columns, "n"]]
    for gate, mine in groups.items():
        cells = [spread([value(run) for run in mine.values()], digits, sign) for value, digits, sign in columns.values()]
        lines.append([gate_label(gate), *cells, str(len(mine))])
    metric = runs[0].metric
    footnote = (
        f"Cut: input and forget gates are 0 or 1. Loss: how much worse the test {metric} gets under compression."
        f" Binary: % of gate values below 0.1 or above 0.9, all layers, in test. n seeds, {SPREAD}."
    )
    return "\n\n".join(part for part in (markdown(lines, footnote), _differences(groups, columns, metric)) if part)


def _differences(groups: Groups, columns: dict[str, Column], metric: str) -> str:
    """Each gate less the plain LSTM of the same seed; with gates cut, in % of the plain LSTM's own metric as it is."""
    plain = groups.get(BASELINE, {})
    extra = f"valid {metric}, cut, less the plain LSTM's as it is, %"
    lines = [["difference from the plain LSTM, paired by seed", extra, *columns, "n"]]
    for gate, mine in groups.items():
        if (seeds := sorted(mine.keys() & plain.keys())) and gate != BASELINE:
            cells = [_cell([_above(mine[seed], plain[seed]) for seed in seeds], 1)]
            for value, digits, _ in columns.values():
                cells.append(_cell([value(mine[seed]) - value(plain[seed]) for seed in seeds], digits))
            lines.append([gate_label(gate), *cells, str(len(seeds))])
    footnote = "Mean over n seeds, in brackets its 95% t-interval, not corrected for the number of intervals."
    return markdown(lines, footnote) if lines[1:] else ""


def draw(runs: list[Measured]) -> Figure:
    """A line for each gate: the metric on valid as it is and with gates cut, beside what is close to the plain LSTM."""
    groups = _groups(runs)
    figure, panels = grid(1, 1, (11.0, 1.6 + 0.34 * len(groups)))
    axes = panels[0, 0]
    if plain := [run.valid["test"] for run in groups.get(BASELINE, {}).values()]:
        low, high = (mean(plain) * (1 + side * CLOSE / 100) for side in (-1, 1))
        axes.axvspan(low, high, color="0.88", label=f"within {CLOSE:g}% of the plain LSTM as it is")
    for place, mine in enumerate(groups.values()):
        soft, cut = ([run.valid[mode] for run in mine.values()] for mode in ("test", "hard"))
        first = place == 0
        axes.plot([mean(soft), mean(cut)], [place, place], color="0.7", zorder=1)
        axes.plot(soft, [place] * len(soft), "o", color=COLOURS["sigmoid"], label="as it is" if first else None)
        axes.plot(cut, [place] * len(cut), "D", color=COLOURS["gumbel"], label="gates cut to 0 or 1" if first else None)
    axes.set_yticks(range(len(groups)), map(gate_label, groups))
    axes.invert_yaxis()
    axes.set_xlabel(f"valid {runs[0].metric}, a mark a seed")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _groups(runs: list[Measured]) -> Groups:
    """Runs by gate and seed, the plain LSTM first."""
    found: Groups = {}
    for run in sorted(runs, key=lambda run: (gate_kind(run.gate) != BASELINE, gate_order(run.gate), run.seed)):
        found.setdefault(run.gate, {})[run.seed] = run
    return found


def _columns(runs: list[Measured]) -> dict[str, Column]:
    """Title and value of what every run has."""
    scores, losses, shares = runs[0].panels  # titles of the panels
    score = next(iter(runs[0].panels[scores]))
    found: dict[str, Column] = {
        score: (lambda run: run.panels[scores][score], 2, ""),
        f"valid {runs[0].metric}": (lambda run: run.valid["test"], 2, ""),
        f"valid {runs[0].metric}, cut": (lambda run: run.valid["hard"], 2, ""),
    }
    for panel, form in ((shares, (1, "")), (losses, (2, "+"))):
        for name in runs[0].panels[panel]:
            if name != CUT and not name.endswith("training") and all(name in run.panels[panel] for run in runs):
                title = f"loss, {name}" if panel == losses else name.removesuffix(", test")
                found[title] = (_reader(panel, name), *form)
    return found


def _reader(panel: str, name: str) -> Callable[[Measured], float]:
    return lambda run: run.panels[panel][name]


def _above(run: Measured, plain: Measured) -> float:
    """%"""
    return 100 * (run.valid["hard"] / plain.valid["test"] - 1)


def _cell(found: list[float], digits: int) -> str:
    span = mean_interval(found)
    return f"{number(mean(found), digits, '+')} ({interval(*span, digits, '+') if span else ONE_SEED})"
