"""The triton engine where there is no GPU: in Triton's interpreter, which must be switched on before Triton is imported."""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from g2lstm.engines import Request, triton
from tests.engines import fresh

CHECKS = Path(__file__).with_name("in_triton_interpreter.py")
ASKED = Request(torch.device("cuda"), torch.float32, 8)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_all_of_in_triton_interpreter_passes(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-p", "no:cacheprovider", "--noconftest", "--tb=short", str(CHECKS)]
    code = "import os, sys, pytest; os.dup2(2, 1); sys.exit(pytest.main(sys.argv[1:]))"  # errors are shown
    fresh.start(code, tmp_path, *options, environment=environment).communicate()


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
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    fresh.start(COMPILES, tmp_path, environment=environment).communicate()


def test_without_the_interpreter_it_runs_on_cuda_alone(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton.lacks(replace(ASKED, device=torch.device("cpu"))) == "runs on CUDA, not on cpu"


def test_a_missing_triton_is_a_reason_not_an_error(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "g2lstm.engines.triton_kernels", None)
    triton._problem.cache_clear()
    assert "needs Triton" in (triton.lacks(ASKED) or "")
    triton._problem.cache_clear()
