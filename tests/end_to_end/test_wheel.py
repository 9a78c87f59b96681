"""The wheel in a fresh environment, first as the layer alone, then with the extra `train`. Slow: `make wheel-check`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LAYER = """
import importlib.util, torch
from g2lstm import G2LSTM, G2LSTMCell
from g2lstm.compression import Method, Target, compress, compressed_copy
from g2lstm.engines import native
assert importlib.util.find_spec("hydra") is None
layer = G2LSTM(3, 4)
layer(torch.randn(5, 2, 3))[0].sum().backward()
smaller = compressed_copy(layer.eval(), Method.parse("round:0.2"), Target.parse("if"))
print(tuple(smaller(torch.randn(5, 2, 3))[0].shape), native.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that this is checked too."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A fresh environment with the wheel: its folder of commands."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install(folder / "bin", str(wheel))
    return folder / "bin"


def install(commands: Path, requirement: str) -> None:
    pip = [commands / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", requirement]
    subprocess.run(pip, check=True)


def run(command: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([command, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_the_layer_works_without_the_extra_and_commands_name_it(environment: Path, tmp_path: Path) -> None:
    layer = run(environment / "python", "-c", LAYER, folder=tmp_path)
    assert layer.stdout.startswith("(5, 2, 4)"), layer.stderr
    assert str(ROOT) not in layer.stdout
    for name in ("g2lstm-train", "g2lstm-evaluate"):
        command = run(environment / name, "task=builtin", folder=tmp_path)
        assert command.returncode == 1
        assert re.fullmatch(r"error: .* pip install 'g2lstm\[train\]'\n", command.stderr)


def test_a_model_trains_and_evaluates_in_any_folder_with_the_extra(environment: Path, wheel: Path, tmp_path: Path) -> None:
    install(environment, f"{wheel}[train]")
    train = run(environment / "g2lstm-train", "task=builtin", "max_steps=3", "threads=1", folder=tmp_path)
    assert train.returncode == 0, train.stdout + train.stderr
    (summary,) = tmp_path.glob("runs/**/summary.json")
    evaluate = run(environment / "g2lstm-evaluate", f"run={summary.parent}", folder=tmp_path)
    assert evaluate.returncode == 0, evaluate.stdout + evaluate.stderr
    assert re.search(r"valid perplexity:? +\d+", evaluate.stdout)
