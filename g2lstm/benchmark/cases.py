"""What is compared with what, as plain values, so that a process of its own can prepare the same step.

T time, B batch, D input, H hidden units, V vocabulary.
"""

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch

from g2lstm.engines import ENGINES, Request
from g2lstm.engines.products import fast_dtype
from g2lstm.errors import UserError

Size = tuple[int, int, int, int]

LSTM, LSTM_WITHOUT_ONEDNN, LOOP, AUTO = "nn.LSTM", "nn.LSTM without oneDNN", "loop", "auto"
PLAIN_LOSS, CHUNKED_LOSS = "F.cross_entropy", "linear_cross_entropy"
ONNX, ONNX_INT8 = "onnxruntime", "onnxruntime int8"
ONNX_INT8_SPINNING = "onnxruntime int8, spinning"  # its default: threads that wait keep their cores
ONNX_ENGINES = (ONNX, ONNX_INT8, ONNX_INT8_SPINNING)
DENSE = "dense"
# (compression setting, the rest) of models that our own inference runs, by the name of their row
DEPLOYED = {
    DENSE: ("original", "float32"),
    "dense, int8": ("original", "int8"),
    "svd:64": ("svd:64", "float32"),
    "svd:64+bits:8, rest int8": ("svd:64+bits:8", "int8"),
    "round:0.2+clip:0.4, rest int8": ("round:0.2+clip:0.4", "int8"),
}
# Options of our layer, by the name of their row
MASKED: dict[str, dict[str, Any]] = {
    "recurrent dropout on h": {"recurrent_dropout": 0.25},
    "on g": {"recurrent_dropout": 0.25, "recurrent_dropout_kind": "g"},
    "zoneout": {"zoneout": (0.5, 0.05)},
}
EVALUATION, EVALUATION_WITH_CACHE = "evaluation", "evaluation with cache"
# What no evaluation of a single stream can do without: its products, those with W_hh one after the other
RECURRENT_PRODUCTS, RECURRENT_PRODUCTS_ONEDNN = "recurrent products alone, torch.mv", "recurrent products alone, oneDNN"
ALL_PRODUCTS = "all products alone, oneDNN"
IN_ONE_CALL, STEP_BY_STEP = "all steps in one call", "step by step"  # how a stacked decoder runs
SECTIONS = ("recurrence", "output_layer", "end_to_end", "evaluation", "deploy", "recurrent_dropout", "translation")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FLOAT32, APART, TOGETHER = (("float32",),), (("float32",), ("bfloat16",)), (("float32", "bfloat16"),)
QUICK_SIZES: tuple[Size, ...] = ((70, 20, 400, 1150), (40, 64, 256, 256), (35, 20, 200, 200))
SIZES: tuple[Size, ...] = (QUICK_SIZES[0], (70, 20, 1150, 1150), (70, 80, 1150, 1150), *QUICK_SIZES[1:])
DEPLOY_SIZES: tuple[Size, ...] = ((1, 1, 400, 1150), (1, 16, 400, 1150))
TRANSLATION_SIZE: Size = (25, 60, 256, 256)  # as many sub-words as a batch of experiment=iwslt14_cpu
VOCABULARY = 10_000  # words of the Penn Treebank
QUICK_LEAVES_OUT = (
    "large sizes", "the reference engine", "task=ptb", "compressed models", "recurrent dropout", "translation", "peak memory"
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A step of work, which is one row of the report."""

    section: str  # one of `SECTIONS`
    # what a step does: "layer" one layer, "loss" an output layer and its loss, "ptb" a training step of `task=ptb`,
    # "evaluation" an evaluation of `task=ptb`, "deploy" the paper's three layers, one token after the other, "translation"
    # a training step of `experiment=iwslt14_cpu`
    task: str
    size: Size  # (T, B, D, H); V in the place of H for the output layer
    dtype: str  # "float32", or "bfloat16" for autocast over float32 weights
    mode: str  # "train", forward and backward, or "eval", without gradients
    # who does it: "auto" or an engine of `G2LSTM`, `LSTM`, `LSTM_WITHOUT_ONEDNN`, `LOOP`, a loss, `EVALUATION`,
    # `EVALUATION_WITH_CACHE`, products alone, `IN_ONE_CALL`, `STEP_BY_STEP`, a name in `DEPLOYED` or `MASKED`, or of
    # `ONNX_ENGINES`
    engine: str


@dataclass(frozen=True)
class Group:
    """Cases that are measured in turns. The ratios are to the fastest of `peers`."""

    title: str
    cases: tuple[Case, ...]
    peers: tuple[Case, ...]


@dataclass(frozen=True)
class Comparison:
    """A group for each size, mode and member of `dtypes`."""

    section: str
    title: str
    task: str
    sizes: tuple[Size, ...]
    modes: tuple[str, ...]
    engines: tuple[str, ...]
    peers: tuple[str, ...]  # engines, in the first dtype
    dtypes: tuple[tuple[str, ...], ...] = APART
    quick: bool = True  # whether it is part of --quick


LAYERS = (LSTM, LSTM_WITHOUT_ONEDNN, AUTO, *ENGINES, LOOP)
PRODUCTS = (RECURRENT_PRODUCTS, RECURRENT_PRODUCTS_ONEDNN)
EVALUATIONS = (*PRODUCTS, ALL_PRODUCTS, EVALUATION, EVALUATION_WITH_CACHE)
DEPLOYMENTS = (*DEPLOYED, LSTM, LSTM_WITHOUT_ONEDNN, *ONNX_ENGINES)
COMPARISONS = (
    Comparison("recurrence", "one layer", "layer", SIZES, ("train", "eval"), (LSTM, *LAYERS[2:]), (LSTM,)),
    Comparison("output_layer", "output layer and loss", "loss", ((70, 20, 400, VOCABULARY),), ("train",),
               (PLAIN_LOSS, CHUNKED_LOSS), (PLAIN_LOSS,), TOGETHER),
    Comparison("end_to_end", "one token at a time", "layer", ((1, 1, 1150, 1150),), ("eval",), LAYERS, LAYERS[:2]),
    Comparison("end_to_end", "training step of task=ptb", "ptb", SIZES[:1], ("train",), (LSTM, AUTO, LOOP), (LSTM,),
               quick=False),
    Comparison("evaluation", "evaluation of task=ptb, one stream", "evaluation", ((140, 1, 400, 1150),), ("eval",),
               EVALUATIONS, PRODUCTS, FLOAT32, quick=False),
    Comparison("deploy", "LSTM layers of task=ptb, one token at a time", "deploy", DEPLOY_SIZES, ("eval",),
               DEPLOYMENTS, (DENSE,), FLOAT32, quick=False),
    Comparison("recurrent_dropout", "recurrent dropout and zoneout, one layer", "layer", SIZES, ("train",), (AUTO, *MASKED),
               (AUTO,), quick=False),
    Comparison("translation", "training step of experiment=iwslt14_cpu", "translation", (TRANSLATION_SIZE,), ("train",),
               (STEP_BY_STEP, IN_ONE_CALL), (STEP_BY_STEP,), quick=False),
)  # fmt: skip


def planned(
    sections: Sequence[str], device: torch.device, sizes: Sequence[Size] | None = None, *, quick: bool = False
) -> list[Group]:
    """The groups of these sections that can run on a device; `sizes` are other ones for the recurrence.

    With `quick` a minute's worth of them, short ones first: what a slow machine does not reach is what takes longest.
    """
    groups = []
    for one in COMPARISONS:
        if one.section not in sections or (quick and not one.quick):
            continue
        here = one.sizes if one.section != "recurrence" else sizes or (QUICK_SIZES if quick else one.sizes)
        for size, named, mode in product(here, one.dtypes, one.modes):
            dtypes = [dtype for dtype in named if _has(DTYPES[dtype], device)]
            every = (Case(one.section, one.task, size, dtype, mode, who) for who, dtype in product(one.engines, dtypes))
            cases = tuple(case for case in every if _runs(case, device) and not (quick and case.engine == "reference"))
            peers = tuple(case for case in cases if case.engine in one.peers and case.dtype == dtypes[0])
            shape = f"T {size[0]}, B {size[1]}, {size[2]} -> {size[3]}"
            if cases:
                groups.append(Group(f"{one.title}, {shape}, {' and '.join(dtypes)}, {mode}", cases, peers))
    return sorted(groups, key=lambda group: prod(group.cases[0].size)) if quick else groups


def left_out(sections: Sequence[str], device: torch.device, *, quick: bool) -> list[str]:
    """What is planned nowhere."""
    asked = {DTYPES[dtype] for one in COMPARISONS if one.section in sections for named in one.dtypes for dtype in named}
    low = [] if all(_has(dtype, device) for dtype in asked) else ["bfloat16, which oneDNN doesn't have on this processor"]
    onnx = ["onnxruntime, which is not installed"] if "deploy" in sections and not _has_onnx() else []
    return low + onnx + ([f"by --quick {', '.join(QUICK_LEAVES_OUT)}"] if quick else [])


def _has_onnx() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def _has(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether nn.LSTM runs under autocast to a dtype: without oneDNN's products it ends in an error on a CPU."""
    return device.type != "cpu" or dtype == torch.float32 or fast_dtype(dtype)


def _runs(case: Case, device: torch.device) -> bool:
    if device.type != "cpu" and (case.section == "deploy" or case.engine == LSTM_WITHOUT_ONEDNN):
        return False
    if case.engine in ONNX_ENGINES:
        return _has_onnx()
    training, dtype = case.mode == "train", DTYPES[case.dtype]
    request = Request(device, dtype, case.size[3], noisy=training, training=training, autocast=dtype == torch.bfloat16)
    return case.engine not in ENGINES or ENGINES[case.engine].lacks(request) is None


def chosen_sections(text: str) -> list[str]:
    """ "recurrence,deploy" -> ["recurrence", "deploy"]"""
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise UserError(f"sections must be of {', '.join(SECTIONS)}, got {name!r}")
    return names


def parse_sizes(text: str) -> list[Size]:
    """ "70x20x400x1150,40x64x256x256" -> [(70, 20, 400, 1150), (40, 64, 256, 256)]"""
    sizes: list[Size] = []
    for part in text.split(","):
        if not re.fullmatch("[1-9][0-9]{0,8}(x[1-9][0-9]{0,8}){3}", part):
            raise UserError(f"sizes are written TxBxDxH, as 70x20x400x1150, got {part!r}")
        time, batch, inputs, hidden = map(int, part.split("x"))
        sizes.append((time, batch, inputs, hidden))
    return sizes
