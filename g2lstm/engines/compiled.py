"""Compiles native.cpp once for each machine and version of torch, and keeps the result under torch's extension folder.

`G2LSTM_NATIVE=0` in the environment leaves the kernel out. Nothing fails for lack of a compiler: `problem` says why.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

log = logging.getLogger("g2lstm")
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-Wno-psabi", "-fopenmp"]
WIDE = "-mprefer-vector-width=512"


@functools.cache
def problem() -> str | None:
    """Loads the kernel, compiling it where there is none yet; returns why that is not possible, or None."""
    if os.environ.get("G2LSTM_NATIVE", "1") == "0":
        return "is switched off by G2LSTM_NATIVE=0"
    if platform.machine().lower() not in ("x86_64", "amd64") or platform.system() == "Windows":
        return f"is not made for {platform.system()} on {platform.machine()}"
    library = _folder() / "native.so"
    try:
        if not library.exists():
            _compile(library)
        torch.ops.load_library(str(library))
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
    from torch.utils import cpp_extension

    log.warning("compiling the CPU kernel, once on this machine (about half a minute)")
    library.parent.mkdir(parents=True, exist_ok=True)
    flags = [*FLAGS, WIDE] if "avx512f" in _processor() else FLAGS
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        try:
            built = cpp_extension.load(
                name="native", sources=[str(SOURCE)], extra_cflags=flags, extra_ldflags=_link_flags(),
                build_directory=folder, is_python_module=False,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"the C++ compiler failed with exit code {error.returncode}") from error
        shutil.move(Path(folder) / "native.so", library) if built else None


def _link_flags() -> list[str]:
    """torch's own OpenMP runtime, so that there is one pool of threads."""
    libraries = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(libraries.glob("libgomp*.so*"))[:1]] or ["-fopenmp"]


def _try_out() -> None:
    """Runs the smallest recurrence, so that a library that loads and can't run is found now."""
    pre, weight, state = torch.zeros(1, 1, 8), torch.zeros(8, 2), torch.zeros(1, 2)
    unscaled, no_words = [1.0] * 4, [-1] * 4
    torch.ops.g2lstm.forward(pre, weight, state, state, unscaled, None, 0, 0, 0.0, no_words, None, False, False, False)
