"""python train.py: what it writes, what it says, and its answers to mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf
from safetensors.torch import load_file

import train
from g2lstm import cli
from g2lstm.commands import train as train_command
from g2lstm.errors import UserError
from g2lstm.runs.device import DEFAULT_THREADS
from g2lstm.runs.start import _locked
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.folder import RunFolder
from g2lstm.training.tracking import Tracker

ROOT = Path(__file__).resolve().parent.parent.parent

SUMMARY = {
    *("task", "experiment", "gate", "gate_tau", "gate_noise_p", "seed", "parameters", "epochs", "valid_perplexity"),
    *("test_perplexity", "valid_perplexity_cache", "test_perplexity_cache", "seconds", "words_per_second", "hardware"),
    *("torch", "commit"),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*arguments: str) -> int:
    return cli.guarded(lambda: train.main(list(arguments)))


def summary(run: str) -> dict:
    return json.loads(Path(run, "summary.json").read_text())


def valid_lines(run: str) -> list[dict]:
    lines = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "valid"]


def test_without_arguments_it_says_what_it_can_do(capsys):
    assert command() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 10
    for word in ("task=ptb", "experiment=ptb_cpu", "data.dir=", "resume=", "evaluate.py", "--help"):
        assert word in "".join(lines)


def test_a_finished_run_leaves_everything(tiny, capsys):
    assert command(*tiny, "seed=5") == 0
    printed = capsys.readouterr().out
    run = next(Path("runs/text").iterdir())
    assert {path.name for path in run.iterdir()} == {
        *("config.yaml", "environment.json", "vocabulary.json", "metrics.jsonl", "best.safetensors", "last.safetensors"),
        *("summary.json", "best-before-finetune.safetensors", "losses.safetensors"),
    }
    found = summary(str(run))
    assert set(found) >= SUMMARY
    assert all(not isinstance(value, dict | list) for value in found.values())
    assert (found["task"], found["experiment"], found["gate"], found["seed"]) == ("text", "text", "gumbel", 5)
    assert (found["gate_tau"], found["gate_noise_p"], found["epochs"], found["finished"]) == (0.9, 0.2, 4, True)
    layers = 4 * 12 * (8 + 12) + 8 * 12 + 4 * 8 * (12 + 8) + 8 * 8
    assert found["parameters"] == 21 * 8 + 21 + layers
    best = min(line["perplexity"] for line in valid_lines(str(run)))
    assert found["valid_perplexity"] == pytest.approx(best, rel=1e-9)
    assert f"valid perplexity {best:.2f}" in printed
    assert OmegaConf.load(run / "config.yaml").seed == 5
    assert found["words_per_second"] > 0


def test_finetune_false_leaves_the_stage_out(tiny):
    assert command(*tiny, "finetune=false", "eval.cache.enabled=false", "run_dir=run") == 0
    assert {line["stage"] for line in valid_lines("run")} == {"train"}
    found = summary("run")
    assert found["epochs"] == 2
    assert not [key for key in found if key.endswith("_cache")]


def test_training_finds_what_follows_what(tiny):
    chosen = [text for text in tiny if not text.startswith(("optimizer", "epochs", "model.num_layers"))]
    chosen += ["optimizer=adamw", "optimizer.lr=0.02", "epochs=8", "finetune=false", "eval.cache.enabled=false"]
    parts = ("dropout_input", "dropout_hidden", "dropout_output", "dropout_embedding", "weight_dropout", "alpha", "beta")
    plain = ["model.num_layers=1", "model.tied=false", *(f"model.{part}=0" for part in parts)]
    assert command(*chosen, *plain, "run_dir=run") == 0
    valid = valid_lines("run")
    assert valid[-1]["perplexity"] < 13 < valid[0]["perplexity"]  # of 21 words; three may follow each


@pytest.mark.parametrize("gate", ["sigmoid", "sharpened"])
def test_other_gates_say_in_the_summary_what_they_are(tiny, gate):
    assert command(*tiny, f"gate={gate}", "max_steps=2", "run_dir=run") == 0
    found = summary("run")
    assert (found["gate"], found["gate_tau"]) == (gate, {"sigmoid": None, "sharpened": 0.2}[gate])
    assert found["gate_noise_p"] is None


def test_max_steps_ends_with_everything_written(tiny, capsys):
    assert command(*tiny, "epochs=1", "finetune_epochs=1", "max_steps=4", "run_dir=run") == 0
    found = summary("run")
    assert set(found) >= SUMMARY
    assert (found["finished"], found["steps"], found["epochs"]) == (False, 4, 0)
    assert load_checkpoint(Path("run/last.safetensors"))["position"]["step"] == 4
    assert "go on with: python train.py resume=run" in capsys.readouterr().out
    assert command("resume=run") == 0
    assert summary("run")["finished"] is True


def test_the_main_stage_is_reported_beside_the_finetune_stage(tiny):
    assert command(*tiny, "epochs=1", "finetune_epochs=1", "run_dir=run", "eval.cache.enabled=false") == 0
    found = summary("run")
    assert found["valid_perplexity"] <= found["valid_perplexity_without_finetune"]
    before = load_checkpoint(Path("run/best-before-finetune.safetensors"))
    assert found["valid_perplexity_without_finetune"] == pytest.approx(before["metrics"]["perplexity"])


def test_a_limited_run_that_is_resumed_keeps_its_limit(tiny, monkeypatch):
    with monkeypatch.context() as patch:  # the run is stopped after three steps
        patch.setattr("g2lstm.training.loop.Trainer._report", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert command(*tiny, "max_steps=6", "run_dir=run") == 130
    assert load_checkpoint(Path("run/last.safetensors"))["position"]["step"] == 3
    assert command("resume=run") == 0
    assert summary("run")["steps"] == 6


def one_line(capsys) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=3"], "there is no option epoch: did you mean epochs?"),
        (["task=text", "data.dir=missing"], "data.dir=missing is not a folder"),
        (["task=ptb", "data.download=false"], "no ptb corpus: looked in"),
        (["gate.noise_p=2", "task=builtin"], "gate: noise_p must be in [0, 1], got 2"),
        (["task=builtin", "eval.test_batch_size=9000"], "tokens are too few for batch_size 9000"),
        (["task=builtin", "device=nope"], "device=nope can't be used"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run(capsys, monkeypatch, arguments, message):
    monkeypatch.delenv("G2LSTM_DATA", raising=False)
    assert command(*arguments) == 2
    assert message in one_line(capsys)
    assert not Path("runs").exists()


def test_what_cannot_be_resumed_says_why(tiny, capsys):
    Path("empty").mkdir()
    assert command(*tiny, "finetune=false", "epochs=1", "eval.cache.enabled=false", "run_dir=run") == 0
    capsys.readouterr()
    for arguments, message in (
        (["resume=empty"], "empty is not a run directory"),
        (["resume=run"], "run is finished: python evaluate.py run=run evaluates it again"),
        (["resume=run", "optimizer.lr=1"], "a resumed run keeps its config, optimizer.lr can't be given: only max_steps"),
        (["resume=run", "faster"], "a resumed run keeps its config, faster can't be given"),
        (["resume=run", "max_steps=ten"], "max_steps must be a whole number, got 'ten'"),
        (["resume=run", "max_steps=0"], "max_steps must be at least 1, got 0"),
    ):
        assert command(*arguments) == 2
        assert message in one_line(capsys)


def test_going_on_elsewhere_is_one_line_of_warning(tiny, capsys):
    assert command(*tiny, "max_steps=2", "run_dir=run") == 0
    environment = json.loads(Path("run/environment.json").read_text())
    Path("run/environment.json").write_text(json.dumps(environment | {"hardware": "another", "threads": 64}))
    capsys.readouterr()
    assert command("resume=run", "max_steps=3") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "not bit for bit the same (hardware another -> " in lines[0]
    assert "threads 64 -> 1" in lines[0]


def test_a_signal_in_the_last_evaluation_loses_nothing(tiny, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("g2lstm.tasks.language_model.ContinuousCache", interrupt)
        assert command(*tiny, "run_dir=run", "record=true", "epochs=1", "finetune=false") == 130
    assert capsys.readouterr().out.splitlines()[-1] == "stopped and saved; go on with: python train.py resume=run"
    assert not Path("run/summary.json").exists()
    assert command("resume=run") == 0
    assert summary("run")["finished"] is True
    assert len(list(Path("results").rglob("summary.json"))) == 1


def test_the_paper_model_advises_the_small_one_when_it_takes_days(tiny, text_dir, capsys, monkeypatch):
    monkeypatch.setattr("g2lstm.training.loop.Trainer._eta", lambda *_: 1e6)
    options = ["task=text", "task.smaller='experiment=ptb_cpu'", f"data.dir={text_dir}", "max_steps=3", "run_dir=run"]
    assert command(*tiny[2:], *options) == 0
    assert "about 11.6 days to go on this device; experiment=ptb_cpu is a smaller model" in capsys.readouterr().out


def test_help_names_the_commands(commands):
    printed = commands.run("--help")
    for text in ("python train.py task=ptb", "resume=", "experiment=ptb_cpu", "gumbel", "optimizer", "noise_p: 0.2"):
        assert text in printed


def test_multirun_runs_each_and_tells_of_a_failure(tiny, capsys):
    """The second of three diverges: the third runs all the same."""
    options = ["max_steps=2", "eval.cache.enabled=false", "optimizer.clip=inf", "checkpoint_minutes=0"]
    assert command("-m", *tiny, *options, "optimizer.lr=5,1e38,4") == 2
    assert "not finite at step" in one_line(capsys)
    summaries = [json.loads(path.read_text()) for path in Path("runs/text").rglob("summary.json")]
    assert len(summaries) == 2
    assert len(list(Path("runs/text").iterdir())) == 3


def test_a_mistake_in_one_job_of_a_sweep_is_one_line(tiny, capsys):
    assert command("-m", *tiny, "max_steps=2", "eval.cache.enabled=false", "seed=1,-2") == 2
    assert one_line(capsys) == "error: seed must be at least 0, got -2"
    assert len(list(Path("runs/text").iterdir())) == 1


def test_a_sweep_that_is_repeated_does_what_is_missing_and_finishes_what_was_stopped(tiny, capsys):
    short = [*tiny, "epochs=1", "finetune=false", "eval.cache.enabled=false"]
    assert command("-m", *short, "seed=1") == 0
    found = {path: path.read_bytes() for path in Path("runs/text").rglob("*.json*")}
    run = next(Path("runs/text").iterdir())
    stopped = run.with_name(run.name.replace("seed1", "seed2"))
    assert command(*short, "seed=2", f"run_dir={stopped}") == 0
    (stopped / "summary.json").unlink()  # as of a run that was killed
    capsys.readouterr()
    assert command("-m", *short, "seed=1,2,3") == 0
    printed = capsys.readouterr().out
    assert f"{run} has finished before" in printed
    assert f"{stopped} holds an unfinished run of the same options: going on with it" in printed
    assert len(list(Path("runs/text").glob("*/summary.json"))) == 3
    assert {path: path.read_bytes() for path in found} == found


def test_runs_of_other_data_are_other_runs_that_a_repeated_sweep_finds(tiny, text_dir, tmp_path, capsys):
    shutil.copytree(text_dir, other := tmp_path / "other")
    train_text = next(other.glob("*train*"))
    train_text.write_text("".join(train_text.read_text().splitlines(keepends=True)[:-1]))
    short = [*tiny, "epochs=1", "finetune=false", "eval.cache.enabled=false", f"data.dir={text_dir},{other}"]
    assert command("-m", *short) == 0
    one, two = sorted(Path("runs/text").iterdir())
    assert two.name == f"{one.name}-2"
    assert OmegaConf.load(two / "config.yaml").data.dir == str(other)
    assert summary(one)["test_perplexity"] != summary(two)["test_perplexity"]
    (two / "summary.json").unlink()  # as of a run that was killed
    capsys.readouterr()
    assert command("-m", *short) == 0
    printed = capsys.readouterr().out
    assert f"{one} has finished before" in printed
    assert f"{two} holds an unfinished run of the same options: going on with it" in printed
    assert sorted(Path("runs/text").iterdir()) == [one, two]


def test_a_run_in_the_working_directory_leaves_its_neighbours_alone(tiny, tmp_path):
    short = [*tiny, "max_steps=2", "eval.cache.enabled=false", "run_dir=."]
    assert command(*short) == 0
    assert summary(".")["seed"] == 1
    try:
        assert command(*short, "seed=2") == 0
        assert summary(f"{tmp_path}-2")["seed"] == 2
    finally:
        shutil.rmtree(f"{tmp_path}-2", ignore_errors=True)


def test_what_fails_in_a_sweep_is_forgotten_with_its_model(monkeypatch, tmp_path):
    """The exception, which Hydra keeps, has no traceback of where it began, and so no model."""
    found = SimpleNamespace(
        mode=RunMode.MULTIRUN, runtime=SimpleNamespace(output_dir=str(tmp_path / "run")),
        job=SimpleNamespace(num=0), overrides=SimpleNamespace(task=[]),
    )  # fmt: skip

    def fails(*_, **__):
        raise UserError("not enough memory")

    monkeypatch.setattr(train_command.HydraConfig, "get", lambda: found)
    monkeypatch.setattr(train_command, "plain", lambda _: {})
    monkeypatch.setattr(train_command, "start", fails)
    with pytest.raises(train_command.JobError) as raised:
        train_command.job(None)
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_want_of_memory_is_told_from_other_errors(tiny, capsys, monkeypatch, error, known):
    monkeypatch.setattr("g2lstm.training.loop.Trainer.fit", lambda _: (_ for _ in ()).throw(error))
    if known:
        assert command(*tiny, "run_dir=run") == 2
        assert "not enough memory" in one_line(capsys)
    else:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            command(*tiny, "run_dir=run")


def test_a_tracker_goes_on_with_its_own_run_alone_and_kept_epochs_stay(tiny, capsys, monkeypatch):
    asked = []

    def build(name, **options):
        asked.append((name, options["run_id"]))
        tracker = Tracker()
        tracker.run_id = None if name == "none" else f"{name}-id"
        return tracker

    monkeypatch.setattr("g2lstm.runs.start.build_tracker", build)
    short = [*tiny, "epochs=1", "finetune=false", "eval.cache.enabled=false", "run_dir=run"]
    for more in ["tracker=wandb"], ["tracker=trackio"], ["tracker=trackio"], ["keep_epochs=2"]:
        Path("run/summary.json").unlink(missing_ok=True)  # as of a run that was killed
        capsys.readouterr()
        assert command(*short, *more) == 0
        assert ("keep_epochs=0 stays, as the run began with it" in capsys.readouterr().out) is (more == ["keep_epochs=2"])
    assert asked == [("wandb", None), ("trackio", None), ("trackio", "trackio-id"), ("none", None)]


def test_what_a_resumed_run_may_change_is_taken_from_the_command_that_resumes_it(tiny, capsys):
    short = [*tiny, "epochs=1", "finetune=false", "eval.cache.enabled=false", "run_dir=run"]
    assert command(*short) == 0
    try:
        for again in (short, ["resume=run"]):
            Path("run/summary.json").unlink()  # as of a run that was killed
            assert command(*again, "record=true", "threads=2", "device=cpu", "log_every=1") == 0
            assert "(threads 1 -> 2)" in capsys.readouterr().out
    finally:
        torch.set_num_threads(1)
    assert len(list(Path("results").rglob("summary.json"))) == 1


def test_two_processes_do_not_train_in_one_folder(tiny, capsys):
    assert command(*tiny, "run_dir=run", "max_steps=2", "eval.cache.enabled=false") == 0
    with _locked(RunFolder(Path("run"))):
        assert command("resume=run") == 2
        assert one_line(capsys) == "error: another process trains in run: wait for it, or stop it"


def test_an_interrupted_job_ends_a_sweep(tiny, monkeypatch):
    monkeypatch.setattr("g2lstm.tasks.language_model.ContinuousCache", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert command("-m", *tiny, "epochs=1", "finetune=false", "seed=1,2") == 130
    assert len(list(Path("runs/text").iterdir())) == 1


def test_hydras_own_folder_options_are_followed(tiny):
    assert command(*tiny, "max_steps=1", "eval.cache.enabled=false", "hydra.run.dir=here") == 0
    assert summary("here")["steps"] == 1
    assert command("-m", *tiny, "max_steps=1", "eval.cache.enabled=false", "hydra.sweep.dir=there") == 0
    assert len(list(Path("there").rglob("summary.json"))) == 1
    assert not Path("runs").exists()


def test_a_number_of_threads_does_not_outlive_its_run(tiny):
    before = torch.get_num_threads()
    options = [*(text for text in tiny if not text.startswith("threads")), "max_steps=1", "eval.cache.enabled=false"]
    try:
        assert command(*options, "threads=2", "run_dir=two") == command(*options, "run_dir=default") == 0
    finally:
        torch.set_num_threads(before)
    found = [json.loads(Path(run, "environment.json").read_text())["threads"] for run in ("two", "default")]
    assert found == [2, DEFAULT_THREADS]


def test_a_model_too_large_for_memory_is_one_line_and_leaves_nothing(tiny, capsys):
    assert command(*tiny, "model.hidden_size=99999999", "run_dir=run") == 2
    assert "not enough memory" in one_line(capsys)
    assert not Path("run").exists()


def test_the_search_path_and_a_task_of_ones_own(tiny, text_dir):
    Path("more/task").mkdir(parents=True)
    Path("more/task/mine.yaml").write_text(
        "# @package _global_\ndefaults: [text]\n"
        "task: {name: mine, source: 'g2lstm.tasks.language_model:LanguageModelTask'}\n"
    )
    options = ["task=mine", *tiny[1:], "max_steps=1", "eval.cache.enabled=false", "run_dir=run"]
    assert command(*options, f"hydra.searchpath=[file://{Path('more').absolute()}]") == 0
    assert summary("run")["task"] == "mine"


def test_ctrl_c_during_the_imports_shows_no_traceback():
    script = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "task=builtin"]
    with subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        while "torch" not in started.stderr.readline():
            pass
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate()
    assert started.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in errors


def test_the_engine_that_trains_is_written_down(tiny):
    assert command(*tiny, "max_steps=1", "run_dir=run", "model.engine=bptt") == 0
    assert json.loads(Path("run/environment.json").read_text())["engine"] == "bptt"
    assert command(*tiny, "max_steps=1", "run_dir=other") == 0
    assert json.loads(Path("other/environment.json").read_text())["engine"] in ("native", "bptt", "triton")


def test_the_losses_of_all_words_give_the_perplexity(tiny):
    assert command(*tiny, "max_steps=3", "run_dir=run") == 0
    losses, found = load_file("run/losses.safetensors"), summary("run")
    for split in ("valid", "test"):
        for cache in ("", "_cache"):
            values = losses[f"{split}{cache}"]
            assert values.dtype == torch.float16
            assert values.float().mean().exp().item() == pytest.approx(found[f"{split}_perplexity{cache}"], rel=1e-3)


def test_dropout_is_scaled_or_refused_in_one_line(tiny, capsys):
    assert command(*tiny, "max_steps=1", "run_dir=run", "model.dropout_scale=9") == 2
    assert "dropout rates must be in [0, 1)" in capsys.readouterr().err
    assert not Path("run").exists()


def test_a_mistake_removes_no_folder_that_was_there(tiny, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert command(*tiny, "seed=-1", f"hydra.run.dir={tmp_path}/empty/run") == 2
    assert one_line(capsys) == "error: seed must be at least 0, got -1"
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_precision_auto_is_settled_by_the_hardware_when_a_run_starts(tiny, capsys, monkeypatch):
    for has, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("g2lstm.runs.start.multiplies_bfloat16", lambda _, has=has: has)
        short = [*tiny, "precision=auto", f"run_dir={precision}"]
        assert command(*short, "max_steps=2") == 0
        assert ("precision=float32, as bfloat16 is not known to be fast on this cpu" in capsys.readouterr().out) is not has
        assert summary(precision)["precision"] == OmegaConf.load(f"{precision}/config.yaml").precision == precision
        monkeypatch.setattr("g2lstm.runs.start.multiplies_bfloat16", lambda _, has=has: not has)
        assert command(f"resume={precision}", "max_steps=4") == 0  # what was settled stays, wherever it goes on
        assert (summary(precision)["precision"], summary(precision)["steps"]) == (precision, 4)
        assert ("precision=float32 is probably faster" in capsys.readouterr().out) is has


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_the_same_command_finds_its_run_where_auto_would_be_another_precision(tiny, capsys, monkeypatch, sweep):
    short = [*sweep, *tiny, "precision=auto", "epochs=1", "finetune=false", "eval.cache.enabled=false"]
    monkeypatch.setattr("g2lstm.runs.start.multiplies_bfloat16", lambda _: True)
    assert command(*short) == 0
    (run,) = Path("runs/text").iterdir()
    before = summary(str(run))
    monkeypatch.setattr("g2lstm.runs.start.multiplies_bfloat16", lambda _: False)
    if sweep:
        assert command(*short) == 0
        assert f"{run} has finished before" in capsys.readouterr().out
    (run / "summary.json").unlink()  # as of a run that was killed
    assert command(*short) == 0
    assert "an unfinished run of the same options: going on with it" in capsys.readouterr().out
    assert (summary(str(run))["precision"], summary(str(run))["steps"]) == ("bfloat16", before["steps"])
    assert list(Path("runs/text").iterdir()) == [run]
