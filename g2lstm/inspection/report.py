"""One page about some runs, with what there is of them: configs, curves, metrics, compression, gates."""

from dataclasses import dataclass, field
from typing import Any

from g2lstm.inspection.page import Section, page
from g2lstm.inspection.report_gates import Reading, heat_map, histograms, training_and_test, units
from g2lstm.inspection.report_runs import Panel, RunFacts, compression, metrics, training_curves, what_was_run


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
    labels = list(dict.fromkeys(run.label for run in runs))
    on_paper = any(run.config.get("task.name") == "ptb" for run in runs)
    sections: list[Section | None] = [what_was_run(runs), training_curves(runs), metrics(runs)]
    if sweep is not None:
        sections.append(compression(sweep.tables, sweep.panels, labels, penn_treebank=on_paper))
    if gates is not None:
        sections += [histograms(gates), training_and_test(gates)]
    if readings:
        sections += [heat_map(readings), units(readings)]
    tasks = ", ".join(dict.fromkeys(str(run.config.get("experiment_name", "?")) for run in runs))
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    introduction = f"{count} of LSTM language models: {', '.join(labels)}. A gate value near 0 is shut, near 1 open."
    return page(f"{tasks}: {' and '.join(labels) if len(labels) < 3 else f'{len(labels)} gates'}", introduction,
                [section for section in sections if section is not None])  # fmt: skip
