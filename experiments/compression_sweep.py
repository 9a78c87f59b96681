"""How trained models bear compression: python experiments/compression_sweep.py runs='results/ptb_cpu/*'."""

import hashlib
import json
import signal
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import torch
from omegaconf import OmegaConf
from rich.console import Console

from g2lstm import build, cli
from g2lstm.compression.presets import PRESETS, chosen_methods
from g2lstm.compression.sweep import Results, Row, Run, Subject, plan, run_sweep
from g2lstm.compression.targets import Target, find_blocks
from g2lstm.errors import UserError
from g2lstm.figures import gate_label
from g2lstm.files import write_atomically
from g2lstm.inspection.measure import weights_digest
from g2lstm.reporting.sweep_curves import draw
from g2lstm.reporting.sweep_tables import tables
from g2lstm.runs import NamedRun, Overrides, default_folder, load_run, named_runs, run_config
from g2lstm.training.progress import duration, say
from g2lstm.training.tasks import LanguageModelTask

CACHES = {"both": (False, True), "true": (True,), "false": (False,)}


def compression_sweep(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    overrides = {"data.dir": getattr(options, "data.dir"), "device": options.device}
    try:
        settings = [text for text in options.settings.split(",") if text]
        presets = (options.preset or ("" if settings else "paper")).split(",")
        methods = chosen_methods([name for name in presets if name], settings)
        target = Target.parse(options.gates, options.matrices, options.layers)
        runs = describe(named_runs(options.runs, overrides), target, options.split)
        evaluations = plan(runs, methods, target, CACHES[options.cache], options.split)
        out = options.out or default_folder([run.path for run in runs], "compression")
        results = Results(out / "sweep.json")
        console = Console(stderr=True)
        done = sum(evaluation in results for evaluation in evaluations)
        say(console, f"{len(evaluations)} evaluations of {len(runs)} runs, {done} of them done before; writing to {out}")
        load = partial(load_subject, overrides=overrides)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run_sweep(evaluations, results, load, jobs=options.jobs, threads=options.threads, finished=partial(_tell, console))
    except ValueError as error:
        raise UserError(str(error)) from None
    rows = results.finish(evaluations)
    text = tables(rows)
    write_atomically(out / "sweep.md", text)
    print(text)
    say(console, "wrote " + ", ".join(str(path) for path in (results.path, out / "sweep.md", *draw(rows, out))))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/compression_sweep.py",
        description="Evaluates trained models under compression of their gates; an interrupted sweep goes on.",
    )
    parser.add_argument("--runs", required=True, metavar="DIRS", help="run directories: names or patterns, comma-separated")
    presets = "; ".join(f"{name}: {', '.join(settings)}" for name, settings in PRESETS.items() if name != "curves")
    parser.add_argument("--preset", metavar="LIST", help=f"of these, paper without it or settings. {presets}; curves")
    parser.add_argument("--settings", default="", metavar="LIST", help="as svd:H/16,round:0.2+clip:0.4,bits:4")
    parser.add_argument("--gates", default="if", help="which of i, f, g, o; if without it")
    parser.add_argument("--matrices", default="both", help="input, recurrent or both")
    parser.add_argument("--layers", default="all", help="numbers or names, comma-separated; all without it")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--cache", choices=tuple(CACHES), default="both", help="with the cache pointer: both, true, false")
    parser.add_argument("--jobs", type=cli.positive, default=1, metavar="N", help="parallel processes")
    parser.add_argument("--threads", type=cli.positive, metavar="N", help="CPU threads of each; an equal share without it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data.dir", metavar="DIR", help="where the corpus is, if not where the run found it")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="results/compression/EXPERIMENT for recorded runs")
    return parser


def describe(named: list[NamedRun], target: Target, split: str) -> list[Run]:
    """What the sweep's rows say of each run.

    Raises:
        UserError: a run's model has no such blocks.
    """
    runs = []
    for run in named:
        vocabulary = build.vocabulary_of(run.path)
        with torch.device("meta"):
            model = build.build_language_model(run.config, len(vocabulary))
        try:
            find_blocks(model, target)
        except ValueError as error:
            raise UserError(f"{run.path}: {error}") from None
        text = getattr(build.build_corpus(run.config.data, vocabulary), split)
        settings = json.dumps(OmegaConf.to_container(run.config.eval), sort_keys=True)
        evaluated = hashlib.sha256(text.numpy().tobytes() + settings.encode()).hexdigest()[:20]
        has_cache = hasattr(LanguageModelTask, "evaluate_with_cache")
        runs.append(Run(run.path, run.gate, run.seed, has_cache, weights_digest(run.path), evaluated))
    return runs


def load_subject(path: Path, overrides: Overrides) -> Subject:
    """A run's best weights and its task."""
    config = run_config(path, overrides)
    task, model = load_run(path, config)
    return Subject(task, model, build.build_cache(config.eval.cache))


def _tell(console: Console, row: Row, number: int, count: int, left: float) -> None:
    cache = " with cache" if row["cache"] else ""
    what = f"{gate_label(row['gate'])} seed {row['seed']}, {row['setting']}{cache}: {row['metric']} {row['value']:.2f}"
    say(console, f"{number}/{count}  {what}  ({duration(row['seconds'])})  ETA {duration(left)}")


if __name__ == "__main__":
    cli.main(compression_sweep)
