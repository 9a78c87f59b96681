"""The configuration: what a name means, and one line for each mistake."""

import re
from pathlib import Path

import pytest
import torch

from g2lstm import build
from g2lstm.config import CONF, compose_config, expand_sweep, experiment_name, load_config, run_name
from g2lstm.errors import UserError

GATES = ("sigmoid", "sharpened", "gumbel")

PAPER = {
    "model.num_layers": 3,
    "model.embedding_size": 400,
    "model.hidden_size": 1150,
    "model.tied": True,
    "model.weight_dropout": 0.5,
    "model.dropout_input": 0.4,
    "model.dropout_hidden": 0.25,
    "model.dropout_output": 0.4,
    "model.dropout_embedding": 0.1,
    "model.alpha": 2.0,
    "model.beta": 1.0,
    "optimizer.name": "sgd",
    "optimizer.lr": 30.0,
    "optimizer.weight_decay": 1.2e-6,
    "optimizer.clip": 0.25,
    "optimizer.schedule": "constant",
    "optimizer.average": "nonmonotone",
    "optimizer.nonmonotone": 5,
    "batch_size": 20,
    "bptt": 70,
    "random_length": True,
    "epochs": 500,
    "finetune": True,
    "finetune_epochs": 500,
    "accumulate": 1,
    "max_steps": None,
    "eval.valid_batch_size": 10,
    "eval.test_batch_size": 1,
    "eval.cache.window": 500,
    "eval.cache.theta": 1.0,
    "eval.cache.lambda": 0.1,
    "gate.name": "gumbel",
    "gate.tau": 0.9,
    "gate.tau_schedule": "constant",
    "gate.noise_p": 0.2,
    "gate.eps": 0.0,
    "gate.gates": ["i", "f"],
}


def value_of(config, name: str):
    for part in name.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("overrides", [[], ["task=ptb"]], ids=["default", "task=ptb"])
def test_ptb_alone_is_the_papers_run(overrides):
    config = compose_config(overrides)
    assert {name: value_of(config, name) for name in PAPER} == PAPER


def test_ptb_has_24_million_parameters():
    with torch.device("meta"):
        model = build.build_language_model(compose_config(["task=ptb"]), 10_000)
    sizes = [(400, 1150), (1150, 1150), (1150, 400)]
    lstm = sum(4 * hidden * (size + hidden) + 8 * hidden for size, hidden in sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_000 * 400 + 10_000 + lstm == 24_221_600


def test_settings_carry_every_value():
    settings = build.build_settings(compose_config(["precision=bfloat16", "finetune=false"]))
    assert (settings.lr, settings.clip, settings.weight_decay, settings.nonmonotone) == (30.0, 0.25, 1.2e-6, 5)
    assert (settings.epochs, settings.finetune_epochs, settings.bfloat16) == (500, 0, True)
    assert settings.temperature is not None
    assert settings.temperature(0.7) == 0.9


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_goes_with_every_gate(experiment, gate):
    overrides = [f"experiment={experiment}", f"gate={gate}"]
    config = compose_config(overrides)
    assert build.build_gate(config.gate) == build.build_gate(compose_config([f"gate={gate}"]).gate)
    build.build_settings(config)
    assert (experiment_name(config, overrides), run_name(config, overrides)) == (experiment, f"{gate}-seed1")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "gumbel-seed1"),
        (["gate=sigmoid", "seed=2"], "sigmoid-seed2"),
        (["experiment=ptb_cpu", "gate=gumbel", "gate.noise_p=0.5"], "gumbel-p0.5-seed1"),
        (["gate=sharpened", "gate.tau=0.4", "seed=3"], "sharpened-tau0.4-seed3"),
        (["gate.gates=[i,f,o]"], "gumbel-gatesi_f_o-seed1"),
        (["epochs=3", "optimizer.lr=1"], "gumbel-epochs3-lr1-seed1"),
        (["threads=2", "run_dir=x", "record=true", "data.dir=a/b", "log_every=1", "eval.bptt=9"], "gumbel-seed1"),
        (
            ["checkpoint_minutes=1", "device=cpu", "data.download=false", "tracker=wandb", "tracker.mode=offline"],
            "gumbel-seed1",
        ),
    ],
)
def test_run_names_say_what_is_special(overrides, name):
    assert run_name(compose_config(overrides), overrides) == name


