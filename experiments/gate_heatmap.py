"""The gates word by word (the paper's Figure 4): gate_heatmap.py runs='results/ptb_cpu/*' text="the company said ..."."""

import json
from functools import partial

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import measure_words, open_store
from g2lstm.inspection.reading import read_runs
from g2lstm.reporting.figures import lacking, save_figure
from g2lstm.reporting.gate_tables import word_table
from g2lstm.reporting.heatmap import WORDS_AN_END, draw_heatmap, draw_units, draw_words
from g2lstm.reporting.run_tables import grouped
from g2lstm.runs.run import blamed, default_folder, find_runs
from g2lstm.training.progress import say


def gate_heatmap(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if bool(options.run) == bool(options.runs):
        raise UserError("set run=RUN_DIR, or runs= for several, comma-separated or a pattern")
    runs = find_runs(options.run or options.runs, cli.overrides(options))
    out, console = options.out or default_folder(runs, "gates"), Console(stderr=True)
    groups, words = grouped(runs), []
    shown = read_runs(groups, options.text, options.layer, partial(say, console))
    limits = {"split": options.words, "limit": options.samples, "min_count": options.min_count}
    for name, run in ((name, run) for name, members in groups.items() for run in members if options.words != "none"):
        with blamed(run):
            words.append(measure_words(open_store(out), run, name, shown[0].layer, **limits))
    written = [*save_figure(draw_heatmap(shown), out, "heatmap"), *save_figure(draw_units(shown), out, "units")]
    for row in {row["gate"]: row for row in reversed(words)}.values():
        written += save_figure(draw_words(row), out, f"words-{row['gate'].replace('/', '-')}-seed{row['seed']}")
    ends = [word["word"] for row in words for word in row["lowest_and_highest"][:WORDS_AN_END]]
    if boxes := lacking([*(word for reading in shown for word in (*reading.words, *reading.source)), *ends]):
        say(console, boxes)
    models = json.dumps({"models": [reading.told() for reading in shown]}, indent=1, ensure_ascii=False)
    write_atomically(out / "heatmap.json", models + "\n")
    if table := word_table(words):
        print(table)
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("text", "layer", "threads", "device", "data.dir"),
        prog="experiments/gate_heatmap.py",
        description="Draws trained models' gates at each word of a sentence, and which words shut the forget gate.",
    )
    add = parser.add_argument
    add("--run", metavar="DIR", help="a run directory, or a folder under results/")
    add("--runs", metavar="DIRS", help="several: names or patterns, comma-separated")
    add("--words", choices=("train", "valid", "test", "none"), default="valid", help="the text whose words are compared")
    add("--samples", type=cli.positive, metavar="N", help="its first N sentences; all without it")
    add("--min_count", type=cli.positive, default=20, metavar="N", help="words seen less are left out; 20 without it")
    add("--out", type=cli.folder, metavar="DIR", help="results/gates/EXPERIMENT for recorded runs")
    return parser


if __name__ == "__main__":
    cli.main(gate_heatmap)
