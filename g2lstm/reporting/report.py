"""One page about some runs, with what there is of them: configs, curves, metrics, compression, gates."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from g2lstm.compression.methods import ORIGINAL
from g2lstm.compression.sweep import open_store as open_sweep
from g2lstm.inspection.measure import BLOCK_NAMES
from g2lstm.inspection.reading import Reading
from g2lstm.reporting import run_tables
from g2lstm.reporting.curves import draw_curves, draw_training
from g2lstm.reporting.figures import gate_label, svg
from g2lstm.reporting.gate_tables import gate_layer, gate_table, word_table
from g2lstm.reporting.heatmap import draw_units, note
from g2lstm.reporting.histograms import draw_histograms, draw_modes
from g2lstm.reporting.page import (
    Part,
    Section,
    beside,
    drawing,
    folded,
    from_markdown,
    heading,
    heat,
    page,
    paragraph,
    table,
)
from g2lstm.reporting.paper import TABLE_3, TABLE_3_COLUMNS
from g2lstm.reporting.run_tables import Groups, metric_of
from g2lstm.reporting.sweep_curves import draw as draw_sweep
from g2lstm.reporting.sweep_tables import tables as sweep_tables
from g2lstm.reporting.tables import SPREAD, spread
from g2lstm.runs.run import Run
from g2lstm.runs.store import Row
from g2lstm.training.tracking import build_tracker

# Names, and what only this machine knows.
PRIVATE = ("run_dir", "data.dir", "run_name", "experiment_name", "overrides", "record", "seed", "tracker.")
MOST_VALUES = 3  # of the runs of one gate in a cell
Published = Mapping[str, Mapping[str, float]]


def report_page(
    groups: Groups,
    published: Published,
    gates: list[Row],
    words: list[Row],
    readings: list[Reading],
    sweep: list[Row],
    layer: str | None = None,
) -> str:
    """The page. A section is left out where there is nothing to show in it.

    Args:
        groups: the runs.
        published: what their task says of the paper's values.
        gates: rows of kind "gates" and "metric", of one text.
        words: rows of kind "words".
        readings: of one text, one a gate.
        sweep: rows of a compression sweep, as `sweep_rows` gives them.
        layer: whose gates are shown.
    """
    runs = [run for members in groups.values() for run in members]
    names = [gate_label(name) for name in groups]
    found = [_what_was_run(groups), _curves(groups), _metrics(groups, published)]
    found += [_compression(sweep, published), *(_histograms(gates, layer) if gates else ())]
    found += [_heat_map(readings), _units(readings), _words(words)] if readings else []
    experiments = ", ".join(dict.fromkeys(run.config.run.experiment_name for run in runs))
    count = f"{len(runs)} runs" if len(runs) > 1 else "One run"
    return page(
        f"{experiments}: {' and '.join(names) if len(names) < 3 else f'{len(names)} gates'}",
        f"{count} of task {runs[0].config.run.task.name}: {', '.join(names)}. A gate value near 0 is shut, near 1 open.",
        [section for section in found if section is not None],
    )


def sweep_rows(path: Path, groups: Groups) -> list[Row]:
    """What a sweep found for these runs with the weights that they have now, of the targets that come first.

    Raises:
        UserError: the file holds something else.
    """
    names = {run.weights: name for name, runs in groups.items() for run in runs}
    rows = [row | {"gate": names[row["weights"]]} for row in open_sweep(path).all() if row["weights"] in names]
    rows = [row for row in rows if (row["split"], row.get("limit")) == (rows[0]["split"], rows[0].get("limit"))]
    compressed = [row for row in rows if row["setting"] != ORIGINAL]
    targets = [[row[name] for name in ("gates", "matrices", "layers")] for row in compressed]
    chosen = [row for row, target in zip(compressed, targets, strict=True) if target == targets[0]]
    return [row for row in rows if row["setting"] == ORIGINAL] + chosen if chosen else []


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
    environments = {run.path: _environment(run) for runs in groups.values() for run in runs}

    def line(title: str, of: Callable[[Run], Any]) -> list[str]:
        return [title, *(_fold(of(run) for run in runs) for runs in groups.values())]

    def told(title: str, *keys: str) -> list[str]:
        return line(title, lambda run: ", ".join(str(environments[run.path].get(key, "-")) for key in keys))

    unit = metric_of(next(iter(groups.values()))[0]).unit
    facts = [["", *map(gate_label, groups)], line("seeds", lambda run: run.seed)]
    for title, key, scale, digits in (
        ("parameters", "parameters", 1, 0), ("epochs", "epochs", 1, 0), ("best epoch", "best_epoch", 1, 0),
        ("minutes", "seconds", 60, 1), (f"{unit}/s", f"{unit}_per_second", 1, 0),
    ):  # fmt: skip
        found = [[value / scale for value in run_tables.values(runs, key)] for runs in groups.values()]
        facts.append([title, *(spread(values if len(set(values)) > 1 else values[:1], digits) for values in found)])
    facts += [told("hardware", "hardware"), told("device, threads", "device", "threads"), told("torch", "torch")]
    facts += [told("g2lstm, commit", "g2lstm", "commit"), line("directories", lambda run: run.path.as_posix())]
    options = {run.path: flat(run.config.values) for runs in groups.values() for run in runs}
    keys = [key for key in dict.fromkeys(key for one in options.values() for key in one) if not key.startswith(PRIVATE)]
    head = ["option", *map(gate_label, groups)]
    everything = [line(key, partial(_option, options, key)) for key in keys]
    differing = [row for row in everything if len(set(row[1:])) > 1]
    texts = len(head)
    return Section("What was run", [
        table(facts, "The runs", texts),
        heading("Options in which they differ") if differing else None,
        table([head, *differing], "Options in which the runs differ", texts) if differing else None,
        folded("All options", table([head, *everything], "All options of the runs", texts)),
    ])  # fmt: skip


def _curves(groups: Groups) -> Section | None:
    drawn = []
    for draw, title in ((draw_training, "Training"), (draw_curves, "Validation")):
        if (figure := draw(groups, title)) is not None:
            over = "steps, with dropout and noise" if draw is draw_training else "epochs"
            drawn.append(drawing(svg(figure), f"{title} over {over}, one line a run"))
    return Section("Training curves", [beside(*drawn)]) if drawn else None


def _metrics(groups: Groups, published: Published) -> Section | None:
    """The metric of each gate, beside the paper's where the paper has the task; None where no run has ended."""
    metric, keys = metric_of(next(iter(groups.values()))[0]), run_tables.columns(groups)
    if not keys:
        return None
    known = {name: published.get(name.rpartition("/")[2], {}) for name in groups}
    paper = [key for key in keys.values() if any(key in values for values in known.values())]
    lines = [["gate"]]
    for title, key in keys.items():
        lines[0] += [title, f"{title}, the paper"] if key in paper else [title]
    lines[0].append("n")
    for name, runs in groups.items():
        cells = [gate_label(name)]
        for key in keys.values():
            cells.append(spread(run_tables.values(runs, key), metric.digits))
            cells += [f"{known[name][key]:.1f}" if key in known[name] else "-"] if key in paper else []
        lines.append([*cells, str(len(runs))])
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
    return Section("Metrics", [table(lines, f"{metric.name} of each gate"), paragraph(note)])


