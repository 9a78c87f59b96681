"""A report's sections on whole runs: what was run, training curves, metrics beside the paper's, compression."""

import json
import math
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

from g2lstm.reporting.charts import MOST_MARKS, Points, Series, legend, line_chart
from g2lstm.reporting.page import Child, Markup, Section, details, figure, from_markdown, grid, table, tag
from g2lstm.reporting.paper import TABLE_1, TABLE_3, TABLE_3_COLUMNS
from g2lstm.reporting.tables import SPREAD, spread
from g2lstm.training.rundir import RunDirectory

COLUMNS = {"valid": "valid", "test": "test", "valid_cache": "valid + cache", "test_cache": "test + cache"}
PRIVATE = ("run_dir", "data.dir", "run_name", "experiment_name", "record", "seed", "tracker.")  # names, and this machine's
MOST_POINTS, ALL_POINTS = 150, 3000  # of a curve, and of all in a chart
FIXED_LOOKS = {"plain LSTM": 0, "sharpened sigmoid": 1, "G2-LSTM": 2}


@dataclass(frozen=True)
class RunFacts:
    """What a run's directory says of it, without its weights.

    Attributes:
        path: where it is.
        label: what it is called, the same for runs that differ in their seed.
        seed: its seed.
        config: its options by full name, as "gate.tau".
        environment, summary: as its files have them; the summary is empty before the run's end.
        records: the lines of `metrics.jsonl`.
    """

    path: str
    label: str
    seed: int
    config: dict[str, Any]
    environment: dict[str, Any]
    summary: dict[str, Any]
    records: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path, label: str, seed: int, config: dict[str, Any]) -> "RunFacts":
        """Reads the files of a run directory."""
        run = RunDirectory(path)
        environment, summary = (
            run.read_json(name) if (path / name).is_file() else {} for name in ("environment.json", "summary.json")
        )
        lines = run.metrics.read_text(encoding="utf-8").split("\n")[:-1] if run.metrics.is_file() else []
        return cls(path.as_posix(), label, seed, flat(config), environment, summary, [json.loads(line) for line in lines])

    def perplexity(self, column: str) -> float | None:
        """Of one of `COLUMNS`."""
        split, _, cache = column.partition("_")
        return self.summary.get(f"{split}_perplexity{'_cache' if cache else ''}")


@dataclass(frozen=True)
class Panel:
    """A chart of a sweep: the metric over bits or rank; logarithmic to base 2 across. The lines' labels give their looks."""

    title: str
    x_label: str
    y_label: str
    lines: list[Series]


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"gate": {"tau": 0.9}} as {"gate.tau": 0.9}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def looks(labels: list[str]) -> dict[str, int]:
    """A look for each label: the paper's three gates have their own, others the next ones."""
    taken = {FIXED_LOOKS.get(label) for label in labels}
    free = (look for look in count() if look not in taken)
    return {label: FIXED_LOOKS[label] if label in FIXED_LOOKS else next(free) for label in dict.fromkeys(labels)}


