"""The recurrence on a CUDA device: one product and one fused Triton kernel a step, replayed from CUDA graphs.

The forward kernel adds product, pre-activations and noise, applies the gates and updates both states; the noise is drawn
inside from a `NoiseRecipe`, and nothing of it is stored: the backward kernel reads the gate values, kept in float32.
Products run in the dtype of the pre-activations. Those in float32 follow torch.backends.cuda.matmul.fp32_precision, where
TF32 is off by default; nn.LSTM's follow the setting of torch.backends.cudnn, where it is on. Inside a CUDA graph that the
caller captures, the seed of a recipe is captured too: each replay draws the same noise.

The numbers are tested on a GPU and in Triton's interpreter; docs/performance.md has the speed. A persistent kernel, which
keeps W_hh on the chip for all steps, would take the place of `Steps.run`: tables and buffers hold all that it needs.

T time, B batch, H hidden units, Hp = H rounded up to a multiple of 8, rows = B rounded up to a multiple of 8. Products
want both; the zeros in between are exact.
"""

import functools
import importlib
import logging
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from g2lstm.engines import layer
from g2lstm.engines.contract import UNSCALED, Options, Request
from g2lstm.engines.graphs import Steps, is_capturing
from g2lstm.engines.noise import taken_apart

run = functools.partial(layer.run, sys.modules[__name__])
log = logging.getLogger("g2lstm")
_MULTIPLE = 8
_LARGEST_BLOCK = 256  # units of one program
_WORKSPACES = 16  # kept, each with its graphs


def lacks(request: Request) -> str | None:
    """Why this engine can't do what is asked, or None. With TRITON_INTERPRET=1 it runs on the CPU, for tests."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if request.device.type != ("cpu" if interpreted else "cuda"):
        return f"runs on {'the CPU in the interpreter' if interpreted else 'CUDA'}, not on {request.device.type}"
    if request.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes float32, bfloat16 and float16, not {str(request.dtype).removeprefix('torch.')}"
    if request.projected:
        return "has no projection"
    if request.masked:
        return "has no recurrent dropout and no zoneout"
    if torch.compiler.is_compiling():
        return "can't be traced by torch.compile"
    if torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None:
        return "has no fake tensors"
    return _problem()


@functools.cache
def _problem() -> str | None:
    """Why Triton can't be used, or None. On a CUDA device it needs a C compiler for what starts its kernels."""
    try:
        kernels = _kernels()
        if torch.cuda.is_available() and not is_capturing():
            kernels.draw_words[(1,)](*torch.zeros(3, 4, dtype=torch.int64, device="cuda"), COUNT=1, BLOCK=1)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("no Triton kernels: %s", reason)
        return f"needs Triton: {reason}"
    return None


def _kernels() -> ModuleType:
    return importlib.import_module("g2lstm.engines.triton_kernels")


def forward(
    pre: Tensor, weight_hh: Tensor, _: None, h0: Tensor, c0: Tensor, options: Options, keep: bool
) -> tuple[Tensor, ...]:
    """As `g2lstm.engines.layer` says; it keeps gate values in float32."""
    time, batch, rows = pre.shape
    size = rows // 4
    recipe, added = taken_apart(options.noise)
    first, total = recipe.place(batch)
    pre = pre.contiguous()
    hidden, cell = pre.new_empty(time + 1, batch, size), c0.new_empty(time + 1, batch, size)
    initial = -1 if options.reverse else 0
    hidden[initial], cell[initial] = h0, c0
    if keep and pre.dtype == c0.dtype:  # a program reads its units before it overwrites them
        gates = pre.view(time, batch, 4, size)
    else:
        gates = c0.new_empty((time, batch, 4, size) if keep else 0)
    kernels, workspace = _kernels(), _workspace(pre, batch, size)
    with torch.cuda.device_of(pre), workspace.lock:
        numbers = kernels.Numbers(
            time=time, batch=batch, seed=int(recipe.seed), threshold=recipe.threshold, first=first, total=total,
            noise_width=0 if added is None else added.shape[-1], noise=_address(added), lengths=_address(options.lengths),
            hidden=hidden.data_ptr(), cell=cell.data_ptr(), gates=gates.data_ptr(), pre=pre.data_ptr(),
        )  # fmt: skip
        workspace.start(weight_hh, numbers, (*(options.scale or UNSCALED), recipe.eps * recipe.threshold))
        workspace.state[:batch, :size].copy_(h0)
        word_i, word_f, _g, word_o = recipe.words
        noise = {"GIVEN": added is not None, "DRAWN": recipe.threshold > 0}
        workspace.forward(time, _constants(options, **noise, WORD_I=word_i, WORD_F=word_f, WORD_O=word_o, KEEP=keep))
    return hidden, cell, gates


