"""Trains a model: python train.py task=ptb gate=gumbel seed=1. Without arguments it says what it can do."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports shows no traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2lstm import cli
from g2lstm.config import CONF, compose_config, expand_sweep
from g2lstm.runner import resume, start

OVERVIEW = """\
g2lstm trains LSTMs whose gates are plain, sharpened, or relaxed coin flips (G2-LSTM).

  python train.py task=ptb                          the paper's language model (24M parameters; days without a GPU)
  python train.py experiment=ptb_cpu gate=gumbel    a smaller one, half an hour on two cores; gate=sigmoid|sharpened too
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
    if any(text.startswith("-") for text in arguments):
        return _with_hydra(arguments)
    return start(compose_config(arguments), arguments)


def _with_hydra(arguments: list[str]) -> int:
    """Several runs one after the other (-m), or whatever else Hydra's own flags ask for."""
    if "-m" in arguments or "--multirun" in arguments:  # a mistake is found before the first run starts
        for overrides in expand_sweep([text for text in arguments if not text.startswith(("-", "hydra"))]):
            compose_config(overrides)
    statuses = [0]

    @hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")
    def run(_: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        statuses.append(cli.guarded(lambda: start(compose_config(overrides), overrides)))
        if statuses[-1] == 130:
            sys.exit(130)

    run()
    return max(statuses)


if __name__ == "__main__":
    cli.main(main)
