"""What a user gets wrong is one line with status 2: nothing is lost, nothing half written, no folder left behind."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from compress import compress
from compression_sweep import compression_sweep
from demo import demo
from export_onnx import export_onnx
from gate_heatmap import gate_heatmap
from gate_histograms import gate_histograms
from report import report
from speed import speed
from tables import tables

import evaluate
import train
from g2lstm import cli, files
from g2lstm.errors import UserError
from g2lstm.reporting import speed_tables
from g2lstm.runs.device import DEFAULT_THREADS, set_threads
from g2lstm.runs.store import Store
from g2lstm.training.interruption import StopSignals

COMMANDS = {
    "evaluate": (evaluate.main, "run=run", "split=valid"),
    "resume": (train.main, "resume=run"),
    "compress": (compress, "run=run", "out=made/model.g2"),
    "export": (export_onnx, "run=run", "out=made/model.onnx"),
    "sweep": (compression_sweep, "runs=run", "settings=round:0.2", "out=made"),
    "histograms": (gate_histograms, "runs=run", "out=made", "samples=2", "metric=none"),
    "heatmap": (gate_heatmap, "run=run", "out=made", "words=none"),
    "report": (report, "runs=run", "out=made/page.html", "samples=2"),
    "tables": (tables, "runs=run"),
}
OF_MODELS = ("evaluate", "compress", "export", "sweep", "histograms", "heatmap", "report")
# Which commands read a file of a run, so that a broken one is told.
READERS = {
    "config.yaml": tuple(COMMANDS),
    "vocabulary.json": ("resume", *OF_MODELS),
    "best.safetensors": OF_MODELS,
    "last.safetensors": ("resume",),
    "environment.json": ("resume", "report"),
    "summary.json": ("resume", "report", "tables"),
    "metrics.jsonl": ("report",),
}
BROKEN = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "half a list": b"[" * 2_000,
    "no UTF-8": b"\xff\xfe{}",
}


@pytest.fixture(scope="module")
def kept(tiny, tmp_path_factory) -> Path:
    """A folder with a run that max_steps ended, and another of the same shapes."""
    path = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for name, seed in (("run", 1), ("other", 2)):
            assert train.main([*tiny, "model.num_layers=1", f"seed={seed}", "max_steps=2", f"run_dir={name}"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(kept, tmp_path, monkeypatch, whole_hydra):
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def contents() -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def line_of(capsys, command, *arguments: str) -> str:
    """What a command that has to fail says; it has to leave everything as it was."""
    before = contents()
    assert cli.guarded(lambda: command(list(arguments))) == 2
    assert contents() == before
    error = capsys.readouterr().err.splitlines()
    assert len([line for line in error if line.startswith("error: ")]) == 1
    return error[-1]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(("name", "command"), [(name, command) for name, all in READERS.items() for command in all])
def test_a_broken_file_of_a_run_is_named(capsys, name, command, broken):
    if (name, broken) == ("metrics.jsonl", "empty"):
        pytest.skip("so it is before the first line")
    content = BROKEN[broken] + b"\n" * (name == "metrics.jsonl")  # whose last line may have no end
    Path("run", name).write_bytes(content[: 300 if name == "config.yaml" else None])
    line = line_of(capsys, *COMMANDS[command])
    assert name in line or "best.safetensors does not belong to the config and the files beside it" in line
    assert "run" in line
    assert ": " in line.removeprefix("error: ")


@pytest.mark.parametrize("command", [*OF_MODELS, "resume"])
def test_weights_of_another_run_of_the_same_shapes_are_refused(capsys, command):
    name = "last" if command == "resume" else "best"
    shutil.copyfile(f"other/{name}.safetensors", f"run/{name}.safetensors")
    assert re.search("does not belong to the config|belongs to another run", line_of(capsys, *COMMANDS[command]))


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
@pytest.mark.parametrize("place", [0, 30, 0.5, 0.99])
def test_a_changed_bit_is_noticed(capsys, name, place):
    path = Path("run", name)
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    path.write_bytes(data)
    line = line_of(capsys, *COMMANDS["evaluate" if name.startswith("best") else "resume"])
    assert re.search(f"{path} is (damaged|not a checkpoint)", line)


def test_a_run_whose_checkpoint_was_removed_does_not_start_again(capsys):
    Path("run/last.safetensors").unlink()
    assert "no checkpoint run/last.safetensors to go on from" in line_of(capsys, *COMMANDS["resume"])


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(("name", "command"), [("sweep.json", "sweep"), ("gates.json", "histograms")])
def test_a_broken_file_of_measured_rows_is_named(capsys, name, command, broken):
    if broken == "a list":
        pytest.skip("no rows yet")
    Path("made").mkdir()
    Path("made", name).write_bytes(BROKEN[broken])
    assert f"made/{name}" in line_of(capsys, *COMMANDS[command])


@pytest.mark.parametrize("row", [3, None, {}, {"key": "x"}, {"key": ["x"]}])
@pytest.mark.parametrize(("name", "command"), [("sweep.json", "sweep"), ("gates.json", "histograms")])
def test_a_row_that_lacks_what_it_needs_is_refused(capsys, name, command, row):
    Path("made").mkdir()
    Path("made", name).write_text(json.dumps([row]))
    assert f"made/{name}" in line_of(capsys, *COMMANDS[command])


@pytest.mark.parametrize("name", ["value", "run", "rank", "histogram"])
def test_a_value_of_another_type_is_refused(name):
    Path("rows.json").write_text(json.dumps([{"key": "x", name: {}}]))
    with pytest.raises(UserError, match=r"rows\.json is not what this command wrote"):
        Store(Path("rows.json"))


@pytest.mark.parametrize("content", [*BROKEN.values(), b"{}", b'{"rows": 3}', b'{"rows": [{"section": "recurrence"}]}'])
def test_a_broken_measurement_of_speed_is_named(content):
    Path("made").mkdir()
    Path("made/cpu.json").write_bytes(content)
    with pytest.raises(UserError, match=r"made/cpu\.json"):
        speed_tables.recorded(Path("made"), "train")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"rows": 3}'])
def test_speed_does_not_write_over_what_it_did_not_write(capsys, content):
    Path("file.json").write_bytes(content)
    assert "file.json" in line_of(capsys, speed, "json=file.json", "sections=recurrence", "sizes=1x1x1x1", "--quick")


@pytest.mark.parametrize("name", ["config.yaml", "vocabulary.json", "summary.json", "best.safetensors", "last.safetensors"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ((evaluate.main, "run=run"), "json"),
        ((compress, "run=run"), "out"),
        ((export_onnx, "run=run"), "out"),
        ((report, "runs=run"), "out"),
        ((speed,), "json"),
    ],
)
def test_no_output_replaces_a_file_of_a_run(capsys, command, option, name):
    assert f"run/../run/{name} belongs to the run" in line_of(capsys, *command, f"{option}=run/../run/{name}")


def test_no_page_replaces_a_model(capsys):
    Path("model.g2").write_bytes(b"")
    assert "model.g2 is a model, and would be replaced" in line_of(capsys, report, "runs=run", "out=model.g2")


@pytest.mark.parametrize("name", [os.devnull, "pipe"])
def test_no_output_replaces_a_device(capsys, name):
    os.mkfifo("pipe")
    with pytest.raises(UserError, match=f"{name} is no ordinary file"):
        evaluate.main(["run=run", f"json={name}"])


LONG = "x" * 300


@pytest.mark.parametrize(
    ("command", "option"),
    [(name, option) for name in OF_MODELS[1:] for option in ("out",)] + [("evaluate", "json"), ("evaluate", "run")],
)
def test_a_name_that_is_too_long_is_told(capsys, command, option):
    assert LONG in line_of(capsys, *COMMANDS[command], f"{option}={LONG}")


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        (demo, "seed=-1", "must be a whole number from 0 to 4294967295, got '-1'"),
        (demo, "seed=99999999999", "must be a whole number from 0 to 4294967295, got '99999999999'"),
        (demo, f"epochs={'9' * 5000}", "must be a whole number of at least 1, got '999"),
        *((command, "threads=100000", "from 1 to 1024, got '100000'")
          for command in (speed, report, gate_histograms, gate_heatmap, compression_sweep)),
        (compress, "method=round:-1", "round must be a number > 0, got -1"),
        (speed, "device=nope", "device=nope can't be used (there is no such device)"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_told_before_anything_is_done(capsys, command, option, message):
    needed = (
        ["run=run", "out=made/x"]
        if command is compress
        else ["runs=run"]
        if command not in (demo, speed, gate_heatmap)
        else []
    )
    assert message in line_of(capsys, command, *needed, option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("threads=100000", "threads must be at most 1024, got 100000"),
        ("optimizer.lr=inf", "optimizer.lr must be finite, got inf"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("model.engine=triton", "the triton engine runs on CUDA, not on cpu"),
        (f"run_dir={LONG}", LONG),
        (f"hydra.run.dir={LONG}", LONG),
        ("hydra/launcher=nope", "hydra/launcher=nope is not installed"),
    ],
)
def test_a_run_with_a_mistake_leaves_no_folder(capsys, tiny, option, message):
    assert message in line_of(capsys, train.main, *tiny, option)


def test_a_training_that_can_not_begin_keeps_what_was_in_its_folder(capsys, tiny, monkeypatch):
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("kept")
    monkeypatch.setattr("g2lstm.runs.start._train", lambda *_, **__: (_ for _ in ()).throw(UserError("no memory")))
    assert "no memory" in line_of(capsys, train.main, *tiny, "run_dir=mine")


@pytest.mark.parametrize("command", ["compress", "report", "resume"])
@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
def test_what_can_not_be_written_is_named(capsys, monkeypatch, command, reason):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, reason)

    before, (main, *arguments) = contents(), COMMANDS[command]
    monkeypatch.setattr(files.os, "fsync", fail)
    assert cli.guarded(lambda: main(arguments)) == 2
    assert re.match(rf"error: can't write \S+ \({reason}\): ", capsys.readouterr().err.splitlines()[-1])
    lost = {path for path, content in before.items() if contents().get(path) != content}
    assert lost <= {Path("run/metrics.jsonl")}  # which the next resume cuts
    assert contents().keys() == before.keys()


@pytest.mark.usefixtures("as_from_a_terminal")
def test_a_closed_terminal_asks_a_run_to_save_and_stop():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.asked


def test_a_run_without_threads_does_not_keep_those_of_the_run_before():
    set_threads(3)
    set_threads(None)
    assert torch.get_num_threads() == DEFAULT_THREADS
