"""One page about trained models, in one file: python experiments/report.py runs='results/ptb_cpu/*'."""

import json
import math
import signal
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import torch
from rich.console import Console
from torch import nn

from g2lstm import cli
from g2lstm.compression.methods import ORIGINAL, Method
from g2lstm.config import as_dict
from g2lstm.data.text import EOS, UNK, Vocabulary
from g2lstm.errors import UserError
from g2lstm.figures import gate_label, gate_order
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import ALL, about_run, measure, weights_digest
from g2lstm.inspection.reading import EXAMPLE, chosen_layer, first_sentences, layer_name, read_sentence
from g2lstm.reporting.charts import Series
from g2lstm.reporting.report import Sweep, report_page
from g2lstm.reporting.report_gates import Reading
from g2lstm.reporting.report_runs import Panel, RunFacts
from g2lstm.reporting.sweep_curves import AXES, FAMILIES
from g2lstm.reporting.sweep_tables import tables
from g2lstm.runs import NamedRun, blamed, default_folder, load_run, named_runs
from g2lstm.training.progress import say
from g2lstm.training.tasks import LanguageModelTask
from g2lstm.training.tracking import build_tracker

SAMPLES = 1000  # sentences, where the gates are not measured yet
LARGEST = 2_000_000  # bytes of a page that opens quickly
# What is used of the rows that other commands write.
ABOUT_GATES = ("run", "mode", "layer", "block", "mean", "binary", "entropy", "histogram")
ABOUT_METRICS = ("run", "mode", "split", "perplexity")
ABOUT_SWEEPS = ("run", "setting", "cache", "split", "gates", "matrices", "layers", "metric", "value", "difference", *AXES)
Row = dict[str, Any]


def report(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.text is not None and not options.text.split():
        raise UserError("text has no words: set text='the company said it will ...', or leave it out")
    runs = named_runs(options.runs, {"data.dir": getattr(options, "data.dir"), "device": options.device})
    runs.sort(key=lambda run: (gate_order(run.gate), run.seed))
    paths, console = [run.path for run in runs], Console(stderr=True)
    facts = [RunFacts.read(run.path, gate_label(run.gate), run.seed, as_dict(run.config)) for run in runs]
    weights = {path.as_posix(): weights_digest(path) for path in paths}
    gates = recorded_gates(default_folder(paths, "gates") / "gates.json", runs, weights, options.layer, console)
    readings: dict[str, Reading] = {}
    measured: Row = {"split": "valid", "rows": [], "metrics": []}
    for run in runs:
        if gates is not None and run.gate in readings:
            continue
        task, model = load_run(run.path, run.config)
        with blamed(run):
            if run.gate not in readings:  # the heat map shows one run of each gate
                readings[run.gate] = _reading(run, task, model, options, console)
            if gates is None:
                say(console, f"measuring the gates of {run.path}")
                _measure(run, task, model, options.samples, measured)
    if gates is None:
        gates = measured | {"layer": next(iter(readings.values())).layer}
    shown = list(readings.values())
    if any(reading.words != shown[0].words for reading in shown):
        raise UserError("the runs know different words of the text: give runs with the same vocabulary")
    sweep = recorded_sweep(default_folder(paths, "compression") / "sweep.json", runs, weights, console)
    out = options.out or default_folder(paths, "gates") / "report.html"
    content = report_page(facts, gates=gates, readings=shown, sweep=sweep)
    write_atomically(out, content)
    _track(runs, content, console)
    size = len(content.encode())
    say(console, f"wrote {out} ({size / 1e6:.2f} MB)")
    if size > LARGEST:
        say(console, f"more than {LARGEST / 1e6:g} MB open slowly: name fewer runs=, or a shorter text=")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/report.py",
        description="Writes one page about trained models: what was run, curves, metrics, compression, gates.",
    )
    parser.add_argument("--runs", required=True, metavar="DIRS", help="run directories: names or patterns, comma-separated")
    parser.add_argument(
        "--out", type=cli.file, metavar="FILE", help="results/gates/EXPERIMENT/report.html for recorded runs"
    )
    parser.add_argument("--text", help="words of the heat map, as the corpus writes them; an example without it")
    parser.add_argument("--layer", metavar="NAME", help="the decoder's first layer, or the first, without it")
    parser.add_argument(
        "--samples", type=cli.positive, default=SAMPLES, metavar="N",
        help=f"first sentences of valid for gates that gate_histograms.py has not measured; {SAMPLES} without it",
    )  # fmt: skip
    parser.add_argument("--threads", type=cli.positive, metavar="N", help="CPU threads")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data.dir", metavar="DIR", help="where the corpus is, if not where the run found it")
    return parser