MISTAKES = [
    ("epoch=3", "there is no option epoch: did you mean epochs?"),
    ("gate.tua=1", "there is no option gate.tua: did you mean gate.tau?"),
    ("lr=3", "there is no option lr: did you mean optimizer.lr?"),
    ("xyzzy=3", "there is no option xyzzy: python train.py --help lists the options"),
    ("+xyzzy=3", "there is no option xyzzy"),
    ("~gate.tau", "is not an option: write option=value"),
    ("ptb", "'ptb' is not an option: write option=value"),
    ("=3", "'=3' is not an option"),
    ("gate=gumble", "gate=gumble does not exist: choose one of gumbel, sharpened, sigmoid"),
    ("gate=3", "gate=3 does not exist"),
    ("experiment=nope", "experiment=nope does not exist: choose one of"),
    ("task=null", "task=null does not exist"),
    ("optimizer=lion", "optimizer=lion does not exist: choose one of adamw, sgd"),
    ("epochs=many", "epochs must be a whole number, got 'many'"),
    ("epochs=1.5", "epochs must be a whole number, got 1.5"),
    ("epochs=null", "epochs must be a whole number, got None"),
    ("threads=two", "threads must be a whole number, got 'two'"),
    ("gate.tau=warm", "gate.tau must be a number, got 'warm'"),
    ("model.tied=1", "model.tied must be true or false, got 1"),
    ("gate.gates=i", "gate.gates must be a list, got 'i'"),
    ("gate.tau=[1", "'gate.tau=[1' does not parse"),
    ("data.dir=a,b", "an option was given several values"),
    ("epochs=0", "epochs must be at least 1, got 0"),
    ("seed=-1", "seed must be at least 0, got -1"),
    ("seed=99999999999", "seed must be at most"),
    ("optimizer.lr=nan", "optimizer.lr must be at least 0, got nan"),
    ("optimizer.clip=0", "optimizer.clip must be > 0, got 0: optimizer.clip=inf does not clip"),
    ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
    ("optimizer.betas=[0.9,1.0]", "optimizer.betas must be in [0, 1)"),
    ("model.weight_dropout=1", "model.weight_dropout must be in [0, 1), got 1"),
    ("eval.cache.lambda=1.5", "eval.cache.lambda must be in [0, 1), got 1.5"),
    ("precision=half", "precision must be one of float32, bfloat16, got half"),
    ("gate.name=hard", "gate.name must be one of"),
]


@pytest.mark.parametrize(("option", "message"), MISTAKES, ids=[option for option, _ in MISTAKES])
def test_a_mistake_is_one_clear_line(option, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compose_config([option])
    assert "\n" not in str(error.value)


def test_an_option_of_another_choice_says_so():
    with pytest.raises(UserError, match=r"gate\.tau is no option of the choices made here"):
        compose_config(["gate=sigmoid", "gate.tau=0.5"])


@pytest.mark.parametrize(
    "option", ["gate.tau=-1", "gate.noise_p=2", "gate.noise_scope=word", "gate.gates=[x]", "gate.eps=-1"]
)
def test_a_gates_values_are_checked_when_it_is_built(option):
    config = compose_config([option])
    with pytest.raises(UserError, match="gate: "):
        build.build_settings(config)


def test_an_unknown_device_is_one_line():
    with pytest.raises(UserError, match=r"device=nope can't be used .*: use device=cpu or device=auto"):
        build.build_device("nope")


def test_a_folder_may_be_called_like_a_number():
    assert compose_config(["data.dir=2024"]).data.dir == "2024"


def test_whole_numbers_pass_for_numbers():
    assert compose_config(["optimizer.lr=20"]).optimizer.lr == 20


def test_a_sweep_is_every_combination():
    runs = expand_sweep(["task=ptb", "seed=1,2", "gate=sigmoid,gumbel"])
    assert runs == [["task=ptb", f"seed={seed}", f"gate={gate}"] for seed in (1, 2) for gate in ("sigmoid", "gumbel")]
    assert expand_sweep(["seed=range(1,4)"]) == [["seed=1"], ["seed=2"], ["seed=3"]]
    with pytest.raises(UserError, match="does not parse"):
        expand_sweep(["seed=[1"])


@pytest.mark.parametrize("content", ["a: [1", "- 1", "seed: 1", None])
def test_a_config_that_no_run_wrote_is_one_line(tmp_path, content):
    path = Path(tmp_path / "config.yaml")
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="name a folder that a run wrote") as error:
        load_config(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["gate.tau_end=0.2", "gate.tau_schedule=cosine"])
def test_a_schedule_and_its_end_go_together(override):
    with pytest.raises(UserError, match="do not go together: set both, or neither"):
        build.build_settings(compose_config([override]))


def test_an_experiment_on_another_task_is_not_called_after_the_experiment():
    overrides = ["experiment=ptb_cpu", "task=builtin"]
    config = compose_config(overrides)
    assert config.model.hidden_size == 400
    assert experiment_name(config, overrides) == "builtin"
