"""Where the kernel is compiled and kept, with a compiler that copies the one that is already there."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from g2lstm.engines import compiled
from tests.engines import fresh

pytestmark = pytest.mark.skipif(compiled.problem() is not None, reason=f"the native engine {compiled.problem()}")

COMPILER = """
import shutil, sys, time
time.sleep(float(sys.argv[1]))
shutil.copy(sys.argv[2], sys.argv[sys.argv.index("-o") + 1])
"""
USE = """
import logging, pathlib, sys, torch
logging.basicConfig(format="%(message)s")
if "homeless" in sys.argv:
    def home(): raise RuntimeError("Could not determine home directory.")
    pathlib.Path.home = home
from g2lstm import G2LSTM
from g2lstm.engines import compiled
G2LSTM(3, 4)(torch.zeros(2, 1, 3))[0].sum().backward()
print(compiled.problem())
"""


def start(folder: Path, *arguments: str, seconds: float = 0, **environment: str) -> fresh.Started:
    script = folder / "compiler.py"
    script.write_text(COMPILER)
    compiler = shlex.join([sys.executable, str(script), str(seconds), str(compiled._library())])
    settings = {name: value for name, value in os.environ.items() if name != "TORCH_EXTENSIONS_DIR"}
    settings |= {"CXX": compiler, "TMPDIR": str(folder)} | environment
    return fresh.start(USE, folder, *arguments, environment=settings)


def test_it_is_kept_in_the_home_folder(tmp_path):
    out, _ = start(tmp_path, HOME=str(tmp_path / "home")).communicate()
    assert out == "None\n"
    assert len(list(tmp_path.glob("home/.cache/torch_extensions/g2lstm_*/*"))) == 1
    assert not list(tmp_path.glob("g2lstm_*"))


@pytest.mark.parametrize(("arguments", "home"), [(["homeless"], "/"), ([], "/dev/null/home")], ids=["none", "read-only"])
def test_without_a_home_folder_it_is_kept_in_a_private_temporary_one(arguments, home, tmp_path):
    out, _ = start(tmp_path, *arguments, HOME=home).communicate()
    assert out == "None\n"
    assert len(list(tmp_path.glob(f"g2lstm_{os.getuid()}/g2lstm_*/native.so"))) == 1
    assert (tmp_path / f"g2lstm_{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_others_can_write_to_is_not_used(tmp_path):
    (tmp_path / f"g2lstm_{os.getuid()}").mkdir()
    (tmp_path / f"g2lstm_{os.getuid()}").chmod(0o777)
    out, log = start(tmp_path, "homeless").communicate()
    assert out.startswith("could not be compiled: no folder can be written to")
    assert log.count("\n") == 1


def test_two_processes_may_compile_at_the_same_time(tmp_path):
    both = [start(tmp_path, seconds=1, TORCH_EXTENSIONS_DIR=str(tmp_path / "kept")) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["None\n"] * 2
    assert [path.name for path in tmp_path.glob("kept/*/*")] == ["native.so"]


def test_a_folder_that_can_not_be_written_to_is_one_line_of_the_log_and_tensor_code(tmp_path):
    out, log = start(tmp_path, TORCH_EXTENSIONS_DIR="/dev/null/kept").communicate()
    assert out.startswith(
        "could not be compiled: no folder can be written to, of /dev/null/kept: TORCH_EXTENSIONS_DIR names"
    )
    assert log.count("\n") == 1
