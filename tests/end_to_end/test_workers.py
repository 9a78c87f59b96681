"""Several workers follow the curve of one, noise and dropout included, and end together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT
from tests.end_to_end.test_translation import write_corpus
from tests.tasks.test_mnist import write_mnist

STEPS = 30
ALL = ["threads=1", "log_every=1"]


@pytest.fixture(scope="module")
def language_model(tiny):
    return [*tiny, "epochs=20", "optimizer.lr=5", "finetune=false", "batch_size=5", "log_every=1"]


@pytest.fixture(scope="module")
def translation(tmp_path_factory):
    sizes = {"data.vocabulary_size": 34, "model.embedding_size": 12, "model.hidden_size": 12, "batch_tokens": 40}
    sizes |= {"eval.beam": 1, "threads": 1, "log_every": 1, "model.dropout": 0.2, "model.word_dropout": 0.1}
    folder = write_corpus(tmp_path_factory.mktemp("pairs"))
    given = ["task=parallel", f"data.dir={folder}", "data.languages=[xx,yy]", "model.decoder=stacked", "optimizer=adamw"]
    return [*given, *(f"{name}={value}" for name, value in sizes.items()), "optimizer.lr=0.01"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    sizes = {"data.counts": "null", "mnist.valid": 10, "batch_size": 7, "model.hidden_size": 8, "model.dropout": 0.2}
    folder = write_mnist(tmp_path_factory.mktemp("images"))
    given = [f"{name}={value}" for name, value in sizes.items()]
    return ["task=mnist", f"data.dir={folder}", *given, "precision=float32", "epochs=20", *ALL]


def curve(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in curve(run)]


def trained(run: Path) -> dict[int, float]:
    """The loss of each training step."""
    return {line["step"]: line["loss"] for line in curve(run) if line["kind"] == "train"}


def finish(workers) -> list[str]:
    """What each said, where all end well."""
    assert [worker.wait() for worker in workers] == [0] * len(workers), [worker.text() for worker in workers]
    return [worker.text() for worker in workers]


@pytest.mark.parametrize("kind", ["words", "pairs", "images", "values"])
def test_workers_follow_the_curve_of_one(commands, language_model, translation, images, tmp_path, kind):
    """Noise is drawn by kernels and in tensors, batches are of odd widths, and at last of fewer sequences than workers."""
    values = ["task=series", "model.num_layers=2", "model.dropout=0.2", "batch_size=5", "model.hidden_size=8"]
    kinds = {"words": language_model, "pairs": translation, "images": images, "values": [*values, *ALL]}
    options = [*kinds[kind], "gate=gumbel", f"max_steps={STEPS}"]
    commands.run(*options, "run_dir=1")
    alone = losses(tmp_path / "1")
    assert len(alone) > STEPS
    said = finish(commands.workers(3, *options, "run_dir=3"))
    assert losses(tmp_path / "3") == pytest.approx(alone, abs=1e-4)
    assert "max_steps ended the run" in said[0]
    assert said[1:] == ["", ""]
    found = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("1", "3")]
    assert (found[0].get("workers"), found[1]["workers"]) == (None, 3)
    assert found[1][f"test_{found[1]['metric']}"] == pytest.approx(found[0][f"test_{found[0]['metric']}"], rel=1e-3)


def test_another_number_of_workers_goes_on_with_a_run(commands, language_model, tmp_path):
    options = [*language_model, "accumulate=2"]
    commands.run(*options, "run_dir=straight", "max_steps=24")
    finish(commands.workers(2, *options, "run_dir=parts", "max_steps=9"))
    said = finish(commands.workers(3, "resume=parts", "max_steps=17"))
    assert "not bit for bit the same (workers 2 -> 3)" in said[0].replace("\n", " ")
    commands.run("resume=parts", "max_steps=24")
    every = [number for number in range(24) if number not in (8, 16)]  # where an end evaluated within an epoch
    straight, parts = (trained(tmp_path / run) for run in ("straight", "parts"))
    assert [parts[step + 1] for step in every] == pytest.approx([straight[step + 1] for step in every], abs=1e-4)


def test_a_worker_that_is_killed_in_training_is_said_in_one_line(commands, language_model, tmp_path):
    """What they end as when they go on is in test_endurance.py."""
    workers = commands.workers(2, *language_model, "checkpoint_minutes=0", "epochs=1000", "run_dir=killed")
    while not (tmp_path / "killed" / "last.safetensors").exists():
        assert "error" not in workers[0].text()
        time.sleep(0.005)
    workers[1].send(signal.SIGKILL)
    assert (workers[0].wait(), workers[1].wait()) == (2, -signal.SIGKILL)
    said = workers[0].text().splitlines()
    assert said[-1].startswith("error: a worker has gone: the same command, or train.py resume=killed, goes on")
    assert workers[1].text() == ""


def test_what_ends_one_ends_all_in_one_line(commands, language_model, tmp_path):
    for options, status, line in (
        (["model.hidden_size=no"], 2, "error: model.hidden_size"),
        (["batch_size=1"], 2, "error: batch_size=1 can't be shared by 2 workers: start fewer"),
        (["optimizer.lr=1e30", "optimizer.clip=1e30"], 2, "error: the loss is not finite at step"),
        (["-m", "seed=1,2"], 2, "error: several workers train one run at a time"),
    ):
        workers = commands.workers(2, *language_model, *options, "run_dir=run")
        assert [worker.wait() for worker in workers] == [status] * 2
        said = [worker.text() for worker in workers]
        assert said[0].splitlines()[-1].startswith(line), said[0]
        assert "Traceback" not in said[0]
        assert said[1] == ""


@pytest.mark.parametrize("delay", [0, 0.05, 0.1, 0.2])
def test_all_stop_where_one_is_asked_to_in_training_as_in_an_evaluation(commands, language_model, tmp_path, delay):
    workers = commands.workers(2, *language_model, "epochs=1000", "run_dir=stopped")
    while not (tmp_path / "stopped" / "metrics.jsonl").exists():
        time.sleep(0.005)
    time.sleep(delay)
    workers[1].send(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [130, 130]
    assert workers[0].text().splitlines()[-1] == "stopped and saved; go on with: python train.py resume=stopped"


def test_a_worker_that_dies_before_the_first_step_is_said_in_one_line(commands, tmp_path):
    os.mkfifo(tmp_path / "once.csv")  # which only the first worker can read to its end
    sizes = ["data.file=once.csv", "window=4", "burn_in=1", "model.hidden_size=4", "threads=1"]
    workers = commands.workers(2, "task=series", *sizes, "run_dir=run")
    (tmp_path / "once.csv").write_text("x\n" + "".join(f"{number % 7}\n" for number in range(100)))
    while not (tmp_path / "run" / "config.yaml").exists():
        assert "error" not in workers[0].text()
        time.sleep(0.005)
    workers[1].send(signal.SIGKILL)
    assert (workers[0].wait(), workers[1].wait()) == (2, -signal.SIGKILL)
    said = workers[0].text()
    assert said.splitlines()[-1] == "error: a worker has gone: start them again"
    assert "Traceback" not in said


@pytest.mark.slow
def test_torchrun_starts_a_killed_worker_again(tiny, tmp_path):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    options = [*tiny, "gate=gumbel", "epochs=30", "finetune=false", "checkpoint_minutes=0", "run_dir=run"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*run, str(ROOT / "train.py"), *options],
        cwd=tmp_path,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not (tmp_path / "run" / "last.safetensors").exists() and process.poll() is None:
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    assert "run holds an unfinished run of the same options: going on with it" in said
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finished"] is True
