"""Evaluates runs and compressed models: python evaluate.py run=RUN_DIR split=test eval.cache.enabled=true."""

import glob
import json
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from torch import nn

from g2lstm import cli
from g2lstm.compression.stored import StoredModel
from g2lstm.errors import UserError
from g2lstm.files import read_json, write_atomically
from g2lstm.runs.config import value_of
from g2lstm.runs.device import set_threads
from g2lstm.runs.record import evaluate_model
from g2lstm.runs.run import Run, blamed, find_runs

DESCRIPTION = "Evaluates the best weights of runs, and compressed models, again."


def main(arguments: list[str]) -> int:
    """The exit status of the command with its arguments."""
    epilog = "Any option of the run's config can be changed."
    parser = cli.OptionParser(("average",), prog="evaluate.py", description=DESCRIPTION, epilog=epilog)
    runs = "a run's folder, a model.g2 or a pattern; more with run= again"
    parser.add_argument("--run", required=True, action="append", metavar="RUN", help=runs)
    parser.add_argument("--split", choices=("valid", "test", "both"), default="both")
    parser.add_argument("--json", type=_results, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--device", metavar="DEVICE", help="auto without it")
    parser.add_argument("--eval.X", metavar="VALUE", help="as eval.cache.enabled=true")
    parser.add_argument("--data.X", metavar="VALUE", help="as data.dir=DIR, if the data are not where the run found them")
    options, others = parser.parse_with_others(arguments)
    overrides = {name: value_of(name, text) for name, text in others.items()} | {"device": options.device or "auto"}
    chosen = [model for text in options.run for model in find_models(text, overrides)]
    for one in chosen:
        with blamed(one):
            _ = one.config  # every mistake before the first evaluation
    splits = ("valid", "test") if options.split == "both" else (options.split,)
    found = []
    for one in chosen:
        set_threads(one.config.run.threads if "threads" in overrides else None)
        with blamed(one):
            task = one.task()
            if not any(name.startswith("data.") for name in overrides):
                _refuse_other_text(task, splits)
            metrics = evaluate_model(task, weighted(one, task, options.average), splits)
        for name, value in metrics.items():
            before = f"{one.path}: " if len(chosen) > 1 else ""
            print(f"{before}{name.replace('_', ' ')}: {value:.{task.metric.digits}f}")
        found.append({"run": str(one.path), **metrics})
    if options.json:
        write_atomically(options.json, json.dumps(found if len(found) > 1 else found[0], indent=2) + "\n")
    return 0


def _refuse_other_text(task: Any, splits: tuple[str, ...]) -> None:
    """A UserError where the text is not the run's own any more and nobody said that it is another."""
    try:
        getattr(task, "refuse_other_text", lambda _: None)(splits)
    except UserError as error:
        raise UserError(f"{error}, or say by data.dir=... or data.files=... that it is another") from None


def weighted(chosen: Run | StoredModel, task: Any, average: int | None) -> nn.Module:
    """The model with its best weights, or the mean of those of the last epochs."""
    if average is None:
        return chosen.model(task)
    if isinstance(chosen, StoredModel):
        raise UserError("average=... takes a run: a stored model has one set of weights")
    return chosen.model(task, average=average)


def _results(text: str) -> Path:
    """A file in a folder that is there; of those that exist only what this command wrote is replaced."""
    path = cli.file(text)
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"there is no folder {path.parent}: make it, or name another file")
    if path.exists():
        content: Any = read_json(path, advice="name another file")
        rows = content if isinstance(content, list) else [content]
        if not all(isinstance(row, dict) and "run" in row for row in rows):
            raise ArgumentTypeError(f"{path} is not what this command wrote, and would be replaced: name another file")
    return path


def find_model(name: str, overrides: dict[str, Any]) -> Run | StoredModel:
    """The one run or compressed model of a name; a UserError where it names several."""
    (found, *others) = find_models(name, overrides)
    if others:
        raise UserError(f"run={name} names {len(others) + 1} models: name one")
    return found


def find_models(text: str, overrides: dict[str, Any]) -> list[Run | StoredModel]:
    """The runs and the compressed models that comma-separated names and patterns name."""
    found: list[Run | StoredModel] = []
    for name in text.split(","):
        matches = [Path(path) for path in sorted(glob.glob(name))]  # noqa: PTH207
        files = [path for path in matches if path.is_file()]
        models = [path for path in files if path.suffix == ".g2" or str(path) == name]  # of a pattern no other files
        found += [StoredModel(path, overrides) for path in models]
        if not models or any((path / "config.yaml").is_file() for path in matches):
            found += find_runs(name, overrides)
    return found
