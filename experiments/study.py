"""What noise probability and temperature do, as a table and a figure: python experiments/study.py name=ptb_study.

Runs that differ in more than these are shown by their options, beside the plain LSTM (name=ptb_binary).
Before it: train.py -m, then compression_sweep.py and gate_histograms.py on the same runs.
"""

from pathlib import Path

import interrupts  # noqa: F401 first of all
from rich.console import Console

from g2lstm import cli
from g2lstm.files import write_atomically
from g2lstm.reporting import options, study
from g2lstm.reporting.figures import save_figure
from g2lstm.training.progress import say


def run_study(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="experiments/study.py", description="Shows what noise probability and temperature do.")
    parser.add_argument("--name", default="ptb_study", metavar="NAME", help="of the folders under compression and gates")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="%(default)s")
    chosen = parser.parse_options(arguments)
    runs = study.read(chosen.results, chosen.name)
    shown = options if options.need(runs) else study
    folder = chosen.results / chosen.name
    text = shown.table(runs)
    write_atomically(folder / "study.md", text + "\n")
    print(text)
    written = [folder / "study.md", *save_figure(shown.draw(runs), folder, "study")]
    say(Console(stderr=True), "wrote " + ", ".join(map(str, written)))
    return 0


if __name__ == "__main__":
    cli.main(run_study)
