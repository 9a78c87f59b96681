"""Trains a model: python train.py task=ptb gate=gumbel seed=1. Without arguments it says what it can do."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from g2lstm import cli
from g2lstm.config import compose_config
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


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
def run_with_hydra(_: DictConfig) -> None:
    """One of several runs, or whatever else Hydra's own flags ask for."""
    overrides = list(HydraConfig.get().overrides.task)
    status = cli.guarded(lambda: start(compose_config(overrides), overrides))
    if status:
        sys.exit(status)


def main(arguments: list[str]) -> int:
    if not arguments:
        print(OVERVIEW)
        return 0
    if any(text.startswith("-") for text in arguments):
        run_with_hydra()
        return 0
    if any(text.startswith("resume=") for text in arguments):
        return resume(arguments)
    return start(compose_config(arguments), arguments)


if __name__ == "__main__":
    cli.main(main)
