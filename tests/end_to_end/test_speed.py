"""python experiments/speed.py: its file and its answers to mistakes. No timing is judged here."""

import json
from dataclasses import replace
from statistics import median

import pytest
import speed
import torch

from g2lstm import cli
from g2lstm.benchmark import cases, measure
from g2lstm.benchmark.cases import DEPLOYED, Case
from g2lstm.engines.products import fast_dtype
from g2lstm.reporting.speed_tables import TABLES, recorded
from g2lstm.training import environment

DTYPES = [name for name, dtype in cases.DTYPES.items() if fast_dtype(dtype)]


@pytest.fixture(autouse=True)
def _threads_stay():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def brief(monkeypatch):
    """The command with the fewest repeats, without processes for the memory, and the times it took."""
    taken: dict[tuple[Case, ...], list[list[float]]] = {}

    def alternate(cases, device, **_):
        taken[cases] = real(cases, device, seconds=0, least=2, turn=0)
        return taken[cases]

    real = measure.alternate
    monkeypatch.setattr(measure, "alternate", alternate)
    monkeypatch.setattr(measure, "peak_memory", lambda *_: 7.0)
    return taken


def shrink(monkeypatch, section: str, size: cases.Size) -> None:
    small = [replace(one, sizes=(size,)) for one in cases.COMPARISONS if one.section == section]
    monkeypatch.setattr(cases, "COMPARISONS", small)


def test_the_file_has_a_row_for_each_engine_with_ratios_of_medians(brief, tmp_path, capsys):
    file = tmp_path / "deep" / "speed.json"
    arguments = ["--sections", "recurrence", "--sizes", "3x2x4x6", "--threads", "1", "--json", str(file)]
    assert speed.speed(arguments) == 0
    content = json.loads(file.read_text())
    assert {"hardware", "torch", "threads", "summary", "left_out", "rows"} <= set(content)
    assert content["threads"] == 1
    rows = content["rows"]
    assert {row["section"] for row in rows} == {"recurrence"}
    assert {tuple(row["size"]) for row in rows} == {(3, 2, 4, 6)}
    assert {(row["dtype"], row["mode"]) for row in rows} == {(dtype, mode) for dtype in DTYPES for mode in ("train", "eval")}
    assert {"nn.LSTM", "auto", "bptt", "reference", "loop"} <= {row["engine"] for row in rows}
    times = {case: values for cases, lists in brief.items() for case, values in zip(cases, lists, strict=True)}
    medians = {(case.dtype, case.mode, case.engine): median(values) for case, values in times.items()}
    for row in rows:
        own, peer = medians[row["dtype"], row["mode"], row["engine"]], medians[row["dtype"], row["mode"], "nn.LSTM"]
        assert row["ms"] == pytest.approx(own, abs=1e-4)
        assert row["ratio"] == pytest.approx(own / peer, abs=1e-4)
        weighed = row["mode"] == "train" and row["engine"] not in ("reference", "loop")
        assert row["memory_ratio"] == (1.0 if weighed else None)
    assert set(content["summary"]) == {"train_speedup_over_loop", "eval_speedup_over_loop"}
    for kind in list(TABLES)[:3]:
        assert "| 3, 2, 4 -> 6 | float32 |" in recorded(file.parent, kind)
    capsys.readouterr()

    assert speed.speed([*arguments[:3], "2x2x4x6", *arguments[4:], "passes=3"]) == 0
    printed = capsys.readouterr().out
    assert f"{6 * len(DTYPES)}/{6 * len(DTYPES)}  ETA" in printed
    assert f"one layer, T 2, B 2, 4 -> 6, {DTYPES[-1]}, eval" in printed
    content = json.loads(file.read_text())
    assert len(content["left_out"]) == 2 - len(DTYPES)
    assert content["rows"][: len(rows)] == rows  # a second measurement adds to the file
    added = content["rows"][len(rows) :]
    assert len(added) == len(rows)
    for row in added:
        assert row["passes"] == 3
        assert row["ms_range"][0] <= row["ms"] <= row["ms_range"][1]
    (auto,) = (row for row in added if (row["engine"], row["dtype"], row["mode"]) == ("auto", "float32", "train"))
    low, high = auto["ratio_range"]
    table = recorded(file.parent, "train")
    assert f"{auto['ratio']:.2f} ({low:.2f} to {high:.2f})" in table
    assert "Median and, in brackets, range over 1 or 3 whole passes." in table


