"""A run's folder: always readable, cut back to its checkpoint."""

import json

import pytest

from g2lstm.errors import UserError
from g2lstm.training.folder import RunFolder


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write to .*: set run_dir="):
        RunFolder.at(tmp_path / "file" / "run")


def test_a_folder_without_config_is_no_run(tmp_path):
    for path, why in ((tmp_path, "it has no config.yaml"), (tmp_path / "typo", "there is no such folder")):
        with pytest.raises(UserError, match=rf"is not a run directory \({why}\)"):
            RunFolder.open(path)


def test_the_curve_is_cut_back_also_within_a_line(tmp_path):
    run = RunFolder(tmp_path)
    run.log({"step": 1})
    size = run.metrics_size()
    run.log({"step": 2})
    run.metrics.open("a").write('{"step"')
    run.cut_metrics(size)
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [{"step": 1}]
    run.cut_metrics(size + 100)
    assert run.metrics_size() == size


def test_kept_epochs_are_in_order_whatever_their_number(tmp_path):
    names = [f"epoch-{number:03}.safetensors" for number in (999, 1000, 2)]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in RunFolder(tmp_path).epochs()] == [names[2], names[0], names[1]]


def test_an_absent_curve_has_no_size(tmp_path):
    run = RunFolder(tmp_path)
    run.cut_metrics(0)
    assert run.metrics_size() == 0


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\xff"])
def test_damaged_json_is_one_line(tmp_path, content):
    run = RunFolder(tmp_path)
    run.write_json("summary.json", {"text": "grün"})
    assert run.read_json("summary.json") == {"text": "grün"}
    run.summary.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"summary\.json") as error:
        run.read_json("summary.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": "train"}'])
def test_a_damaged_curve_is_one_line(tmp_path, content):
    run = RunFolder(tmp_path)
    assert run.curve() == []
    run.metrics.write_text(content + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is no curve"):
        run.curve()


def test_half_written_checkpoints_are_removed(tmp_path):
    run = RunFolder(tmp_path)
    run.last.write_text("whole")
    (tmp_path / ".last.safetensors.x1").write_text("half")
    run.remove_unfinished()
    assert list(tmp_path.iterdir()) == [run.last]
