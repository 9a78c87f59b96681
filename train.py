"""Trains a model: python train.py task=ptb gate=gumbel seed=1. Without arguments it says what it can do."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import hydra
from omegaconf import DictConfig

from g2lstm import cli
from g2lstm.build import build_settings
from g2lstm.config import CONF, compose_config, expand_sweep
from g2lstm.runner import resume, start

OVERVIEW = """\
g2lstm trains LSTMs whose gates are plain, sharpened, or relaxed coin flips (G2-LSTM).

  python train.py task=ptb                          the paper's language model (24M parameters; days without a GPU)
  python train.py experiment=ptb_cpu gate=gumbel    a smaller one, an hour on one core; gate=sigmoid|sharpened too
  python train.py task=text data.dir=MYDIR          any folder with train, valid and test text
  python train.py task=builtin                      needs no data: the English that comes with Python
  python train.py resume=RUN_DIR                    goes on with a run that was stopped, bit for bit
  python evaluate.py run=RUN_DIR                    evaluates a finished run again
  python train.py --help                            every option"""


def main(arguments: list[str]) -> int:
    if not arguments:
        print(OVERVIEW)
        return 0
    if any(text.startswith("resume=") for text in arguments):
        return resume(arguments)
    if "-m" in arguments or "--multirun" in arguments:
        return start_each(expand_sweep([text for text in arguments if text not in ("-m", "--multirun")]))
    if any(text.startswith("-") for text in arguments):
        show_with_hydra()
        return 0
    return start(compose_config(arguments), arguments)


def start_each(runs: list[list[str]]) -> int:
    """Several runs one after the other; one that fails does not keep the others from running, Ctrl-C does.

    Returns:
        the worst status.
    """
    configs = [compose_config(overrides) for overrides in runs]  # a mistake is found before the first run starts
    for config in configs:
        build_settings(config)
    worst = 0
    for number, (config, overrides) in enumerate(zip(configs, runs, strict=True), 1):
        print(f"run {number} of {len(runs)}: {' '.join(overrides)}", flush=True)
        status = cli.guarded(lambda: start(config, overrides))  # noqa: B023 - called at once
        if status == 130:
            return status
        worst = max(worst, status)
    return worst


@hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
def show_with_hydra(_: DictConfig) -> None:
    """What Hydra's flags show: --help, --cfg job, --info."""
    raise SystemExit("error: of Hydra's flags only -m starts runs; --help lists the options")


if __name__ == "__main__":
    cli.main(main)
