"""What Hydra says in many lines is said in one."""

import pytest

from g2lstm import cli
from g2lstm.commands import train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "optimizer.lr=interval(1,40)"], "does not support sweep type"),
        (["-m", "gate=sigmoid,gumble"], "gate=gumble does not exist: choose one of gumbel, sharpened, sigmoid"),
        (["hydra/launcher=nope"], "hydra/launcher=nope is not installed"),
        (["seed=1,2"], "an option was given several values: python train.py -m runs one after the other"),
        (["--config-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_about_sweeps_and_launchers_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.guarded(lambda: train.main(arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*seed*"))


def test_hydras_flags_show_the_config_and_start_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(["task=builtin", "--cfg", "job", "--resolve"]) == 0
    assert "hidden_size: 128" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
