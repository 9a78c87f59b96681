"""The triton engine where there is no GPU: in Triton's interpreter, which must be switched on before Triton is imported."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from g2lstm.engines import Request, triton

CHECKS = Path(__file__).with_name("in_triton_interpreter.py")
ASKED = Request(torch.device("cuda"), torch.float32, 8)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_all_of_in_triton_interpreter_passes():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest", "--tb=short", str(CHECKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


COMPILES = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from g2lstm.engines import triton_kernels

words = {"WORD_I": 0, "WORD_F": 1, "WORD_O": 2}
hard = {"HARD_I": True, "HARD_F": False, "HARD_O": True}
forward = {**hard, "REVERSE": True, "HAS_LENGTHS": True, "GIVEN": True, "DRAWN": True, **words, "KEEP": True, "BLOCK": 256}
backward = {**hard, "REVERSE": False, "HAS_LENGTHS": True, "HAS_GRAD_HIDDEN": True, "BLOCK": 256}
types = {"numbers": "*i64", "factors": "*fp32", "d_cell": "*fp32", "passed": "*fp32"}
types |= {"offset": "i32", "size": "i32", "padded": "i32"}
for kernel, options in ((triton_kernels.forward_step, forward), (triton_kernels.backward_step, backward)):
    known = types | dict.fromkeys(options, "constexpr")
    signature = {name: known.get(name, "*bf16") for name in kernel.arg_names}
    constants = {(kernel.arg_names.index(name),): value for name, value in options.items()}
    assert compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_kernels_compile_for_an_h100_without_one(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_interpreter_it_runs_on_cuda_alone(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton.lacks(replace(ASKED, device=torch.device("cpu"))) == "runs on CUDA, not on cpu"


def test_a_missing_triton_is_a_reason_not_an_error(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "g2lstm.engines.triton_kernels", None)
    triton._problem.cache_clear()
    assert "needs Triton" in (triton.lacks(ASKED) or "")
    triton._problem.cache_clear()
