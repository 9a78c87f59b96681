"""How gate values are spread, and what training's noise makes of them: gate_histograms.py runs='results/ptb_cpu/*'."""

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import ALL, chosen_layer, keep_first, layer_names, measure_gates, open_store
from g2lstm.reporting.figures import gate_label, save_figure
from g2lstm.reporting.gate_tables import gate_layer, gate_table, text_read
from g2lstm.reporting.histograms import draw_histograms, draw_modes
from g2lstm.reporting.run_tables import grouped
from g2lstm.runs.run import blamed, default_folder, find_runs
from g2lstm.training.progress import say

BINS = (10, 50)


def gate_histograms(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = find_runs(options.runs, cli.overrides(options))
    if options.layer not in (None, ALL):  # a mistake is told before anything is measured
        chosen_layer((name for run in runs for name in layer_names(run.bare_model(run.task()))), options.layer)
    out, console = options.out or default_folder(runs, "gates"), Console(stderr=True)
    store, found = open_store(out), []
    metric = None if options.metric == "none" else options.metric
    for name, run in ((name, run) for name, members in grouped(runs).items() for run in members):
        with blamed(run):
            rows = measure_gates(store, run, name, split=options.split, limit=options.samples, metric_split=metric)
            if found and text_read(found[0]) != text_read(rows[0]):
                raise UserError(
                    f"its text is not that of the runs before it ({text_read(found[0])}): give runs of one corpus"
                )
        found += rows
        shares = [row["binary"] for row in rows if row["mode"] == "test" and row.get("layer") == ALL]
        say(console, f"{gate_label(name)} seed {run.seed}: input gate {shares[0]:.1%}, forget gate {shares[1]:.1%} binary")
    layer = gate_layer(found, options.layer)
    keep_first(store, found)
    text = "\n\n".join(gate_table(found, kind, layer) for kind in ("binary", "modes")) + "\n"
    write_atomically(out / "gates.md", text)
    written = [store.path, out / "gates.md"]
    for bins in BINS:
        written += save_figure(draw_histograms(found, layer, bins), out, f"histograms-{bins}")
    if (modes := draw_modes(found, layer)) is not None:
        written += save_figure(modes, out, "training-and-test")
    print(text)
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("runs", "layer", "threads", "device", "data.dir"),
        prog="experiments/gate_histograms.py",
        description="Draws histograms of trained models' gates (the paper's Figures 1 and 3), in training and in test.",
    )
    add = parser.add_argument
    add("--split", choices=("train", "valid", "test"), default="train", help="the text that is read")
    add("--samples", type=lambda text: None if text == "all" else cli.positive(text), default=10_000, metavar="N",
        help="its first N sentences, images, ...; or all; 10000 without it")  # fmt: skip
    add("--metric", choices=("valid", "test", "none"), default="valid", help="split of each mode's metric")
    add("--out", type=cli.folder, metavar="DIR", help="results/gates/EXPERIMENT for recorded runs")
    return parser


if __name__ == "__main__":
    cli.main(gate_histograms)
