"""One page about trained models, in one file: python experiments/report.py runs='results/ptb_cpu/*'."""

import json
import signal
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
from g2lstm.compression.report import AXES, FAMILIES, tables
from g2lstm.config import as_dict
from g2lstm.data.text import EOS, UNK, Vocabulary
from g2lstm.errors import UserError
from g2lstm.figures import gate_label, gate_order
from g2lstm.files import write_atomically
from g2lstm.gates import has_temperature
from g2lstm.inspection.measure import ALL, measure
from g2lstm.inspection.reading import chosen_layer, first_sentences, layer_name, read_sentence
from g2lstm.inspection.report import Sweep, report_page
from g2lstm.inspection.report_gates import Reading
from g2lstm.inspection.report_runs import Panel, RunFacts
from g2lstm.runs import NamedRun, default_folder, load_run, named_runs
from g2lstm.training.progress import say
from g2lstm.training.tasks import LanguageModelTask
from g2lstm.training.tracking import build_tracker

SAMPLES = 1000  # sentences, where the gates are not measured yet
Row = dict[str, Any]


def report(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.text is not None and not options.text.split():
        raise UserError("text has no words: set text='the company said it will ...', or leave it out")
    if options.samples < 1:
        raise UserError(f"samples must be a number of sentences >= 1, got {options.samples}")
    runs = named_runs(options.runs, {"data.dir": getattr(options, "data.dir"), "device": options.device})
    runs.sort(key=lambda run: (gate_order(run.gate), run.seed))
    paths, console = [run.path for run in runs], Console(stderr=True)
    facts = [RunFacts.read(run.path, gate_label(run.gate), run.seed, as_dict(run.config)) for run in runs]
    gates = _recorded_gates(default_folder(paths, "gates") / "gates.json", facts, options.layer)
    readings: dict[str, Reading] = {}
    measured: Row = {"split": "valid", "rows": [], "metrics": []}
    for run in runs:
        if gates is not None and run.gate in readings:
            continue
        task, model = load_run(run.path, run.config)
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
    sweep = _sweep(default_folder(paths, "compression") / "sweep.json", facts)
    out = options.out or default_folder(paths, "gates") / "report.html"
    content = report_page(facts, gates=gates, readings=shown, sweep=sweep)
    write_atomically(out, content)
    _track(runs, content, console)
    say(console, f"wrote {out} ({len(content.encode()) / 1e6:.2f} MB)")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/report.py",
        description="Writes one page about trained models: what was run, curves, metrics, compression, gates.",
    )
    parser.add_argument("--runs", required=True, metavar="DIRS", help="run directories: names or patterns, comma-separated")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results/gates/EXPERIMENT/report.html for recorded runs")
    parser.add_argument("--text", help="words of the heat map, as the corpus writes them; without it a sentence of valid")
    parser.add_argument("--layer", metavar="NAME", help="the decoder's first layer, or the first, without it")
    parser.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="N",
        help=f"first sentences of valid for gates that gate_histograms.py has not measured; {SAMPLES} without it",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
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
    """The first sentence of valid that is neither short nor long and has no unknown word; else what valid begins with."""
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
    gate = next(module.gate for module in model.modules() if hasattr(module, "gate"))
    about = {"run": run.path.as_posix(), "gate": run.gate, "label": gate_label(run.gate), "seed": run.seed}
    about |= {"tau": gate.tau if has_temperature(gate) else None, "noise_p": getattr(gate, "noise_p", None)}
    rows, metrics = measure(task, model, tokens, about)
    found |= {"sentences": sentences, "words": len(tokens)}
    found["rows"] += rows
    found["metrics"] += metrics


def _recorded_gates(path: Path, facts: list[RunFacts], layer: str | None) -> Row | None:
    """What gate_histograms.py measured, where it did so for all these runs as they are now."""
    content = _read(path)
    if content is None:
        return None
    here = {fact.path for fact in facts}
    rows = [row for row in content["rows"] if row["run"] in here]
    metrics = [row for row in content["metrics"] if row["run"] in here]
    measured = {row["run"]: row["perplexity"] for row in metrics if row["mode"] == "test" and row["split"] == "valid"}
    if not all(_same(fact, "valid", measured.get(fact.path)) for fact in facts):
        return None
    names = list(dict.fromkeys(row["layer"] for row in rows if row["layer"] != ALL))
    return content | {"rows": rows, "metrics": metrics, "layer": chosen_layer(names, layer) if layer else content["layer"]}


def _sweep(path: Path, facts: list[RunFacts]) -> Sweep | None:
    """What compression_sweep.py found, where it did so for these runs as they are now; of the targets that come first."""
    known = {fact.path: fact for fact in facts}
    rows = [row for row in _read(path) or [] if row["run"] in known]
    rows = [r for r in rows if r["split"] == next((row["split"] for row in rows), None)]
    originals = {r["run"]: r["value"] for r in rows if r["setting"] == ORIGINAL and not r["cache"]}
    stale = {name for name, value in originals.items() if not _same(known[name], rows[0]["split"], value)}
    compressed = [row for row in rows if row["setting"] != ORIGINAL and row["run"] not in stale]
    if not compressed:
        return None
    target = [compressed[0][name] for name in ("gates", "matrices", "layers")]
    chosen = [row for row in compressed if [row[name] for name in ("gates", "matrices", "layers")] == target]
    rows = [row for row in rows if row["setting"] == ORIGINAL and row["run"] not in stale] + chosen
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
                points = {gate: _line([row for row in mine if row["gate"] == gate], family, axis) for gate in gates}
                lines = [(gate_label(gate), found) for gate, found in points.items() if len(found) > 1]
                if lines:
                    over = "rank" if axis == "rank" else "bits"
                    panels.append(Panel(f"{title.capitalize()}, over {over}{', with cache' if cache else ''}", x, y, lines))
    return panels


def _line(rows: list[Row], family: str, axis: str) -> list[tuple[float, float]]:
    """(place on the axis, mean over seeds) of each setting of one kind; over bits with the original."""
    mine = [row for row in rows if row["setting"] != ORIGINAL and Method.parse(row["setting"]).family == family]
    if mine and axis != "rank":
        mine += [row for row in rows if row["setting"] == ORIGINAL]
    settings = dict.fromkeys(row["setting"] for row in mine if row[axis])
    groups = [[row for row in mine if row["setting"] == setting] for setting in settings]
    return sorted((mean(row[axis] for row in group), mean(row["value"] for row in group)) for group in groups)


def _same(fact: RunFacts, split: str, value: float | None) -> bool:
    """Whether a measured perplexity is the run's own, which says that it was measured with these weights."""
    names = (f"{split}_perplexity_recorded_weights", f"{split}_perplexity")
    own = next((fact.summary[name] for name in names if fact.summary.get(name) is not None), None)
    return value is not None and (own is None or abs(value / own - 1) < 0.01)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(f"{path} is no JSON: remove it, or measure again") from None


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
