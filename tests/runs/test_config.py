"""The configuration: what a name means, and one line for each mistake."""

import re
from pathlib import Path

import pytest
import torch

from g2lstm.errors import UserError
from g2lstm.gates import GATES
from g2lstm.models.language_model import LanguageModel
from g2lstm.models.translation import Translator
from g2lstm.runs.compose import CONF, compose
from g2lstm.runs.config import Config, RunConfig, experiment_name, run_name
from g2lstm.runs.device import build_device
from g2lstm.schema import names_of, values_of
from g2lstm.tasks import TASKS, task_class

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
PAPER_TRANSLATION = {
    "model.decoder": "conditional",
    "model.attention": "additive",
    "model.input_feeding": False,
    "model.tied": "none",
    "model.dropout": 0.2,
    "model.readout_dropout": 0.5,
    "model.word_dropout": 0.0,
    "optimizer.name": "adadelta",
    "optimizer.lr": 1.0,
    "optimizer.betas": [0.95, 0.999],  # the first is rho
    "optimizer.clip": 2.0,
    "loss_per": "sentence",
    "label_smoothing": 0.0,
    "batch_tokens": None,
    "data.joint": False,
    "data.longest": 64,
    "eval.limit": None,
    "eval.beam": 5,
    "eval.length_penalty": 1.0,
    "eval.coverage_penalty": 0.0,
    "gate.name": "gumbel",
    "gate.tau": 0.9,
    "gate.gates": ["i", "f"],
}
# Sub-words of a side, embedding, units, layers of the encoder and of the decoder, pairs a batch; and the parameters.
PAPER_SIZES = {
    "iwslt14": ((25_000, 256, 256, 2, 2, 32), 23_367_336),
    "wmt14": ((30_000, 512, 1024, 3, 3, 64), 126_135_088),
}


def config_of(*overrides: str) -> Config:
    return Config.parse(compose(list(overrides)))


def value_of(values, name: str):
    for part in name.split("."):
        values = values[part]
    return values


@pytest.mark.parametrize("overrides", [[], ["task=ptb"]], ids=["default", "task=ptb"])
def test_ptb_alone_is_the_papers_run(overrides):
    values = compose(overrides)
    assert {name: value_of(values, name) for name in PAPER} == PAPER


def test_ptb_has_24_million_parameters():
    options = values_of(config_of("task=ptb").task.model)
    with torch.device("meta"):
        model = LanguageModel(10_000, **{name: value for name, value in options.items() if name not in ("alpha", "beta")})
    sizes = [(400, 1150), (1150, 1150), (1150, 400)]
    lstm = sum(4 * hidden * (size + hidden) + 8 * hidden for size, hidden in sizes)
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_000 * 400 + 10_000 + lstm == 24_221_600


@pytest.mark.parametrize("task", PAPER_SIZES)
def test_translation_tasks_alone_are_the_papers_runs(task):
    values, (sizes, parameters) = compose([f"task={task}"]), PAPER_SIZES[task]
    assert {name: value_of(values, name) for name in PAPER_TRANSLATION} == PAPER_TRANSLATION
    of_model = ["embedding_size", "hidden_size", "encoder_layers", "decoder_layers"]
    names = ["data.vocabulary_size", *(f"model.{name}" for name in of_model), "batch_size"]
    assert tuple(value_of(values, name) for name in names) == sizes
    with torch.device("meta"):
        model = Translator(sizes[0], sizes[0], **values_of(config_of(f"task={task}").task.model))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_settings_carry_every_value():
    settings = config_of("precision=bfloat16", "finetune=false").settings
    assert (settings.lr, settings.clip, settings.weight_decay, settings.nonmonotone) == (30.0, 0.25, 1.2e-6, 5)
    assert (settings.epochs, settings.finetune_epochs, settings.bfloat16) == (500, 0, True)
    assert settings.temperature is not None
    assert settings.temperature(0.7) == 0.9


def test_there_are_no_settings_before_the_precision_is_known():
    with pytest.raises(UserError, match="precision=auto is settled by a run that starts"):
        _ = config_of("precision=auto").settings


EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
# A plain gate has no option, and so refuses what an experiment sets of a gate.
PAIRS = [*((name, "sigmoid") for name in EXPERIMENTS), ("ptb_cpu", "sharpened"), ("ptb_cpu", "gumbel")]


@pytest.mark.parametrize(("experiment", "gate"), PAIRS)
def test_every_experiment_goes_with_every_gate(experiment, gate):
    overrides = [f"experiment={experiment}", f"gate={gate}"]
    config = config_of(*overrides)
    assert config.gate == GATES[gate]()
    assert config.with_values({"precision": "float32"}).settings.epochs >= 1
    assert experiment_name(config.run.task.name, overrides) == experiment
    assert run_name(gate, config.run.seed, overrides) == f"{gate}-seed1"


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
    config = config_of(*overrides).run
    assert run_name(config.gate.name, config.seed, overrides) == name


