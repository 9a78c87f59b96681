"""One page about some runs, with what there is of them: configs, curves, metrics, compression, gates."""

from dataclasses import dataclass, field, replace
from typing import Any

from g2lstm.reporting.page import Section, page
from g2lstm.reporting.report_gates import Reading, heat_map, histograms, training_and_test, units
from g2lstm.reporting.report_runs import (
    Panel,
    RunFacts,
    compression,
    differing,
    looks,
    metrics,
    options,
    training_curves,
    what_was_run,
)

MOST_LETTERS = 40  # of a label


@dataclass(frozen=True)
class Sweep:
    """What a compression sweep says of the runs: tables as Markdown, and charts."""

    tables: str
    panels: list[Panel] = field(default_factory=list)


def report_page(
    runs: list[RunFacts],
    *,
    gates: dict[str, Any] | None = None,
    readings: list[Reading] | None = None,
    sweep: Sweep | None = None,
) -> str:
    """The page. A section is left out where there is nothing to show in it.

    Args:
        runs: at least one.
        gates: what `gates.json` holds of them.
        readings: of one text, one a model.
        sweep: of these runs.
    """
    short = _short_names(list(dict.fromkeys(run.label for run in runs)))
    explained = _explained(runs, short)
    runs = [replace(run, label=short[run.label]) for run in runs]
    labels, look = list(short.values()), looks(list(short.values()))
    on_paper = any(run.config.get("task.name") == "ptb" for run in runs)
    sections: list[Section | None] = [what_was_run(runs), training_curves(runs, look), metrics(runs)]
    if sweep is not None:
        panels = [replace(p, lines=[replace(line, label=short[line.label]) for line in p.lines]) for p in sweep.panels]
        tables = sweep.tables
        for label, name in short.items():
            tables = tables.replace(f"| {label} |", f"| {name} |")
        sections.append(compression(tables, panels, look, penn_treebank=on_paper))
    if gates is not None:
        rows = {key: [row | {"label": short[row["label"]]} for row in gates[key]] for key in ("rows", "metrics")}
        sections += [histograms(gates | rows, look), training_and_test(gates | rows)]
    if readings:
        readings = [replace(reading, label=short[reading.label]) for reading in readings]
        sections += [heat_map(readings), units(readings)]
    tasks = ", ".join(dict.fromkeys(str(run.config.get("experiment_name", "?")) for run in runs))
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    introduction = f"{count} of LSTM language models: {', '.join(labels)}. A gate value near 0 is shut, near 1 open."
    return page(f"{tasks}: {' and '.join(labels) if len(labels) < 3 else f'{len(labels)} gates'}",
                [introduction, *explained], [section for section in sections if section is not None])  # fmt: skip


def _short_names(labels: list[str]) -> dict[str, str]:
    """What each label is called on the page: long ones are cut, and numbered so that they differ."""
    return {
        label: label
        if len(label) <= MOST_LETTERS
        else f"{label[: MOST_LETTERS - 6].rstrip()}\N{HORIZONTAL ELLIPSIS} #{number}"
        for number, label in enumerate(labels, 1)
    }


def _explained(runs: list[RunFacts], short: dict[str, str]) -> list[str]:
    """For each label that is cut a sentence with the whole of it and the options in which the runs differ."""
    rows, sentences = differing(options(runs)), []
    for label, name in short.items():
        if name != label:
            place = next(place for place, run in enumerate(runs, 1) if run.label == label)
            own = ", ".join(f"{row[0]} {row[place]}" for row in rows if row[place] != "-")
            sentences.append(f"{name} is {label}{f', with {own}' if own else ''}.")
    return sentences
