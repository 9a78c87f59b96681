"""Compiles native.cpp once for each machine and version of torch, and keeps the result under torch's extension folder.

`G2LSTM_NATIVE=0` in the environment leaves the kernel out. Nothing fails for lack of a compiler: `problem` says why.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import torch

from g2lstm.engines import reference
from g2lstm.engines.products import fast_dtype

log = logging.getLogger("g2lstm")
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-Wno-psabi", "-fopenmp", "-fPIC"]
WIDE = "-mprefer-vector-width=512"


@torch.compiler.assume_constant_result
def problem() -> str | None:
    """Loads the kernel, compiling it where there is none yet; returns why that is not possible, or None."""
    return _problem()


@functools.cache
def _problem() -> str | None:
    if os.environ.get("G2LSTM_NATIVE", "1") == "0":
        return "is switched off by G2LSTM_NATIVE=0"
    if platform.machine().lower() not in ("x86_64", "amd64") or platform.system() == "Windows":
        return f"is not made for {platform.system()} on {platform.machine()}"
    library = _folder() / "native.so"
    try:
        if not library.exists():
            _compile(library)
        torch.ops.load_library(str(library))
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False):  # whatever the caller is in
            _try_out()
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        log.warning("no compiled CPU kernel, training runs in tensor code: %s", reason[0])
        return f"could not be compiled: {reason[0]}"
    return None


def _folder() -> Path:
    """A folder of its own for each source, set of flags, torch and processor."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    identity = [SOURCE.read_text(), " ".join(FLAGS), torch.__version__, torch._C._show_config(), _processor()]
    return Path(root) / f"g2lstm_{hashlib.sha256(chr(0).join(identity).encode()).hexdigest()[:16]}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("flags")), "")
    return platform.processor()


def _compile(library: Path) -> None:
    """Compiles into a folder of its own and moves the result, so that processes never see each other's halves."""
    log.warning("compiling the CPU kernel, once on this machine (about half a minute)")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        compiler = shlex.split(os.environ.get("CXX", "c++"))
        command = [*compiler, *_flags(), str(SOURCE), "-o", str(built), *_libraries()]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise RuntimeError(f"there is no C++ compiler: {compiler[0]} ({error.strerror}); CXX names another") from error
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit code {done.returncode}"]
            raise RuntimeError(f"{compiler[0]}: {errors[0]}")
        built.replace(library)


def _flags() -> list[str]:
    include = _torch() / "include"
    flags = [*FLAGS, "-shared", "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    return [*flags, WIDE] if "avx512f" in _processor() else flags


def _libraries() -> list[str]:
    """torch, and its own OpenMP runtime, so that there is one pool of threads."""
    folder = _torch() / "lib"
    openmp = [str(path) for path in sorted(folder.glob("libgomp*.so*"))[:1]]
    return [f"-L{folder}", "-ltorch", "-ltorch_cpu", "-lc10", *(openmp or ["-fopenmp"])]


def _torch() -> Path:
    return Path(torch.__file__).parent


def _try_out() -> None:
    """Compares a step with the reference, so that a processor on which the kernel can't run, or runs wrong, is found now."""
    batch, size, unscaled, no_words = 3, 66, [1.0] * 4, [-1] * 4
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 0.5

    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        if not fast_dtype(dtype):
            continue
        pre, weight, h, c = draw(1, batch, 4 * size), draw(4 * size, size), draw(batch, size), draw(batch, size)
        with torch.enable_grad():
            state = h.clone().requires_grad_()
            expected, _ = reference.step(pre[0], weight, state, c)
            expected_gradient = torch.autograd.grad(expected.sum(), state)[0]
        hidden, cell, gates = torch.ops.g2lstm.forward(
            pre.to(dtype), weight, h.to(dtype), c, unscaled, None, 0, 0, 0.0, no_words, None, False, True, False
        )
        ones = torch.ones(1, batch, size, dtype=dtype, device="cpu")
        gradient = torch.ops.g2lstm.backward(weight, gates, cell, ones, None, unscaled, None, False, dtype)[1]
        for found, wanted in ((hidden[1], expected), (gradient, expected_gradient)):
            error = (found.float() - wanted).abs().max().item()
            if not error <= tolerance * wanted.abs().max().item():
                raise RuntimeError(f"wrong numbers in {str(dtype).removeprefix('torch.')} on this processor")