MISTAKES = [
    ("epoch=3", "there is no option epoch: did you mean epochs?"),
    ("gate.tua=1", "there is no option gate.tua: did you mean gate.tau?"),
    ("lr=3", "there is no option lr: did you mean optimizer.lr?"),
    ("xyzzy=3", "there is no option xyzzy: python train.py --help lists the options"),
    ("+xyzzy=3", "there is no option xyzzy"),
    ("~gate.nope", "there is no option gate.nope"),
    ("ptb", "'ptb' does not parse: write option=value"),
    ("=3", "'=3' does not parse"),
    ("gate=gumble", "gate=gumble does not exist: choose one of gumbel, sharpened, sigmoid"),
    ("gate=3", "gate=3 does not exist"),
    ("experiment=nope", "experiment=nope does not exist: choose one of"),
    ("task=null", "task=null does not exist"),
    ("optimizer=lion", "optimizer=lion does not exist: choose one of adadelta, adamw, sgd"),
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
    ("data.min_count=0", "data.min_count must be at least 1, got 0"),
    ("data.max_vocabulary=2", "data.max_vocabulary must be at least 3, got 2"),
    ("seed=-1", "seed must be at least 0, got -1"),
    ("seed=99999999999", "seed must be at most 4294967295, got 99999999999"),
    ("optimizer.lr=nan", "optimizer.lr must be finite, got nan"),
    ("optimizer.clip=0", "optimizer.clip must be more than 0, got 0"),
    ("optimizer.betas=[0.9]", "optimizer.betas has too few values, got [0.9]: add the others"),
    ("optimizer.betas=[0.9,1.0]", "optimizer.betas.1 must be less than 1, got 1.0"),
    ("model.weight_dropout=1", "model.weight_dropout must be less than 1, got 1"),
    ("model.zoneout=0.1", "model.zoneout must be a list, got 0.1"),
    ("model.recurrent_dropout_kind=c", "model.recurrent_dropout_kind must be one of h, g, g_sequence, got 'c'"),
    ("eval.cache.lambda=1.5", "eval.cache.lambda must be less than 1, got 1.5"),
    ("precision=half", "precision must be one of auto, float32, bfloat16, got 'half'"),
    ("gate.name=hard", "gate.name must be one of"),
]


