"""Translates lines by runs and stored models: the work of experiments/translate.py."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from torch import nn

from g2lstm.commands.evaluate import find_models, weighted
from g2lstm.errors import UserError, quoted
from g2lstm.reporting.attention import draw_attention
from g2lstm.reporting.figures import lacking, save_figure
from g2lstm.runs.run import blamed
from g2lstm.tasks.translation_reading import LONGEST_LINE

MOST_FIGURES = 20
MOST_LABELS = 100  # sub-words of a side in a figure
MOST_TOLD = 10  # lines whose unknown characters are told one by one


def load_models(names: Sequence[str], overrides: dict[str, Any], average: int | None) -> tuple[Any, list[nn.Module]]:
    """The task of the first model, and all models.

    Raises:
        UserError: a run translates nothing, or they have other sub-words.
    """
    found = [one for name in names for one in find_models(name, overrides)]
    task, models = None, list[nn.Module]()
    for one in found:
        with blamed(one):
            if not hasattr(one.config.task_class, "translate"):
                raise UserError(f"its task is {one.config.run.task.name}, which translates nothing: name a translation run")
            own = one.task()
            if task is not None and own.subwords.text() != task.subwords.text():
                raise UserError(f"its sub-words are not those of {found[0].path}: an ensemble shares them")
            if task is not None and own.form.reading != task.form.reading:
                raise UserError(f"it reads raw text in another way than {found[0].path}: an ensemble shares languages")
            task = task or own
            models.append(weighted(one, own, average))
    return task, models


def translate_lines(
    task: Any,
    models: Sequence[nn.Module],
    lines: Iterator[str],
    out: TextIO,
    search: Any,
    *,
    n_best: int = 1,
    scores: bool = False,
    size: int = 64,
    figures: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Writes `n_best` lines for each line, and draws what the first lines looked at.

    Args:
        task, models: as `load_models` gives them.
        search: options of the search, as the task's `eval`.
        scores: whether a translation has its score and a tab before it.
        size: lines that are translated together, and written before more are read.
        figures: a folder for figures of attention.
        say: is told what is left out.

    Returns:
        How many lines were too long, whose translations are empty.

    Raises:
        UserError: a line can't be read; those before it are written.
    """
    refused, drawn, strange, labelled = 0, 0, 0, list[str]()
    for part in _parts(enumerate(lines, 1), size):
        for number, line in part:
            if unknown := task.unknown(line):
                strange += 1
                if strange <= MOST_TOLD:
                    say(f"line {number} has characters that the training text has not, read as <unk>: {quoted(unknown)}")
        found = task.translate(models, [line for _, line in part], search, n_best=n_best)
        for (number, line), best in zip(part, found, strict=True):
            if best is None:
                refused += 1
                length = f"{len(task.sources([line])[0]):,} sub-words, more than {LONGEST_LINE:,}"
                say(f"line {number} has {length}, and an empty translation: split it")
                best = []
            shown = [(text, hypothesis.score) for text, hypothesis in best]
            shown += [("", -math.inf)] * (n_best - len(shown))  # as many lines for each, also where a search finds fewer
            out.writelines((f"{score:.6g}\t{text}" if scores else text) + "\n" for text, score in shown)
            if figures is not None and drawn < MOST_FIGURES and best and best[0][1].tokens:
                attention, *labels = task.attention(models, line, best[0][1].tokens)
                if max(map(len, labels)) > MOST_LABELS:
                    say(f"line {number} is too long to draw its attention")
                    continue
                drawn += 1
                labelled += chain(*labels)
                save_figure(draw_attention(attention, *labels), figures, f"attention-{number}")
        out.flush()
    if strange > MOST_TOLD:
        say(f"{strange:,} lines have such characters, the first {MOST_TOLD} of which were told")
    if drawn:
        say(f"drew {drawn} figures in {figures}")
    if boxes := lacking(labelled):
        say(boxes)
    return refused


def _parts(lines: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    """So many lines at a time; what was read before a line that can't be, or before Ctrl-C, comes first."""
    part: list[tuple[int, str]] = []
    try:
        for line in lines:
            part.append(line)
            if len(part) == size:
                yield part
                part = []
    except (UserError, KeyboardInterrupt):
        yield part
        raise
    if part:
        yield part
