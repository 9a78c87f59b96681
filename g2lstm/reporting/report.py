"""One page about some runs, with what there is of them: configs, curves, metrics, compression, gates."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from g2lstm.compression.methods import ORIGINAL
from g2lstm.compression.sweep import of_one_target
from g2lstm.compression.sweep import open_store as open_sweep
from g2lstm.inspection.measure import BLOCK_NAMES
from g2lstm.inspection.reading import Reading
from g2lstm.reporting import page, run_tables
from g2lstm.reporting.curves import draw_curves, draw_training
from g2lstm.reporting.figures import gate_label, svg
from g2lstm.reporting.gate_tables import gate_layer, gate_table, word_table
from g2lstm.reporting.heatmap import draw_units, note
from g2lstm.reporting.histograms import draw_histograms, draw_modes
from g2lstm.reporting.page import Part, Section
from g2lstm.reporting.paper import TABLE_3, TABLE_3_COLUMNS
from g2lstm.reporting.run_tables import Groups, metric_of
from g2lstm.reporting.sweep_curves import figures
from g2lstm.reporting.sweep_tables import tables as sweep_tables
from g2lstm.reporting.tables import SPREAD, number, spread
from g2lstm.runs.run import Run
from g2lstm.runs.store import Row
from g2lstm.training.tracking import build_tracker

# Names, and what only this machine knows.
PRIVATE = ("run_dir", "data.dir", "run_name", "experiment_name", "overrides", "record", "seed", "tracker.")
MOST_VALUES = 3  # of the runs of one gate in a cell
Published = Mapping[str, Mapping[str, float]]


def report_page(
    groups: Groups, published: Published, gates: list[Row], words: list[Row], readings: list[Reading], sweep: list[Row],
    layer: str | None = None,
) -> str:  # fmt: skip
    """The page. A section is left out where there is nothing to show in it.

    Args:
        groups: the runs.
        published: what their task says of the paper's values.
        gates, words: rows of kind "gates" and "metric", of one text, and "words".
        readings: of one text, one a gate.
        sweep: rows of a compression sweep, as `sweep_rows` gives them.
        layer: whose gates are shown.
    """
    runs = list(chain.from_iterable(groups.values()))
    names = [gate_label(name) for name in groups]
    found = [_what_was_run(groups), _curves(groups), _metrics(groups, published)]
    found += [_compression(sweep, published), *(_histograms(gates, layer) if gates else ())]
    found += [_heat_map(readings), _units(readings), _words(words)] if readings else []
    experiments = ", ".join(dict.fromkeys(run.config.run.experiment_name for run in runs))
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    return page.page(
        f"{experiments}: {' and '.join(names) if len(names) < 3 else f'{len(names)} gates'}",
        f"{count} of task {runs[0].config.run.task.name}: {', '.join(names)}. A gate value near 0 is shut, near 1 open.",
        [section for section in found if section is not None],
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


def _what_was_run(groups: Groups) -> Section:
    """On what the runs ran, where their options differ, and all options: a column a gate, seeds folded."""
    runs = list(chain.from_iterable(groups.values()))
    environments = {run.path: _environment(run) for run in runs}
    options = {run.path: flat(run.config.values) for run in runs}

    def line(title: str, of: Callable[[Run], Any]) -> list[str]:
        return [title, *(_fold(map(of, members)) for members in groups.values())]

    def told(title: str, *keys: str) -> list[str]:
        return line(title, lambda run: ", ".join(str(environments[run.path].get(key, "-")) for key in keys))

    def counted(title: str, key: str, scale: int = 1, digits: int = 0) -> list[str]:
        found = [[value / scale for value in run_tables.values(members, key)] for members in groups.values()]
        return [title, *(spread(values if len(set(values)) > 1 else values[:1], digits) for values in found)]

    unit = metric_of(groups).unit
    facts = [
        ["", *map(gate_label, groups)],
        line("seeds", lambda run: run.seed),
        counted("parameters", "parameters"),
        counted("epochs", "epochs"),
        counted("best epoch", "best_epoch"),
        counted("minutes", "seconds", 60, 1),
        counted(f"{unit}/s", f"{unit}_per_second"),
        told("hardware", "hardware"),
        told("device, threads", "device", "threads"),
        told("torch", "torch"),
        told("g2lstm, commit", "g2lstm", "commit"),
        line("directories", lambda run: run.path.as_posix()),
    ]
    keys = [key for key in dict.fromkeys(chain.from_iterable(options.values())) if not key.startswith(PRIVATE)]
    head = ["option", *map(gate_label, groups)]
    everything = [line(key, partial(_option, options, key)) for key in keys]
    differing = [row for row in everything if len(set(row[1:])) > 1]
    return Section("What was run", [
        page.table(facts, "The runs", len(head)),
        page.heading("Options in which they differ") if differing else None,
        page.table([head, *differing], "Options in which the runs differ", len(head)) if differing else None,
        page.folded("All options", page.table([head, *everything], "All options of the runs", len(head))),
    ])  # fmt: skip


def _option(options: Mapping[Path, Mapping[str, Any]], key: str, run: Run) -> Any:
    return options[run.path].get(key, "-")


def _curves(groups: Groups) -> Section | None:
    drawn = {"Training over steps, with dropout and noise": draw_training(groups, "Training")}
    drawn["Validation over epochs"] = draw_curves(groups, "Validation")
    parts = [page.drawing(svg(figure), f"{title}, one line a run") for title, figure in drawn.items() if figure]
    return Section("Training curves", [page.beside(*parts)]) if parts else None


def _metrics(groups: Groups, published: Published) -> Section | None:
    """The metric of each gate, beside the paper's where the paper has the task; None where no run has ended."""
    metric, keys = metric_of(groups), run_tables.columns(groups)
    if not keys:
        return None
    known = {name: published.get(name.rpartition("/")[2], {}) for name in groups}
    paper = [key for key in keys.values() if any(key in values for values in known.values())]
    columns = {"gate": list(map(gate_label, groups))}
    for title, key in keys.items():
        columns[title] = [spread(run_tables.values(runs, key), metric.digits) for runs in groups.values()]
        if key in paper:
            columns[f"{title}, the paper"] = [number(values.get(key), 1) for values in known.values()]
    columns["n"] = [str(len(runs)) for runs in groups.values()]
    lines = [list(columns), *map(list, zip(*columns.values(), strict=True))]
    better = "lower" if metric.lower_is_better else "higher"
    note = f"{metric.name.replace('_', ' ').capitalize()}, {better} is better; n runs that differ in their seed, with"
    note += f" several {SPREAD}."
    if paper:
        summaries = [run.summary for runs in groups.values() for run in runs if run.summary]
        sizes = ", ".join(dict.fromkeys(f"{s['parameters'] / 1e6:.1f}M" for s in summaries if "parameters" in s))
        note += (
            " The paper's values are those of its own models, which are larger and were trained longer than most runs here:"
            f" these have {sizes} parameters and at most {max(s.get('epochs', 0) for s in summaries):,} epochs."
        )
    return Section("Metrics", [page.table(lines, f"{metric.name} of each gate"), page.paragraph(note)])


