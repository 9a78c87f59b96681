"""A run that was killed, however often and wherever, ends as one that never was."""

import json
import math
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save

from g2lstm.commands.reproduce import Stretch
from g2lstm.runs.members import Experiment, Member, Places, state_of
from g2lstm.training.checkpoint import load_checkpoint
from tests.end_to_end.same_run import assert_same_run, curve


@pytest.fixture(scope="module")
def everything(tiny):
    """All that has a state: noise, every dropout, drawn lengths, accumulation, averaging that sets in, both stages."""
    options = ["accumulate=2", "checkpoint_minutes=0", "epochs=4", "finetune_epochs=2", "optimizer.lr=20", "seed=4"]
    masks = ["model.recurrent_dropout=0.2", "model.recurrent_dropout_kind=g", "model.zoneout=[0.2,0.1]"]
    return [*tiny, *options, *masks, "eval.cache.enabled=false"]


@pytest.fixture(scope="module")
def straight(commands_in, everything, tmp_path_factory) -> Path:
    """A run of everything that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    commands_in(folder).run(*everything, "run_dir=run")
    return folder / "run"


def test_a_run_killed_again_and_again_ends_as_one_never_killed(commands, everything, straight, tmp_path):
    lines = curve(straight)
    valid = [(line["stage"], line["averaged"]) for line in lines if line["kind"] == "valid"]
    assert ("train", False) in valid
    assert ("train", True) in valid  # the trigger did fire
    assert ("finetune", True) in valid

    seed = random.SystemRandom().randrange(10**6)
    print(f"moments of death drawn with seed {seed}")  # noqa: T201 - shown where the test fails
    draw, kills, run = random.Random(seed), 0, tmp_path / "killed"
    arguments: tuple[str, ...] = (*everything, "run_dir=killed")
    while True:
        command = commands.start(*arguments)
        begun = size(run)
        wanted, patience = draw.randint(1, max(len(lines) // 3, 2)), draw.random() / 20
        while size(run) < begun + wanted and not (run / "summary.json").exists() and "error" not in command.text():
            time.sleep(0.002)
        time.sleep(patience)
        command.send(signal.SIGKILL)
        status = command.wait()
        assert status in (0, -signal.SIGKILL), command.text()
        if status == 0 or (run / "summary.json").exists():
            break
        kills += 1
        arguments = ("resume=killed",)
    assert kills >= 2
    if not (run / "summary.json").exists():
        commands.run("resume=killed")
    assert_same_run(straight, run)


def test_a_member_in_stretches_on_fresh_machines_ends_as_one_straight_run(commands, everything, tmp_path, monkeypatch):
    about = Experiment(size="cpu", options=tuple(everything[:-2]), seeds=(4,))
    member, shards = Member("text", about, "gumbel", 4), tmp_path / "shards"
    commands.run(*member.overrides, "run_dir=straight")
    lines, stretches = 0, 0
    monkeypatch.setattr(Stretch, "_needed", lambda _: math.inf if size(run) >= lines else 0.0)
    while state_of(member, places := Places(tmp_path / "none", tmp_path / f"machine-{stretches}", shards)).name != "done":
        run, lines = places.runs / member.name, lines + size(tmp_path / "straight") // 4
        Stretch(120.0, places, Console(quiet=True), start=commands.start_training).run([member])
        stretches += 1
    assert stretches >= 3
    assert_same_run(tmp_path / "straight", run)
    assert "resumed_on" not in (run / "environment.json").read_text()
    assert "rounded" not in (run / "environment.json").read_text()


def size(run: Path) -> int:
    """Lines of the curve that a resumed run will not cut."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "foreign": lambda _: save({"a": torch.ones(1)}),
    "removed": None,
}


@pytest.fixture(scope="module")
def stopped_twice(commands_in, everything, straight, tmp_path_factory) -> Path:
    """A run of everything that was stopped twice, short before its end."""
    steps = json.loads((straight / "summary.json").read_text())["steps"]
    folder = tmp_path_factory.mktemp("twice")
    commands = commands_in(folder)
    commands.run(*everything, "run_dir=run", f"max_steps={steps - 9}")
    commands.run("resume=run", f"max_steps={steps - 4}", "checkpoint_minutes=60")
    return folder / "run"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before(
    commands, straight, stopped_twice, tmp_path, damage
):
    run = shutil.copytree(stopped_twice, tmp_path / "run")
    last = run / "last.safetensors"
    steps = [load_checkpoint(path)["position"]["step"] for path in (run / "last-but-one.safetensors", last)]
    assert steps[0] < steps[1]
    if (change := DAMAGES[damage]) is None:
        last.unlink()
    else:
        last.write_bytes(change(last.read_bytes()))
    said = " ".join(commands.run("resume=run").split())
    wrong = r"(run/last.safetensors is (damaged|not a checkpoint)|no checkpoint run/last.safetensors)"
    assert re.search(f"{wrong}.*; going on from last-but-one.safetensors", said)
    assert_same_run(straight, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(commands, everything, tmp_path, number):
    command = commands.start(*everything, "run_dir=run", "epochs=500")
    while size(tmp_path / "run") < 3 and "error" not in command.text():
        time.sleep(0.005)
    command.send(number)
    assert command.wait() == 130
    lines = command.text().splitlines()
    assert lines[-1] == "stopped and saved; go on with: python train.py resume=run"
    assert "Traceback" not in command.text()
    step = load_checkpoint(tmp_path / "run" / "last.safetensors")["position"]["step"]
    assert step >= 3
    more = commands.run("resume=run", f"max_steps={step + 2}")
    assert "max_steps ended the run; go on with: python train.py resume=run" in more
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == step + 2


VARIANTS = {
    "adamw in bfloat16": ["optimizer=adamw", "optimizer.lr=0.01", "precision=bfloat16", "finetune=false"],
    "annealed temperature and noise that ends": [
        *("gate.tau=1.0", "gate.tau_schedule=cosine", "gate.tau_end=0.4", "gate.noise_scope=mask"),
        *("gate.noise_p=0.5", "gate.noise_p_schedule=last_third"),
    ],
    "sharpened": ["gate=sharpened", "gate.tau_schedule=linear", "gate.tau_end=0.1"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_max_steps_and_resume_is_one_straight_run(commands, tiny, tmp_path, variant):
    short = ["epochs=1", "finetune_epochs=1", "accumulate=3"]
    chosen = [*(text for text in tiny if not text.startswith("optimizer.")), *short, *VARIANTS[variant]]
    commands.run(*chosen, "run_dir=straight")
    steps = json.loads((tmp_path / "straight" / "summary.json").read_text())["steps"]
    limit = 2 * steps // 3 + 1
    commands.run(*chosen, "run_dir=parts", f"max_steps={limit}")
    summary = json.loads((tmp_path / "parts" / "summary.json").read_text())
    assert (summary["finished"], summary["steps"]) == (False, limit)
    commands.run("resume=parts")
    assert_same_run(tmp_path / "straight", tmp_path / "parts")