def backward(
    weight_hh: Tensor, _: None, hidden: Tensor, cell: Tensor, kept: Sequence[Tensor],
    grad_h: Tensor | None, grad_c: Tensor | None, options: Options,
) -> tuple[Tensor, Tensor, Tensor, None]:  # fmt: skip
    """As `g2lstm.engines.layer` says."""
    gates = kept[0]
    (time, batch), size = gates.shape[:2], gates.shape[3]
    grad_h = None if grad_h is None else grad_h.contiguous()
    d_pre = hidden.new_empty(time, batch, 4 * size)
    kernels, workspace = _kernels(), _workspace(hidden, batch, size)
    with torch.cuda.device_of(hidden), workspace.lock:
        numbers = kernels.Numbers(
            time=time, batch=batch, seed=0, threshold=0, noise_width=0, lengths=_address(options.lengths),
            hidden=hidden.data_ptr(), cell=cell.data_ptr(), gates=gates.data_ptr(), pre=d_pre.data_ptr(),
            grad_hidden=_address(grad_h),
        )  # fmt: skip
        workspace.start(weight_hh, numbers, (*(options.scale or UNSCALED), 0.0))
        workspace.backward(time, _constants(options, HAS_GRAD_HIDDEN=grad_h is not None), grad_c)
        d_h0 = workspace.d_state[:batch, :size].float() + workspace.passed[:batch]
        d_c0 = workspace.d_cell[:batch].clone()
    return d_pre, d_h0, d_c0, None


def _constants(options: Options, **others: int) -> dict[str, int]:
    """What a kernel is compiled for."""
    hard_i, hard_f, _, hard_o = options.hard_blocks
    hard = {"HARD_I": hard_i, "HARD_F": hard_f, "HARD_O": hard_o}
    return {"REVERSE": options.reverse, "HAS_LENGTHS": options.lengths is not None, **hard, **others}


class _Workspace:
    """Tensors at addresses that graphs may know, for all passes of some sizes on one stream."""

    def __init__(self, like: Tensor, rows: int, size: int) -> None:
        self.size, self.padded = size, _rounded_up(size)
        wide = 4 * self.padded
        self.lock = threading.Lock()  # held while a pass is enqueued; on one stream passes then follow each other
        kernels = _kernels()
        self.numbers = like.new_zeros(1 + len(kernels.Numbers._fields), dtype=torch.int64)
        self.factors = like.new_zeros(5, dtype=torch.float32)
        self.weight = like.new_zeros(4, self.padded, self.padded)
        self.state, self.product = like.new_zeros(rows, self.padded), like.new_zeros(rows, wide)
        self.d_state, self.d_gates = like.new_zeros(rows, self.padded), like.new_zeros(rows, wide)
        self.d_cell, self.passed = like.new_zeros(2, rows, size, dtype=torch.float32)
        self.block = min(_LARGEST_BLOCK, 1 << (size - 1).bit_length())
        self.grid = (rows, -(-size // self.block))
        self.steps = Steps(self.numbers[:1])

    def start(self, weight_hh: Tensor, numbers: tuple[int, ...], factors: tuple[float, ...]) -> None:
        """Copies in what a pass works with; the product with the zeros beyond H stays zero."""
        blocks = weight_hh.unflatten(0, (4, self.size))
        self.weight[:, : self.size, : self.size].copy_(blocks)
        _fill(self.numbers, (0, *numbers))
        _fill(self.factors, factors)

    def forward(self, time: int, constants: dict[str, int]) -> None:
        kernel, weight = _kernels().forward_step[self.grid], self.weight.flatten(0, 1)

        def step(offset: int) -> None:
            torch.mm(self.state, weight.mT, out=self.product)
            tensors = self.numbers, self.factors, self.state, self.product
            kernel(*tensors, offset, self.size, self.padded, **constants, BLOCK=self.block)

        self.steps.run(step, time, ("forward", *constants.values(), _precision()))

    def backward(self, time: int, constants: dict[str, int], grad_c: Tensor | None) -> None:
        kernel, weight = _kernels().backward_step[self.grid], self.weight.flatten(0, 1)
        self.d_state.zero_()
        self.d_cell.zero_()
        if grad_c is not None:
            self.d_cell[: len(grad_c)].copy_(grad_c)
        self.passed.zero_()

        def step(offset: int) -> None:
            tensors = self.numbers, self.factors, self.d_state, self.d_gates, self.d_cell, self.passed
            kernel(*tensors, offset, self.size, self.padded, **constants, BLOCK=self.block)
            torch.mm(self.d_gates, weight, out=self.d_state)

        self.steps.run(step, time, ("backward", *constants.values(), _precision()))


_kept: OrderedDict[tuple, _Workspace] = OrderedDict()
_kept_lock = threading.Lock()


def _workspace(like: Tensor, batch: int, size: int) -> _Workspace:
    """The workspace of these sizes on the present stream."""
    rows = _rounded_up(max(batch, 1))
    if is_capturing():
        return _Workspace(like, rows, size)  # its memory belongs to the caller's graph
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else 0
    key = like.device, stream, like.dtype, rows, size
    with _kept_lock:
        if key not in _kept:
            with torch.inference_mode(False):
                _kept[key] = _Workspace(like, rows, size)
        _kept.move_to_end(key)
        while len(_kept) > _WORKSPACES:
            _kept.popitem(last=False)
        return _kept[key]


def _fill(table: Tensor, values: tuple[float, ...]) -> None:
    if table.is_cuda and is_capturing():
        for index, value in enumerate(values):  # a graph keeps arguments of a kernel, not memory of the host
            table[index].fill_(value)
    else:  # from pinned memory, so that the host waits for nothing
        table.copy_(torch.tensor(values, dtype=table.dtype, device="cpu", pin_memory=table.is_cuda), non_blocking=True)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _precision() -> str:
    """How float32 products are run, which a captured graph keeps."""
    return torch.backends.cuda.matmul.fp32_precision


def _rounded_up(size: int) -> int:
    return -(-size // _MULTIPLE) * _MULTIPLE
