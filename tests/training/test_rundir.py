"""A run directory: never overwritten, always readable, cut back to its checkpoint."""

import json

import pytest

from g2lstm.errors import UserError
from g2lstm.training.rundir import RunDirectory


def test_a_run_never_takes_another_runs_folder(tmp_path):
    names = [RunDirectory.create(tmp_path / "runs" / "gumbel-seed1").path.name for _ in range(3)]
    assert names == ["gumbel-seed1", "gumbel-seed1-2", "gumbel-seed1-3"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write to .*: set run_dir="):
        RunDirectory.create(tmp_path / "file" / "run")


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        RunDirectory.open(tmp_path)


def test_the_curve_is_cut_back_also_within_a_line(tmp_path):
    run = RunDirectory(tmp_path)
    run.log({"step": 1})
    size = run.metrics_size()
    run.log({"step": 2})
    run.metrics.open("a").write('{"step"')
    run.cut_metrics(size)
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [{"step": 1}]
    run.cut_metrics(size + 100)
    assert run.metrics_size() == size


def test_an_absent_curve_has_no_size(tmp_path):
    run = RunDirectory(tmp_path)
    run.cut_metrics(0)
    assert run.metrics_size() == 0


def test_damaged_json_is_one_line(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json("summary.json", {"text": "grün"})
    assert run.read_json("summary.json") == {"text": "grün"}
    run.summary.write_text("{")
    with pytest.raises(UserError, match="the run is not complete"):
        run.read_json("summary.json")


def test_half_written_checkpoints_are_removed(tmp_path):
    run = RunDirectory(tmp_path)
    run.last.write_text("whole")
    (tmp_path / ".last.safetensors.x1").write_text("half")
    run.remove_unfinished()
    assert list(tmp_path.iterdir()) == [run.last]
