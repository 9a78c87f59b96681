"""One page about some runs, with what there is of them: configs, curves, metrics, compression, gates."""

import json
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from g2lstm.compression.methods import ORIGINAL
from g2lstm.compression.sweep import of_one_target
from g2lstm.compression.sweep import open_store as open_sweep
from g2lstm.inspection.reading import Reading
from g2lstm.reporting import run_tables
from g2lstm.reporting.attention import draw_attention
from g2lstm.reporting.curves import draw_curves, draw_training
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.gate_tables import gate_layer, gate_table, word_table
from g2lstm.reporting.heatmap import draw_units, note, rows_of
from g2lstm.reporting.histograms import draw_histograms, draw_modes
from g2lstm.reporting.page import drawing, from_markdown, heat, html, page
from g2lstm.reporting.run_tables import Groups, Published, metric_of
from g2lstm.reporting.sweeps import figures
from g2lstm.reporting.sweeps import tables as sweep_tables
from g2lstm.reporting.tables import Lines, metric_title
from g2lstm.runs.run import Run
from g2lstm.runs.store import Row
from g2lstm.training.tracking import build_tracker

# Names, and what only this machine knows.
PRIVATE = ("run_dir", "data.dir", "run_name", "experiment_name", "overrides", "record", "seed", "tracker.")
MOST_VALUES = 3  # of the runs of one gate in a cell
Parts = list[Markup]


def report_page(
    groups: Groups, published: Published, gates: list[Row], words: list[Row], readings: list[Reading], sweep: list[Row],
    layer: str | None = None, drawn: Mapping[str, Figure] | None = None,
) -> str:  # fmt: skip
    """The page. A section is left out where there is nothing to show in it.

    Args:
        groups: the runs.
        published: what their task says of the paper's values.
        gates, words: rows of kind "gates" and "metric", of one text, and "words".
        readings: of one text, one a gate.
        sweep: rows of a compression sweep, as `sweep_rows` gives them.
        layer: whose gates are shown.
        drawn: figures of what the models found, each with a title.
    """
    sections = {"What was run": _what_was_run(groups), "Training curves": _curves(groups)}
    sections["Metrics"] = _metrics(groups, published)
    found = [drawing(figure, " ".join(figure.get_suptitle().split())) for figure in (drawn or {}).values()]
    sections |= {"Findings": [html.beside(found)] if found else [], "Compression": _compression(sweep) if sweep else []}
    if gates:
        layer = gate_layer(gates, layer)
        sections |= {"Gate histograms": _histograms(gates, layer), "Training against test": _modes(gates, layer)}
    if readings:
        unit, at = readings[0].unit, f"of {readings[0].layer} at each {readings[0].unit}"
        text = (
            f"Rows are units, ordered by an average-linkage tree over their values; columns are the {unit}s of what is read."
        )
        caption = f"Gates {at}, mean over units{note(readings)}"
        looks = [
            drawing(
                draw_attention(reading.attention, reading.source, reading.words, f"{unit} that was read last"),
                f"What {gate_label(reading.gate)} looks at, to say the next {unit}",
            )
            for reading in readings
            if reading.attention is not None
        ]
        sections[f"Gates {unit} by {unit}"] = [heat(readings[0].words, rows_of(readings), caption), *looks]
        sections["Unit by unit"] = [html.paragraph(text), drawing(draw_units(readings), f"Units {at}")]
        if table := word_table(words):
            sections["Which words shut the forget gate"] = from_markdown(table, "Forget gates of kinds of words")
    runs, names = list(chain.from_iterable(groups.values())), list(map(gate_label, groups))
    experiments = ", ".join(dict.fromkeys(run.config.run.experiment_name for run in runs))
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    return page(
        f"{experiments}: {' and '.join(names) if len(names) < 3 else f'{len(names)} gates'}",
        f"{count} of task {runs[0].config.run.task.name}: {', '.join(names)}. A gate value near 0 is shut, near 1 open.",
        {title: parts for title, parts in sections.items() if parts},
    )


def sweep_rows(path: Path, groups: Groups) -> list[Row]:
    """What a sweep found for these runs with the weights that they have now, of the targets that come first."""
    names = {run.weights: name for name, runs in groups.items() for run in runs}
    rows = [row | {"gate": names[row["weights"]]} for row in open_sweep(path).all() if row["weights"] in names]
    rows = [row for row in rows if (row["split"], row.get("limit")) == (rows[0]["split"], rows[0].get("limit"))]
    return of_one_target(rows) if any(row["setting"] != ORIGINAL for row in rows) else []


def check_readable(runs: Iterable[Run]) -> None:
    """Raises a UserError where a page can't be made of a run's own files, before anything is measured."""
    for run in runs:
        _ = run.summary, run.folder.curve(), _environment(run)


