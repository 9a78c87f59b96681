"""python evaluate.py gives again what a run found, and says one line about a mistake."""

import json
import shutil
from pathlib import Path

import pytest
from compress import compress
from omegaconf import OmegaConf

import evaluate
import train
from g2lstm import cli


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder in which a run was trained and recorded."""
    path = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert train.main([*tiny, "record=true", "epochs=1", "finetune=false", "run_dir=run"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def numbers(*arguments: str) -> dict[str, float]:
    assert cli.guarded(lambda: evaluate.main([*arguments, "json=found.json"])) == 0
    return json.loads(Path("found.json").read_text())


def summary(run: str | Path) -> dict:
    return json.loads(Path(run, "summary.json").read_text())


METRICS = ("valid_perplexity", "valid_perplexity_cache", "test_perplexity", "test_perplexity_cache")


def test_a_run_evaluates_to_its_summary(capsys):
    found = numbers("run=run")
    assert {name: found[name] for name in METRICS} == pytest.approx({name: summary("run")[name] for name in METRICS})
    assert f"test perplexity: {found['test_perplexity']:.2f}" in capsys.readouterr().out.splitlines()


def test_a_recorded_run_evaluates_to_the_perplexity_of_its_weights(text_dir):
    recorded = next(Path("results/text").iterdir())
    found = numbers(f"run={recorded}", f"data.dir={text_dir}", "eval.cache.enabled=false")
    stated = summary(recorded)
    for split in ("valid", "test"):
        assert found[f"{split}_perplexity"] == pytest.approx(stated[f"{split}_perplexity_recorded_weights"])


def test_a_split_and_the_cache_are_chosen():
    assert set(numbers("run=run", "split=test", "eval.cache.enabled=false")) == {"run", "test_perplexity"}
    assert set(numbers("--run", "run", "--split=valid")) == {"run", "valid_perplexity", "valid_perplexity_cache"}
    found = numbers("run=run", "split=test", "eval.cache.lambda=0")
    assert found["test_perplexity_cache"] == pytest.approx(found["test_perplexity"])
    others = [numbers("run=run", "split=test", f"eval.cache.{text}") for text in ("window=3", "theta=5", "lambda=0.5")]
    assert len({round(other["test_perplexity_cache"], 6) for other in others}) == 3


def test_streams_side_by_side_change_little():
    one, two = (numbers("run=run", "split=valid", f"eval.valid_batch_size={size}") for size in (1, 2))
    assert one["valid_perplexity"] == pytest.approx(two["valid_perplexity"], rel=0.1)


def test_any_option_of_the_config_can_be_changed():
    one, two = (numbers("run=run", "split=valid", f"eval.bptt={rows}") for rows in (3, 16))
    assert one["valid_perplexity"] == pytest.approx(two["valid_perplexity"])
    assert numbers("run=run", "split=valid", "--eval.cache.theta", "1e-1") != numbers("run=run", "split=valid")


def test_several_runs_are_evaluated_and_named(capsys):
    recorded = next(Path("results/text").iterdir())
    Path("results/text/curves.png").touch()  # which a pattern passes over
    found = numbers("run=run", "run=results/text/*", "split=test", "eval.cache.enabled=false", f"data.dir={where()}")
    assert [one["run"] for one in found] == ["run", str(recorded)]
    alone = numbers(f"run={recorded}", "split=test", "eval.cache.enabled=false", f"data.dir={where()}")
    assert found[1] == alone
    lines = capsys.readouterr().out.splitlines()
    assert f"run: test perplexity: {found[0]['test_perplexity']:.2f}" in lines
    assert lines[1].startswith(f"{recorded}: test perplexity: ")


def test_a_pattern_names_models_and_runs(monkeypatch):
    shutil.copytree("run", "both/run")
    assert compress(["run=run", "method=svd:2", "out=both/model.g2"]) == 0
    monkeypatch.setattr("g2lstm.commands.evaluate.evaluate_model", lambda *_: {})
    assert [Path(one["run"]).name for one in numbers("run=both/*", f"data.dir={where()}")] == ["model.g2", "run"]


def where() -> str:
    """The folder of the text."""
    return OmegaConf.load("run/config.yaml").data.dir


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --run: python evaluate.py --help lists the options"),
        (["run=nowhere"], "nowhere is not a run directory"),
        (["run=run", "run=nowhere/*"], "no run directory matches nowhere/*"),
        (["run=run", "split=train"], "error: split: invalid choice: 'train'"),
        (["run=run", "splitt=test"], "there is no option splitt: did you mean split=...?"),
        (["run=run", "eval.cache.enabled=perhaps"], "eval.cache.enabled must be true or false, got 'perhaps'"),
        (["run=run", "eval.cache.window=many"], "eval.cache.window must be a whole number, got 'many'"),
        (["run=run", "eval.cache.window=0"], "eval.cache.window must be at least 1, got 0"),
        (["run=run", "eval.cache.window={"], "eval.cache.window={ does not parse"),
        (["run=run", "eval.cache.lambda=1"], "eval.cache.lambda must be less than 1, got 1"),
        (["run=run", "temperature=1"], "has no option temperature: leave it out"),
        (["run=run", "eval.cache.w=3"], "has no option eval.cache.w"),
        (["run=run", "fast"], "'fast' is no option, which is name=value: python evaluate.py --help lists the options"),
        (["run=run", "=5"], "is no option, which is name=value"),
        (["run=run", "splits.txt"], "'splits.txt' is no option, which is name=value"),
        (["run=run", "split", "test"], "split has no value: write split=..."),
        (["run=run", "data.dir=missing"], "data.dir=missing is not a folder"),
        (["run=run", "device=nope"], "device=nope can't be used"),
        (["run=run", "json=missing/found.json"], "there is no folder missing"),
        (["run=run", "json=run/summary.json"], "run/summary.json belongs to the run run: choose another name"),
        (["run=run", "json=run/vocabulary.json"], "run/vocabulary.json belongs to the run run: choose another name"),
        (["run=run", "json=notes.txt"], "notes.txt is not JSON"),
        (["run=run", "json=other.json"], "other.json is not what this command wrote, and would be replaced: name another"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_evaluated(capsys, monkeypatch, arguments, message):
    Path("notes.txt").write_text("mine")
    Path("other.json").write_text('[{"run": "run"}, {"mine": 1}]')
    monkeypatch.setattr("g2lstm.commands.evaluate.evaluate_model", lambda *_: pytest.fail("it was evaluated"))
    assert cli.guarded(lambda: evaluate.main(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.main(["--help"])
    assert end.value.code == 0
    assert "eval.cache.enabled=true" in capsys.readouterr().out
