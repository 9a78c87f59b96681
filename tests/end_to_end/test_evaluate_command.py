"""python evaluate.py gives again what a run found, and says one line about a mistake."""

import json
from pathlib import Path

import pytest

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
    assert cli.guarded(lambda: evaluate.evaluate([*arguments, "json=found.json"])) == 0
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
    one, two = (numbers("run=run", "split=valid", f"eval.batch_size={size}") for size in (1, 2))
    assert one["valid_perplexity"] == pytest.approx(two["valid_perplexity"], rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --run: python evaluate.py --help lists the options"),
        (["run=nowhere"], "nowhere is not a run directory"),
        (["run=run", "split=train"], "invalid choice: 'train'"),
        (["run=run", "eval.cache.enabled=perhaps"], "must be true or false, got 'perhaps'"),
        (["run=run", "eval.cache.window=many"], "invalid int value: 'many'"),
        (["run=run", "eval.cache.window=0"], "eval.cache.window must be at least 1, got 0"),
        (["run=run", "eval.cache.lambda=1"], "eval.cache.lambda must be in [0, 1), got 1"),
        (["run=run", "temperature=1"], "unrecognized arguments: --temperature=1"),
        (["run=run", "eval.cache.w=3"], "unrecognized arguments"),
        (["run=run", "data.dir=missing"], "data.dir=missing is not a folder"),
        (["run=run", "device=nope"], "device=nope can't be used"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message):
    assert cli.guarded(lambda: evaluate.evaluate(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_help_lists_the_options(capsys):
    with pytest.raises(SystemExit) as end:
        evaluate.evaluate(["--help"])
    assert end.value.code == 0
    assert "--eval.cache.enabled true|false" in capsys.readouterr().out
