"""A run's config: composing it from `conf/`, checking what the user typed, naming the run."""

import difflib
import itertools
import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from g2lstm.engines import ENGINES
from g2lstm.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("task", "gate", "optimizer", "tracker", "experiment")

# Options whose default is null, with what they may be set to.
_NULLABLE: dict[str, type] = {
    "threads": int,
    "max_steps": int,
    "run_dir": str,
    "data.dir": str,
    "data.min_count": int,
    "data.max_vocabulary": int,
    "gate.tau_end": float,
    "tracker.mode": str,
}
_AT_LEAST: dict[str, float] = {
    "threads": 1,
    "max_steps": 1,
    "epochs": 1,
    "finetune_epochs": 1,
    "batch_size": 1,
    "bptt": 1,
    "accumulate": 1,
    "log_every": 1,
    "seed": 0,
    "checkpoint_minutes": 0,
    "eval.bptt": 1,
    "eval.valid_batch_size": 1,
    "eval.test_batch_size": 1,
    "eval.cache.window": 1,
    "eval.cache.theta": 0,
    "model.embedding_size": 1,
    "model.hidden_size": 1,
    "model.num_layers": 1,
    "model.dropout_scale": 0,
    "model.alpha": 0,
    "model.beta": 0,
    "optimizer.lr": 0,
    "optimizer.weight_decay": 0,
    "optimizer.nonmonotone": 1,
    "data.min_count": 1,
    "data.max_vocabulary": 2,
}
_SHARES = (
    "model.dropout_input",
    "model.dropout_hidden",
    "model.dropout_output",
    "model.dropout_embedding",
    "model.weight_dropout",
    "optimizer.warmup",
    "optimizer.betas",
    "eval.cache.lambda",
)  # in [0, 1)
_CHOICES: dict[str, tuple[str, ...]] = {
    "gate.name": ("sigmoid", "sharpened", "gumbel"),
    "precision": ("float32", "bfloat16"),
    "optimizer.name": ("sgd", "adamw"),
    "optimizer.schedule": ("constant", "warmup_cosine"),
    "optimizer.average": ("none", "nonmonotone"),
    "tracker.name": ("none", "wandb"),
    "model.engine": ("auto", *ENGINES),
}
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", list: "a list"}
LARGEST_SEED = 2**32 - 1
# What doesn't change a run's numbers, but for rounding, does not change its name.
_NAMELESS = (
    *("experiment", "task", "gate", "seed", "run_dir", "record", "tracker", "threads", "device"),
    *("record_weights", "record_unfinished", "log_every", "checkpoint_minutes", "profile", "data.dir", "data.download"),
)
_SHORT = {"gate.noise_p": "p", "gate.tau": "tau", "model.dropout_scale": "dropout"}


def compose_config(overrides: list[str]) -> DictConfig:
    """The config that command-line overrides such as "gate.tau=0.5" ask for, checked.

    Raises:
        UserError: an option or choice that does not exist, or a value that does not parse or is out of range.
    """
    for text in overrides:
        key, separator, value = text.partition("=")
        if not key or not separator or key.startswith("~"):
            raise UserError(f"{text!r} is not an option: write option=value; python train.py --help lists the options")
        _check_choice(_key(key), value)
    try:
        if any(override.is_sweep_override() for override in OverridesParser.create().parse_overrides(overrides)):
            raise UserError("an option was given several values: python train.py -m runs one after the other")
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", overrides=overrides)
            defaults = compose("train", overrides=[text for text in overrides if _key(text) in GROUPS])
        check_types(config, defaults)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides)) from None
    check_values(config)
    return config


def load_config(path: Path) -> DictConfig:
    """The config that a run wrote.

    Raises:
        UserError: it can't be read.
    """
    try:
        config = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"can't read {path} ({str(error).splitlines()[0]}): name a folder that a run wrote") from None
    if not isinstance(config, DictConfig) or "experiment_name" not in config:
        raise UserError(f"{path} is not the config of a run: name a folder that a run wrote")
    return config


