"""onnxruntime beside this project's own code: running an exported file, checking it, and its int8 quantisation as a peer."""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2lstm.compression.deploy import Deployed
from g2lstm.errors import UserError


def package(name: str) -> Any:
    """An optional package; a UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"the package {name.partition('.')[0]} is not installed: pip install 'g2lstm[onnx]'") from None


class Session:
    """Runs an exported file in onnxruntime, a step on so many threads, or on its own choice without it."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        runtime = package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Waiting threads that spin would take the cores from whatever else the process runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
    floats = {"DefaultTensorType": package("onnx").TensorProto.FLOAT}  # what follows a Scan has no inferred type
    quantization = package("onnxruntime.quantization")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a step that these graphs don't need
    try:
        quantization.quantize_dynamic(source, target, extra_options=floats)
    finally:
        logging.disable(level)
    return target.stat().st_size


def largest_difference(path: Path, deployed: Deployed, lengths: Sequence[int] = (1, 7), batch: int = 2) -> float:
    """Between what onnxruntime makes of a file and what the model itself gives, over inputs of several lengths."""
    session, model = Session(path), deployed.dense_model()
    generator = torch.Generator().manual_seed(1)
    worst = torch.tensor(0.0)
    for time in lengths:
        if deployed.kind == "language_model":
            x = torch.randint(deployed.options["vocabulary_size"], (time, batch), generator=generator)
            with torch.no_grad():
                expected = model(x).raw @ model.decoder_weight.mT + model.output_bias
        else:
            options = next(iter(deployed.lstms.values())).options
            shape = (batch, time) if options["batch_first"] else (time, batch)
            x = torch.randn(*shape, options["input_size"], generator=generator)
            expected = model(x)[0]
        y, _ = session(x.numpy(), session.zeros(batch))
        worst = torch.maximum(worst, (torch.from_numpy(y) - expected).abs().max())  # NaN stays NaN
    return worst.item()
