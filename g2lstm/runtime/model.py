"""The runtime's library in Python: models that are opened, read words and draw them.

T time, B batch, D input, H hidden units, P proj_size or H, L layers times directions, V vocabulary.
"""

import ctypes
import logging
import os
import platform
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from g2lstm import building
from g2lstm.errors import UserError

log = logging.getLogger("g2lstm")
FOLDER = Path(__file__).parent
SOURCES = sorted([*FOLDER.glob("*.cpp"), *FOLDER.glob("*.h")])
# Without contraction every set of instructions gives the same numbers.
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi", "-pthread"]
if platform.machine() in ("aarch64", "arm64"):  # elsewhere what the processor has is found when it runs
    FLAGS += ["-mcpu=native"]
_LARGEST = 2**31 - 1  # int32
_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "g2_last_error": (_TEXT, []),
    "g2_open": (_POINTER, [_TEXT]),
    "g2_open_memory": (_POINTER, [_TEXT, ctypes.c_size_t]),
    "g2_close": (None, [_POINTER]),
    "g2_vocabulary": (_INT, [_POINTER]),
    "g2_word": (_TEXT, [_POINTER, _INT]),
    "g2_logits": (_INT, [_POINTER]),
    "g2_lstms": (_INT, [_POINTER]),
    "g2_lstm_sizes": (_INT, [_POINTER, _INT, _POINTER]),
    "g2_state_floats": (ctypes.c_int64, [_POINTER, _INT]),
    "g2_step": (_INT, [_POINTER, _POINTER, _INT, _POINTER, _POINTER]),
    "g2_lstm_run": (_INT, [_POINTER, _INT, _POINTER, _INT, _INT, *[_POINTER] * 4]),
    "g2_output": (_INT, [_POINTER, _POINTER, _INT, _POINTER]),
    "g2_sample": (_INT, [_POINTER, _INT, ctypes.c_float, _INT, ctypes.c_uint64, ctypes.c_uint64]),
    "g2_threads": (_INT, [_INT]),
    "g2_instructions": (_TEXT, [_TEXT]),
}
_lock = threading.Lock()
_found: list[ctypes.CDLL | str] = []


def problem() -> str | None:
    """Loads the library, compiling it where there is none yet; returns why that is not possible, or None."""
    with _lock:
        if not _found:
            _found.append(_load())
        return _found[0] if isinstance(_found[0], str) else None


class Sizes(NamedTuple):
    """Of an LSTM module."""

    inputs: int  # D
    hidden: int  # H
    outputs: int  # P
    layers: int
    ways: int  # directions


