"""Stores a trained model small: python experiments/compress.py run=RUN_DIR method=svd rank=64 out=model.g2."""

import json
from functools import partial
from shlex import quote

import interrupts  # noqa: F401 first of all
from rich.console import Console

from g2lstm import cli
from g2lstm.commands.tune import tuned
from g2lstm.compression.deploy import REST
from g2lstm.compression.methods import EXAMPLES, Method
from g2lstm.compression.model_file import save_model
from g2lstm.compression.stored import deploy_run
from g2lstm.compression.targets import Target
from g2lstm.compression.tuning import LR_SHARE
from g2lstm.errors import UserError
from g2lstm.runs.run import Run
from g2lstm.training.interruption import StopSignals


def compress(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    if not options.tune and (options.tune_lr is not None or options.seed is not None):
        raise UserError("tune_lr= and seed= are of fine-tuning: set tune=1 too, or leave them out")
    lr_share = LR_SHARE if options.tune_lr is None else options.tune_lr
    seed = 1 if options.seed is None else options.seed
    run = Run.open(options.run, cli.overrides(options))
    try:
        method = parse_method(options.method, options.rank)
        target = Target.parse(options.gates, options.matrices, options.layers)
        deployed = deploy_run(run, method, target, rest=options.rest)
    except ValueError as error:
        raise UserError(str(error)) from None
    with StopSignals() as stop:
        if options.tune:
            deployed = tuned(run, deployed, options.tune, lr_share, seed, Console(stderr=True), stop)
        size, full = save_model(options.out, deployed), deployed.float32_bytes
    print(f"{method.label} of {target}; the rest in {options.rest}")
    print(f"{options.out}: {size / 1e6:.2f} MB, {size / full:.3f} of the {full / 1e6:.2f} MB that float32 takes")
    file = quote(f"run={options.out}")
    print(f"evaluate it with: python evaluate.py {' '.join([file, *_places(run)])}")
    if hasattr(run.config.task_class, "translate"):
        print(f"translate with: python experiments/translate.py {file} < lines")
    return 130 if stop.asked else 0


def _places(run: Run) -> list[str]:
    """The options that say where its data are, which the file doesn't keep."""
    data = run.config.values.get("data", {})
    found = {name: data[name] for name in ("dir", "file", "files") if data.get(name)}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
    return [quote(f"data.{name}={text}") for name, text in texts.items()]


def parse_method(method: str, rank: str | None) -> Method:
    """The setting that the two options name: method=svd rank=64 is svd:64."""
    if (method == "svd") != (rank is not None):
        given = f"method={method}" + (f" and rank={rank}" if rank else " alone")
        raise UserError(f"method=svd and rank=64, or as rank=H/16, go together, got {given}")
    return Method.parse(f"svd:{rank}" if rank else method)


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("gates", "matrices", "layers", "data.dir", "device"),
        prog="experiments/compress.py",
        description="Writes a compressed model to one small file.",
    )
    parser.add_argument("--run", required=True, metavar="RUN_DIR", help="a run directory, or a folder under results/")
    parser.add_argument("--method", default="original", help=f"svd with rank=, or a setting as {EXAMPLES}")
    parser.add_argument("--rank", metavar="K", help="a number, or a share of the layer's hidden units as H/16")
    parser.add_argument("--rest", choices=REST, default="float32", help="matrices that are not compressed")
    parser.add_argument(
        "--tune", type=cli.penalty, default=0.0, metavar="N", help="fine-tune in this form, N passes over train"
    )
    parser.add_argument("--tune_lr", type=cli.penalty, metavar="X", help=f"of the run's rate; {LR_SHARE} without it")
    parser.add_argument("--seed", type=cli.seed, metavar="N", help="of fine-tuning; 1 without it")
    parser.add_argument("--out", type=partial(cli.file, own=".g2"), required=True, metavar="FILE", help="as model.g2")
    return parser


if __name__ == "__main__":
    cli.main(compress)
