"""ONNX files of language models and LSTMs, trained or compressed, and onnxruntime that runs and quantises them.

They are built operator by operator with the `onnx` package. A layer is ONNX's own LSTM operator with dense weights, which
runtimes have fast kernels for. Time and batch are free dimensions.

T time, B batch, D input, H hidden units, E embedding, V vocabulary.
"""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from g2lstm import layout
from g2lstm.compression.deploy import Deployed
from g2lstm.errors import UserError
from g2lstm.files import write_atomically
from g2lstm.models.language_model import LanguageModel
from g2lstm.version import __version__

OPSET, IR_VERSION = 17, 9  # readable by runtimes since 2022
ORDER = tuple(layout.BLOCKS.index(gate) for gate in "iofg")  # ONNX has the gates as i, o, f, c


def package(name: str) -> Any:
    """An optional package; a UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"the package {name.partition('.')[0]} is not installed: pip install 'g2lstm[onnx]'") from None


def export(path: Path, deployed: Deployed, *, layers_only: bool = False, tied: bool = True) -> int:
    """Writes a model as ONNX.

    A language model reads `tokens` (T, B) and gives `logits` (T, B, V); an LSTM reads `input` and gives `output` as nn.LSTM
    does. Both read and give states: `h_0`, `c_0` and `h_n`, `c_n` of each LSTM, numbered as `h_0.1` where there are several.

    Args:
        path: the file, of as many bytes as are returned.
        deployed: `deploy(model)` of any model of these two kinds without projections; a ValueError for others.
        layers_only: of a language model only the LSTM layers, from `input` (T, B, E) to `output`.
        tied: false gives the output layer a copy of a tied embedding, which `quantize_dynamically` needs.
    """
    if deployed.kind != LanguageModel.kind and "" not in deployed.lstms:
        raise ValueError(f"{deployed.kind} can't be exported: only language models and LSTMs can")
    graph, model = _Graph(), deployed.dense_model()
    lstms = [module for module in model.modules() if isinstance(module, nn.LSTM)]
    dimensions = ["B", "T"] if lstms[0].batch_first else ["T", "B"]
    language = model if isinstance(model, LanguageModel) and not layers_only else None
    if language is not None:
        graph.inputs.append(("tokens", np.int64, dimensions))
        embedding = graph.constant(language.embedding.weight)
        x = graph.add("Gather", embedding, "tokens")
    else:
        graph.inputs.append(("input", np.float32, [*dimensions, lstms[0].input_size]))
        x = "input"
    for number, lstm in enumerate(lstms):
        x = graph.lstm(lstm, x, f".{number}" if len(lstms) > 1 else "")
    if language is not None:
        shared = tied and language.output_weight is None
        weight = graph.add("Transpose", embedding, perm=[1, 0]) if shared else graph.constant(language.decoder_weight.mT)
        logits = graph.add("Add", graph.add("MatMul", x, weight), graph.constant(language.output_bias))
        graph.output("logits", logits, [*dimensions, len(language.output_bias)])
    else:
        graph.output("output", x, [*dimensions, "features"])
    content = graph.model().SerializeToString()
    write_atomically(path, content)
    return len(content)


class _Graph:
    """Nodes, constants, inputs and outputs as they are added."""

    def __init__(self) -> None:
        self.onnx = package("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[tuple[str, Any, list[Any]]] = []
        self.outputs: list[tuple[str, Any, list[Any]]] = []

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or their names."""
        names = [f"{operator.lower()}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Tensor) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(value.numpy(force=True), name))
        return name

    def output(self, name: str, value: str, dimensions: list[Any]) -> None:
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append((name, np.float32, dimensions))

    def lstm(self, lstm: nn.LSTM, x: str, suffix: str) -> str:
        """All layers of an LSTM; x (T, B, D) or (B, T, D) -> the same with the last layer's features."""
        if lstm.proj_size:
            raise ValueError(f"an LSTM with proj_size={lstm.proj_size} can't be exported: ONNX's has no projection")
        hidden, ways = lstm.hidden_size, 2 if lstm.bidirectional else 1
        state = [lstm.num_layers * ways, "B", hidden]
        self.inputs += [(f"{name}_0{suffix}", np.float32, state) for name in "hc"]
        direction, ends = "bidirectional" if lstm.bidirectional else "forward", []
        x = self.add("Transpose", x, perm=[1, 0, 2]) if lstm.batch_first else x
        for layer, endings in enumerate(layout.endings(lstm)):
            weights = [layout.weights(lstm, ending) for ending in endings]
            w_ih = torch.stack([_reordered(w.ih) for w in weights])
            w_hh = torch.stack([_reordered(w.hh) for w in weights])
            no_bias = torch.zeros(4 * hidden)  # ONNX adds two
            biases = [
                torch.cat([no_bias if bias is None else _reordered(bias), no_bias]) for bias in (w.bias() for w in weights)
            ]
            values = map(self.constant, (w_ih, w_hh, torch.stack(biases)))
            index = self.constant(torch.arange(layer * ways, (layer + 1) * ways))
            start = [self.add("Gather", f"{name}_0{suffix}", index, axis=0) for name in "hc"]  # (ways, B, H)
            y, *end = self.add("LSTM", x, *values, "", *start, outputs=3, hidden_size=hidden, direction=direction)
            ends.append(end)
            y = self.add("Transpose", y, perm=[0, 2, 1, 3])  # (T, ways, B, H) -> (T, B, ways, H)
            x = self.add("Reshape", y, self.constant(torch.tensor([0, 0, -1])))
        for name, last in zip("hc", zip(*ends, strict=True), strict=True):
            self.output(f"{name}_n{suffix}", self.add("Concat", *last, axis=0), state)
        return self.add("Transpose", x, perm=[1, 0, 2]) if lstm.batch_first else x

    def model(self) -> Any:
        helper, types = self.onnx.helper, {np.float32: self.onnx.TensorProto.FLOAT, np.int64: self.onnx.TensorProto.INT64}
        ends = [
            [helper.make_tensor_value_info(name, types[kind], sizes) for name, kind, sizes in values]
            for values in (self.inputs, self.outputs)
        ]
        model = helper.make_model(
            helper.make_graph(self.nodes, "g2lstm", *ends, self.constants),
            opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="g2lstm", producer_version=__version__,
        )  # fmt: skip
        self.onnx.checker.check_model(model)
        return model


def _reordered(parameter: Tensor) -> Tensor:
    """Rows in ONNX's order of the gates."""
    blocks = layout.blocks(parameter)
    return torch.cat([blocks[place] for place in ORDER])


class Session:
    """Runs an exported file in onnxruntime, a step on so many threads, or on its own choice without it.

    Its threads sleep where they wait, unless they are `spinning`: they would take the cores from whatever else the process
    runs.
    """

    def __init__(self, path: Path, threads: int = 0, *, spinning: bool = False) -> None:
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.shapes = {value.name: value.shape for value in self.session.get_inputs()}
        self.outputs = [value.name for value in self.session.get_outputs()]

    def zeros(self, batch: int) -> dict[str, np.ndarray]:
        """The states at the start."""
        return {
            name: np.zeros([batch if size == "B" else size for size in shape], np.float32)
            for name, shape in self.shapes.items()
            if name[:2] in ("h_", "c_")
        }

    def __call__(self, x: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the model gives for its input and states, and the states after it."""
        entry = next(name for name in self.shapes if name not in state)
        found = dict(zip(self.outputs, self.session.run(None, {entry: x, **state}), strict=True))
        y = next(found.pop(name) for name in ("logits", "output") if name in found)
        return y, {name.replace("_n", "_0", 1): value for name, value in found.items()}


def quantize_dynamically(source: Path, target: Path) -> int:
    """onnxruntime's own int8: weights of one scale a matrix, activations quantised as they come. The bytes of the file."""
    quantization = package("onnxruntime.quantization")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a step that these graphs don't need
    try:
        quantization.quantize_dynamic(source, target)
    finally:
        logging.disable(level)
    return target.stat().st_size


def largest_difference(path: Path, deployed: Deployed, lengths: Sequence[int]) -> float:
    """Between what onnxruntime makes of a file and what the model itself gives, over inputs of several lengths."""
    session, model, batch = Session(path), deployed.dense_model(), 2
    generator = torch.Generator().manual_seed(1)
    worst = torch.tensor(0.0)
    for time in lengths:
        if isinstance(model, LanguageModel):
            x = torch.randint(len(model.output_bias), (time, batch), generator=generator)
            expected = model(x).raw @ model.decoder_weight.mT + model.output_bias
        else:
            assert isinstance(model, nn.LSTM)
            shape = (batch, time) if model.batch_first else (time, batch)
            x = torch.randn(*shape, model.input_size, generator=generator)
            expected = model(x)[0]
        y, _ = session(x.numpy(), session.zeros(batch))
        worst = torch.maximum(worst, (torch.from_numpy(y) - expected).abs().max())  # NaN stays NaN
    return worst.item()