def _compression(rows: list[Row], published: Published) -> Section | None:
    if not rows:
        return None
    parts: list[Part | None] = list(from_markdown(sweep_tables(rows), "Compression"))
    parts.append(paragraph("An original here is an evaluation of the run's stored weights, and may differ in the last digits"
                           " from the table of metrics, which has the run's own evaluation."))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in draw_sweep(rows, Path(folder)) if path.suffix == ".svg"]
        parts += [drawing(path.read_text(encoding="utf-8"), f"Compression, over {path.stem}") for path in files]
    paper = {gate: row for gate, row in TABLE_3.items() if row[0] in published.get(gate, {}).values()}
    if paper:
        lines = [
            ["gate", *TABLE_3_COLUMNS],
            *([gate_label(gate), *(f"{v:.1f}" for v in row)] for gate, row in paper.items()),
        ]
        parts.append(folded("The paper's Table 3, of its own models in test", table(lines, "The paper's Table 3")))
    return Section("Compression", parts)


def _histograms(rows: list[Row], asked: str | None) -> list[Section]:
    layer = gate_layer(rows, asked)
    binary = from_markdown(gate_table(rows, "binary", layer), "How binary gates are in test")
    fine, coarse = (
        drawing(svg(draw_histograms(rows, layer, bins)), f"Gates of {layer} in test, {bins} bins") for bins in (50, 10)
    )
    shown = paragraph("None of these gates has noise, so they are in training as in test.")
    if (modes := draw_modes(rows, layer)) is not None:
        shown = drawing(svg(modes), f"Gates of {layer} in training and in test, 50 bins")
    return [
        Section("Gate histograms", [fine, folded("The same in 10 bins", coarse), *binary]),
        Section(
            "Training against test", [shown, *from_markdown(gate_table(rows, "modes"), "Gates and metric in each mode")]
        ),
    ]


def _heat_map(readings: list[Reading]) -> Section:
    rows = [(f"{gate_label(r.gate)}, {BLOCK_NAMES[g]}", v.mean(1).tolist()) for r in readings for g, v in r.gates.items()]
    caption = f"Gates of {readings[0].layer} at each word, mean over units{note(readings)}"
    return Section("Gates word by word", [heat(readings[0].words, rows, caption)])


def _units(readings: list[Reading]) -> Section:
    text = "Rows are units, ordered by an average-linkage tree over their values; columns are the words of the text."
    drawn = drawing(svg(draw_units(readings)), f"Units of {readings[0].layer} at each word")
    return Section("Unit by unit", [paragraph(text), drawn])


def _words(rows: list[Row]) -> Section | None:
    parts = from_markdown(word_table(rows), "Forget gates of kinds of words") if rows else []
    return Section("Which words shut the forget gate", parts) if rows else None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"gate": {"tau": 0.9}} as {"gate.tau": 0.9}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _option(options: Mapping[Path, Mapping[str, Any]], key: str, run: Run) -> Any:
    return options[run.path].get(key, "-")


def _environment(run: Run) -> dict[str, Any]:
    return run.folder.read_json("environment.json") if (run.path / "environment.json").is_file() else {}


def _fold(values: Iterable[Any]) -> str:
    """The different values of the runs of one gate."""
    texts = list(dict.fromkeys(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values))
    rest = len(texts) - MOST_VALUES
    return "; ".join([*texts[:MOST_VALUES], *([f"and {rest} more"] if rest > 0 else [])])
