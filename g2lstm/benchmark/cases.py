"""What is compared with what, as plain values, so that a process of its own can prepare the same step.

T time, B batch, D input, H hidden units, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from g2lstm.engines import ENGINES, Request
from g2lstm.errors import UserError

Size = tuple[int, int, int, int]

LSTM, LSTM_WITHOUT_ONEDNN, LOOP, AUTO = "nn.LSTM", "nn.LSTM without oneDNN", "loop", "auto"
PLAIN_LOSS, CHUNKED_LOSS = "F.cross_entropy", "linear_cross_entropy"
ONNX, ONNX_INT8 = "onnxruntime", "onnxruntime int8"
DENSE = "dense"
# (compression setting, the rest) of models that our own inference runs, by the name of their row
DEPLOYED = {
    DENSE: ("original", "float32"),
    "svd:64": ("svd:64", "float32"),
    "svd:64+bits:8, rest int8": ("svd:64+bits:8", "int8"),
    "round:0.2+clip:0.4, rest int8": ("round:0.2+clip:0.4", "int8"),
}
EVALUATION, EVALUATION_WITH_CACHE = "evaluation", "evaluation with cache"
# What no evaluation of a single stream can do without: its products, those with W_hh one after the other
RECURRENT_PRODUCTS, RECURRENT_PRODUCTS_ONEDNN = "recurrent products alone, torch.mv", "recurrent products alone, oneDNN"
ALL_PRODUCTS = "all products alone, oneDNN"
SECTIONS = ("recurrence", "output_layer", "end_to_end", "evaluation", "deploy")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

SIZES: tuple[Size, ...] = (
    (70, 20, 400, 1150),
    (70, 20, 1150, 1150),
    (70, 80, 1150, 1150),
    (40, 64, 256, 256),
    (35, 20, 200, 200),
)
PTB_SIZE: Size = (70, 20, 400, 1150)
OUTPUT_SIZE: Size = (70, 20, 400, 10_000)
TOKEN_SIZE: Size = (1, 1, 1150, 1150)
DEPLOY_SIZE: Size = (1, 1, 400, 1150)
EVALUATION_SIZE: Size = (140, 1, 400, 1150)


@dataclass(frozen=True)
class Case:
    """A step of work, which is one row of the report."""

    section: str  # one of `SECTIONS`
    # what a step does: "layer" one layer, "loss" an output layer and its loss, "ptb" a training step of `task=ptb`,
    # "evaluation" an evaluation of `task=ptb`, "deploy" the paper's three layers, one token after the other
    task: str
    size: Size  # (T, B, D, H); V in the place of H for the output layer
    dtype: str  # "float32", or "bfloat16" for autocast over float32 weights
    mode: str  # "train", forward and backward, or "eval", without gradients
    # who does it: "auto" or an engine of `G2LSTM`, `LSTM`, `LSTM_WITHOUT_ONEDNN`, `LOOP`, a loss, `EVALUATION`,
    # `EVALUATION_WITH_CACHE`, products alone, a name in `DEPLOYED`, `ONNX` or `ONNX_INT8`
    engine: str


@dataclass(frozen=True)
class Group:
    """Cases that are measured in turns. The ratios are to the fastest of `peers`."""

    title: str
    cases: tuple[Case, ...]
    peers: tuple[Case, ...]


def recurrence_groups(sizes: Sequence[Size], device: torch.device, engines: Sequence[str] | None = None) -> list[Group]:
    """One group for each size, dtype and mode: nn.LSTM, G2LSTM on each engine that runs there, and the loop."""
    groups = []
    for size, dtype, mode in product(sizes, DTYPES, ("train", "eval")):
        names = [LSTM, AUTO, *available(size, dtype, mode, device, engines), LOOP]
        groups.append(_group("one layer", "recurrence", "layer", size, dtype, mode, names))
    return groups


def output_layer_group(size: Size = OUTPUT_SIZE) -> Group:
    """The output layer and its loss in both precisions, against the plain float32 one."""
    ways = product((PLAIN_LOSS, CHUNKED_LOSS), DTYPES)
    cases = tuple(Case("output_layer", "loss", size, dtype, "train", engine) for engine, dtype in ways)
    return Group(f"output layer and loss, {size[0] * size[1]:,} x {size[2]} -> {size[3]:,}", cases, cases[:1])


def token_groups(device: torch.device, size: Size = TOKEN_SIZE, engines: Sequence[str] | None = None) -> list[Group]:
    """One step of one sequence, as a model reads that writes text: against the faster of nn.LSTM's two ways."""
    ways, groups = [LSTM, LSTM_WITHOUT_ONEDNN] if device.type == "cpu" else [LSTM], []
    for dtype in DTYPES:
        names = [*ways, AUTO, *available(size, dtype, "eval", device, engines), LOOP]
        groups.append(_group("one token at a time", "end_to_end", "layer", size, dtype, "eval", names, len(ways)))
    return groups


