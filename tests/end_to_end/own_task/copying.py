"""A task that the package knows nothing of: digits are read, and said again when the sequence ends.

T time, B batch, H hidden units.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from g2lstm import G2LSTM
from g2lstm.gates import Gate
from g2lstm.schema import Count, section
from g2lstm.training.findings import Confusion
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

DIGITS = 10
SPLITS = {"train": 0, "valid": 1, "test": 2}


@section
class CopyingConfig:
    """What is copied, and by what."""

    digits: Count
    batches: Count
    batch_size: Count
    hidden_size: Count


class Copier(nn.Module):
    """(T, B) numbers -> (T, B, DIGITS) logits."""

    kind = "copier"

    def __init__(self, hidden_size: int, gate: Gate | None = None) -> None:
        super().__init__()
        self.options = {"hidden_size": hidden_size}
        self.embedding = nn.Embedding(DIGITS + 1, hidden_size)
        self.decoder = G2LSTM(hidden_size, hidden_size, gate=gate)
        self.output = nn.Linear(hidden_size, DIGITS)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.output(self.decoder(self.embedding(numbers))[0])


@dataclass(frozen=True)
class Copying:
    """The task; digits are drawn from a split's own seed."""

    Config: ClassVar[type] = CopyingConfig
    FILES: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[Metric] = Metric("accuracy", "digits", lower_is_better=False, digits=3)
    variants: ClassVar[tuple[str, ...]] = ("", "twice")
    epoch_variant: ClassVar[str] = ""
    gate_variant: ClassVar[str] = ""
    facts: ClassVar[Mapping[str, Any]] = {}
    origin: ClassVar[str] = "digits, drawn"
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    labels: ClassVar[tuple[str, ...]] = (*map(str, range(DIGITS)), "_")

    config: CopyingConfig
    gate: Gate
    device: torch.device

    @classmethod
    def from_config(
        cls, config: CopyingConfig, *, gate: Gate, device: torch.device, files: Mapping[str, str] | None = None
    ) -> "Copying":
        assert files is None or files == {}
        return cls(config, gate, device)

    def build_model(self) -> nn.Module:
        return Copier(self.config.hidden_size, self.gate)

    def files(self) -> dict[str, str]:
        return {}

    def plan(self, generator: torch.Generator) -> list[int]:
        return torch.randint(10**6, (self.config.batches,), generator=generator).tolist()

    def loss(self, model: nn.Module, item: int, carried: Any) -> LossResult:
        numbers, targets = self._batch(item)
        loss = nn.functional.cross_entropy(model(numbers)[self.config.digits :].flatten(0, 1), targets.flatten())
        return LossResult(loss, loss, targets.numel(), None)

    def restore(self, carried: Any, device: torch.device) -> Any:
        return carried

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        variant: str = "",
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        numbers, targets = self._batch(SPLITS[split])
        if reading is not None:
            reading(numbers)
        with torch.no_grad():
            logits = model(numbers)[self.config.digits :]  # (T, B, DIGITS)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        accuracy = (logits.argmax(-1) == targets).double().mean().item()
        return Evaluation({"loss": losses.double().mean().item(), "accuracy": accuracy}, losses)

    def findings(self, model: nn.Module, split: str) -> list[Confusion]:
        numbers, targets = self._batch(SPLITS[split])
        with torch.no_grad():
            answers = model(numbers)[self.config.digits :].argmax(-1)
        pairs = torch.bincount((targets * DIGITS + answers).flatten(), minlength=DIGITS**2)
        return [Confusion(split, self.labels[:DIGITS], pairs.view(DIGITS, DIGITS).cpu())]

    def digest(self, split: str, limit: int | None = None) -> str:
        return hashlib.sha256(f"{self.config}{split}{limit}".encode()).hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        return f"{self.config.batch_size} sequences"

    def word_of(self, label: str) -> str | None:
        return None if label == "_" else label

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        digits = [sign for sign in (text or "3141") if sign.isdigit()]
        with torch.no_grad():
            model(torch.tensor([[int(sign)] for sign in digits] + [[DIGITS]] * len(digits), device=self.device))
        return ReadText([*digits, *["_"] * len(digits)], [])

    def _batch(self, seed: int) -> tuple[Tensor, Tensor]:
        """(2T, B) numbers and the (T, B) digits that are to be said in the second half."""
        shape = (self.config.digits, self.config.batch_size)
        digits = torch.randint(DIGITS, shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        return torch.cat([digits, torch.full_like(digits, DIGITS)]), digits
