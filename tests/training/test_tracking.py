"""Trackers: wandb mostly as a stand-in, TensorBoard and Trackio as they are."""

import os
import re
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from g2lstm.errors import UserError
from g2lstm.training.tracking import build_tracker


class FakeRun:
    def __init__(self, run_id: str, directory: str) -> None:
        self.id, self.dir = run_id, f"{directory}/wandb/offline-run-1/files"
        self.logged: list[tuple[dict, int]] = []
        self.finished = 0
        self.error: BaseException | None = None

    def log(self, metrics, step):
        if self.error is not None:
            raise self.error
        self.logged.append((metrics, step))

    def finish(self):
        if self.error is not None:
            raise self.error
        self.finished += 1


class FakeWandb(ModuleType):
    """wandb.init that fails as often as there are errors left, then works."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[dict] = []
        self.errors: list[Exception] = []
        self.run: FakeRun | None = None

    def init(self, **options):
        self.calls.append(options)
        if self.errors:
            raise self.errors.pop(0)
        self.run = FakeRun(options["id"] or "new-id", options["dir"])
        return self.run


@pytest.fixture
def wandb(monkeypatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    return fake


@pytest.fixture
def said() -> list[str]:
    return []


def build(tmp_path, said, **options):
    defaults = {"project": "g2lstm", "config": {"seed": 1}, "run_dir": tmp_path, "say": said.append}
    return build_tracker("wandb", **(defaults | options))


def test_no_tracker_takes_everything_and_imports_nothing(wandb, tmp_path):
    tracker = build_tracker("none", project="p", config={}, run_dir=tmp_path)
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish()
    assert tracker.run_id is None
    assert wandb.calls == []


def test_metrics_reach_wandb_and_no_mode_is_passed_unless_asked(wandb, tmp_path, said):
    tracker = build(tmp_path, said)
    tracker.log({"train/loss": 2.0}, step=7)
    tracker.finish()
    tracker.finish()
    (options,) = wandb.calls
    assert "mode" not in options
    assert (options["project"], options["config"], options["dir"]) == ("g2lstm", {"seed": 1}, str(tmp_path))
    assert (options["name"], options["group"]) == (tmp_path.name, tmp_path.parent.name)
    assert wandb.run.logged == [({"train/loss": 2.0}, 7)]
    assert wandb.run.finished == 1
    assert said == []


def test_name_group_and_tags_are_shown_as_given(wandb, tmp_path, said):
    build(tmp_path, said, run_name="gumbel-seed1", group="ptb gumbel", tags=("ptb", "gumbel"))
    (options,) = wandb.calls
    assert (options["name"], options["group"], options["tags"]) == ("gumbel-seed1", "ptb gumbel", ["ptb", "gumbel"])


def test_a_mode_that_was_asked_for_is_passed(wandb, tmp_path, said):
    build(tmp_path, said, mode="offline")
    assert wandb.calls[0]["mode"] == "offline"


def test_resuming_goes_on_with_the_same_wandb_run(wandb, tmp_path, said):
    first = build(tmp_path, said)
    again = build(tmp_path, said, run_id=first.run_id)
    assert wandb.calls[1]["id"] == first.run_id == again.run_id == "new-id"
    assert wandb.calls[1]["resume"] == "allow"


def test_a_timeout_set_by_the_user_is_left_alone(wandb, tmp_path, said, monkeypatch):
    monkeypatch.delenv("WANDB_INIT_TIMEOUT", raising=False)
    build(tmp_path, said)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    build(tmp_path, said)
    assert ["settings" in options for options in wandb.calls] == [True, False]


def test_without_a_key_wandb_is_not_asked_to_wait_for_one(wandb, tmp_path, said, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    build(tmp_path, said)
    assert [options.get("mode") for options in wandb.calls] == ["offline"]
    assert said[0].startswith("wandb is offline (no API key: wandb login, or set WANDB_API_KEY)")
    assert len(said) == 1


def test_a_key_in_netrc_is_a_key(wandb, tmp_path, said, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    build(tmp_path, said)
    assert "mode" not in wandb.calls[0]
    assert said == []


@pytest.mark.parametrize("mode", [None, "online"])
def test_without_a_key_wandb_is_offline_and_one_line_says_so(wandb, tmp_path, said, mode):
    wandb.errors = [RuntimeError("No API key configured.\nUse wandb login.")]
    tracker = build(tmp_path, said, mode=mode)
    assert [options.get("mode") for options in wandb.calls] == [mode, "offline"]
    assert said == [f"wandb is offline (No API key configured); wandb sync {tmp_path}/wandb/offline-run-1 uploads it later"]
    tracker.log({"loss": 1.0}, step=1)
    assert wandb.run.logged


def test_a_wandb_that_cannot_start_at_all_costs_one_line_and_keeps_the_run_id(wandb, tmp_path, said):
    wandb.errors = [RuntimeError("no network"), OSError("disk full")]
    tracker = build(tmp_path, said, run_id="old-id")
    tracker.log({"loss": 1.0}, step=1)
    tracker.finish()
    assert said == ["no tracking, the run goes on without: disk full"]
    assert tracker.run_id == "old-id"


def test_a_failure_in_training_costs_one_line_and_not_the_run(wandb, tmp_path, said):
    tracker = build(tmp_path, said)
    wandb.run.error = ConnectionError("gone")
    tracker.log({"loss": 1.0}, step=1)
    tracker.log({"loss": 1.0}, step=2)
    tracker.finish()
    assert said == ["tracking stopped, the run goes on: gone"]
    assert tracker.run_id == "new-id"


def test_ctrl_c_inside_the_tracker_still_interrupts(wandb, tmp_path, said):
    tracker = build(tmp_path, said)
    wandb.run.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tracker.log({"loss": 1.0}, step=1)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_is_a_user_error_with_the_way_out(name, tmp_path, said, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"pip install 'g2lstm\[{name}\]', or choose tracker=none"):
        build_tracker(name, project="p", config={}, run_dir=tmp_path)


def test_an_empty_folder_named_wandb_is_no_package(tmp_path, said, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    with pytest.raises(UserError, match="needs the wandb package"):
        build(tmp_path, said)


def test_tensorboard_shows_numbers_and_hides_what_a_resumed_run_takes_back(tmp_path, said):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def track(steps, run_id):
        options = {"project": "p", "config": {"seed": 1}, "run_dir": tmp_path, "run_id": run_id, "say": said.append}
        tracker = build_tracker("tensorboard", **options)
        for step, loss in steps.items():
            tracker.log({"train/loss": loss, "note": "a text"}, step)
        tracker.log_page("report", "<p>")
        tracker.finish()
        return tracker.run_id

    track({3: 0.5, 4: 0.25}, track({1: 4.0, 2: 3.0, 3: 2.0}, None))
    seen = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert seen.Tags()["scalars"] == ["train/loss"]
    assert [(event.step, event.value) for event in seen.Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 0.5), (4, 0.25)]
    assert said == []


def test_trackio_runs_have_a_name_of_their_own_and_a_group_and_go_on_under_it(monkeypatch, tmp_path, said):
    calls = []
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or FakeRun("", ""), Html=str)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    options = {"project": "p", "config": {}, "run_dir": tmp_path / "ptb" / "gumbel-seed1", "say": said.append}
    first, second = (build_tracker("trackio", **options) for _ in range(2))
    build_tracker("trackio", **options, run_id=first.run_id)
    names = [call["name"] for call in calls]
    assert all(re.fullmatch(r"gumbel-seed1-\w{6}", name) for name in names)
    assert first.run_id == names[0] == names[2] != names[1] == second.run_id
    assert {call["group"] for call in calls} == {"ptb"}
    assert said == []


@pytest.mark.slow
def test_the_real_trackio_keeps_a_run_and_goes_on_with_it(tmp_path):
    pytest.importorskip("trackio")
    code = f"""
