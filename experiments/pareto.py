"""How good, fast and small deployed models are: python experiments/pareto.py runs='results/ptb_cpu/*-seed1'."""

from pathlib import Path

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.benchmark import pareto as measured
from g2lstm.compression.onnx_files import package
from g2lstm.compression.targets import Target
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.reporting.pareto import draw, table
from g2lstm.runs.run import default_folder, find_runs
from g2lstm.runs.store import Store
from g2lstm.training.environment import check_committed
from g2lstm.training.progress import say


def pareto(arguments: list[str]) -> int:
    options, console = _parser().parse_options(arguments), Console(stderr=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in ("onnx", "onnxruntime"):
        package(name)
    forms = measured.parse_forms(options.forms)
    try:
        target = Target.parse(options.gates, options.matrices, options.layers)
    except ValueError as error:
        raise UserError(str(error)) from None
    runs = find_runs(options.runs, cli.overrides(options) | {"device": "cpu"})
    out = options.out or default_folder(runs, "deployment")
    check_committed(out / "pareto.json")
    store = Store(out / "pareto.json", measured.NEEDED)
    rows = measured.measure(
        runs, store, forms=forms, target=target, models=options.models, limit=options.limit, seconds=options.seconds,
        tell=lambda text: say(console, text),
    )  # fmt: skip
    text = table(rows)
    write_atomically(out / "pareto.md", text)
    print(text)
    say(console, "wrote " + ", ".join(str(path) for path in (store.path, out / "pareto.md", *draw(rows, out))))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("runs", "gates", "matrices", "layers", "threads", "data.dir"),
        prog="experiments/pareto.py",
        description="Perplexity, time and size of language models in the forms that they are deployed in.",
    )
    add = parser.add_argument
    add("--forms", metavar="LIST", help=f"as svd:64+bits:8/int8, the rest behind /; {', '.join(measured.FORMS)} without it")
    add("--models", type=lambda text: [Path(part) for part in text.split(",")], default=[], metavar="FILES",
        help="model.g2 files of these runs beside them, as fine-tuned ones")  # fmt: skip
    add("--limit", type=cli.positive, metavar="N", help="perplexity of the first N sentences alone")
    add("--seconds", type=cli.positive, default=60, metavar="N", help="how long times are taken; 60 without it")
    add("--out", type=cli.folder, metavar="DIR", help="results/deployment/EXPERIMENT for recorded runs")
    return parser


if __name__ == "__main__":
    cli.main(pareto)
