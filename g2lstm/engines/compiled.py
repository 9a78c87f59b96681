"""The library of native.cpp, compiled once for each machine and version of torch (`g2lstm.building`).

`G2LSTM_NATIVE=0` in the environment leaves the kernel out. Nothing fails for lack of a compiler: `problem` says why.
"""

import logging
import os
import platform
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g2lstm import building
from g2lstm.engines import reference
from g2lstm.engines.products import fast_dtype

log = logging.getLogger("g2lstm")
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-Wno-psabi", "-fopenmp", "-fPIC"]
_TORCH = Path(torch.__file__).parent
WIDE = "-mprefer-vector-width=512"


def problem() -> str | None:
    """Loads the kernel, compiling it where there is none yet; returns why that is not possible, or None."""
    with _lock:
        if not _found:
            # A thread of its own has none of the modes that the caller may be in: autocast, inference, FakeTensor, vmap, ...
            thread = threading.Thread(target=lambda: _found.append(_problem()))
            thread.start()
            thread.join()
        return _found[0]


# What torch.compiler.assume_constant_result sets, which imports the compiler: as long as torch itself takes.
problem._dynamo_marked_constant = True  # type: ignore[attr-defined]

_lock = threading.RLock()
_found: list[str | None] = []


def _problem() -> str | None:
    if os.environ.get("G2LSTM_NATIVE", "1") == "0":
        return "is switched off by G2LSTM_NATIVE=0"
    if platform.machine().lower() not in ("x86_64", "amd64") or platform.system() == "Windows":
        return f"is not made for {platform.system()} on {platform.machine()}"
    try:
        building.loaded(torch.ops.load_library, _library)
        _register()
        _try_out()
    except Exception as error:
        reason = building.first_line(error)
        log.warning("no compiled CPU kernel, training runs in tensor code: %s", reason)
        return f"could not be compiled: {reason}"
    return None


def _library() -> Path:
    identity = [torch.__version__, torch._C._show_config(), building.processor()]
    notice = "compiling the CPU kernel, once on this machine (about half a minute)"
    return building.library("native.so", [SOURCE], _flags(), _libraries(), identity, notice)


def _flags() -> list[str]:
    include = _TORCH / "include"
    flags = [*FLAGS, "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    return [*flags, WIDE] if "avx512f" in building.processor() else flags


def _libraries() -> list[str]:
    """torch, and its own OpenMP runtime, so that there is one pool of threads."""
    folder = _TORCH / "lib"
    openmp = [str(path) for path in sorted(folder.glob("libgomp*.so*"))[:1]]
    return [f"-L{folder}", "-ltorch", "-ltorch_cpu", "-lc10", *(openmp or ["-fopenmp"])]


def _register() -> None:
    """Tells torch the sizes of what the operators return, for graphs that are traced without numbers."""

    @torch.library.register_fake("g2lstm::forward")
    def forward(pre: Tensor, _: Tensor, h0: Tensor, c0: Tensor, *options: Any) -> tuple[Tensor, ...]:
        time, keep_gates = len(pre), options[-2]
        cell = c0.new_empty(time + 1 if keep_gates else 1, *c0.shape)
        gates = c0.new_empty(time if keep_gates else 0, len(c0), 4, c0.shape[1])
        return h0.new_empty(time + 1, *h0.shape), cell, gates

    @torch.library.register_fake("g2lstm::backward")
    def backward(_: Tensor, gates: Tensor, cell: Tensor, *options: Any) -> tuple[Tensor, ...]:
        d_pre = torch.empty_like(gates.flatten(2), dtype=options[-1])
        return d_pre, torch.empty_like(cell[0]), torch.empty_like(cell[0])

    @torch.library.register_fake("g2lstm::bernoulli")
    def bernoulli(size: Sequence[int], seed: Tensor, *_: float) -> Tensor:
        return seed.new_empty(size, dtype=torch.float32)


def _try_out() -> None:
    """Compares a step with the reference, so that a processor on which the kernel can't run, or runs wrong, is found now."""
    batch, size, unscaled, no_words, soft, none = 3, 66, [1.0] * 4, [-1] * 4, [0] * 4, [None] * 4
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") - 0.5

    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        if not fast_dtype(dtype):
            continue
        pre, weight, h, c = draw(1, batch, 4 * size), draw(4 * size, size), draw(batch, size), draw(batch, size)
        state = h.clone().requires_grad_()
        expected, _ = reference.step(pre[0], weight, state, c)
        expected_gradient = torch.autograd.grad(expected.sum(), state)[0]
        hidden, cell, gates = torch.ops.g2lstm.forward(
            pre.to(dtype), weight, h.to(dtype), c, unscaled, None, None, 0, 0.0, no_words, 0, batch, None, soft, *none,
            False, True, False,
        )  # fmt: skip
        ones = torch.ones(1, batch, size, dtype=dtype, device="cpu")
        gradient = torch.ops.g2lstm.backward(weight, gates, cell, ones, None, unscaled, None, soft, *none, False, dtype)[1]
        for found, wanted in ((hidden[1], expected), (gradient, expected_gradient)):
            error = (found.float() - wanted).abs().max().item()
            if not error <= tolerance * wanted.abs().max().item():
                raise RuntimeError(f"wrong numbers in {str(dtype).removeprefix('torch.')} on this processor")
