"""How trained models bear compression: python experiments/compression_sweep.py runs='results/ptb_cpu/*'."""

import signal
from functools import partial

import interrupts  # noqa: F401 first of all
from rich.console import Console

from g2lstm import cli
from g2lstm.compression import sweep
from g2lstm.compression.methods import PRESETS, chosen_methods
from g2lstm.compression.targets import Target
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.reporting.figures import gate_label
from g2lstm.reporting.sweeps import draw, tables
from g2lstm.runs.run import default_folder, find_runs
from g2lstm.runs.store import Row
from g2lstm.training.progress import duration, say


def compression_sweep(arguments: list[str]) -> int:
    options, console = _parser().parse_options(arguments), Console(stderr=True)
    try:
        methods = chosen_methods(options.preset, options.settings)
        target = Target.parse(options.gates, options.matrices, options.layers)
    except ValueError as error:
        raise UserError(str(error)) from None
    runs = find_runs(options.runs, cli.overrides(options))
    out = options.out or default_folder(runs, "compression")
    store = sweep.open_store(out / "sweep.json")
    found = sweep.subjects(runs, target, options.split, options.limit)
    evaluations = sweep.plan(found, methods, target, options.split, variants=options.variants)
    done = sum(one.key in store for one in evaluations)
    say(console, f"{len(evaluations)} evaluations of {len(runs)} runs, {done} of them done before; writing to {out}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = partial(_tell, console)
    rows = sweep.run_sweep(evaluations, store, jobs=options.jobs, threads=options.threads, finished=tell)
    text = tables(rows)
    write_atomically(out / "sweep.md", text)
    print(text)
    say(console, "wrote " + ", ".join(str(path) for path in (store.path, out / "sweep.md", *draw(rows, out))))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        ("runs", "gates", "matrices", "layers", "device", "data.dir"),
        prog="experiments/compression_sweep.py",
        description="Evaluates trained models under compression of their gates; an interrupted sweep goes on.",
    )
    presets = "; ".join(f"{name}: {', '.join(settings)}" for name, settings in PRESETS.items() if name != "curves")
    parser.add_argument("--preset", metavar="LIST", help=f"of these, paper without it or settings. {presets}; curves")
    parser.add_argument("--settings", metavar="LIST", help="as svd:H/16,round:0.2+clip:0.4,bits:4")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--variants", default="all", metavar="LIST", help="ways to evaluate, as plain,cache; all without it")
    parser.add_argument("--limit", type=cli.positive, metavar="N", help="the first N sentences or images alone")
    parser.add_argument("--jobs", type=cli.positive, default=1, metavar="N", help="parallel processes")
    parser.add_argument("--threads", type=cli.threads, metavar="N", help="CPU threads of each; an equal share without it")
    parser.add_argument("--out", type=cli.folder, metavar="DIR", help="results/compression/EXPERIMENT for recorded runs")
    return parser


def _tell(console: Console, row: Row, number: int, count: int, left: float) -> None:
    variant = f" with {row['variant']}" if row["variant"] else ""
    value = f"{row['metric']} {row['value']:.{row.get('digits', 2)}f}"
    what = f"{gate_label(row['gate'])} seed {row['seed']}, {row['setting']}{variant}: {value}"
    say(console, f"{number}/{count}  {what}  ({duration(row['seconds'])})  ETA {duration(left)}")


if __name__ == "__main__":
    cli.main(compression_sweep)
