"""How far gradients reach in an RNN, an LSTM and a G2-LSTM: python experiments/gradient_flow.py; see docs/background.md."""

import time
from pathlib import Path

import interrupts  # noqa: F401 first of all
import torch
from rich.console import Console

from g2lstm import cli
from g2lstm.files import write_atomically
from g2lstm.inspection.jacobians import MODELS, measure_recall
from g2lstm.reporting.figures import save_figure
from g2lstm.reporting.gradient_flow import LABELS, draw, table
from g2lstm.runs.store import Store, key_of
from g2lstm.training.environment import check_committed, environment
from g2lstm.training.progress import duration, say


def gradient_flow(arguments: list[str]) -> int:
    options = _parser().parse_options(arguments)
    torch.set_num_threads(options.threads)
    folder, console = options.out, Console(stderr=True)
    check_committed(folder)
    about = environment(torch.device("cpu"), "auto")
    facts = {"delay": options.delay, "steps": options.steps}
    facts |= {name: about[name] for name in ("hardware", "torch", "threads", "g2lstm", "commit")}
    store, started = Store(folder / "norms.json", ("model", "seed", *facts, "before", "after")), time.monotonic()
    plan = [(name, seed) for seed in range(1, options.seeds + 1) for name in MODELS]
    keys = [key_of(name, seed, facts) for name, seed in plan]
    for done, ((name, seed), key) in enumerate(zip(plan, keys, strict=True), 1):
        if key not in store or facts["commit"].endswith("-dirty"):
            store.add(key, [measure_recall(name, seed, delay=options.delay, steps=options.steps) | facts])
        after = store.rows(key)[0]["after"]
        left = duration((time.monotonic() - started) / done * (len(plan) - done))
        found = f"accuracy {after['accuracy']:.1%}, norm of d h_T / d h_1 {10 ** after['h'][0]:.1e}"
        say(console, f"{done}/{len(plan)}  {LABELS[name]}, seed {seed}: {found} after training  ETA {left}")
    store.keep(keys, store.all())
    text = table(store.all())
    write_atomically(folder / "norms.md", text + "\n")
    written = [store.path, folder / "norms.md", *save_figure(draw(store.all()), folder, "norms")]
    print(text)
    say(console, "wrote " + ", ".join(map(str, written)))
    return 0


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(
        prog="experiments/gradient_flow.py",
        description="Measures d h_T / d h_t before and after training on delayed recall.",
    )
    add = parser.add_argument
    add("--seeds", type=cli.whole(1, 100), default=5, metavar="N", help="seeds 1 to N; %(default)s without it")
    add("--delay", type=cli.whole(1, 1000), default=50, metavar="N", help="longest delay; %(default)s without it")
    add("--steps", type=cli.whole(1, 1_000_000), default=600, metavar="N", help="of training; %(default)s without it")
    add("--threads", type=cli.threads, default=1, metavar="N", help="CPU threads; %(default)s without it")
    add("--out", type=cli.folder, default=Path("runs/gradient_flow"), metavar="DIR", help="%(default)s without it")
    return parser


if __name__ == "__main__":
    cli.main(gradient_flow)