def track(runs: Iterable[Run], content: str, say: Callable[[str], None]) -> None:
    """Shows the page beside the metrics of each run that a tracker follows."""
    for run in runs:
        file, options = run.path / "tracker.json", run.config.run.tracker
        if options.name != "none" and file.is_file():
            tracker = build_tracker(
                options.name, project=options.project, config=run.config.values, run_dir=run.path,
                run_id=run.folder.read_json(file.name).get("run_id"), mode=options.mode, say=say,
            )  # fmt: skip
            tracker.log_page("report", content)
            tracker.finish()


def _what_was_run(groups: Groups) -> Parts:
    """On what the runs ran, where their options differ, and all options."""
    head, texts = list(map(gate_label, groups)), len(groups) + 1
    parts = [html.table([["", *head], *_folded(groups, _about)], "The runs", texts)]
    everything = _folded(groups, _options)
    if differing := [line for line in everything if len(set(line[1:])) > 1]:
        parts.append(html.heading("Options in which they differ"))
        parts.append(html.table([["option", *head], *differing], "Options in which the runs differ", texts))
    table = html.table([["option", *head], *everything], "All options of the runs", texts)
    return [*parts, html.folded("All options", table)]


def _folded(groups: Groups, told: Callable[[Run], Mapping[str, Any]]) -> Lines:
    """A line for each key of what is told of runs: a column a gate, seeds folded."""
    found = [[told(run) for run in members] for members in groups.values()]
    keys = dict.fromkeys(chain(*chain(*found)))
    return [[key, *(_different(values.get(key, "-") for values in of_gate) for of_gate in found)] for key in keys]


def _different(values: Iterable[Any]) -> str:
    """The different ones, each once."""
    texts = list(dict.fromkeys(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values))
    rest = len(texts) - MOST_VALUES
    return "; ".join([*texts[:MOST_VALUES], *([f"and {rest} more"] if rest > 0 else [])])


def _about(run: Run) -> dict[str, Any]:
    found = {"seeds": run.seed, "epochs": run.summary.get("epochs", "-"), "best epoch": run.summary.get("best_epoch", "-")}
    environment = _environment(run)
    found |= {key: environment.get(key, "-") for key in ("hardware", "device", "threads", "torch", "g2lstm", "commit")}
    return found | {"directories": run.path.as_posix()}


def _environment(run: Run) -> dict[str, Any]:
    return run.folder.read_json("environment.json") if (run.path / "environment.json").is_file() else {}


def _options(run: Run) -> dict[str, Any]:
    return {key: value for key, value in flat(run.config.values).items() if not key.startswith(PRIVATE)}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"gate": {"tau": 0.9}} as {"gate.tau": 0.9}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _curves(groups: Groups) -> Parts:
    drawn = {"Training over steps, with dropout and noise": draw_training(groups, "Training")}
    drawn["Validation over epochs"] = draw_curves(groups, "Validation")
    parts = [drawing(figure, f"{title}, one line a run") for title, figure in drawn.items() if figure]
    return [html.beside(parts)] if parts else []


def _metrics(groups: Groups, published: Published) -> Parts:
    """The metric of each gate, beside the paper's where the paper has the task; nothing where no run has ended."""
    if not run_tables.columns(groups):
        return []
    metric, table = metric_of(groups), run_tables.run_table(groups, published)
    text = f"{'Lower' if metric.lower_is_better else 'Higher'} is better."
    if "| paper |" in table:
        text += (
            " The paper's values are those of its own models, which are larger and were trained longer than most runs here."
        )
    parts = [*from_markdown(table, f"{metric_title(metric.name)} of each gate"), html.paragraph(text)]
    differences = run_tables.difference_table(groups)
    return parts + (from_markdown(differences, "Differences from the plain LSTM") if differences else [])


def _compression(rows: list[Row]) -> Parts:
    text = "An original here is an evaluation of the run's stored weights, and may differ in the last digits"
    text += " from the table of metrics, which has the run's own evaluation."
    drawn = [drawing(figure, f"Compression, over {name}") for name, figure in figures(rows).items()]
    return [*from_markdown(sweep_tables(rows), "Compression"), html.paragraph(text), *drawn]


def _histograms(rows: list[Row], layer: str) -> Parts:
    fine, coarse = (drawing(draw_histograms(rows, layer, n), f"Gates of {layer} in test, {n} bins") for n in (50, 10))
    binary = from_markdown(gate_table(rows, "binary", layer), "How binary gates are in test")
    return [fine, html.folded("The same in 10 bins", coarse), *binary]


def _modes(rows: list[Row], layer: str) -> Parts:
    shown = html.paragraph("None of these gates has noise, so they are in training as in test.")
    if (modes := draw_modes(rows, layer)) is not None:
        shown = drawing(modes, f"Gates of {layer} in training and in test, 50 bins")
    return [shown, *from_markdown(gate_table(rows, "modes"), "Gates and metric in each mode")]
