"""ONNX files of language models and LSTMs, trained or compressed, built operator by operator with the `onnx` package.

A layer is ONNX's own LSTM operator, which runtimes have fast kernels for. One whose recurrent matrices are factors is a Scan
whose step multiplies by both thin matrices. Time and batch are free dimensions.

T time, B batch, D input, H hidden units, P proj_size or H, K rank, E embedding, V vocabulary.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2lstm.compression.deploy import Deployed, LSTMPart
from g2lstm.compression.inference import GATES
from g2lstm.compression.onnx_runtime import package
from g2lstm.compression.storage import Factors, Form
from g2lstm.files import write_atomically
from g2lstm.layout import BIASES, BLOCKS, MATRICES, PROJECTION, layer_endings
from g2lstm.version import __version__

OPSET, IR_VERSION = 17, 9  # readable by runtimes since 2022
ORDER = tuple(BLOCKS.index(gate) for gate in "iofg")  # ONNX has the gates as i, o, f, c


def export(path: Path, deployed: Deployed, *, layers_only: bool = False, tied: bool = True) -> int:
    """Writes a model as ONNX.

    A language model reads `tokens` (T, B) and gives `logits` (T, B, V); an LSTM reads `input` and gives `output` as nn.LSTM
    does. Both read and give states: `h_0`, `c_0` and `h_n`, `c_n` of each LSTM, numbered as `h_0.1` where there are several.

    Args:
        path: the file, of as many bytes as are returned.
        deployed: `deploy(model)` of any model of these two kinds; a ValueError for others.
        layers_only: of a language model only the LSTM layers, from `input` (T, B, E) to `output`.
        tied: false gives the output layer a copy of a tied embedding, which `quantize_dynamically` needs.
    """
    if deployed.kind not in ("language_model", "lstm"):
        raise ValueError(f"{deployed.options.get('class')} can't be exported: only language models and LSTMs can")
    graph = _Graph(package("onnx"))
    words = deployed.kind == "language_model" and not layers_only
    if words:
        embedding = _dense(deployed.forms["embedding.weight"])
        graph.constants["embedding"] = embedding
        graph.inputs.append(("tokens", np.int64, ["T", "B"]))
        x = graph.add("Gather", "embedding", "tokens")
    else:
        first = next(iter(deployed.lstms.values()))
        dimensions = ["B", "T"] if first.options["batch_first"] else ["T", "B"]
        graph.inputs.append(("input", np.float32, [*dimensions, first.options["input_size"]]))
        x = "input"
    several = len(deployed.lstms) > 1
    for number, (name, part) in enumerate(deployed.lstms.items()):
        x = graph.lstm(part, x, deployed.weights_of(name), f".{number}" if several else "")
    if words:
        x = graph.linear(x, deployed, embedding.shape, tied)
        graph.output("logits", x, ["T", "B", embedding.shape[0]])
    else:
        graph.output("output", x, [*dimensions, "features"])
    content = graph.model().SerializeToString()
    write_atomically(path, content)
    return len(content)


class _Graph:
    """Nodes, constants, inputs and outputs as they are added."""

    def __init__(self, onnx: ModuleType, prefix: str = "") -> None:
        self.onnx, self.prefix = onnx, prefix
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[tuple[str, Any, list[Any]]] = []
        self.outputs: list[tuple[str, list[Any]]] = []

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or their names."""
        names = [f"{self.prefix}{operator.lower()}{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: np.ndarray) -> str:
        name = f"{self.prefix}constant{len(self.constants)}"
        self.constants[name] = np.asarray(value, order="C")
        return name

    def output(self, name: str, value: str, dimensions: list[Any]) -> None:
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append((name, dimensions))

    def lstm(self, part: LSTMPart, x: str, forms: dict[str, list[Form]], suffix: str) -> str:
        """All layers of an LSTM; x (T, B, D) or (B, T, D) -> the same with the last layer's features."""
        options = part.options
        ways = 2 if options["bidirectional"] else 1
        hidden, projected = options["hidden_size"], options["proj_size"] or options["hidden_size"]
        count = options["num_layers"] * ways
        for state, size in (("h", projected), ("c", hidden)):
            self.inputs.append((f"{state}_0{suffix}", np.float32, [count, "B", size]))
        x = self.add("Transpose", x, perm=[1, 0, 2]) if options["batch_first"] else x
        ends: dict[str, list[str]] = {"h": [], "c": []}
        for layer, names in enumerate(layer_endings(options["num_layers"], options["bidirectional"])):
            weights = [{key.removesuffix(end): forms[key] for key in forms if key.endswith(end)} for end in names]
            rows = self.constant(np.arange(layer * ways, (layer + 1) * ways))
            h, c = (self.add("Gather", f"{state}_0{suffix}", rows, axis=0) for state in "hc")  # (ways, B, .)
            scan = projected != hidden or any(isinstance(form, Factors) for w in weights for form in w["weight_hh"])
            x, h, c = (self.scans if scan else self.operator)(x, h, c, weights, part)
            ends["h"].append(h)
            ends["c"].append(c)
        for state, size in (("h", projected), ("c", hidden)):
            joined = self.add("Concat", *ends[state], axis=0) if len(ends[state]) > 1 else ends[state][0]
            self.output(f"{state}_n{suffix}", joined, [count, "B", size])
        return self.add("Transpose", x, perm=[1, 0, 2]) if options["batch_first"] else x

    def operator(self, x: str, h: str, c: str, weights: list[dict[str, list[Form]]], part: LSTMPart) -> tuple[str, str, str]:
        """One layer as ONNX's LSTM."""
        hidden = part.options["hidden_size"]
        matrices = [np.stack([_reordered(w[name], part.scale) for w in weights]) for name in MATRICES.values()]
        bias = np.zeros((len(weights), 8 * hidden), np.float32)
        for way, w in enumerate(weights):
            if BIASES[0] in w:
                bias[way] = np.concatenate([_reordered(w[name], part.scale) for name in BIASES])
        direction = "bidirectional" if len(weights) > 1 else "forward"
        names = [self.constant(value) for value in (*matrices, bias)]
        y, h, c = self.add("LSTM", x, *names, "", h, c, outputs=3, hidden_size=hidden, direction=direction)
        y = self.add("Transpose", y, perm=[0, 2, 1, 3])  # (T, ways, B, H) -> (T, B, ways, H)
        return self.add("Reshape", y, self.constant(np.array([0, 0, -1]))), h, c

    def scans(self, x: str, h: str, c: str, weights: list[dict[str, list[Form]]], part: LSTMPart) -> tuple[str, str, str]:
        """One layer as a loop over time for each direction, its input product before it for all steps."""
        found = []
        for way, w in enumerate(weights):
            bias = sum(_dense(w[name]) for name in BIASES) if BIASES[0] in w else np.zeros(1, np.float32)
            pre = self.add("Add", self.product(x, w["weight_ih"]), self.constant(np.asarray(bias)))  # (T, B, 4H)
            body = _Graph(self.onnx, f"{self.prefix}{len(self.nodes)}_")
            body.step(w, part)
            index = self.constant(np.array(way))
            start = [self.add("Gather", state, index, axis=0) for state in (h, c)]  # (B, .)
            ways = {"scan_input_directions": [way], "scan_output_directions": [way]}
            found.append(self.add("Scan", *start, pre, outputs=3, body=body.graph("step"), num_scan_inputs=1, **ways))
        first = self.constant(np.array([0]))
        h, c = ([self.add("Unsqueeze", names[state], first) for names in found] for state in (0, 1))  # type: ignore[assignment]
        if len(found) == 1:
            return found[0][2], h[0], c[0]
        return self.add("Concat", *(names[2] for names in found), axis=2), *(self.add("Concat", *s, axis=0) for s in (h, c))

    def step(self, weights: dict[str, list[Form]], part: LSTMPart) -> None:
        """The body of the loop: h, c and a step's pre (B, 4H) -> h, c and h once more as the step's output."""
        hidden = part.options["hidden_size"]
        projected = part.options["proj_size"] or hidden
        names = [f"{self.prefix}{name}" for name in ("h", "c", "pre")]
        for name, size in zip(names, (projected, hidden, GATES * hidden), strict=True):
            self.inputs.append((name, np.float32, ["B", size]))
        a = self.add("Add", names[2], self.product(names[0], weights["weight_hh"]))
        if any(factor != 1 for factor in part.scale):
            a = self.add("Mul", a, self.constant(np.repeat(np.array(part.scale, np.float32), hidden)))
        i, f, g, o = self.add("Split", a, outputs=4, axis=-1)
        i, f, o = (self.add("Sigmoid", gate) for gate in (i, f, o))
        c = self.add("Add", self.add("Mul", f, names[1]), self.add("Mul", i, self.add("Tanh", g)))
        h = self.add("Mul", o, self.add("Tanh", c))
        if PROJECTION in weights:
            h = self.add("MatMul", h, self.constant(_dense(weights[PROJECTION]).T))
        for name, value, size in (("h_out", h, projected), ("c_out", c, hidden), ("y", h, projected)):
            self.output(f"{self.prefix}{name}", value, ["B", size])

    def product(self, x: str, blocks: list[Form]) -> str:
        """x W^T (..., 4H), through the factors where a block has them; dense neighbours are one matrix."""
        parts: list[str] = []
        dense: list[np.ndarray] = []
        for form in [*blocks, None]:
            if form is not None and not isinstance(form, Factors):
                dense.append(_dense([form]))
                continue
            if dense:
                parts.append(self.add("MatMul", x, self.constant(np.concatenate(dense).T)))
                dense = []
            if form is not None:
                thin = self.add("MatMul", x, self.constant(_dense([form.right]).T))  # (..., K)
                parts.append(self.add("MatMul", thin, self.constant(_dense([form.left]).T)))
        return self.add("Concat", *parts, axis=-1) if len(parts) > 1 else parts[0]

    def linear(self, x: str, deployed: Deployed, shape: tuple[int, ...], tied: bool) -> str:
        """The output layer; with the embedding itself it works on rows, so that no turned copy is needed."""
        bias = self.constant(_dense(deployed.forms["output_bias"]))
        if "output_weight" in deployed.forms or not tied:
            weight = _dense(deployed.forms.get("output_weight", deployed.forms["embedding.weight"]))
            return self.add("Add", self.add("MatMul", x, self.constant(weight.T)), bias)
        rows = self.add("Reshape", x, self.constant(np.array([-1, shape[1]])))
        logits = self.add("Gemm", rows, "embedding", bias, transB=1)
        sizes = self.add("Concat", self.add("Shape", "tokens"), self.constant(np.array([shape[0]])), axis=0)
        return self.add("Reshape", logits, sizes)

    def graph(self, name: str) -> Any:
        helper, types = self.onnx.helper, {np.float32: self.onnx.TensorProto.FLOAT, np.int64: self.onnx.TensorProto.INT64}
        return helper.make_graph(
            self.nodes, name,
            [helper.make_tensor_value_info(value, types[kind], sizes) for value, kind, sizes in self.inputs],
            [helper.make_tensor_value_info(value, types[np.float32], sizes) for value, sizes in self.outputs],
            [self.onnx.numpy_helper.from_array(value, key) for key, value in self.constants.items()],
        )  # fmt: skip

    def model(self) -> Any:
        opsets = [self.onnx.helper.make_opsetid("", OPSET)]
        model = self.onnx.helper.make_model(
            self.graph("g2lstm"), opset_imports=opsets, ir_version=IR_VERSION,
            producer_name="g2lstm", producer_version=__version__,
        )  # fmt: skip
        self.onnx.checker.check_model(model)
        return model


def _dense(forms: Sequence[Form]) -> np.ndarray:
    return torch.cat([form.matrix().float() for form in forms]).numpy()


def _reordered(forms: Sequence[Form], scale: Sequence[float]) -> np.ndarray:
    """Rows in ONNX's order of the gates, scaled."""
    parts: tuple[Tensor, ...] | list[Tensor] = [form.matrix().float() for form in forms]
    parts = parts if len(parts) == GATES else parts[0].chunk(GATES)
    return torch.cat([parts[block] * scale[block] for block in ORDER]).numpy()
