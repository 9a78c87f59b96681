"""Hydra: composing a config from `conf/`, the folder that it gives a job, and one line for what it says in many."""

import difflib
import re
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from g2lstm.errors import UserError
from g2lstm.files import conf_folder
from g2lstm.runs.config import experiment_name, given, run_name

CONF = conf_folder()
GROUPS = ("task", "gate", "optimizer", "tracker", "experiment")
HELP = "python train.py --help lists the options"
OVERVIEW = """\
g2lstm trains LSTMs whose gates are plain, sharpened, or relaxed coin flips (G2-LSTM).

  python train.py task=ptb                          the paper's language model (24M parameters; days without a GPU)
  python train.py experiment=ptb_cpu gate=gumbel    a smaller one, for two cores; gate=sigmoid|sharpened too
  python train.py task=text data.dir=MYDIR          any folder with train, valid and test text; task=parallel: pairs
  python train.py task=builtin                      needs no data: English that comes with Python; task=numbers translates
  python train.py -m experiment=... seed=1,2,3      several runs; hydra/launcher=joblib runs them in parallel
  python train.py resume=RUN_DIR                    goes on with a run that was stopped, bit for bit
  python evaluate.py run=RUN_DIR                    evaluates a finished run again
  python train.py --help                            every option"""
BAD_CONFIG = (HydraException, OmegaConfBaseException, ValueError)  # the last for a choice that is no text


def compose(overrides: list[str]) -> dict[str, Any]:
    """The values that command-line overrides such as "gate.tau=0.5" ask for, outside a Hydra job.

    Raises:
        UserError: an option or choice that does not exist, or a value that does not parse.
    """
    try:
        return _composed(overrides)
    except BAD_CONFIG as error:
        raise UserError(explain(error, overrides)) from None


def _composed(overrides: list[str]) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(hydra_compose("train", overrides=overrides))


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain dictionaries and lists; a UserError where a value is still missing."""
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is needed: add {error.full_key}=...") from None
    return {str(key): value for key, value in values.items() if key != "hydra"}  # type: ignore[union-attr]


def job_folder(above: str = "", *, _root_: DictConfig) -> str:
    """`run_dir`, or <above><experiment or task>/<gate>[-overrides]-seed<N>: where Hydra has a job write."""
    overrides = list(_root_.hydra.overrides.task)
    name = f"{experiment_name(_root_.task.name, overrides)}/{run_name(_root_.gate.name, _root_.seed, overrides)}"
    return str(_root_.run_dir or above + name)


for _name, _resolver in (("job_folder", job_folder), ("overview", lambda: OVERVIEW)):  # conf/train.yaml asks for them
    OmegaConf.register_new_resolver(f"g2lstm.{_name}", _resolver, replace=True)


def explain(error: Exception, overrides: list[str]) -> str:
    """One line for what Hydra says in many."""
    text, nameless = str(error), next((override for override in overrides if override.startswith("=")), None)
    if broken := error.override if isinstance(error, OverrideParseException) else nameless:
        return f"{broken!r} does not parse: write option=value, and quote text that has blanks, commas or brackets"
    if type(error) is ValueError:
        if "Config group override" not in text:
            raise error
        chosen = given(overrides)
        group = next((name for name in GROUPS if not re.match(r"[A-Za-z_]\w*$|.*,", chosen.get(name, "none"))), "task")
        return _no_choice(group, chosen.get(group, "null"))
    if unknown := re.search(r"Could not override '([^']*)'", text):
        return _unknown_option(unknown[1], overrides)
    if missing := re.search(r"Could not find '([^']*)/([^']*)'", text):
        return _no_choice(missing[1], missing[2])
    if deleted := re.search(r"Could not delete from config\. '([^']*)' does not exist", text):
        return _unknown_option(deleted[1], overrides)
    if "Ambiguous value for argument" in text:
        return "an option was given several values: python train.py -m runs one after the other"
    if "does not support sweep type" in text:
        text += ": write values as 1,2,3, range(1,4), choice(a,b) or glob(*), or choose another sweeper"
    return " ".join(text.split("\nAvailable options")[0].split())


def _no_choice(group: str, name: str) -> str:
    if group == "hydra/launcher":
        text = "is not installed: basic always is; pip install 'g2lstm[launchers]' brings joblib and submitit"
        return f"{group}={name} {text}"
    known = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    return f"{group}={name} does not exist: " + (f"choose one of {known}" if known else HELP)


def _unknown_option(name: str, overrides: list[str]) -> str:
    GlobalHydra.instance().clear()  # what a failed command left
    chosen = [f"{group}={choice}" for group, choice in given(overrides).items() if _is_choice(group, choice)]
    known = [*GROUPS, *leaves(_composed(chosen))]
    group = name.partition(".")[0]
    group = group if group in GROUPS else "task"
    if name in known or any(name in leaves(_composed([f"{group}={path.stem}"])) for path in (CONF / group).glob("*.yaml")):
        return f"{name} is no option of the choices made here: another {group}=... has it"
    near = difflib.get_close_matches(name, known, n=1) or [key for key in known if key.endswith(f".{name}")]
    return f"there is no option {name}: " + (f"did you mean {near[0]}?" if near else HELP)


def _is_choice(group: str, name: str) -> bool:
    return group in GROUPS and (CONF / group / f"{name}.yaml").is_file()


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by the full names of their options, as "optimizer.lr"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