@pytest.mark.parametrize(("option", "message"), MISTAKES, ids=[option for option, _ in MISTAKES])
def test_a_mistake_is_one_clear_line(option, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        config_of(option)
    assert "\n" not in str(error.value)


ANOTHER = "is no option of the choices made here: another task=... has it"


@pytest.mark.parametrize(
    ("task", "option", "message"),
    [
        ("parallel", "model.encoder_layer", "there is no option model.encoder_layer: did you mean model.encoder_layers?"),
        ("parallel", "batch_token", "there is no option batch_token: did you mean batch_tokens?"),
        ("parallel", "model.num_layers", f"model.num_layers {ANOTHER}"),
        ("mnist", "data.languages", f"data.languages {ANOTHER}"),
    ],
)
def test_a_misspelt_option_is_looked_for_among_those_of_the_chosen_task(task, option, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        config_of(f"task={task}", f"{option}=2")


def test_an_option_of_another_choice_says_so():
    with pytest.raises(UserError, match=r"gate\.tau is no option of the choices made here"):
        config_of("gate=sigmoid", "gate.tau=0.5")


@pytest.mark.parametrize(
    "option", ["gate.tau=-1", "gate.noise_p=2", "gate.noise_scope=word", "gate.gates=[x]", "gate.eps=-1"]
)
def test_a_gates_values_are_checked_by_the_gate(option):
    with pytest.raises(UserError, match="gate: "):
        config_of(option)


def test_an_unknown_device_is_one_line():
    with pytest.raises(UserError, match=r"device=nope can't be used .*: use device=cpu or device=auto"):
        build_device("nope")


def test_a_place_is_the_same_however_it_is_spelt(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "2024").mkdir()
    (tmp_path / "link").symlink_to("2024")
    config = config_of("task=text")
    found = [config.with_values({"data.dir": place}).places for place in (2024, "2024/", "./2024", "~/2024", "link")]
    assert found == [{"dir": str(tmp_path / "2024"), "files": None, "file": None}] * 5
    several = config_of("task=parallel", "data.files={train:[./2024],valid:[b],test:[c]}").places["files"]
    assert several["train"] == [str(tmp_path / "2024")]


def test_workers_do_not_share_a_gpu_by_its_number(monkeypatch):
    monkeypatch.setattr("g2lstm.training.workers.started", lambda: True)
    with pytest.raises(UserError, match="device=cuda:0 would be of all workers: device=cuda or auto gives each its own"):
        build_device("cuda:0")


def test_a_trackers_group_and_tags_can_be_named():
    tracker = config_of("tracker=wandb", "tracker.group=widths", "tracker.tags=[a,b]").run.tracker
    assert (tracker.group, tracker.tags) == ("widths", ("a", "b"))
    assert config_of("tracker=trackio", "tracker.group=widths").run.tracker.group == "widths"


def test_a_folder_may_be_called_like_a_number_and_a_whole_number_is_one():
    config = config_of("data.dir=2024", "optimizer.lr=20")
    assert (config.task.data.dir, config.run.optimizer.lr) == ("2024", 20)


def leaves(values: dict, prefix: str = "") -> list[tuple[str, object]]:
    found = []
    for name, value in values.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


@pytest.mark.parametrize(("task", "gate"), [*((task, "gumbel") for task in TASKS), ("ptb", "sharpened"), ("ptb", "sigmoid")])
def test_every_option_refuses_a_value_of_a_wrong_type_or_out_of_range(task, gate):
    values = compose([f"task={task}", f"gate={gate}"])
    config = Config.parse(values)
    known = names_of(RunConfig) | names_of(task_class(task).Config)
    assert set(values) <= known
    free = {"run_dir", "data.dir", "task.name", "task.source", "task.smaller", "tracker.name", "tracker.project", "device"}
    for name, value in leaves(values):
        wrong = [{"a": 1}] + ([["x", {}]] if not isinstance(value, list) else [3])
        if isinstance(value, bool):
            wrong += [1, "maybe"]
        elif isinstance(value, int | float):
            wrong += ["many", True, -7 if name != "seed" else 2**40, float("nan")]
        elif isinstance(value, str) and name not in free:
            wrong += ["nonsense", 3.5]
        for bad in wrong:
            with pytest.raises(UserError) as error:
                config.with_values({name: bad})
            section = name.rpartition(".")[2]
            assert "\n" not in str(error.value)
            assert section in str(error.value) or str(error.value).startswith(("gate: ", "task.")), (name, bad, error.value)


def test_every_task_of_the_registry_has_its_values():
    assert set(TASKS) == {path.stem for path in (CONF / "task").glob("*.yaml")}
    with pytest.raises(UserError, match=r"task\.name=nope is no task of"):
        task_class("nope")
    with pytest.raises(UserError, match=r"task\.source=nope:Nope can't be imported"):
        task_class("nope", "nope:Nope")


@pytest.mark.parametrize("content", ["a: [1", "- 1", "seed: 1", None])
def test_a_config_that_no_run_wrote_is_one_line(tmp_path, content):
    path = Path(tmp_path / "config.yaml")
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="name a folder that a run wrote") as error:
        Config.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", ["gate.tau_end=0.2", "gate.tau_schedule=cosine"])
def test_a_schedule_and_its_end_go_together(override):
    with pytest.raises(UserError, match="do not go together: set both, or neither"):
        config_of(override)


def test_an_experiment_on_another_task_is_not_called_after_the_experiment():
    overrides = ["experiment=ptb_cpu", "task=builtin"]
    config = config_of(*overrides)
    assert config.task.model.hidden_size == 400
    assert experiment_name(config.run.task.name, overrides) == "builtin"


def test_another_place_of_the_text_is_instead_of_the_runs_own():
    files = {"train": ["a.tsv"], "valid": ["b.tsv"], "test": ["c.tsv"]}
    of_files = config_of("task=parallel").with_values({"data.files": files})
    assert of_files.task.data.files["train"] == ("a.tsv",)
    of_folder = of_files.with_values({"data.dir": "x"})
    assert (of_folder.task.data.dir, of_folder.task.data.files) == ("x", None)
    again = of_folder.with_values({"data.files": files})
    assert (again.task.data.dir, again.values["data"]["files"]) == (None, files)
    both = of_files.with_values({"data.dir": "x", "data.files": files})  # the task refuses them
    assert both.task.data.dir
    assert both.task.data.files
    told = config_of("task=parallel").with_values({"data.tokenised": True, "data.dir": "x"})
    assert told.task.data.tokenised is True
    assert told.with_values({"data.dir": "y"}).task.data.tokenised is None  # it was said of the files in x
    assert told.with_values({"data.dir": None}).task.data.tokenised is True


def test_the_identity_is_of_what_the_numbers_depend_on():
    config = config_of("task=builtin")
    identity = config.identity({"vocabulary.json": "a"})
    for name, value in {"data.dir": "x", "run_dir": "y", "threads": 1, "max_steps": 3, "record": True}.items():
        assert config.with_values({name: value}).identity({"vocabulary.json": "a"}) == identity
    for name, value in {"seed": 2, "optimizer.lr": 1.0, "model.hidden_size": 3, "eval.bptt": 3}.items():
        assert config.with_values({name: value}).identity({"vocabulary.json": "a"}) != identity
    assert config.identity({"vocabulary.json": "b"}) != identity


def test_a_hard_gate_is_asked_for_by_an_option_and_named():
    config = config_of("gate.hard=true")
    assert config.gate.hard
    assert run_name("gumbel", 1, ["gate.hard=true"]) == "gumbel-hardtrue-seed1"
