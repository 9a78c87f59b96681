"""The package as a whole: what importing it brings in, and what its documents say of it."""

import ast
import gc
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import g2lstm
from g2lstm import commands
from g2lstm.files import conf_folder

ROOT = Path(g2lstm.__file__).parent.parent
HEAVY = ("hydra", "omegaconf", "matplotlib", "rich", "datasets", "wandb", "sacrebleu", "torch._dynamo")
# Distributions whose modules have other names.
MODULES = {"hydra-core": "hydra", "pillow": "PIL", "pyyaml": "yaml"}


TORCHS_OWN = {"typing_extensions", "markupsafe", "jinja2", "filelock"}  # what torch itself imports or installs


def project() -> dict:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distribution(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


def imported(*folders: str) -> set[str]:
    """The modules of others that the files below some folders import, at their top or inside."""
    own = {"g2lstm", "tests"} | {path.stem for path in (*ROOT.glob("*.py"), *ROOT.glob("experiments/*.py"))}
    found = set[str]().union(*(imported_by(path) for folder in folders for path in ROOT.glob(folder)))
    return found - own - set(sys.stdlib_module_names)


@cache
def imported_by(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_an_import_brings_in_nothing_heavy_that_is_not_asked_for():
    code = f"""
import sys, torch
before = set(sys.modules)
import g2lstm
heavy = (set(sys.modules) - before) & set({HEAVY})
import g2lstm.training.tracking
from g2lstm.data.pairs import encode_pairs
encode_pairs([("a", "b")], lambda sources, targets: ([[1]], [[2]])).lengths
print(sorted(heavy), "wandb" in sys.modules, "pyarrow" in sys.modules, "pandas" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[] False True False"


def test_the_layer_and_compressed_models_work_with_torch_numpy_and_safetensors_alone(tmp_path):
    absent = imported("g2lstm/**/*.py", "tests/**/*.py") - {"torch", "numpy", "safetensors", "triton"} - TORCHS_OWN
    assert absent >= {"hydra", "rich", "matplotlib"}
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(absent)}))
import torch
from g2lstm import G2LSTM
from g2lstm.compression import Method, Target, compress, compressed_copy
layer = G2LSTM(3, 4).eval()
compressed_copy(layer, Method.parse("round:0.2"), Target.parse("if"))(torch.zeros(2, 1, 3))
from pathlib import Path
from g2lstm.compression.deploy import deploy
from g2lstm.compression.model_file import save_model
from g2lstm.compression.text_model import TextModel
from g2lstm.data.text import Vocabulary
from g2lstm.models.language_model import LanguageModel
files = {{"vocabulary.json": Vocabulary(("<eos>", "a", "b")).text()}}
save_model(Path({str(tmp_path)!r}, "model.g2"), deploy(LanguageModel(3, 4, 4, 2), rest="int8", notes={{"files": files}}))
assert len(list(TextModel.load(Path({str(tmp_path)!r}, "model.g2")).generate("a b", words=5, top_k=2))) == 5
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_without_the_extra_says_which_one_in_a_line(monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("g2lstm.cli", "g2lstm.commands.train"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("hydra", "rich", "omegaconf"):
        monkeypatch.setitem(sys.modules, name, None)
    try:
        with pytest.raises(SystemExit) as ended:
            commands.train_command()
    finally:
        gc.enable()
    assert re.fullmatch(r"error: the package \w+ is missing: pip install 'g2lstm\[train\]'", ended.value.code)


def test_everything_imported_is_declared():
    needs = project()["project"]
    extras = {name: {distribution(text) for text in texts} for name, texts in needs["optional-dependencies"].items()}
    declared = set().union(*extras.values(), (distribution(text) for text in needs["dependencies"]))
    modules = {MODULES.get(name, name.replace("-", "_")) for name in declared}
    lazily = {"tensorboard"}  # of torch.utils
    assert imported("g2lstm/**/*.py", "experiments/*.py", "*.py", "tests/**/*.py") - lazily <= modules


def test_every_package_is_installed_and_the_config_groups_with_it():
    setuptools = project()["tool"]["setuptools"]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("g2lstm/**/__init__.py")}
    assert set(setuptools["packages"]) == packages | {"g2lstm.conf"}
    assert setuptools["package-dir"] == {"g2lstm.conf": "conf"}
    assert conf_folder() == ROOT / "conf"


def test_make_and_uv_pin_the_same_versions():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert project()["tool"]["uv"]["constraint-dependencies"] == [line for line in lines if line and line[0] != "#"]


def test_the_lock_is_that_of_pyproject_and_names_public_hosts_alone():
    needs = project()
    text = (ROOT / "uv.lock").read_text(encoding="utf-8")
    lock = pytest.importorskip("tomllib").loads(text)
    (own,) = (package for package in lock["package"] if package["name"] == "g2lstm")
    wanted = {distribution(text) for text in needs["project"]["dependencies"]}
    wanted |= {distribution(text) for texts in needs["project"]["optional-dependencies"].values() for text in texts}
    assert {package["name"] for package in own["metadata"]["requires-dist"]} == wanted
    assert set(own["metadata"]["provides-extras"]) == set(needs["project"]["optional-dependencies"])
    pins = {distribution(text): text.split(";")[0] for text in needs["tool"]["uv"]["constraint-dependencies"]}
    assert {entry["name"]: entry["name"] + entry["specifier"] for entry in lock["manifest"]["constraints"]} == pins
    hosts = {"https://pypi.org", "https://files.pythonhosted.org", "https://download.pytorch.org"}
    assert set(re.findall(r"\w+://[^/\"]+", text)) == hosts


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {g2lstm.__version__}\n" in citation
    assert f"\n## {g2lstm.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_public_name_is_importable():
    assert all(hasattr(g2lstm, name) for name in g2lstm.__all__)


def test_every_file_that_the_list_of_deviations_names_is_marked():
    root = Path(g2lstm.__file__).parent
    table = (root.parent / "docs" / "deviations.md").read_text(encoding="utf-8")
    places = " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    named = set(re.findall(r"`(\w+/?\w*\.py)`", places)) - {"runs/record.py", "lstm.py"}  # no lines of ours
    assert len(named) >= 5
    for name in named:
        assert "# deviation:" in (root / name).read_text(encoding="utf-8"), name


def test_every_file_that_the_documents_name_exists():
    root = Path(g2lstm.__file__).parent.parent
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    named = {
        name
        for page in pages
        for name in re.findall(r"`((?:g2lstm|conf|tests|experiments|docs)/[\w./-]+)`", page.read_text("utf-8"))
    }
    linked = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text("utf-8"))
    }
    assert len(named) > 20
    assert len(linked) > 10
    assert not [path for path in {root / name for name in named} | linked if not path.exists()]


def test_every_room_has_a_line_in_the_house():
    root = Path(g2lstm.__file__).parent
    words = set(
        re.findall(r"[\w.]+", (root.parent / "docs" / "house.md").read_text(encoding="utf-8").split("| looking for")[0])
    )
    rooms = {path.parent.name for path in root.glob("*/__init__.py")} | {path.name for path in root.glob("*.py")}
    assert not rooms - words - {"__init__.py", "version.py"}