from g2lstm.training.tracking import build_tracker
run_id, options = None, dict(project="toy", config={{"seed": 1}}, run_dir={str(tmp_path / "gumbel-seed1")!r}, group="ptb")
for step, loss in ((1, 2.0), (2, 1.0)):
    tracker = build_tracker("trackio", run_id=run_id, **options)
    tracker.log({{"train/loss": loss}}, step)
    tracker.log_page("report", "<p>words</p>")
    tracker.finish()
    assert run_id in (None, tracker.run_id)
    run_id = tracker.run_id
from trackio.sqlite_storage import SQLiteStorage
print("found", [row["train/loss"] for row in SQLiteStorage.get_logs("toy", run_id) if "train/loss" in row])
"""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "tracking" not in result.stdout
    assert "found [2.0, 1.0]" in result.stdout, result.stdout + result.stderr


def test_the_real_wandb_writes_an_offline_run_into_the_run_directory(tmp_path, said, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = build(tmp_path, said)
    tracker.log({"train/loss": 2.0}, step=1)
    tracker.finish()
    assert said == []
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert tracker.run_id in file.name
    end = time.monotonic() + 60
    while file.stat().st_size == 0 and time.monotonic() < end:  # finish() of an offline run doesn't wait for the writer
        time.sleep(0.05)
    assert file.stat().st_size > 0
