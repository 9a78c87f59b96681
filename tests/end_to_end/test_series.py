"""A run on a CSV file of one's own, through the commands."""

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from g2lstm import cli
from tests.tasks.test_series import SIZES, write

OPTIONS = ["task=series", *SIZES, "epochs=3", "log_every=1", "checkpoint_minutes=0", "threads=1", "data.targets=[b]"]


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Runs a command in this process, in the folder of the runs: its output."""
    monkeypatch.chdir(folder)

    def command(name: str, *arguments: str, status: int = 0) -> str:
        main = importlib.import_module(name)
        function = getattr(main, "main", None) or getattr(main, name)
        assert cli.guarded(lambda: function(list(arguments))) == status
        output = capsys.readouterr()
        return output.err if status else output.out

    return command


@pytest.fixture(scope="module")
def folder(commands_in, tmp_path_factory) -> Path:
    """A folder with a run that was never stopped, and one that was killed and gone on with, which ended alike."""
    path = tmp_path_factory.mktemp("series")
    values = np.random.default_rng(1).normal(size=(150, 2)).cumsum(0).round(3)
    data = write(path / "walk.csv", values)
    commands_in(path).finished_and_killed([*OPTIONS, data, "gate=gumbel"], lines=8)
    return path


def test_its_summary_has_the_naive_forecasts_beside_it(folder):
    summary = json.loads((folder / "killed" / "summary.json").read_text())
    for split in ("valid", "test"):
        for key in ("rmse", "mae", "mase"):
            assert all(summary[f"{split}_{key}{name}"] > 0 for name in ("", "_naive", "_seasonal_naive"))
    assert summary["season"] == 5


def test_it_is_evaluated_stored_and_forecasts_from_both(here):
    summary = json.loads(Path("killed/summary.json").read_text())
    assert f"test rmse: {summary['test_rmse']:.5f}" in here("evaluate", "run=killed", "split=test")
    here("compress", "run=killed", "method=bits:8", "out=model.g2")
    assert "test mase: " in here("evaluate", "run=model.g2", "data.file=walk.csv", "split=test")
    assert "set data.file=" in here("evaluate", "run=model.g2", status=2)
    text = here("forecast", "run=killed", "file=walk.csv")
    (head, *rows) = csv.reader(text.splitlines())
    assert head == ["when", "b"]
    assert [row[0] for row in rows] == ["2024-05-30", "2024-05-31", "2024-06-01", "2024-06-02"]
    here("forecast", "run=model.g2", "file=walk.csv", "output=next.csv")
    (_, *stored) = csv.reader(Path("next.csv").read_text().splitlines())
    np.testing.assert_allclose([float(row[1]) for row in stored], [float(row[1]) for row in rows], rtol=0.1, atol=0.1)
    assert "would be lost" in here("forecast", "run=killed", "file=walk.csv", "output=walk.csv", status=2)
    assert "walk2.csv" in here("forecast", "run=killed", "file=walk2.csv", status=2)


def test_rows_that_have_changed_are_noticed_when_a_run_goes_on(commands, here, tmp_path):
    data = tmp_path / "grows.csv"
    lines = Path("walk.csv").read_text().splitlines(keepends=True)
    data.write_text("".join(lines[:-20]))
    commands.run(*OPTIONS, f"data.file={data}", "run_dir=run", "max_steps=2")
    data.write_text("".join(lines))
    message = here("train", f"resume={tmp_path / 'run'}", status=2)
    assert "the rows of grows.csv have changed since the run began: put them back" in message
    data.write_text("".join(lines[:-20]))
    commands.run("resume=run")


def test_it_is_swept_and_its_gates_and_forecasts_are_shown(here, undrawn):
    here("compression_sweep", "runs=killed", "settings=svd:2", "split=test", "out=sweep")
    assert {row["metric"] for row in json.loads(Path("sweep/sweep.json").read_text())} == {"rmse"}
    here("report", "runs=killed", "text=2024-02-01", "out=gates/report.html")
    page = Path("gates/report.html").read_text()
    assert "2024-02-01" in page
    assert "valid RMSE" in page
    assert Path("gates/gumbel-forecast-b.png").is_file()
    assert "rmse" in here("tables", "runs=killed").lower()