class Model:
    """A compressed model that is open. A copy of it is the same one, for it never changes; a pickle holds its file.

    Args:
        file: what `save_model` writes, or where it wrote that.

    Raises:
        UserError: it is missing, damaged or something else, or there is no library.
    """

    def __init__(self, file: Path | bytes) -> None:
        library = _library()
        self._file = file.absolute() if isinstance(file, Path) else file
        if isinstance(file, Path):
            self._handle = _checked(library.g2_open(os.fsencode(file)))
        else:
            self._handle = _checked(library.g2_open_memory(file, len(file)))
        weakref.finalize(self, library.g2_close, self._handle).atexit = False  # at the end threads may still use it
        self.logits: int = library.g2_logits(self._handle)  # V, 0 where it is no language model
        self.lstms = tuple(self._sizes(number) for number in range(_library().g2_lstms(self._handle)))

    def __copy__(self) -> "Model":
        return self

    def __deepcopy__(self, _: object) -> "Model":
        return self

    def __reduce__(self) -> tuple[Callable[[bytes], "Model"], tuple[bytes]]:
        if isinstance(self._file, bytes):
            return Model, (self._file,)
        try:
            return Model, (self._file.read_bytes(),)
        except OSError as error:
            raise UserError(f"{self._file} is gone ({error.strerror}): a pickle of an open model holds its file") from None

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary of a language model; none where it was made without a run."""
        count = _library().g2_vocabulary(self._handle)
        return tuple(_library().g2_word(self._handle, number).decode() for number in range(count))

    def state(self, batch: int = 1) -> Tensor:
        """Zeros, the state of B sequences at the start: for each LSTM module h (L, B, P) and c (L, B, H), in a row."""
        return torch.zeros(self._state_floats(batch), dtype=torch.float32)

    def step(self, tokens: Tensor | Sequence[int], state: Tensor, *, logits: bool = True) -> Tensor | None:
        """A language model reads a word of each sequence.

        Args:
            tokens: (B,) numbers of words.
            state: of `state(B)`; it becomes the state after.
            logits: whether they are wanted.

        Returns:
            (B, V) logits, or None.
        """
        read = torch.as_tensor(tokens)
        if read.dim() != 1 or not read.is_cpu or (len(read) and not _whole(read)):
            raise ValueError(f"tokens must be (B,) whole numbers on the CPU, got {_said(read)}")
        self._check_state(state, len(read))
        read = read.to(torch.int64).clamp(-1, _LARGEST).to(torch.int32).contiguous()
        out = torch.empty(len(read), self.logits, dtype=torch.float32) if logits else None
        _take_threads_of_torch()
        pointer = None if out is None else out.data_ptr()
        _checked(_library().g2_step(self._handle, read.data_ptr(), len(read), state.data_ptr(), pointer))
        return out

    def run(self, x: Tensor, state: Tensor) -> Tensor:
        """All LSTM modules, each reading the one before: x (T, B, D) -> (T, B, P). `state` becomes the state after."""
        self._check_input(x, 0)
        self._check_state(state, x.shape[1])
        return self._run(-1, x, None, state.data_ptr(), None)

    def run_lstm(
        self, number: int, x: Tensor, state: tuple[Tensor, Tensor], lengths: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One of the LSTM modules, as nn.LSTM with time first. It computes, and gives, float32, whatever x has.

        Args:
            number: of the module, in the model's order.
            x: (T, B, D).
            state: h (L, B, P) and c (L, B, H), which stay as they are.
            lengths: (B,) steps of each sequence, 0 to T; y is 0 beyond.

        Returns:
            y (T, B, ways * P), and the state after.
        """
        self._check_input(x, number)
        sizes = self.lstms[number]
        if lengths is not None and (lengths.shape != x.shape[1:2] or not _whole(lengths)):
            raise ValueError(f"lengths must be {x.shape[1]} whole numbers, one a sequence, got {_said(lengths)}")
        for part, size in zip(state, (sizes.outputs, sizes.hidden), strict=True):
            if (expected := (sizes.layers * sizes.ways, x.shape[1], size)) != part.shape:
                raise ValueError(f"a state must be {expected}, got {tuple(part.shape)}")
        h, c = (part.detach().to("cpu", torch.float32, copy=True).contiguous() for part in state)
        return self._run(number, x, lengths, h.data_ptr(), c.data_ptr()), (h, c)

    def output(self, features: Tensor) -> Tensor:
        """A language model's output layer: (N, E) features of the last LSTM -> (N, V) logits."""
        width = self.lstms[-1].outputs * self.lstms[-1].ways if self.lstms else 0
        if features.dim() != 2 or features.shape[1] != width or not features.is_cpu:
            raise ValueError(f"features must be (N, {width}) on the CPU, got {_said(features)}")
        features = features.detach().float().contiguous()
        out = torch.empty(len(features), self.logits, dtype=torch.float32)
        _take_threads_of_torch()
        _checked(_library().g2_output(self._handle, features.data_ptr(), len(features), out.data_ptr()))
        return out

    def _run(self, number: int, x: Tensor, lengths: Tensor | None, h: int, c: int | None) -> Tensor:
        last = self.lstms[number]  # of all modules, number -1, the last one's outputs
        x = x.detach().float().contiguous()
        steps = None if lengths is None else lengths.to("cpu", torch.int64).clamp(0, len(x)).to(torch.int32).contiguous()
        y = torch.empty(*x.shape[:2], last.ways * last.outputs, dtype=torch.float32)
        if not x.shape[1]:  # no sequences, as nn.LSTM takes
            return y
        places = x.data_ptr(), *x.shape[:2], None if steps is None else steps.data_ptr(), h, c, y.data_ptr()
        _take_threads_of_torch()
        _checked(_library().g2_lstm_run(self._handle, number, *places))
        return y

    def _sizes(self, number: int) -> Sizes:
        found = (_INT * 5)()
        _checked(_library().g2_lstm_sizes(self._handle, number, found))
        return Sizes(*found)

    def _state_floats(self, batch: int) -> int:
        return int(_checked(_library().g2_state_floats(self._handle, batch))) if batch else 0

    def _check_input(self, x: Tensor, number: int) -> None:
        if not 0 <= number < len(self.lstms):
            raise ValueError(f"there is no LSTM module {number}: the model has {len(self.lstms)}, the first is 0")
        if not x.is_cpu or x.dim() != 3 or x.shape[2] != self.lstms[number].inputs:
            raise ValueError(f"input must be (T, B, {self.lstms[number].inputs}) on the CPU, got {_said(x)}")

    def _check_state(self, state: Tensor, batch: int) -> None:
        count = self._state_floats(batch)
        if state.shape != (count,) or state.dtype != torch.float32 or not state.is_contiguous() or not state.is_cpu:
            raise ValueError(f"state must be as of state({batch}), {count} float32, got {tuple(state.shape)} {state.dtype}")


