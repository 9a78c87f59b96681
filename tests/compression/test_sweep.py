"""A sweep evaluates every setting once, goes on after an interruption, and reports what it found."""

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from compression_sweep import compression_sweep
from rich.console import Console

from g2lstm import G2LSTM, HardGate, SharpenedGate, cli
from g2lstm.compression import Method, Target, compressed_copy
from g2lstm.compression import sweep as sweeping
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel
from g2lstm.reporting.sweeps import figures, tables
from g2lstm.runs.compose import compose
from g2lstm.runs.run import Run, default_folder
from g2lstm.runs.start import start
from g2lstm.runs.store import Store
from g2lstm.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import without_drawing
from tests.engines.fresh import FORKS

ROOT = Path(__file__).resolve().parents[2]
# A model that learned something, so that compression does something.
LEARNS = [
    "optimizer.lr=0.03",
    "epochs=4",
    "finetune=false",
    "record=true",
    "model.weight_dropout=0",
    "model.dropout_input=0",
]
LEARNS += ["model.dropout_hidden=0", "model.dropout_output=0", "model.dropout_embedding=0", "model.alpha=0", "model.beta=0"]
SETTINGS = "settings=svd:H/4,round:0.2+clip:0.4"


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with three recorded runs: a sharpened gate, and two seeds of a plain one."""
    path = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for gate, seed in (("sharpened", 1), ("sigmoid", 1), ("sigmoid", 2)):
            values = compose([*tiny, "optimizer=adamw", *LEARNS, f"gate={gate}", f"seed={seed}"])
            start(values, ["task=text"], Path(f"runs/text/{gate}-seed{seed}"), Console())  # named as if nothing was changed
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture
def sweep(text_dir, tmp_path):
    """Sweeps and gives the rows of sweep.json."""

    def run(*arguments: str, drawn: bool = False) -> list[dict]:
        options = [f"data.dir={text_dir}", "device=cpu", f"out={tmp_path}", *arguments]
        with nullcontext() if drawn else without_drawing():
            assert cli.guarded(lambda: compression_sweep(options)) == 0
        return json.loads((tmp_path / "sweep.json").read_text())

    return run


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The settings that were evaluated."""
    found: list[str] = []
    evaluate = sweeping.evaluate

    def counting(task, model, evaluation):
        found.append(str(evaluation.method))
        return evaluate(task, model, evaluation)

    monkeypatch.setattr(sweeping, "evaluate", counting)
    return found


def test_each_row_is_the_evaluation_of_a_compressed_model(sweep, text_dir) -> None:
    rows = sweep("runs=results/text/*", SETTINGS)
    assert len(rows) == 3 * 2 * 3
    overrides = {"data.dir": str(text_dir), "device": "cpu"}
    for row in rows:
        run = Run.open(row["run"], overrides)
        task = run.task()
        model = compressed_copy(run.model(task), Method.parse(row["setting"]))
        found = task.evaluate(model, "test", row["variant"]).metrics
        assert row["value"] == pytest.approx(found["perplexity"], rel=1e-5)
        same = [r for r in rows if (r["run"], r["variant"], r["setting"]) == (row["run"], row["variant"], "original")]
        assert row["difference"] == pytest.approx(row["value"] - same[0]["value"])
        if (row["setting"], row["variant"]) == ("original", ""):
            summary = json.loads(Path(row["run"], "summary.json").read_text())
            assert row["value"] == pytest.approx(summary["test_perplexity_recorded_weights"], rel=1e-5)
    assert {row["gate"] for row in rows} == {"sharpened", "sigmoid"}
    assert max(abs(row["difference"]) for row in rows) > 0.1
    assert {row["metric"] for row in rows} == {"perplexity"}
    assert {row["bits_per_gate_parameter"] for row in rows if row["setting"] == "original"} == {32}


