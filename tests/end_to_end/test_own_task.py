"""A task in one file of its own goes through everything, and nothing in the package names it."""

import importlib
import json
import re
from pathlib import Path

import pytest

from g2lstm import cli

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent / "own_task"
OPTIONS = ["task=copying", "optimizer=adamw", "threads=1", "checkpoint_minutes=0", f"hydra.searchpath=[file://{HERE}/conf]"]


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """Runs a command in this process, in the folder of the runs: its output."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(HERE)

    def command(name: str, *arguments: str) -> str:
        main = importlib.import_module(name)
        function = getattr(main, "main", None) or getattr(main, name)
        assert cli.guarded(lambda: function(list(arguments))) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def folder(commands_in, tmp_path_factory) -> Path:
    """A folder with a plain and a noisy run, trained in parallel by joblib; the noisy one was killed and gone on with."""
    path = tmp_path_factory.mktemp("copying")
    commands, sweep = commands_in(path), ["-m", "hydra/launcher=joblib", *OPTIONS, "gate=sigmoid,gumbel"]
    killed = commands.start(*sweep, "+hydra.callbacks.kill={_target_: tests.end_to_end.killed.Killed, gate: gumbel}")
    assert killed.wait() == 2
    assert "Copier with" in killed.text()
    assert "error: a process of the sweep was ended" in killed.text()
    assert "Traceback" not in killed.text()
    assert list(path.glob("runs/copying/gumbel*/last.safetensors"))
    assert not list(path.glob("runs/copying/gumbel*/summary.json"))
    output = commands.run(*sweep, "hydra.launcher.n_jobs=1")
    assert re.search(r"gumbel\S* holds an unfinished run of the same options: going on with it", output)
    return path


RUNS = "runs=runs/copying/*"


def test_a_joblib_sweep_of_which_a_process_was_killed_leaves_a_summary_a_run_when_repeated(folder):
    summaries = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/copying/*/summary.json"))]
    assert [found["gate"] for found in summaries] == ["gumbel", "sigmoid"]
    for found in summaries:
        assert 0 <= found["test_accuracy"] == found["test_accuracy_twice"] <= 1
        assert found["digits_per_second"] > 0
        assert found["finished"]


def test_a_killed_run_ends_as_one_never_killed(commands):
    commands.finished_and_killed([*OPTIONS, "gate=gumbel", "epochs=6", "log_every=1"], lines=30)


def test_it_is_evaluated_compressed_and_stored(here):
    path = next(Path("runs/copying").glob("gumbel*")).as_posix()
    assert "test accuracy: 0." in here("evaluate", f"run={path}", "split=test", "json=found.json")
    accuracy = json.loads(Path(path, "summary.json").read_text())["test_accuracy"]
    assert json.loads(Path("found.json").read_text())["test_accuracy"] == accuracy
    here("compress", f"run={path}", "method=bits:8", "out=model.g2")
    assert "accuracy" in here("evaluate", "run=model.g2", "split=test")
    here("compression_sweep", RUNS, "settings=svd:2,round:0.5", "split=test", "out=sweep")
    rows = json.loads(Path("sweep/sweep.json").read_text())
    assert {row["metric"] for row in rows} == {"accuracy"}
    assert {row["variant"] for row in rows} == {"", "twice"}


def test_its_gates_are_shown_and_a_page_and_tables_are_made(here, undrawn):
    here("gate_histograms", RUNS, "split=valid", "out=gates")
    here("gate_heatmap", f"run={next(Path('runs/copying').glob('gumbel*'))}", "text=2718", "min_count=1", "out=gates")
    here("report", RUNS, "out=report.html")
    assert Path("gates/histograms-10.png").is_file()
    assert Path("gates/heatmap.png").is_file()
    assert Path("gumbel-confusion.png").is_file()
    assert "G2-LSTM on test: " in Path("report.html").read_text()
    assert "accuracy" in Path("report.html").read_text().lower()
    assert "accuracy" in here("tables", RUNS).lower()


def test_nothing_in_the_package_names_it():
    files = [*ROOT.glob("*.py"), *ROOT.glob("g2lstm/**/*.py"), *ROOT.glob("experiments/*.py")]
    assert not [path for path in files if "copying" in path.read_text().lower()]


def test_a_submitit_sweep_of_which_a_job_was_killed_says_so_in_a_line_and_goes_on(commands, tmp_path):
    sweep = ["-m", "hydra/launcher=submitit_local", *OPTIONS, "epochs=1", "gate=gumbel", "hydra.sweep.dir=DIR"]
    killed = commands.start(*sweep, "+hydra.callbacks.kill={_target_: tests.end_to_end.killed.Killed, gate: gumbel}")
    assert killed.wait() == 2
    assert "error: a job of the sweep was ended, perhaps for want of memory (/" in killed.text()
    assert "Traceback" not in killed.text()
    commands.run(*sweep)
    assert len(list(tmp_path.glob("DIR/copying/*/summary.json"))) == 1
    assert "holds an unfinished run of the same options" in "".join(
        p.read_text() for p in tmp_path.glob("DIR/.submitit/*/*.out")
    )


def test_what_a_job_says_into_a_file_is_said_by_the_sweep_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)
    import train

    for times in (1, 2):
        assert cli.guarded(lambda: train.main(["-m", *OPTIONS, "seed=-1"])) == 2
        assert capsys.readouterr().err == "error: seed must be at least 0, got -1\n" * times
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")  # as submitit tells its jobs


def test_the_words_of_a_run_command_stay_as_they_are(monkeypatch, capsys):
    monkeypatch.syspath_prepend(HERE)
    import train

    assert cli.guarded(lambda: train.main([*OPTIONS, "digits=0"])) == 2
    assert capsys.readouterr().err == "error: digits must be at least 1, got 0\n"