def expand_sweep(overrides: list[str]) -> list[list[str]]:
    """The overrides of each run that -m asks for: ["seed=1,2"] gives [["seed=1"], ["seed=2"]].

    Raises:
        UserError: an override that does not parse.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(explain(error, overrides)) from None
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [text]
        for override, text in zip(parsed, overrides, strict=True)
    ]
    return [list(choice) for choice in itertools.product(*choices)]


def explain(error: Exception, overrides: list[str]) -> str:
    """One line for what Hydra says in many."""
    text = str(error)
    if unknown := re.search(r"Could not override '([^']*)'", text):
        return _unknown_option(unknown[1])
    if (broken := _first_that_does_not_parse(overrides)) is not None:
        return f"{broken!r} does not parse: write option=value, and quote text that has blanks, commas or brackets"
    return " ".join(text.split())


def check_types(config: DictConfig, defaults: DictConfig) -> None:
    """Every value has the type of its default.

    Raises:
        UserError: naming the first that has not.
    """
    given, known = dict(_leaves(config)), dict(_leaves(defaults))
    for key in given.keys() - known.keys():
        raise UserError(_unknown_option(key))
    for key, default in known.items():
        value = given.get(key, "???")
        if value == "???":
            raise UserError(f"{key} is needed: add {key}=...")
        expected = _NULLABLE.get(key) or (str if default == "???" else type(default))
        nullable = default is None
        if expected is type(None) or (value is None and nullable):
            continue
        good = isinstance(value, expected) or (expected is float and isinstance(value, int))
        if good and isinstance(value, bool) == (expected is bool):
            continue
        if expected is not str or not isinstance(value, int | float):
            raise UserError(f"{key} must be {_NAMES.get(expected, expected.__name__)}, got {value!r}")
        OmegaConf.update(config, key, str(value))  # a folder may be called 2024


def check_values(config: DictConfig) -> None:
    """Values that only make sense in a range. What a library class checks itself is not checked here.

    Raises:
        UserError: naming the first that is out of range.
    """
    for key, least in _AT_LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and not value >= least:
            raise UserError(f"{key} must be at least {least:g}, got {value}")
    for key in _SHARES:
        value = OmegaConf.select(config, key)
        for share in value if isinstance(value, ListConfig) else [value]:
            if share is not None and not (isinstance(share, int | float) and 0 <= share < 1):
                raise UserError(f"{key} must be in [0, 1), got {value}")
    for key, choices in _CHOICES.items():
        value = OmegaConf.select(config, key)
        if value is not None and value not in choices:
            raise UserError(f"{key} must be one of {', '.join(choices)}, got {value}")
    if len(config.optimizer.betas) != 2:
        raise UserError(f"optimizer.betas must be two numbers, got {list(config.optimizer.betas)}")
    if not config.optimizer.clip > 0:
        raise UserError(f"optimizer.clip must be > 0, got {config.optimizer.clip}: optimizer.clip=inf does not clip")
    if config.seed > LARGEST_SEED:
        raise UserError(f"seed must be at most {LARGEST_SEED}, got {config.seed}")


def as_dict(config: DictConfig) -> dict[str, Any]:
    """The config as plain dictionaries and lists."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def run_name(config: DictConfig, overrides: list[str]) -> str:
    """<gate>[-overrides]-seed<N>, for example gumbel-p0.5-seed1."""
    parts = [config.gate.name]
    for text in overrides:
        key, value = _key(text), text.split("=", 1)[1]
        if key not in _NAMELESS and not key.startswith(("eval.", "tracker.", "hydra.")):
            parts.append(_SHORT.get(key, key.split(".")[-1]) + re.sub(r"[^\w.+-]+", "_", value).strip("_"))
    return "-".join([*parts, f"seed{config.seed}"])


def experiment_name(config: DictConfig, overrides: list[str]) -> str:
    """The experiment chosen on the command line, unless on another task; else the task."""
    chosen = {_key(text): text.split("=", 1)[1] for text in overrides}
    experiment = chosen.get("experiment", "null")
    return config.task.name if experiment == "null" or "task" in chosen else experiment


def _check_choice(group: str, name: str) -> None:
    """Raises UserError where `group` is a config group that has no file `name`; Hydra skips an experiment it can't find."""
    if (
        group not in GROUPS
        or "," in name
        or (group, name) == ("experiment", "null")
        or (CONF / group / f"{name}.yaml").is_file()
    ):
        return
    known = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
    raise UserError(f"{group}={name} does not exist: choose one of {known}")


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def _leaves(config: DictConfig, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in config:
        key = f"{prefix}{name!s}"
        value = "???" if OmegaConf.is_missing(config, name) else config[name]
        if isinstance(value, DictConfig):
            found += _leaves(value, f"{key}.")
        else:
            found.append((key, OmegaConf.to_object(value) if OmegaConf.is_config(value) else value))
    return found


def _unknown_option(name: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = [key for key, _ in _leaves(compose("train"))] + list(GROUPS)
    if name in known:
        return f"{name} is no option of the choices made here: another {name.split('.')[0]}=... has it"
    near = difflib.get_close_matches(name, known, n=1) or [key for key in known if key.endswith(f".{name}")]
    hint = f"did you mean {near[0]}?" if near else "python train.py --help lists the options"
    return f"there is no option {name}: {hint}"


def _first_that_does_not_parse(overrides: list[str]) -> str | None:
    parser = OverridesParser.create()
    for text in overrides:
        try:
            parser.parse_override(text)
        except HydraException:
            return text
    return None