def test_nothing_is_recorded_from_uncommitted_code(brief, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "commit", lambda: "0123-dirty")
    monkeypatch.setattr(environment, "checkout", lambda: tmp_path)
    file = tmp_path / "results" / "speed" / "x.json"
    arguments = ["sections=recurrence", "sizes=3x2x4x6", "threads=1"]
    assert cli.guarded(lambda: speed.speed([*arguments, f"json={file}"])) == 2
    assert f"is a record, with uncommitted changes in {tmp_path}: commit them" in capsys.readouterr().err
    assert not file.parent.exists()
    assert speed.speed([*arguments, f"json={tmp_path / 'x.json'}"]) == 0


def test_compressed_models_have_a_row_with_their_time_and_file(brief, tmp_path, monkeypatch, capsys):
    shrink(monkeypatch, "deploy", (1, 1, 160, 160))
    file = tmp_path / "deploy.json"
    assert speed.speed(["--sections", "deploy", "--threads", "1", "--json", str(file)]) == 0
    rows = {row["engine"]: row for row in json.loads(file.read_text())["rows"]}
    assert set(rows) >= {*DEPLOYED, "nn.LSTM", "nn.LSTM without oneDNN"}
    assert rows["dense"]["ratio"] == rows["dense"]["file_ratio"] == 1
    assert rows["svd:64"]["file_ratio"] < 1
    assert rows["round:0.2+clip:0.4, rest int8"]["file_ratio"] < 0.25
    assert rows["nn.LSTM"]["file_mb"] is None
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["ms"] / rows["dense"]["ms"], rel=0.05)
    out = capsys.readouterr().out
    assert "file," in out
    assert "rest int8" in out.replace("│", " ")  # a name is not cut short where the screen is narrow
    assert "| svd:64 |" in recorded(tmp_path, "deploy")


def test_masks_are_compared_with_the_same_layer_without(brief, tmp_path, monkeypatch):
    shrink(monkeypatch, "recurrent_dropout", (3, 2, 4, 6))
    assert speed.speed(["--sections", "recurrent_dropout", "--threads", "1", "--json", str(tmp_path / "x.json")]) == 0
    rows = {row["engine"]: row for row in json.loads((tmp_path / "x.json").read_text())["rows"] if row["dtype"] == "float32"}
    assert set(rows) == {"auto", *cases.MASKED}
    assert {row["peer"] for row in rows.values()} == {"auto float32"}
    ratios = " | ".join(f"{rows[name]['ratio']:.2f}" for name in cases.MASKED)
    assert f"| 3, 2, 4 -> 6 | float32 | {rows['auto']['ms']:.1f} | {ratios} |" in recorded(tmp_path, "recurrent_dropout")


def test_an_evaluation_stands_beside_its_products(brief, tmp_path, monkeypatch):
    shrink(monkeypatch, "evaluation", (9, 2, 4, 6))
    assert speed.speed(["--sections", "evaluation", "--threads", "1", "--json", str(tmp_path / "x.json")]) == 0
    rows = {row["engine"]: row for row in json.loads((tmp_path / "x.json").read_text())["rows"]}
    products = [rows.pop(name) for name in list(rows) if "products" in name]
    assert [row["ratio"] for row in products].count(1) >= 1
    assert set(rows) == {"evaluation", "evaluation with cache"}
    for engine, row in rows.items():
        assert row["words_per_second"] == pytest.approx(1000 * 18 / row["ms"], rel=0.01)
        assert f"| {engine} | {row['ms'] / 18:.2f} | {row['ratio']:.2f} |" in recorded(tmp_path, "evaluation")


def test_quick_says_what_it_left_out(brief, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "QUICK_SECONDS", -1.0)
    assert speed.speed(["--quick", "--sections", "output_layer", f"json={tmp_path / 'x.json'}"]) == 0
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["quick"] is True
    assert content["rows"] == []
    assert content["left_out"][-1] == f"output layer and loss, T 70, B 20, 400 -> 10000, {' and '.join(DTYPES)}, train"
    assert "by --quick large sizes, the reference engine" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--sections=speed",
            f"sections must be of {', '.join(cases.SECTIONS)}, got 'speed'",
        ),
        ("--sizes=3x2", "sizes are written TxBxDxH, as 70x20x400x1150, got '3x2'"),
        ("--sizes=3x2x0x1", "got '3x2x0x1'"),
        ("--passes=0", "passes must be a whole number of at least 1, got '0'"),
        ("--threads=0", "threads must be a whole number from 1 to 1024, got '0'"),
        ("--device=nope", "device=nope can't be used"),
    ],
)
def test_a_mistake_is_one_line(argument, message, capsys):
    assert cli.guarded(lambda: speed.speed([argument])) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
