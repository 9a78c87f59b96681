"""What p and tau do: the sweep and the gates of the same runs come together by run, and seeds by p and tau."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import study as command

from g2lstm import cli
from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL
from g2lstm.reporting.study import draw, read, table
from tests.conftest import ROOT


def written(
    folder: Path,
    variants: list[tuple[float | None, float | None, int, float]],
    metric: str = "perplexity",
    digits: int | None = None,
) -> Path:
    """The two files of runs with (p, tau, seed, test perplexity)."""
    swept, gates = [], []
    for p, tau, seed, value in variants:
        run = {"run": f"runs/x/p{p}-tau{tau}-seed{seed}", "gate": f"p{p}-tau{tau}", "seed": seed}
        run |= {"weights": f"{p} {tau} {seed}", "split": "test"}
        about = run | {"gates": "if", "matrices": "input+recurrent", "layers": "all", "metric": metric, "variant": ""}
        about |= {"lower_is_better": metric == "perplexity", "limit": None} | ({} if digits is None else {"digits": digits})
        about |= {"difference": None, "rank": None, "bits_per_gate_parameter": 32}
        for setting, loss in {"original": 0.0, "svd:H/16": 10.0 + seed, "round:0.5+clip:1": 2.0}.items():
            row = about | {"setting": setting, "value": value + loss if metric == "perplexity" else value - loss}
            swept += [row, row | {"variant": "cache", "value": 0.0}, row | {"split": "valid", "value": 1.0}]
            swept += [row | {"limit": 3, "value": 0.0}]
            swept += [] if setting == "original" else [row | {"gates": "ifgo", "value": 1e3}]
        of_run = run | {"noise_p": p, "tau": tau, "split": "valid", "size": "all", "key": run["run"]}
        for mode in ("test",) if p is None else ("training", "test"):
            for block, binary in (("i", 0.4), ("f", 0.5)):
                of_mode = {"mode": mode, "block": block, "binary": binary + (0.2 if mode == "training" else 0.0)}
                row = of_run | of_mode | {"kind": "gates", "layer": ALL, "mean": 0.5, "entropy": 0.5, "histogram": []}
                gates += [row, row | {"layer": "layers.0", "binary": 0.0}]
        for mode, value in (("test", 100.0), ("hard", 103.5 if metric == "perplexity" else 96.5)):
            gates.append(of_run | {"kind": "metric", "mode": mode, "metric": metric, "variant": "", "value": value})
    swept = [row | {"key": str(number)} for number, row in enumerate(swept)]
    for name, content in (("compression/x/sweep.json", swept), ("gates/x/gates.json", gates)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
    return folder


STUDY = [(0.2, 0.9, 1, 90.0), (0.2, 0.9, 2, 92.0), (0.0, 0.9, 1, 95.0), (1.0, 0.9, 1, 99.0), (0.2, 0.5, 1, 93.0)]


def test_a_line_has_means_and_deviations_over_seeds(tmp_path) -> None:
    lines = table(read(written(tmp_path, STUDY), "x")).splitlines()
    head = "| p | tau | test perplexity | SVD H/16 | round 0.5 & clip 1 | gates cut to 0 or 1 | input gate binary, training"
    assert lines[0].startswith(head)
    shares = "60.0 | 40.0 | 70.0 | 50.0"
    assert lines[2:6] == [
        f"| 0 | 0.9 | 95.00 | +11.00 | +2.00 | +3.50 | {shares} | 1 |",
        "| 0.2 | 0.9 | 91.00 ± 1.41 | +11.50 ± 0.71 | +2.00 ± 0.00 | +3.50 ± 0.00"
        " | 60.0 ± 0.0 | 40.0 ± 0.0 | 70.0 ± 0.0 | 50.0 ± 0.0 | 2 |",
        f"| 1 | 0.9 | 99.00 | +11.00 | +2.00 | +3.50 | {shares} | 1 |",
        f"| 0.2 | 0.5 | 93.00 | +11.00 | +2.00 | +3.50 | {shares} | 1 |",
    ]


def test_differences_are_paired_by_seed(tmp_path) -> None:
    lines = table(read(written(tmp_path, [*STUDY, (0.0, 0.9, 2, 100.0)], "accuracy"), "x")).splitlines()
    half = 12.7062047 * 1.5  # t with one degree of freedom; the differences are -5 and -8
    start = "| p 0.2, tau 0.9 less p 0, tau 0.9 | "
    (line,) = (line for line in lines if line.startswith(start))
    cells = line.removeprefix(start).split(" | ")
    assert cells[0] == cells[4] == f"-6.5 ({-6.5 - half:+.1f} to {-6.5 + half:+.1f})"  # and after SVD H/16, equal losses
    assert cells[1] == "+0.0 (+0.0 to +0.0)"
    assert line.endswith("| 2 |")
    assert any(line.startswith("| p 0.2, tau 0.5 less p 0.2, tau 0.9 | +3.0 (one seed: no interval) |") for line in lines)


def test_cut_gates_are_read_of_valid_alone(tmp_path) -> None:
    folder = written(tmp_path, STUDY)
    path = folder / "gates/x/gates.json"
    rows = json.loads(path.read_text())
    of_test = [
        row | {"key": f"test of {row['key']}"} | ({"split": "test", "value": 0.0} if row["kind"] == "metric" else {})
        for row in rows
    ]
    path.write_text(json.dumps(of_test + rows))  # the last measurement comes first
    assert table(read(folder, "x")) == table(read(written(tmp_path / "other", STUDY), "x"))
    path.write_text(json.dumps(of_test))
    with pytest.raises(UserError, match=r"gate_histograms\.py with metric=valid"):
        read(folder, "x")


def test_all_lines_are_drawn_however_many(tmp_path) -> None:
    runs = read(written(tmp_path, STUDY), "x")
    for run in runs:
        run.panels["loss of perplexity"].update({f"setting {number}": 1.0 for number in range(12)})
    figure = draw(runs)
    handles = [bars.lines[0] for bars in figure.axes[2].containers]
    assert len({(line.get_color(), line.get_marker()) for line in handles}) == len(handles) == 3 + 12
    plt.close(figure)


def test_a_metric_of_which_more_is_better_loses_what_it_falls(tmp_path) -> None:
    lines = table(read(written(tmp_path, STUDY[2:3], "accuracy"), "x")).splitlines()
    assert lines[0].startswith("| p | tau | test accuracy | SVD H/16 |")
    assert lines[2].startswith("| 0 | 0.9 | 95.00 | +11.00 | +2.00 | +3.50 |")
    assert lines[4].startswith("Losses, positive where it gets lower, of the test accuracy under compression")


def test_numbers_have_the_digits_of_the_metric(tmp_path) -> None:
    runs = [(0.2, 0.9, 1, 0.9871), (0.2, 0.9, 2, 0.9874), (0.0, 0.9, 1, 0.9853)]
    lines = table(read(written(tmp_path, runs, "accuracy", 4), "x")).splitlines()
    assert lines[2].startswith("| 0 | 0.9 | 0.9853 | +11.0000 | +2.0000 | +3.5000 | 60.0 | ")
    assert lines[3].startswith("| 0.2 | 0.9 | 0.9872 ± 0.0002 | +11.5000 ± 0.7071 |")
    (line,) = (line for line in lines if line.startswith("| p 0.2, tau 0.9 less p 0, tau 0.9 |"))
    assert line.split(" | ")[1] == "+0.002 (one seed: no interval)"
    assert line.split(" | ")[-2] == "+0.0 (one seed: no interval)"  # a share in %


def test_the_recorded_study_of_an_earlier_version_gives_its_table() -> None:
    assert table(read(ROOT / "results", "ptb_study")) + "\n" == (ROOT / "results/ptb_study/study.md").read_text()


def test_a_plain_lstm_stands_at_p_0_and_tau_1_and_is_in_training_as_in_test(tmp_path) -> None:
    lines = table(read(written(tmp_path, [*STUDY, (None, None, 1, 80.0)]), "x")).splitlines()
    assert "| 0 | 1 | 80.00 | +11.00 | +2.00 | +3.50 | 40.0 | 40.0 | 50.0 | 50.0 | 1 |" in lines


def test_the_figure_has_a_column_for_p_and_one_for_tau(tmp_path) -> None:
    figure = draw(read(written(tmp_path, STUDY), "x"))
    labels = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert labels == ["noise probability p (tau 0.9)", "temperature tau (p 0.2)"]
    (bars,) = figure.axes[0].containers
    assert bars.lines[0].get_xydata().tolist() == [[0.0, 95.0], [0.2, 91.0], [1.0, 99.0]]
    (bars,) = figure.axes[1].containers
    assert bars.lines[0].get_xydata().tolist() == [[0.5, 93.0], [0.9, 91.0]]


@pytest.mark.parametrize(("gain", "bottom"), [(0.0, 0.0), (5.0, -6.0)])
def test_a_loss_that_is_a_gain_is_drawn(tmp_path, gain, bottom) -> None:
    runs = read(written(tmp_path, STUDY), "x")
    for run in runs:
        run.panels["loss of perplexity"]["round 0.5 & clip 1"] -= gain
    low, _ = draw(runs).axes[2].get_ylim()
    assert bottom <= low <= 2.0 - gain


def test_without_other_temperatures_there_is_one_column(tmp_path) -> None:
    assert len(draw(read(written(tmp_path, STUDY[:-1]), "x")).axes) == 3


def test_the_command_writes_table_and_figure(tmp_path, capsys) -> None:
    assert command.run_study(["name=x", f"results={written(tmp_path, STUDY)}"]) == 0
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"study.md", "study.png", "study.svg"}
    assert capsys.readouterr().out == (tmp_path / "x" / "study.md").read_text()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("gates", None, "gates.json: python experiments/gate_histograms.py runs='runs/x/*' out="),
        ("gates", "{}", "gates.json is not what gate_histograms.py or gate_heatmap.py writes: remove it"),
        ("gates", "[1]", "gates.json is not what gate_histograms.py or gate_heatmap.py writes: remove it"),
        ("sweep", '{"rows": null}', "sweep.json is not what this command wrote: remove it"),
        ("sweep", "3", "sweep.json is not what this command wrote: remove it"),
        ("gates", "without metrics", "gate_histograms.py with metric=valid"),
        ("gates", "[]", "have no run in common"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(file, content, message, tmp_path, capsys) -> None:
    path = written(tmp_path, STUDY) / {"gates": "gates/x/gates.json", "sweep": "compression/x/sweep.json"}[file]
    if content == "without metrics":
        content = json.dumps([row for row in json.loads(path.read_text()) if row["kind"] == "gates"])
    path.unlink() if content is None else path.write_text(content)
    assert cli.guarded(lambda: command.run_study(["name=x", f"results={tmp_path}"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
