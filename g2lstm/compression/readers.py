"""Language models as what reads words and says what may come next, in torch, in the runtime, or in onnxruntime.

T time, B batch, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from g2lstm import runtime
from g2lstm.compression.onnx_files import Session
from g2lstm.models.language_model import LanguageModel

SEGMENT = 35  # words of each sequence that are read at a time when a text is scored


class Reader(Protocol):
    """What reads words one after the other."""

    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Reads (T, B) word numbers from a state on, None at the start.

        Returns:
            (T, B, V) float32 logits of the word after each, and the state to go on from; the given one is no more.
        """


@dataclass(frozen=True)
class TorchReader:
    """A language model in eval mode as a `Reader`."""

    model: LanguageModel

    @torch.no_grad()
    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        features = self.model(torch.from_numpy(tokens).to(self.model.output_bias.device), state)
        logits = features.raw @ self.model.decoder_weight.mT + self.model.output_bias
        return logits.float().numpy(force=True), features.state


@dataclass(frozen=True)
class NativeReader:
    """A language model that is open in the runtime as a `Reader`."""

    model: runtime.Model

    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        state = self.model.state(tokens.shape[1]) if state is None else state
        out = np.empty((*tokens.shape, self.model.logits), np.float32)
        for step, words in enumerate(tokens):
            logits = self.model.step(torch.from_numpy(words), state)
            assert logits is not None
            out[step] = logits.numpy()
        return out, state


@dataclass(frozen=True)
class OnnxReader:
    """An exported language model as a `Reader`."""

    session: Session

    def __call__(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        return self.session(tokens, self.session.zeros(tokens.shape[1]) if state is None else state)


def token_losses(reader: Reader, stream: np.ndarray) -> np.ndarray:
    """Nats of each word of streams (N, B) but the first, the state carried on: (N - 1, B) float64."""
    found, state = [np.zeros((0, stream.shape[1]))], None
    for start in range(0, len(stream) - 1, SEGMENT):
        targets = stream[start + 1 :][:SEGMENT]
        logits, state = reader(stream[start : start + len(targets)], state)
        top = logits.max(axis=2)
        total = np.log(np.exp(logits - top[..., None]).sum(axis=2, dtype=np.float64)) + top
        found.append(total - np.take_along_axis(logits, targets[..., None], axis=2)[..., 0])
    return np.concatenate(found)