def test_an_interrupted_sweep_evaluates_only_what_is_missing(sweep, counted, monkeypatch, text_dir, tmp_path) -> None:
    arguments = ["runs=results/text/sigmoid-seed1", "variants=plain"]
    add = Store.add

    def stopping(store, key, rows):
        add(store, key, rows)
        if len(counted) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", stopping)
        options = [f"data.dir={text_dir}", "device=cpu", f"out={tmp_path}", *arguments, "preset=relative"]
        assert cli.guarded(lambda: compression_sweep(options)) == 130
    assert counted == ["original", "round:0.5"]
    rows = sweep(*arguments, "preset=relative")
    assert counted == [row["setting"] for row in rows]
    assert len(rows) == 7
    assert all(row["difference"] is not None for row in rows)
    sweep(*arguments, "preset=relative")
    assert len(counted) == 7
    assert len(sweep(*arguments, SETTINGS)) == 8  # one of these settings was there
    assert counted[7:] == ["round:0.2+clip:0.4"]


def test_other_weights_or_another_way_to_evaluate_are_evaluated_anew(sweep, counted, folder) -> None:
    run = folder / "runs" / "text" / "sigmoid-seed1"
    arguments = [f"runs={run.relative_to(folder)}", "settings=svd:1", "variants=plain"]
    sweep(*arguments)
    sweep(*arguments, "gates=i")
    sweep(*arguments, "split=valid")
    assert counted.count("svd:1") == 3
    weights = run / "best.safetensors"
    before = weights.read_bytes()
    content = load_checkpoint(weights)
    content["model"]["output_bias"] += 0.1 * torch.arange(len(content["model"]["output_bias"]))
    save_checkpoint(weights, content)
    try:
        rows = sweep(*arguments)
    finally:
        weights.write_bytes(before)
    assert counted.count("svd:1") == 4
    assert len(rows) == 2  # those of the former weights are gone


def test_the_text_counts_and_not_where_it_lies(sweep, counted, text_dir, tmp_path) -> None:
    elsewhere = shutil.copytree(text_dir, tmp_path / "elsewhere")
    arguments = ["runs=results/text/sigmoid-seed1", "settings=svd:1", "variants=plain"]
    sweep(*arguments)
    sweep(*arguments, f"data.dir={elsewhere}")
    assert len(counted) == 2
    lines = (elsewhere / "test.txt").read_text().splitlines(keepends=True)
    (elsewhere / "test.txt").write_text("".join(lines[:6]))
    before, after = sweep(*arguments), sweep(*arguments, f"data.dir={elsewhere}")
    assert len(counted) == 4
    assert before[0]["value"] != after[0]["value"]
    assert len(after) == 4  # those of the other text stay


def test_a_run_that_can_not_be_evaluated_is_named(folder, text_dir, capsys) -> None:
    run = shutil.copytree(folder / "runs" / "text" / "sigmoid-seed1", folder / "diverged")
    content = load_checkpoint(run / "best.safetensors")
    content["model"]["output_bias"][0] = float("nan")
    save_checkpoint(run / "best.safetensors", content)
    arguments = ["runs=diverged", "settings=svd:1", "variants=plain", f"data.dir={text_dir}", "out=elsewhere"]
    assert cli.guarded(lambda: compression_sweep(arguments)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: diverged: output_bias holds values that are not finite")
    assert "leave it out of runs=" in line


def test_a_single_setting_is_drawn_and_old_figures_go(sweep, tmp_path) -> None:
    sweep("runs=results/text/sigmoid-seed1", "settings=svd:1", "variants=plain")
    assert {path.name for path in tmp_path.glob("*.png")} == {"bits.png", "rank.png"}
    sweep("runs=results/text/sigmoid-seed1", "settings=bits:4", "variants=plain")
    assert {path.name for path in tmp_path.iterdir()} == {"bits.png", "bits.svg", "sweep.json", "sweep.md"}


def test_processes_find_the_same_numbers(sweep, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sweeping.multiprocessing, "get_context", lambda _: FORKS)  # spares them an import of torch
    arguments = ["runs=results/text/sigmoid-*", "settings=svd:2", "variants=cache"]
    rows = sweep(*arguments, "jobs=2")
    printed = capsys.readouterr()
    assert "4 evaluations of 2 runs, 0 of them done before" in printed.err
    assert "ETA 0 s" in printed.err
    assert "| plain LSTM |" in printed.out
    (tmp_path / "sweep.json").unlink()
    alone = sweep(*arguments)
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in alone])


