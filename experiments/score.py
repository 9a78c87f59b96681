"""The perplexity of a text under a language model: python experiments/score.py run=RUN_DIR < text.txt."""

import sys

import interrupts  # noqa: F401 first of all
import torch

from g2lstm import cli
from g2lstm.commands.generate import open_text_model, score_lines, score_text
from g2lstm.data.lines import decoded


def score(arguments: list[str]) -> int:
    parser = cli.OptionParser(
        ("threads", "device"),
        prog="experiments/score.py",
        description="Perplexity of standard input, words between white space, each after all before it.",
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="a run's folder or a model.g2")
    parser.add_argument("--lines", type=cli.flag, default=False, help="true: of each line by itself, before the line")
    options = parser.parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = open_text_model(options.run, cli.overrides(options))
    lines = decoded(sys.stdin.buffer, "standard input")
    for line in score_lines(model, lines) if options.lines else (score_text(model, lines),):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    cli.main(score)