def _reading(run: NamedRun, task: LanguageModelTask, model: nn.Module, options: Any, console: Console) -> Reading:
    vocabulary = task.corpus.vocabulary
    text = options.text or _sentence(task, vocabulary)
    words, unknown, values = read_sentence(model, vocabulary, text)
    if unknown:
        say(console, f"{run.path} does not know, and reads as <unk>: {' '.join(unknown)}")
    layer = chosen_layer(list(dict.fromkeys(map(layer_name, values))), options.layer)
    shown = [f"{word}*" if word in unknown else word for word in words]
    gates = {key.gate: v.cpu() for key, v in values.items() if layer_name(key) == layer}
    return Reading(gate_label(run.gate), layer, shown, gates)


def _sentence(task: LanguageModelTask, vocabulary: Vocabulary) -> str:
    """The example where its words are known; else the first sentence of valid that is neither short nor long and has no
    unknown word; else what valid begins with.
    """
    if all(word in vocabulary.index for word in EXAMPLE.split()):
        return EXAMPLE
    sentence: list[str] = []
    for token in task.corpus.valid[:50_000].tolist():
        word = vocabulary.tokens[token]
        if word != EOS:
            sentence.append(word)
            continue
        if len(sentence) in range(12, 19) and UNK not in sentence:
            return " ".join(sentence)
        sentence = []
    start = [vocabulary.tokens[token] for token in task.corpus.valid[:40].tolist()]
    return " ".join([word for word in start if word != EOS][:16])


def _measure(run: NamedRun, task: LanguageModelTask, model: nn.Module, samples: int, found: Row) -> None:
    tokens, sentences = first_sentences(task.corpus.valid, task.corpus.vocabulary.index[EOS], samples)
    rows, metrics = measure(task, model, tokens, about_run(run.path, run.gate, run.seed, model))
    found |= {"sentences": sentences, "words": len(tokens)}
    found["rows"] += rows
    found["metrics"] += metrics


def recorded_gates(
    path: Path, runs: list[NamedRun], weights: dict[str, str], layer: str | None, console: Console
) -> Row | None:
    """What gate_histograms.py measured, where it did so for all these runs with the weights that they have now.

    Args:
        path: of `gates.json`.
        runs: in the page's order.
        weights: the digest of the weights of each run, by its directory.
        layer: whose gates are shown.
        console: is told why something is left out.
    """
    content, writer = _read(path), "gate_histograms.py"
    if content is None:
        return None
    if not isinstance(content, dict) or not {"split", "sentences", "words"} <= content.keys():
        raise _foreign(path, writer)
    metrics = _rows(path, content.get("metrics"), ABOUT_METRICS, writer)
    rows = _current(path, _rows(path, content.get("rows"), ABOUT_GATES, writer), runs, weights, console)
    if {row["run"] for row in rows} < weights.keys():
        return None
    metrics = [row for row in metrics if row["split"] == "valid"]
    if not weights.keys() <= {row["run"] for row in metrics if row["mode"] == "test"}:
        say(console, f"{path} has no perplexity on valid of these runs, as gate_histograms.py metric=valid writes it")
        return None
    names = list(dict.fromkeys(row["layer"] for row in rows if row["layer"] != ALL))
    metrics = _current(path, metrics, runs, weights, console)
    return content | {"rows": rows, "metrics": metrics, "layer": chosen_layer(names, layer)}


def recorded_sweep(path: Path, runs: list[NamedRun], weights: dict[str, str], console: Console) -> Sweep | None:
    """What compression_sweep.py found for these runs with the weights that they have now; of the targets that come first.

    Args: as in `recorded_gates`, of `sweep.json`.
    """
    content = _read(path)
    if content is None:
        return None
    rows = _current(path, _rows(path, content, ABOUT_SWEEPS, "compression_sweep.py"), runs, weights, console)
    rows = [row for row in rows if row["split"] == rows[0]["split"]]
    compressed = [row for row in rows if row["setting"] != ORIGINAL]
    if not compressed:
        return None
    target = [compressed[0][name] for name in ("gates", "matrices", "layers")]
    chosen = [row for row in compressed if [row[name] for name in ("gates", "matrices", "layers")] == target]
    rows = [row for row in rows if row["setting"] == ORIGINAL] + chosen
    return Sweep(tables(rows), _panels(rows))


