"""One page about trained models, in one file: python experiments/report.py runs='results/ptb_cpu/*'."""

from functools import partial

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import measure_gates, of_one_text, open_store, recorded_rows
from g2lstm.inspection.reading import read_runs
from g2lstm.reporting.drawings import drawings, findings_of
from g2lstm.reporting.figures import lacking, save_figure
from g2lstm.reporting.report import check_readable, report_page, sweep_rows, track
from g2lstm.reporting.run_tables import grouped
from g2lstm.runs.run import blamed, default_folder, find_runs
from g2lstm.training.progress import say

SAMPLES = 1000  # sentences, where the gates are not measured yet


def report(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    runs = find_runs(options.runs, cli.overrides(options))
    groups, console, folder = grouped(runs), Console(stderr=True), default_folder(runs, "gates")
    check_readable(runs)
    names = {run.weights: name for name, members in groups.items() for run in members}
    gates = of_one_text(recorded_rows(folder, "gates", "metric", names=names), names)
    shown = read_runs(groups, options.text, options.layer, partial(say, console))
    if not gates:
        for name, run in ((name, run) for name, members in groups.items() for run in members):
            with blamed(run):
                say(console, f"measuring the gates of {run.path}")
                text = {"split": "valid", "limit": options.samples, "metric_split": "valid"}
                gates += measure_gates(open_store(folder), run, name, **text)
    words = recorded_rows(folder, "words", names=names)
    sweep = sweep_rows(default_folder(runs, "compression") / "sweep.json", groups)
    drawn, out = drawings(findings_of(groups)), options.out or folder / "report.html"
    content = report_page(groups, runs[0].task().published, gates, words, shown, sweep, shown[0].layer, drawn)
    write_atomically(out, content)
    written = [path for name, figure in drawn.items() for path in save_figure(figure, out.parent, name)]
    track(runs, content, partial(say, console))
    if boxes := lacking(word for reading in shown for word in (*reading.words, *reading.source)):
        say(console, boxes)
    say(console, f"wrote {out} ({len(content.encode()) / 1e6:.2f} MB; more than 2 open slowly)")
    if written:
        say(console, f"wrote {', '.join(map(str, written))}")
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("runs", "layer", "threads", "device", "data.dir", "text"),
        prog="experiments/report.py",
        description="Writes one page about trained models: what was run, curves, metrics, findings, compression, gates.",
    )
    add = parser.add_argument
    add("--out", type=cli.file, metavar="FILE", help="results/gates/EXPERIMENT/report.html for recorded runs")
    add("--samples", type=cli.positive, default=SAMPLES, metavar="N", help="of valid, where no gates are measured yet")
    return parser


if __name__ == "__main__":
    cli.main(report)