def _compression(rows: list[Row], published: Published) -> Section | None:
    if not rows:
        return None
    parts: list[Part | None] = list(page.from_markdown(sweep_tables(rows), "Compression"))
    text = "An original here is an evaluation of the run's stored weights, and may differ in the last digits"
    parts.append(page.paragraph(f"{text} from the table of metrics, which has the run's own evaluation."))
    parts += [page.drawing(svg(figure), f"Compression, over {name}") for name, figure in figures(rows).items()]
    paper = {gate: row for gate, row in TABLE_3.items() if row[0] in published.get(gate, {}).values()}
    if paper:
        lines = [["gate", *TABLE_3_COLUMNS], *([gate_label(gate), *map(str, row)] for gate, row in paper.items())]
        parts.append(page.folded("The paper's Table 3, of its own models in test", page.table(lines, "The paper's Table 3")))
    return Section("Compression", parts)


def _histograms(rows: list[Row], asked: str | None) -> list[Section]:
    layer = gate_layer(rows, asked)
    binary = page.from_markdown(gate_table(rows, "binary", layer), "How binary gates are in test")
    drawn = {bins: svg(draw_histograms(rows, layer, bins)) for bins in (50, 10)}
    fine, coarse = (page.drawing(text, f"Gates of {layer} in test, {bins} bins") for bins, text in drawn.items())
    shown = page.paragraph("None of these gates has noise, so they are in training as in test.")
    if (modes := draw_modes(rows, layer)) is not None:
        shown = page.drawing(svg(modes), f"Gates of {layer} in training and in test, 50 bins")
    modes_table = page.from_markdown(gate_table(rows, "modes"), "Gates and metric in each mode")
    spread_of = Section("Gate histograms", [fine, page.folded("The same in 10 bins", coarse), *binary])
    return [spread_of, Section("Training against test", [shown, *modes_table])]


def _heat_map(readings: list[Reading]) -> Section:
    rows = [(f"{gate_label(r.gate)}, {BLOCK_NAMES[g]}", v.mean(1).tolist()) for r in readings for g, v in r.gates.items()]
    caption = f"Gates of {readings[0].layer} at each word, mean over units{note(readings)}"
    return Section("Gates word by word", [page.heat(readings[0].words, rows, caption)])


def _units(readings: list[Reading]) -> Section:
    text = "Rows are units, ordered by an average-linkage tree over their values; columns are the words of the text."
    drawn = page.drawing(svg(draw_units(readings)), f"Units of {readings[0].layer} at each word")
    return Section("Unit by unit", [page.paragraph(text), drawn])


def _words(rows: list[Row]) -> Section | None:
    parts = page.from_markdown(word_table(rows), "Forget gates of kinds of words") if rows else []
    return Section("Which words shut the forget gate", parts) if rows else None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"gate": {"tau": 0.9}} as {"gate.tau": 0.9}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _environment(run: Run) -> dict[str, Any]:
    return run.folder.read_json("environment.json") if (run.path / "environment.json").is_file() else {}


def _fold(values: Iterable[Any]) -> str:
    """The different values of the runs of one gate."""
    texts = list(dict.fromkeys(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values))
    rest = len(texts) - MOST_VALUES
    return "; ".join([*texts[:MOST_VALUES], *([f"and {rest} more"] if rest > 0 else [])])
