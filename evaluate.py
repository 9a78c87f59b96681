"""Evaluates a finished run or a compressed model: python evaluate.py run=RUN_DIR split=test eval.cache.enabled=true."""

import json
import signal
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

from omegaconf import OmegaConf

from g2lstm import build, cli
from g2lstm.compression.model_file import load_model
from g2lstm.config import check_values, load_config
from g2lstm.results import evaluate_model, load_best, origin
from g2lstm.training.rundir import RunDirectory


def evaluate(arguments: list[str]) -> int:
    parser = cli.OptionParser(prog="evaluate.py", description="Evaluates the best weights of a run, or a compressed model.")
    parser.add_argument(
        "--run", required=True, metavar="RUN_DIR", help="a run directory, a folder under results/, or a model.g2"
    )
    parser.add_argument("--split", choices=("valid", "test", "both"), default="both")
    parser.add_argument("--data.dir", metavar="DIR", help="where the corpus is, if not where the run found it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--eval.batch_size", type=int, metavar="B", help="parallel streams; the run's own without it")
    parser.add_argument("--eval.cache.enabled", type=cli.flag, metavar="true|false", help="also with the cache pointer")
    parser.add_argument("--eval.cache.window", type=int, metavar="WORDS")
    parser.add_argument("--eval.cache.theta", type=float)
    parser.add_argument("--eval.cache.lambda", type=float)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    options = vars(parser.parse_options(arguments))

    path = Path(options["run"])
    deployed = load_model(path) if path.is_file() else None
    if deployed is None:
        run = RunDirectory.open(path)
        config, vocabulary = load_config(run.config), build.vocabulary_of(run.path)
    else:
        config, vocabulary = origin(deployed, path)
    for name in ("data.dir", "eval.cache.enabled", "eval.cache.window", "eval.cache.theta", "eval.cache.lambda"):
        if options[name] is not None:
            OmegaConf.update(config, name, options[name])
    if options["eval.batch_size"] is not None:
        config.eval.valid_batch_size = config.eval.test_batch_size = options["eval.batch_size"]
    check_values(config)
    device = build.build_device(options["device"])
    task = build.build_task(config, build.build_corpus(config.data, vocabulary), device)
    model = deployed.model().to(device) if deployed else load_best(run, task.build_model().to(device))
    splits = ("valid", "test") if options["split"] == "both" else (options["split"],)
    metrics = evaluate_model(task, model, splits, config)
    for name, value in metrics.items():
        print(f"{name.replace('_', ' ')}: {value:.2f}")
    if options["json"]:
        options["json"].write_text(json.dumps({"run": str(path), **metrics}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    cli.main(evaluate)