def ptb_groups(size: Size = PTB_SIZE) -> list[Group]:
    """A whole training step of the paper's language model: on nn.LSTM with DropConnect, with G2-LSTM, and on the loop."""
    names = (LSTM, AUTO, LOOP)
    return [_group("training step of task=ptb", "end_to_end", "ptb", size, dtype, "train", names) for dtype in DTYPES]


def evaluation_group(size: Size = EVALUATION_SIZE) -> Group:
    """The paper's language model reads one stream of text, against its recurrent products alone, the faster of two ways."""
    products = (RECURRENT_PRODUCTS, RECURRENT_PRODUCTS_ONEDNN, ALL_PRODUCTS)
    group = _group(
        "", "evaluation", "evaluation", size, "float32", "eval", (*products, EVALUATION, EVALUATION_WITH_CACHE), 2
    )
    return replace(group, title=f"evaluation of task=ptb, one stream of {size[0]} words, {_layers(size)}")


def deploy_group(size: Size = DEPLOY_SIZE, *, onnx: bool = True) -> Group:
    """The LSTM layers of the paper's language model, dense and compressed, against the dense ones of the same runner."""
    names = [*DEPLOYED, LSTM, LSTM_WITHOUT_ONEDNN, *([ONNX, ONNX_INT8] if onnx else [])]
    group = _group("", "deploy", "deploy", size, "float32", "eval", names)
    return replace(group, title=f"one token at a time, {_layers(size)}")


def available(size: Size, dtype: str, mode: str, device: torch.device, engines: Sequence[str] | None = None) -> list[str]:
    """The engines, all or of those named, that can run a layer of this size on this device."""
    training = mode == "train"
    request = Request(device, DTYPES[dtype], size[3], noisy=training, training=training, autocast=dtype == "bfloat16")
    names = ENGINES if engines is None else engines
    return [name for name in names if ENGINES[name].lacks(request) is None]


def chosen_sections(text: str) -> list[str]:
    """ "recurrence,deploy" -> ["recurrence", "deploy"]"""
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"sections must be of {', '.join(SECTIONS)}, got {name!r}")
    return names


def parse_sizes(text: str | None) -> list[Size] | None:
    """ "70x20x400x1150,40x64x256x256" -> [(70, 20, 400, 1150), (40, 64, 256, 256)]"""
    if text is None:
        return None
    sizes: list[Size] = []
    for part in text.split(","):
        numbers = [int(number) if number.isdecimal() else 0 for number in part.split("x")]
        if len(numbers) != 4 or min(numbers) < 1:
            raise UserError(f"sizes are written TxBxDxH, as 70x20x400x1150, got {part!r}")
        sizes.append((numbers[0], numbers[1], numbers[2], numbers[3]))
    return sizes


def _group(
    what: str, section: str, task: str, size: Size, dtype: str, mode: str, engines: Sequence[str], peers: int = 1
) -> Group:
    """A case for each engine, the first of which are the peers."""
    cases = tuple(Case(section, task, size, dtype, mode, engine) for engine in engines)
    title = f"{what}, T {size[0]}, B {size[1]}, {size[2]} -> {size[3]}, {dtype}, {mode}"
    return Group(title, cases, cases[:peers])


def _layers(size: Size) -> str:
    return f"layers {size[2]} -> {size[3]} -> {size[3]} -> {size[2]}"
