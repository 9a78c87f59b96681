"""Continues a text, word by word: python experiments/generate.py run=RUN_DIR prompt="the company said"."""

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.generate import open_text_model, said_unknown
from g2lstm.compression.text_model import joined
from g2lstm.training.progress import say


def generate(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = open_text_model(options.run, cli.overrides(options))
    settings = {name: getattr(options, name) for name in ("words", "temperature", "seed")}
    top_k = options.top_k or min(40, len(model.vocabulary))
    words = model.generate(options.prompt, **settings, top_k=top_k)
    if unknown := said_unknown(model, options.prompt):
        say(Console(stderr=True), unknown)
    for piece in joined(options.prompt, words):
        print(piece, end="", flush=True)
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("threads", "device"),
        prog="experiments/generate.py",
        description="Continues a text by a language model, word by word as they are drawn; the same seed, the same text.",
    )
    add = parser.add_argument
    add("--run", required=True, metavar="RUN", help="a run's folder or a model.g2")
    add("--prompt", required=True, metavar="TEXT", help="words between white space, as the corpus writes them")
    add("--words", type=cli.positive, default=50, metavar="N", help="how many more; 50 without it")
    add("--temperature", type=cli.real, default=1.0, metavar="X", help="below 1 surer, above 1 freer; 1 without it")
    add("--top_k", type=cli.whole(1), metavar="K", help="draw from the K likeliest words alone, 1 is greedy; 40 without it")
    add("--seed", type=cli.seed, default=1, metavar="N", help="1 without it")
    return parser


if __name__ == "__main__":
    cli.main(generate)