def open(path: Path) -> Model:
    """A compressed model; a UserError where it is missing, damaged or something else."""
    try:
        return Model(Path(path))
    except UserError as error:
        raise UserError(f"{error}: python experiments/compress.py writes one") from None


def sample(logits: Tensor, *, temperature: float = 1.0, top_k: int = 0, seed: int = 0, step: int = 0) -> int:
    """The number of a word that is drawn from (V,) logits, the same as in C: `g2_sample` in g2.h says how."""
    if logits.dim() != 1 or not logits.is_cpu:
        raise ValueError(f"logits must be (V,) on the CPU, got {_said(logits)}")
    logits, count = logits.detach().float().contiguous(), len(logits)
    numbers = temperature, max(-1, min(top_k, count)), seed % 2**64, step % 2**64
    return int(_checked(_library().g2_sample(logits.data_ptr(), count, *numbers)))


def instructions(name: str | None = None) -> str:
    """The set of instructions in use; a name takes that one. A UserError where the processor lacks it."""
    return _checked(_library().g2_instructions(None if name is None else name.encode())).decode()


def _whole(numbers: Tensor) -> bool:
    return not numbers.is_floating_point() and not numbers.is_complex()


def _said(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _take_threads_of_torch() -> None:
    """A call here runs on as many as torch's own do."""
    _library().g2_threads(torch.get_num_threads())


def _library() -> ctypes.CDLL:
    if (reason := problem()) is not None:
        raise UserError(f"the runtime of compressed models {reason}")
    library = _found[0]
    assert isinstance(library, ctypes.CDLL)
    return library


def _checked(found: Any) -> Any:
    """What a function gives; a UserError where that says that something is wrong."""
    if found is None or (isinstance(found, int) and found < 0):
        raise UserError(_library().g2_last_error().decode(errors="replace"))
    return found


def _load() -> ctypes.CDLL | str:
    if os.environ.get("G2LSTM_NATIVE", "1") == "0":
        return "is switched off by G2LSTM_NATIVE=0"
    if platform.system() == "Windows":
        return "is not made for Windows"
    try:
        notice = "compiling the runtime of compressed models, once on this machine (some seconds)"
        identity = [platform.machine(), building.processor()]
        library = building.loaded(ctypes.CDLL, lambda: building.library("g2.so", SOURCES, FLAGS, [], identity, notice))
    except Exception as error:
        reason = building.first_line(error)
        log.warning("no compiled runtime, compressed models run in tensor code: %s", reason)
        return f"could not be compiled: {reason}"
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
