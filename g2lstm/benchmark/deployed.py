"""Compressed models as they run and as they are stored, beside nn.LSTM and onnxruntime.

D embedding and the last layer, H hidden units of the others.
"""

import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import nn

from g2lstm import runtime
from g2lstm.benchmark.cases import DENSE, DEPLOYED, ONNX, ONNX_ENGINES, ONNX_INT8_SPINNING, VOCABULARY, Case
from g2lstm.compression.deploy import Deployed, deploy
from g2lstm.compression.methods import Method
from g2lstm.compression.model_file import save_model
from g2lstm.compression.onnx_files import Session, export, quantize_dynamically
from g2lstm.models.language_model import LanguageModel

SPREAD = 0.2  # of the random weights: rounded to multiples of 0.2 and clipped at 0.4, all five values are there


def deployed_step(case: Case, device: torch.device) -> Callable[[], object]:
    """One token through the LSTM layers, the state carried on from step to step."""
    if case.engine in ONNX_ENGINES:
        return _onnx_step(case)
    deployed, x = deployed_model(case), torch.randn(case.size[:3], device=device)
    if case.engine in DEPLOYED and runtime.problem() is None:
        opened = deployed.open()
        return partial(opened.run, x, opened.state(case.size[1]))
    model = deployed.model() if case.engine in DEPLOYED else deployed.dense_model()
    assert isinstance(model, LanguageModel)
    layers = list(model.layers.to(device))
    states: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * len(layers)

    def step() -> None:
        y = x
        with torch.no_grad():
            for index, layer in enumerate(layers):
                y, states[index] = layer(y, states[index])

    return step


def _onnx_step(case: Case) -> Callable[[], None]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.onnx"
        export(path, deployed_model(case), layers_only=True)
        if case.engine != ONNX:
            quantize_dynamically(path, path)
        session = Session(path, torch.get_num_threads(), spinning=case.engine == ONNX_INT8_SPINNING)
    x, state = torch.randn(case.size[:3]).numpy(), session.zeros(case.size[1])

    def step() -> None:
        nonlocal state
        _, state = session(x, state)

    return step


def file_bytes(case: Case) -> int | None:
    """Of the file of the whole model, embedding included; None for what is no file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        if case.engine in DEPLOYED:
            return save_model(path, deployed_model(case))
        if case.engine not in ONNX_ENGINES:
            return None
        size = export(path, deployed_model(case), tied=case.engine == ONNX)
        return size if case.engine == ONNX else quantize_dynamically(path, path)


def deployed_model(case: Case) -> Deployed:
    """A language model of the case's sizes with random weights, compressed where the case says how."""
    return _deployed(*case.size[2:], *DEPLOYED.get(case.engine, DEPLOYED[DENSE]))


@lru_cache(maxsize=len(DEPLOYED))
def _deployed(embedding: int, hidden: int, method: str, rest: str) -> Deployed:
    model = LanguageModel(VOCABULARY, embedding, hidden, num_layers=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=SPREAD, generator=generator)
    return deploy(model, Method.parse(method), rest=rest)
