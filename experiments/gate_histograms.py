"""How gate values are spread, and what training's noise makes of them: gate_histograms.py runs='results/ptb_cpu/*'."""

import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.data.text import EOS
from g2lstm.errors import UserError
from g2lstm.figures import gate_order, save_figure
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import ALL, about_run, measure
from g2lstm.inspection.reading import chosen_layer, first_sentences
from g2lstm.reporting.gate_tables import gate_table, text_read
from g2lstm.reporting.histograms import draw_histograms, draw_modes
from g2lstm.runs import NamedRun, blamed, default_folder, load_run, named_runs
from g2lstm.training.progress import duration, say

BINS = (10, 50)


def gate_histograms(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = named_runs(options.runs, {"data.dir": getattr(options, "data.dir"), "device": options.device})
    runs.sort(key=lambda run: (gate_order(run.gate), run.seed))
    out = options.out or default_folder([run.path for run in runs], "gates")
    console = Console(stderr=True)
    say(console, f"gates of {len(runs)} runs; writing to {out}")
    metric_split = None if options.metric == "none" else options.metric
    content: dict[str, Any] = {"split": options.split, "rows": [], "metrics": []}
    before = _before(out / "gates.json")
    started = time.monotonic()
    for number, run in enumerate(runs, 1):
        with blamed(run):
            rows, metrics = _measure(run, options.samples, metric_split, content, before)
        content["rows"] += rows
        content["metrics"] += metrics
        left = (time.monotonic() - started) * (len(runs) / number - 1)
        say(console, f"{number}/{len(runs)}  {_told(rows)}  ETA {duration(left)}")
    names = list(dict.fromkeys(row["layer"] for row in content["rows"] if row["layer"] != ALL))
    content["layer"] = layer = chosen_layer([*names, ALL] if options.layer == ALL else names, options.layer)
    written = [out / "gates.json", out / "gates.md"]
    write_atomically(written[0], _compact(content))
    text = "\n\n".join(gate_table(content, kind) for kind in ("binary", "modes")) + "\n"
    write_atomically(written[1], text)
    for bins in BINS:
        written += save_figure(draw_histograms(content["rows"], layer, bins, text_read(content)), out, f"histograms-{bins}")
    modes = draw_modes(content["rows"], layer, text_read(content))
    written += save_figure(modes, out, "training-and-test") if modes is not None else []
    print(text)
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/gate_histograms.py",
        description="Draws histograms of trained models' gates (the paper's Figures 1 and 3), in training and in test.",
    )
    parser.add_argument("--runs", required=True, metavar="DIRS", help="run directories: names or patterns, comma-separated")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="train", help="the text that is read")
    parser.add_argument(
        "--samples", type=_samples, default=10_000, metavar="N", help="its first N sentences, or all; 10000 without it"
    )
    parser.add_argument("--layer", metavar="NAME", help="in the figures; the decoder's first layer, or the first")
    parser.add_argument("--metric", choices=("valid", "test", "none"), default="valid", help="split of each mode's metric")
    parser.add_argument("--threads", type=cli.positive, metavar="N", help="CPU threads")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data.dir", metavar="DIR", help="where the corpus is, if not where the run found it")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="results/gates/EXPERIMENT for recorded runs")
    return parser


def _samples(text: str) -> int | None:
    """A number of sentences, or all."""
    return None if text == "all" else cli.positive(text)


def _before(path: Path) -> dict[str, Any]:
    """What an earlier command left, which needs no second measurement."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) and {"rows", "metrics"} <= content.keys() else {}


def _measure(
    run: NamedRun, count: int | None, metric_split: str | None, content: dict[str, Any], before: dict[str, Any]
) -> tuple[list, list]:
    """The rows and metrics of a run; what was read is written down in `content`, and is the same for all runs.

    What is in `before` of the same text, weights and metric is taken from there.
    """
    task, model = load_run(run.path, run.config)
    tokens, sentences = first_sentences(getattr(task.corpus, content["split"]), task.corpus.vocabulary.index[EOS], count)
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:20]
    read = {"sentences": sentences, "words": len(tokens), "text": digest}
    if content | read != read | content:
        raise UserError(f"its text is not that of the runs before it ({text_read(content)}): give runs of one corpus")
    content |= read
    about = about_run(run.path, run.gate, run.seed, model)
    if before.get("text") == digest:
        rows, metrics = (
            [row | about for row in before[key] if (row["run"], row.get("weights")) == (about["run"], about["weights"])]
            for key in ("rows", "metrics")
        )
        if rows and (metric_split is None or {row["split"] for row in metrics} == {metric_split}):
            return rows, metrics
    return measure(task, model, tokens, about, metric_split=metric_split)


def _told(rows: list[dict[str, Any]]) -> str:
    shares = [row["binary"] for row in rows if row["mode"] == "test" and row["layer"] == ALL]
    return f"{rows[0]['label']} seed {rows[0]['seed']}: input gate {shares[0]:.1%}, forget gate {shares[1]:.1%} binary"


def _compact(content: dict[str, Any]) -> str:
    """JSON with a row a line."""
    parts = {key: json.dumps(value) for key, value in content.items() if not isinstance(value, list)}
    for key in ("rows", "metrics"):
        parts[key] = "[" + ",".join(f"\n  {json.dumps(row)}" for row in content[key]) + "\n ]"
    return "{\n" + ",\n".join(f' "{key}": {value}' for key, value in parts.items()) + "\n}\n"


if __name__ == "__main__":
    cli.main(gate_histograms)