def _panels(rows: list[Row]) -> list[Panel]:
    """A chart a kind of compression over bits, and one of low rank over rank; without and with cache."""
    panels = []
    for cache in sorted({row["cache"] for row in rows}):
        mine = [row for row in rows if row["cache"] == cache]
        y = f"{mine[0]['split']} {mine[0]['metric'].replace('_', ' ')}{' with cache' if cache else ''}"
        for family, title in FAMILIES.items():
            for axis, x in list(AXES.items())[: 2 if family == "svd" else 1]:  # only an SVD has a rank
                x = x.partition(" (")[0].replace(" of the compressed blocks", "").replace("for each", "a")
                gates = sorted({row["gate"] for row in mine}, key=gate_order)
                lines = [line for gate in gates for line in _lines([r for r in mine if r["gate"] == gate], family, axis)]
                if lines:
                    over = "rank" if axis == "rank" else "bits"
                    panels.append(Panel(f"{title.capitalize()}, over {over}{', with cache' if cache else ''}", x, y, lines))
    return panels


def _lines(rows: list[Row], family: str, axis: str) -> list[Series]:
    """What a gate bears of a kind: a line an operator, over bits to the original; hollow marks for several steps.

    Each point is (place on the axis, mean over seeds) of a setting.
    """
    rows = [row for row in rows if row[axis] and math.isfinite(row["value"])]
    originals = [] if axis == "rank" else [row for row in rows if row["setting"] == ORIGINAL]
    kinds = defaultdict(list)
    for row in rows:
        method = Method.parse(row["setting"])
        if row["setting"] != ORIGINAL and method.family == family:
            kinds["several" if len(method.steps) > 1 else method.steps[0][0]].append(row)
    lines = []
    for kind, chosen in kinds.items():
        settings = defaultdict(list)
        for row in chosen + (originals if kind != "several" else []):
            settings[Method.parse(row["setting"]).label].append(row)
        points = sorted(
            (mean(row[axis] for row in group), mean(row["value"] for row in group), name) for name, group in settings.items()
        )
        xs, ys, names = zip(*points, strict=True)
        label = gate_label(chosen[0]["gate"])
        lines.append(Series(label, list(zip(xs, ys, strict=True)), hollow=kind == "several", names=list(names)))
    return lines


def _rows(path: Path, rows: Any, names: tuple[str, ...], writer: str) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(names) for row in rows):
        raise _foreign(path, writer)
    return rows


def _current(path: Path, rows: list[Row], runs: list[NamedRun], weights: dict[str, str], console: Console) -> list[Row]:
    """The rows that were measured with the runs' present weights, in the runs' order and with their names."""
    other = dict.fromkeys(row["run"] for row in rows if row.get("weights") != weights.get(row["run"], row.get("weights")))
    if other:
        say(console, f"{path} is left out where it is not known to be of the present weights: {', '.join(other)}")
    names = {run.path.as_posix(): {"gate": run.gate, "label": gate_label(run.gate)} for run in runs}
    return [row | names[run] for run in names for row in rows if row["run"] == run and row["run"] not in other]


def _read(path: Path) -> Any:
    """The JSON of a file, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path} is no JSON: remove it, or measure again") from None


def _foreign(path: Path, writer: str) -> UserError:
    return UserError(f"{path} is not what {writer} writes: remove it, or run {writer} again")


def _track(runs: list[NamedRun], content: str, console: Console) -> None:
    """Shows the page beside the metrics of each run that a tracker follows."""
    for run in runs:
        file = run.path / "tracker.json"
        if run.config.tracker.name == "none" or not file.is_file():
            continue
        tracker = build_tracker(
            run.config.tracker.name, project=run.config.tracker.get("project", "g2lstm"), config=as_dict(run.config),
            run_dir=run.path, run_id=_read(file)["run_id"], mode=run.config.tracker.get("mode"),
            say=lambda text: say(console, text),
        )  # fmt: skip
        tracker.log_page("report", content)
        tracker.finish()


if __name__ == "__main__":
    cli.main(report)
