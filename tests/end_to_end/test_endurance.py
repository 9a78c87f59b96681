"""What happens to machines ends no run badly: kills, a clock set back, a full disk, a reader that is gone or waits."""

import gzip
import json
import os
import re
import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import endurance as script
import pytest
import torch

import train
from g2lstm import cli, files
from g2lstm.commands.endurance import curve, endure, same_weights, unreadable
from g2lstm.errors import UserError
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config
from g2lstm.training import progress
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from g2lstm.training.folder import RunFolder
from g2lstm.training.loop import Trainer
from tests.end_to_end.same_run import assert_same_run


@pytest.fixture(scope="module")
def short(tiny) -> list[str]:
    return [*tiny, "epochs=1", "finetune_epochs=1", "log_every=1", "eval.cache.enabled=false"]


@pytest.fixture(scope="module")
def straight(short, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("straight") / "run"
    assert command(*short, f"run_dir={path}") == 0
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(*arguments: str) -> int:
    return cli.guarded(lambda: train.main(list(arguments)))


@pytest.mark.parametrize("unit", ["words", "subwords", "images", "values"])
def test_curves_are_compared_without_times_of_any_unit(tmp_path, unit):
    found = {"kind": "train", "epoch": 1, "step": 1, "loss": 2.0}
    RunFolder(tmp_path).log(found | {f"{unit}_per_second": 9.0, "eta": 1.0, "seconds": 3.0})
    assert curve(tmp_path) == [found]


def test_two_workers_killed_at_any_moment_end_as_ones_never_killed(commands, tiny, tmp_path):
    """The long version is experiments/endurance.py."""
    options = [*tiny, "gate=gumbel", "epochs=2", "finetune=false", "eval.cache.enabled=false"]

    def start(options: list[str], workers: int) -> list:
        return commands.workers(workers, *options)

    found = endure(options, tmp_path, start, kills=2, workers=2, seed=6)
    assert found["same_weights"]
    assert found["same_curve"]
    assert [moment["unreadable"] for moment in found["moments"]] == [None] * 2
    assert [moment["while"] for moment in found["moments"]] == ["training", "starting"]
    assert [moment["workers"] for moment in found["moments"]] == [[0], [0, 1]]


def test_what_is_not_the_same_or_not_readable_is_found(straight, tmp_path):
    run = Path(shutil.copytree(straight, "run"))
    content = load_checkpoint(run / "last.safetensors")
    name, weight = next(iter(content["model"].items()))
    assert same_weights(straight / "last.safetensors", run / "last.safetensors")
    weight.view(torch.int32).flatten()[0] ^= 1
    lacks = {key: value for key, value in content["model"].items() if key != name}
    for number, model in enumerate((content["model"], lacks)):
        save_checkpoint(tmp_path / f"{number}.safetensors", content | {"model": model})
        assert not same_weights(straight / "last.safetensors", tmp_path / f"{number}.safetensors")
    assert not same_weights(straight / "last.safetensors", tmp_path / "none.safetensors")
    assert unreadable(run) is None
    (run / "last.safetensors").write_bytes((straight / "last.safetensors").read_bytes()[:-1])
    assert "damaged" in unreadable(run)


@pytest.mark.parametrize(("trains", "message"), [(False, "a command ended that nobody"), (True, "a command failed that")])
def test_a_command_that_ends_by_itself_is_no_result(tmp_path, trains, message):
    def start(*_) -> list[SimpleNamespace]:
        if trains:
            (tmp_path / "straight").mkdir()
            RunFolder(tmp_path / "straight").log({"kind": "train"})
        return [SimpleNamespace(poll=lambda: 1)]

    with pytest.raises(UserError, match=message):
        endure([], tmp_path, start, kills=1, workers=1, seed=1)


def test_the_script_has_options_that_exist():
    assert Config.parse(compose(list(script.SMALL))).settings.finetune_epochs == 3


def test_a_clock_that_is_set_back_changes_nothing(short, straight, monkeypatch):
    saved, save, now = [], Trainer._save, time.time()
    monkeypatch.setattr(Trainer, "_save", lambda self: (saved.append(self.at.step), save(self)))
    for name in ("time", "time_ns"):
        back = iter(range(0, -(10**9), -3600))  # an hour each time that it is asked
        monkeypatch.setattr(
            time, name, lambda back=back, unit=10**9 if name == "time_ns" else 1.0: (now + next(back)) * unit
        )
    assert command(*short, "run_dir=run", "checkpoint_minutes=0", "max_steps=5") == 0
    assert set(saved) >= set(range(1, 6))
    for path in Path("run").iterdir():  # written in times to come, the older the newer
        os.utime(path, (now + 10**6, now + 10**6 - len(path.name)))
    assert command("resume=run") == 0
    assert_same_run(straight, Path("run"))


def test_a_disk_that_is_full_at_any_file_ends_in_a_line_and_the_same_command_goes_on(short, straight, capsys, monkeypatch):
    for name in ("config.yaml", "last.safetensors", "best.safetensors", "losses.safetensors", "summary.json"):

        def full(handle: int, name: str = name) -> None:
            if f"/.{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            assert command(*short, "run_dir=run") == 2
        line = f"error: can't write run/{name} (No space left on device): "
        assert [text.startswith(line) for text in capsys.readouterr().err.splitlines()] == [True]
        assert not list(Path().glob("run/.*"))
    assert command(*short, "run_dir=run") == 0
    assert_same_run(straight, Path("run"))


def test_a_curve_that_finds_no_room_stays_readable(short, straight, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))  # of a file: the curve's is there before a checkpoint is
    try:
        status = command(*short, "run_dir=run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    assert "error: can't write run/metrics.jsonl (File too large): " in capsys.readouterr().err
    assert Path("run/metrics.jsonl").stat().st_size == 4000  # within a line
    assert len(RunFolder.open(Path("run")).curve()) == Path("run/metrics.jsonl").read_bytes().count(b"\n")
    assert command(*short, "run_dir=run") == 0
    assert_same_run(straight, Path("run"))


@pytest.mark.parametrize("reader", ["is gone", "waits"])
def test_a_run_goes_on_whoever_reads_what_it_says(short, reader, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    taken, given = os.pipe()
    if reader == "is gone":
        os.close(taken)
    else:
        os.set_blocking(given, False)
        with suppress(BlockingIOError):
            while True:
                os.write(given, b"full")
        os.set_blocking(given, True)
    with open(given, "w") as pipe, monkeypatch.context() as patch:  # noqa: PTH123 - it has no path
        patch.setattr("sys.stdout", pipe)
        assert command(*short, "max_steps=6", "run_dir=run") == 0
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 6


@pytest.mark.parametrize("name", ["ptb", "parallel", "mnist"])
def test_data_are_only_read(name, small_options, small_task):
    folder = Path(next(text for text in small_options(name) if text.startswith("data.dir=")).removeprefix("data.dir="))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    for path in (*before, folder):
        path.chmod(0o500)  # which the system's first user need not mind
    try:
        task, model = small_task(name)
        task.loss(model, task.plan(torch.Generator())[0], None)
        task.evaluate(model.eval(), "valid", task.epoch_variant, limit=2)
    finally:
        for path in (*before, folder):
            path.chmod(0o700)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_data_that_changed_since_a_run_began_are_told(small_options, capsys):
    options = small_options("mnist")
    folder = Path(next(text for text in options if text.startswith("data.dir=")).removeprefix("data.dir="))
    shutil.copytree(folder, "images")
    assert command(*options, "data.dir=images", "max_steps=1", "threads=1", "run_dir=run") == 0
    assert command("resume=run", "max_steps=2") == 0
    assert "warning" not in capsys.readouterr().out
    path = Path("images/train-images-idx3-ubyte.gz")
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[16] ^= 1  # a pixel
    path.write_bytes(gzip.compress(content))
    assert command("resume=run", "max_steps=3") == 0
    assert re.search(r"not bit for bit the same \(data \w+ -> \w+\)", capsys.readouterr().out.replace("\n", " "))