def run_names(runs: list[RunFacts]) -> list[str]:
    """A name for each run; where two would have the same, with the directory."""
    names = [f"{run.label}, seed {run.seed}" for run in runs]
    return [f"{name}, {run.path}" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def options(runs: list[RunFacts]) -> list[list[str]]:
    """For each option its name and the value in each run; without names and this machine's folders."""
    names = dict.fromkeys(name for run in runs for name in run.config if not name.startswith(PRIVATE))
    return [[name, *(_value(run.config[name]) if name in run.config else "-" for run in runs)] for name in names]


def differing(rows: list[list[str]]) -> list[list[str]]:
    """The rows of `options` in which the runs differ."""
    return [row for row in rows if len(set(row[1:])) > 1]


def what_was_run(runs: list[RunFacts]) -> Section:
    """Where the runs' options differ, on what they ran, and all options of each."""
    everything, heads = options(runs), run_names(runs)
    facts = {
        "parameters": lambda r: f"{r.summary['parameters']:,}" if "parameters" in r.summary else "-",
        "epochs (best)": lambda r: f"{r.summary['epochs']} ({r.summary['best_epoch']})" if "epochs" in r.summary else "-",
        "minutes": lambda r: f"{r.summary['seconds'] / 60:.1f}" if "seconds" in r.summary else "not finished",
        "words/s": lambda r: f"{r.summary['words_per_second']:,.0f}" if "words_per_second" in r.summary else "-",
        "hardware": lambda r: _value(r.environment.get("hardware", "-")),
        "device, threads": lambda r: f"{r.environment.get('device', '-')}, {r.environment.get('threads', '-')}",
        "torch": lambda r: _value(r.environment.get("torch", "-")),
        "g2lstm, commit": lambda r: f"{r.environment.get('g2lstm', '-')}, {r.environment.get('commit', '-')}",
        "directory": lambda r: r.path,
    }
    columns = len(heads) + 1
    body: list[Child] = [table(["", *heads], [[name, *map(of, runs)] for name, of in facts.items()], "The runs", columns)]
    if rows := differing(everything):
        body += [tag("h3", "Options in which they differ")]
        body += [table(["option", *heads], rows, "Options in which the runs differ", columns)]
    body += [details("All options", table(["option", *heads], everything, "All options of the runs", columns))]
    return Section("What was run", tuple(body))


def training_curves(runs: list[RunFacts], look: dict[str, int]) -> Section | None:
    """Perplexity in training and validation over steps, a line a run; None where no run has a curve."""
    charts: list[Child] = []
    names, most = run_names(runs), max(min(MOST_POINTS, ALL_POINTS // len(runs)), 2)
    for kind, text in (("train", "training"), ("valid", "validation")):
        curves = [(name, _curve(run, kind, most), look[run.label]) for name, run in zip(names, runs, strict=True)]
        marks = kind == "valid" and len(runs) <= MOST_MARKS
        series = [Series(*curve, marks=marks) for curve in curves if curve[1]]
        if series:
            label = f"{text} perplexity"
            drawn = line_chart(f"{label} over steps, one line a run", series, "step", label, y_base=10)
            ends = "; ".join(f"{one.label} {one.points[-1][1]:.1f}" for one in series)
            charts.append(figure(f"{label.capitalize()} over steps. At the end: {ends}.", drawn))
    if not charts:
        return None
    items = [(label, look[label]) for label in dict.fromkeys(run.label for run in runs)]
    note = "Training perplexity is that of the loss in training: with dropout, and with the gates' noise."
    return Section("Training curves", (legend(items), grid(charts, "wide"), tag("p", note, class_="note")))


def metrics(runs: list[RunFacts]) -> Section | None:
    """Perplexity of each gate, beside the paper's where the paper has the task; None where no run has ended."""
    ended = [run for run in runs if any(run.perplexity(column) is not None for column in COLUMNS)]
    if not ended:
        return None
    columns = [c for c in COLUMNS if any(run.perplexity(c) is not None for run in ended)]
    in_paper = {run.label: TABLE_1[gate] for run in ended if (gate := _paper_gate(run)) is not None}
    head, rows = ["gate"], []
    for column in columns:
        head += [COLUMNS[column], *([f"{COLUMNS[column]}, the paper"] if in_paper else [])]
    for label in dict.fromkeys(run.label for run in ended):
        mine = [run for run in ended if run.label == label]
        row = [label]
        for column in columns:
            row.append(spread([value for run in mine if (value := run.perplexity(column)) is not None]))
            if in_paper:
                row.append(f"{in_paper[label][column]:.1f}" if label in in_paper else "-")
        rows.append([*row, str(len(mine))])
    note = f"Perplexity, lower is better; n runs that differ in their seed, with several {SPREAD}."
    if in_paper:
        sizes = ", ".join(dict.fromkeys(f"{run.summary['parameters'] / 1e6:.1f}M" for run in ended))
        note += (
            " The paper's values are its Table 1: 24M parameters, up to 1,000 epochs with finetune. The runs here have"
            f" {sizes} parameters and at most {max(run.summary['epochs'] for run in ended):,} epochs."
        )
    return Section("Metrics", (table([*head, "n"], rows, "Perplexity of each gate"), tag("p", note, class_="note")))


def compression(tables: str, panels: list[Panel], look: dict[str, int], *, penn_treebank: bool) -> Section:
    """What a compression sweep of these runs found.

    Args:
        tables: as Markdown.
        panels: charts.
        look: of each label.
        penn_treebank: whether the paper's Table 3 is to compare with.
    """
    note = (
        "An original here is an evaluation of the run's stored weights, and may differ in the last digits from the table of"
        " metrics, which has the run's own evaluation."
    )
    body: list[Child] = [*from_markdown(tables, "Compression"), tag("p", note, class_="note")]
    if panels:
        names = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
        body += [legend([(name, look[name]) for name in names])]
        body += [grid([_panel(panel, look) for panel in panels], "wide")]
    if penn_treebank:
        rows = [[name, *(f"{value:.1f}" for value in values)] for name, values in TABLE_3.items()]
        paper = table(["gate", *TABLE_3_COLUMNS], rows, "The paper's Table 3")
        body += [details("The paper's Table 3: test perplexity with cache, 24M parameters", paper)]
    return Section("Compression", tuple(body))


def _panel(panel: Panel, look: dict[str, int]) -> Markup:
    series = [replace(line, look=look[line.label]) for line in panel.lines]
    values = [y for line in panel.lines for _, y in line.points]
    base = 10 if min(values) > 0 and max(values) > 3 * min(values) else 0
    drawn = line_chart(f"{panel.title}: {panel.y_label}", series, panel.x_label, panel.y_label, x_base=2, y_base=base)
    return figure(panel.title + (" (hollow: in several steps)" if any(line.hollow for line in series) else ""), drawn)


def _paper_gate(run: RunFacts) -> str | None:
    """The gate's row in the paper's Table 1, for the gates as the paper has them on its corpus."""
    gate = str(run.config.get("gate.name"))
    return gate if run.config.get("task.name") == "ptb" and gate in TABLE_1 and "(" not in run.label else None


def _curve(run: RunFacts, kind: str, most: int) -> Points:
    """(step, perplexity); of more than `most` each the mean loss of neighbours in training, else every few a point.

    Infinite ones are left out.
    """
    found = [(r["step"], r["loss"]) for r in run.records if r["kind"] == kind and r.get("loss") is not None]
    width = max(-(-len(found) // most), 1)
    if kind == "train":
        parts = [found[start : start + width] for start in range(0, len(found), width)]
        found = [(mean(step for step, _ in part), mean(loss for _, loss in part)) for part in parts]
    else:
        found = found[::-width][::-1]  # the last one stays
    return [(step, math.exp(loss)) for step, loss in found if math.isfinite(loss) and loss < 100]


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
