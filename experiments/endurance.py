"""Kills a run at random moments and compares its end with an undisturbed one: python experiments/endurance.py workers=2.

Other options are train.py's; without any a small language model is trained in both stages, with all that has a state.
"""

import json
import tempfile
from pathlib import Path

import interrupts  # noqa: F401 first of all

from g2lstm import cli
from g2lstm.commands.endurance import endure, started
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.training.environment import check_committed

SMALL = (
    *("task=builtin", "data.min_count=20", "batch_size=80", "model.embedding_size=32", "model.hidden_size=32"),
    *("model.dropout_embedding=0.1", "model.weight_dropout=0.3", "model.alpha=2"),
    *("optimizer=sgd", "optimizer.lr=10", "optimizer.nonmonotone=1", "epochs=8", "finetune=true", "finetune_epochs=3"),
)


def endurance(arguments: list[str]) -> int:
    options, others = _parser().parse_with_others(arguments)
    given = [f"{name}={value}" for name, value in others.items()] or list(SMALL)
    path = options.out or Path(f"results/endurance/workers-{options.workers}.json")
    check_committed(path)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        try:
            found = endure(
                [*given, f"seed={options.seed}"], place, started(place),
                kills=options.kills, workers=options.workers, seed=options.seed,
            )  # fmt: skip
        except UserError as error:
            said = [line for output in place.glob("output-*.txt") for line in output.read_text().splitlines()[-3:]]
            raise UserError(f"{error} ({' '.join(said)})") from None
    write_atomically(path, json.dumps(found, indent=1) + "\n")
    good = found["same_weights"] and found["same_curve"] and not found["unreadable"]
    text = "the same weights and curve" if good else "NOT THE SAME, see the file"
    print(f"{found['kills']} kills, {found['unreadable']} times unreadable, {text} as undisturbed; wrote {path}")
    return 0 if good else 1


def _parser() -> cli.OptionParser:
    parser = cli.OptionParser(prog="experiments/endurance.py", description="Kills a run at random moments.")
    parser.add_argument("--workers", type=cli.positive, default=1, metavar="N", help="processes that train; %(default)s")
    parser.add_argument("--kills", type=cli.positive, default=20, metavar="N", help="%(default)s")
    parser.add_argument("--seed", type=cli.seed, default=1, help="of the run and of the moments; %(default)s")
    parser.add_argument("--out", type=cli.file, metavar="FILE", help="results/endurance/workers-<N>.json without it")
    return parser


if __name__ == "__main__":
    cli.main(endurance)