def test_the_report_has_the_papers_table_and_its_figures(sweep, capsys, tmp_path) -> None:
    sweep("runs=results/text/*", "preset=paper", "settings=svd:H/4,svd:H/2", drawn=True)
    text = (tmp_path / "sweep.md").read_text()
    assert "| gate | original | round 0.2 | round 0.2 & clip 0.4 | SVD 128 | SVD 64 | SVD H/4 | SVD H/2 | n |" in text
    lines = text.splitlines()
    assert lines[0] == "Test perplexity (and difference to the original)"
    assert "Test perplexity with cache (and difference to the original)" in lines
    assert lines[4].startswith("| plain LSTM | ")
    assert lines[4].endswith(" | 2 |")
    assert "±" in lines[4]
    assert lines[5].startswith("| sharpened sigmoid | ")
    assert "±" not in lines[5]
    assert text in capsys.readouterr().out
    for name in ("bits.png", "bits.svg", "rank.png", "rank.svg"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_recorded_runs_go_to_results_and_others_to_runs() -> None:
    def folder_of(*paths: str) -> Path:
        return default_folder([Run(Path(path)) for path in paths], "compression")

    assert folder_of("results/text/a", "results/text/b") == Path("results/compression/text")
    assert folder_of("results/text/a", "results/ptb/b") == Path("runs/compression")
    assert folder_of("runs/text/a") == Path("runs/compression")


def test_a_sharpened_layer_is_evaluated_as_the_lstm_it_is() -> None:
    model = LanguageModel(11, 6, 8, 2, gate=SharpenedGate(0.3)).eval()
    tokens = torch.randint(11, (5, 2))
    with torch.no_grad():
        expected = model(tokens).raw
        plain = sweeping.without_gates(model)
        assert not any(isinstance(module, G2LSTM) for module in plain.modules())
        torch.testing.assert_close(plain(tokens).raw, expected)
    hard = LanguageModel(11, 6, 8, 1, gate=HardGate()).eval()
    assert isinstance(sweeping.without_gates(hard).layers[0], G2LSTM)


def test_each_run_is_evaluated_in_the_variants_of_its_task() -> None:
    names = {"a": ("", "cache"), "b": ("greedy", "beam", "cache")}
    subjects = [sweeping.Subject(Path(name), {}, "sigmoid", 1, variants, "x", "y") for name, variants in names.items()]

    def planned(variants: str) -> list[tuple[str, str]]:
        found = sweeping.plan(subjects, [Method()], Target(), "test", variants=variants)
        return [(one.subject.path.name, one.variant) for one in found]

    assert planned("all") == [(name, variant) for name, variants in names.items() for variant in variants]
    assert planned("plain,beam") == [("a", ""), ("b", "beam")]
    assert len({one.key for one in sweeping.plan(subjects[:1], [Method()], Target(), "test")}) == 2


def test_a_part_of_the_split_is_evaluated_alone_and_said(sweep, counted, tmp_path) -> None:
    arguments = ["runs=results/text/sigmoid-seed1", "settings=svd:1", "variants=plain"]
    whole, part = sweep(*arguments)[0], sweep(*arguments, "limit=3")[0]
    assert counted == ["original", "svd:1"] * 2
    assert (whole["limit"], part["limit"]) == (None, 3)
    assert whole["value"] != part["value"]
    assert "Evaluated on the first 3 of the test split alone." in (tmp_path / "sweep.md").read_text()
    assert sweep(*arguments, "limit=1000")[0] == whole  # all of it, which is no part
    assert counted == ["original", "svd:1"] * 2


def test_of_rows_that_say_the_same_of_a_run_the_first_are_read() -> None:
    about = {"run": "a", "variant": "", "split": "test", "limit": None, "gates": "if", "matrices": "input", "layers": "all"}
    rows = [about | {"setting": setting, "value": value} for value in (1.0, 2.0) for setting in ("original", "svd:1")]
    rows.append(rows[-1] | {"run": "b"})
    found = sweeping.of_one_target(rows)
    assert [(row["run"], row["setting"], row["value"]) for row in found] == [
        ("a", "original", 1.0), ("a", "svd:1", 1.0), ("b", "svd:1", 2.0),
    ]  # fmt: skip
    other = rows[1] | {"matrices": "recurrent"}
    assert sweeping.of_one_target([rows[1], other, rows[3]]) == [rows[1]]


def test_rows_of_an_earlier_version_are_read_and_replaced_by_their_successors(sweep, tmp_path) -> None:
    arguments = ["runs=results/text/sigmoid-seed1", "settings=svd:1"]
    rows = sweep(*arguments)
    earlier = []
    for row in rows:
        old = {name: value for name, value in row.items() if name not in ("variant", "limit", "lower_is_better", "digits")}
        earlier.append(old | {"cache": row["variant"] == "cache", "key": f"old {row['key']}"})
    other = earlier[1] | {"setting": "svd:9", "key": "another"}
    (tmp_path / "sweep.json").write_text(json.dumps([*earlier, other]))
    read = sweeping.open_store(tmp_path / "sweep.json").all()
    assert [row["variant"] for row in read] == [row["variant"] for row in [*rows, rows[1]]]
    assert tables(read[:-1]) == tables(rows)
    again = sweep(*arguments)
    assert [row["key"] for row in again] == [*(row["key"] for row in rows), "another"]


def test_a_metric_of_which_more_is_better_says_so() -> None:
    about = {"run": "r", "gate": "gumbel", "split": "test", "metric": "accuracy", "lower_is_better": False, "variant": ""}
    about |= {"gates": "if", "matrices": "input", "layers": "all", "bits_per_gate_parameter": 2.0, "difference": -1.5}
    rows = [about | {"setting": name, "value": value} for name, value in (("original", 98.0), ("svd:1", 96.5))]
    text = tables(rows)
    assert text.startswith("Test accuracy (and difference to the original; higher is better)")
    assert "| G2-LSTM | 98.00 | 96.50 (-1.50) | 1 |" in text
    assert "| G2-LSTM | 98.0000 | 96.5000 (-1.5000) | 1 |" in tables([row | {"digits": 4} for row in rows])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --runs"),
        (["runs=nowhere"], "nowhere is not a run directory"),
        (["runs=nowhere/*"], "no run directory matches nowhere/*: name folders that runs wrote"),
        (["runs=results/text/*", "preset=papers"], "there is no preset papers: choose of paper, translation"),
        (["runs=results/text/*", "settings=svd"], "'svd' is no compression setting: write for example"),
        (["runs=results/text/*", "gates=x"], "gates must be some of i, f, g, o, got x"),
        (["runs=results/text/*", "layers=7"], "there is no LSTM layer 7: choose 0 to 1, or of layers.0.l0, layers.1.l0"),
        (["runs=results/text/*", "variants=beam"], "there is no variant beam: choose of plain, cache, or all"),
        (["runs=results/text/*", "limit=0"], "limit must be a whole number of at least 1, got '0'"),
        (["runs=results/text/*", "jobs=0"], "jobs must be a whole number of at least 1, got '0'"),
        (["runs=results/text/*", "threads=0"], "threads must be a whole number from 1 to 1024, got '0'"),
        (["runs=results/text/*", "out=broken/sweep.json"], "broken/sweep.json is a file: name a folder"),
        (["runs=results/text/*", "out=broken"], "sweep.json is not what this command wrote: remove it, or set out=..."),
    ],
)
def test_a_mistake_is_one_line(capsys, folder, text_dir, arguments, message) -> None:
    (folder / "broken").mkdir(exist_ok=True)
    (folder / "broken" / "sweep.json").write_text('[{"key": "x"}]')
    where = [f"data.dir={text_dir}", "variants=plain", "out=elsewhere"]
    assert cli.guarded(lambda: compression_sweep([*where, *arguments])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


class Deadly:
    """Ends the process that it is handed to."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_process_that_ends_unexpectedly_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(sweeping.multiprocessing, "get_context", lambda _: FORKS)
    with pytest.raises(UserError, match=r"a process of the sweep ended unexpectedly.*: the same command goes on"):
        list(sweeping._evaluated([Deadly(), Deadly()], 2, 1))


def test_a_recorded_run_without_weights_is_one_line(capsys) -> None:
    run = ROOT / "results" / "ptb_50_steps" / "sigmoid-seed1"
    assert cli.guarded(lambda: compression_sweep([f"runs={run}"])) == 2
    assert "has no weights (best.safetensors)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names", [["sigmoid", "gumbel"], ["sigmoid-dropout1", "sigmoid-dropout2", "gumbel-dropout1", "gumbel-dropout2"]]
)
def test_the_legend_fits_its_figure(names: list[str]) -> None:
    about = {"metric": "perplexity", "variant": "", "split": "test", "limit": None, "lower_is_better": True, "seed": 1}
    rows = [
        about | {"gate": gate, "run": gate, "setting": setting, "value": 80.0, "rank": rank, "bits_per_gate_parameter": rank}
        for gate in names for setting, rank in (("original", 32), ("svd:8", 8), ("svd:4", 4))
    ]  # fmt: skip
    for figure in figures(rows).values():
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        plt.close(figure)


@pytest.mark.parametrize("seeds", [1, 2])
def test_bands_are_explained_where_there_are_any(seeds: int) -> None:
    about = {
        "metric": "perplexity",
        "variant": "",
        "split": "test",
        "limit": None,
        "lower_is_better": True,
        "gate": "sigmoid",
    }
    rows = [
        about | {"run": f"seed{seed}", "setting": setting, "value": 80 + seed, "rank": rank, "bits_per_gate_parameter": rank}
        for seed in range(seeds) for setting, rank in (("original", 32), ("svd:8", 8), ("svd:4", 4))
    ]  # fmt: skip
    for figure in figures(rows).values():
        (axes,) = figure.axes
        assert (len(axes.collections) > 0) == (seeds == 2)
        assert axes.get_xlabel().endswith("bands, bars: ± standard deviation over seeds") == (seeds == 2)
        plt.close(figure)


def test_a_way_to_evaluate_without_settings_of_a_figure_has_no_panel_there() -> None:
    about = {"metric": "perplexity", "split": "test", "limit": None, "lower_is_better": True, "gate": "sigmoid", "run": "a"}
    settings = {"": ("original", "svd:8"), "cache": ("original", "bits:4")}
    rows = [
        about | {"variant": variant, "setting": setting, "value": 80.0, "bits_per_gate_parameter": 8,
                 "rank": 8 if "svd" in setting else None}
        for variant, chosen in settings.items() for setting in chosen
    ]  # fmt: skip
    found = figures(rows)
    assert [axes.get_ylabel() for axes in found["rank"].axes] == ["test perplexity"]
    assert len(found["bits"].axes) == 4


def test_panels_that_share_an_axis_share_its_scale() -> None:
    """One family with values far apart; of the others, a last one has little to show, or a loss below 0."""

    def scales(**values: float) -> list[str]:
        about = {"split": "test", "metric": "perplexity", "variant": "", "gate": "sigmoid", "run": "a"}
        settings = {"original": 80.0, "round:0.2+clip:0.4": 81.0} | values
        rows = [about | {"setting": setting, "value": v, "bits_per_gate_parameter": 4, "rank": None}
                for setting, v in settings.items()]  # fmt: skip
        return [axes.get_yscale() for axes in figures(rows)["bits"].axes]

    assert scales(**{"bits:3": 82.0, "prune:0.9": 300.0}) == ["log"] * 3
    assert scales(**{"bits:3": 300.0, "prune:0.9": -1.0}) == ["linear"] * 3
    assert scales(**{"bits:3": 82.0, "prune:0.9": 83.0}) == ["linear"] * 3
