"""Translates lines: python experiments/translate.py run=runs/iwslt14_cpu/gumbel-seed1 < text.de > text.en."""

import math
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console
from torch import nn

from g2lstm import cli
from g2lstm.commands.evaluate import find_models, weighted
from g2lstm.data.lines import decoded
from g2lstm.errors import UserError
from g2lstm.reporting.attention import draw_attention
from g2lstm.reporting.figures import save_figure
from g2lstm.runs.run import blamed
from g2lstm.training.progress import say

MOST_FIGURES = 20
MOST_LABELS = 100  # sub-words of a side in a figure


def translate(arguments: list[str]) -> int:
    options, console = _parser().parse_options(arguments), Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.input and options.output and options.input.resolve() == options.output.resolve():
        raise UserError(f"output={options.output} is the input too, and would be lost: name another file")
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    task, models = _loaded(options)
    given = {name: getattr(options, name) for name in ("beam", "length_penalty", "coverage_penalty")}
    search = replace(task.config.eval, **{name: value for name, value in given.items() if value is not None})
    refused, drawn, number = 0, 0, 0
    with _opened(options.input) as source, _written(options.output) as out:
        size = options.batch or (1 if source.isatty() else 64)
        for lines in _chunks(decoded(source, str(options.input or "standard input")), size):
            drawing = options.attention is not None and drawn < MOST_FIGURES
            found = task.translate(models, lines, search, n_best=options.n_best, attention=drawing)
            for line, best in zip(lines, found, strict=True):
                number += 1
                if best is None:
                    refused += 1
                    say(console, f"line {number} is too long and has an empty translation: split it")
                best = best or []
                for place in range(options.n_best):  # as many lines for each, also where a search finds fewer
                    text, score = (best[place][0], best[place][1].score) if place < len(best) else ("", -math.inf)
                    out.write((f"{score:.4f}\t{text}" if options.scores else text) + "\n")
                if drawing and drawn < MOST_FIGURES and best and best[0][1].tokens:
                    labels = task.attention_labels(line, best[0][1])
                    if max(map(len, labels)) > MOST_LABELS:
                        say(console, f"line {number} is too long to draw its attention")
                        continue
                    drawn += 1
                    save_figure(draw_attention(best[0][1].attention, *labels), options.attention, f"attention-{number}")
            out.flush()
    if drawn:
        say(console, f"drew {drawn} figures in {options.attention}")
    return 1 if refused else 0


def _loaded(options: Any) -> tuple[Any, list[nn.Module]]:
    """The task of the first model, and all models.

    Raises:
        UserError: a run translates nothing, or they have other sub-words.
    """
    found = [one for text in options.run for one in find_models(text, cli.overrides(options))]
    task, models = None, list[nn.Module]()
    for one in found:
        with blamed(one):
            if not hasattr(one.config.task_class, "translate"):
                raise UserError(f"its task is {one.config.run.task.name}, which translates nothing: name a translation run")
            own = one.task()
            if task is not None and (own.subwords.text(), own.form) != (task.subwords.text(), task.form):
                raise UserError(f"its sub-words are not those of {found[0].path}: an ensemble shares them")
            task = task or own
            models.append(weighted(one, own, options.average))
    return task, models


def _chunks(lines: Iterator[str], size: int) -> Iterator[list[str]]:
    """So many lines at a time; what stands before a line that can't be read is translated first."""
    part: list[str] = []
    try:
        for line in lines:
            part.append(line)
            if len(part) == size:
                yield part
                part = []
    except UserError:
        yield part
        raise
    if part:
        yield part


def _opened(path: Path | None) -> Any:
    return nullcontext[BinaryIO](sys.stdin.buffer) if path is None else path.open("rb")


def _written(path: Path | None) -> Any:
    return nullcontext(sys.stdout) if path is None else path.open("w", encoding="utf-8")


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("average", "threads", "device", "data.dir"),
        prog="experiments/translate.py",
        description="Translates a text line by line, raw as people write it: lines in are lines out (n_best for each).",
    )
    add = parser.add_argument
    add("--run", required=True, action="append", metavar="RUN", help="a run's folder or a model.g2; several are an ensemble")
    add("--input", type=Path, metavar="FILE", help="standard input without it")
    add("--output", type=cli.file, metavar="FILE", help="standard output without it")
    add("--beam", type=cli.positive, metavar="N", help="the run's own without it; 1 is greedy")
    add("--length_penalty", type=cli.penalty, metavar="A", help="scores are divided by length to this power")
    add("--coverage_penalty", type=cli.penalty, metavar="B", help="against repeating and leaving out")
    add("--n_best", type=cli.positive, default=1, metavar="N", help="so many translations of each line")
    add("--scores", type=cli.flag, default=False, help="true: score and tab before each translation")
    add("--attention", type=cli.folder, metavar="DIR", help=f"draw what the first {MOST_FIGURES} lines looked at")
    add("--batch", type=cli.positive, metavar="N", help="lines at a time; 64, and 1 at a terminal, without it")
    return parser


if __name__ == "__main__":
    cli.main(translate)
