"""Translates lines: python experiments/translate.py run=runs/iwslt14_cpu/gumbel-seed1 < text.de > text.en."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import Any

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.translate import MOST_FIGURES, load_models, translate_lines
from g2lstm.data.lines import decoded, raw_lines
from g2lstm.decoding.beam import MOST_BEAM, check_search
from g2lstm.errors import UserError
from g2lstm.training.progress import say


def translate(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.input and options.output and options.input.resolve() == options.output.resolve():
        raise UserError(f"output={options.output} is the input too, and would be lost: name another file")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    task, models = load_models(options.run, cli.overrides(options), options.average)
    given = {name: getattr(options, name) for name in ("beam", "length_penalty", "coverage_penalty")}
    search = replace(task.config.eval, **{name: value for name, value in given.items() if value is not None})
    check_search(beam=search.beam, n_best=options.n_best)  # before the output is begun anew
    source = sys.stdin.buffer if options.input is None else _lines(options.input)
    typed = options.input is None and sys.stdin.buffer.isatty()
    with _written(options.output) as out:
        refused = translate_lines(
            task, models, decoded(source, str(options.input or "standard input")), out, search,
            n_best=options.n_best, scores=options.scores, size=options.batch or (1 if typed else 64),
            figures=options.attention, say=partial(say, Console(stderr=True)),
        )  # fmt: skip
    return 1 if refused else 0


def _lines(path: Path) -> Iterator[bytes]:
    """Its lines; the first is read here, before any output is begun anew."""
    lines = raw_lines(path)
    return chain(list(islice(lines, 1)), lines)


def _written(path: Path | None) -> Any:
    return nullcontext(sys.stdout) if path is None else path.open("w", encoding="utf-8")


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("average", "threads", "device"),
        prog="experiments/translate.py",
        description="Translates a text line by line, raw as people write it: lines in are lines out (n_best for each).",
    )
    add = parser.add_argument
    add("--run", required=True, action="append", metavar="RUN", help="a run's folder or a model.g2; several are an ensemble")
    add("--input", type=Path, metavar="FILE", help="plain or .gz; standard input without it")
    add("--output", type=cli.file, metavar="FILE", help="standard output without it")
    add("--beam", type=cli.whole(1, MOST_BEAM), metavar="N", help="the run's own without it; 1 is greedy")
    add("--length_penalty", type=cli.penalty, metavar="A", help="scores are divided by length to this power")
    add("--coverage_penalty", type=cli.penalty, metavar="B", help="against repeating and leaving out")
    add("--n_best", type=cli.positive, default=1, metavar="N", help="so many translations of each line")
    add("--scores", type=cli.flag, default=False, help="true: score and tab before each translation")
    add("--attention", type=cli.folder, metavar="DIR", help=f"draw what the first {MOST_FIGURES} lines looked at")
    add("--batch", type=cli.positive, metavar="N", help="lines at a time; 64, and 1 at a terminal, without it")
    return parser


if __name__ == "__main__":
    cli.main(translate)
