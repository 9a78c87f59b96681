"""Digits read row by row, or pixel by pixel, and named by the last hidden state: where most people meet an LSTM.

T time, B batch, D input, N images, S = 28 pixels a side.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from g2lstm.data.images import CLASSES, COUNTS, SIDE, Images, load_mnist
from g2lstm.errors import UserError
from g2lstm.gates import Gate
from g2lstm.models.classifier import Classifier
from g2lstm.schema import Count, EngineName, Folder, NotNegative, Share, section, values_of
from g2lstm.training import workers
from g2lstm.training.findings import Confusion, Mistake
from g2lstm.training.task import Evaluation, LossResult, Metric, ReadText

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's training pixels in [0, 1]
ROWS = ("rows", "mixed")  # orders in which a step is a row
EVALUATED = 100_000  # steps of all sequences that are read at a time
SHOWN = 24  # mistakes


@section
class DataConfig:
    """`data`: where the images are, and how many there must be of train and of test; None takes any number."""

    dir: Folder | None = None
    download: bool = True
    counts: tuple[Count, Count] | None = tuple(COUNTS.values())  # type: ignore[assignment]


@section
class OrderConfig:
    """`mnist`: how an image becomes a sequence, and how many of the last training images are held out as valid."""

    order: Literal["rows", "pixels", "permuted", "mixed"]
    permutation_seed: Annotated[int, Field(ge=0, lt=2**32)]
    valid: Count


@section
class ModelConfig:
    """`model`: the options of `g2lstm.models.classifier.Classifier`."""

    hidden_size: Count
    num_layers: Count
    dropout: Share
    forget_bias: NotNegative
    chrono: Annotated[int, Field(ge=3)] | None = None
    engine: EngineName = "auto"


@section
class MnistConfig:
    """What a run on MNIST adds to the options of any run."""

    data: DataConfig
    mnist: OrderConfig
    model: ModelConfig
    batch_size: Count


@dataclass(frozen=True, eq=False)
class MnistTask:
    """The task on its images."""

    Config: ClassVar[type] = MnistConfig
    FILES: ClassVar[tuple[str, ...]] = ()
    metric: ClassVar[Metric] = Metric("accuracy", "images", lower_is_better=False, digits=4)
    variants: ClassVar[tuple[str, ...]] = ("",)
    epoch_variant: ClassVar[str] = ""
    gate_variant: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    splits: Mapping[str, Images]
    place: str
    gate: Gate
    device: torch.device
    config: MnistConfig

    @classmethod
    def from_config(
        cls,
        config: MnistConfig,
        *,
        gate: Gate,
        device: torch.device,
        files: Mapping[str, str] | None = None,  # noqa: ARG003
    ) -> "MnistTask":
        data, held_out = config.data, config.mnist.valid
        counts = None if data.counts is None else dict(zip(COUNTS, data.counts, strict=True))
        found, place = load_mnist(data.dir, download=data.download, counts=counts)
        if held_out >= len(train := found["train"]):
            raise UserError(f"mnist.valid={held_out} leaves nothing of {len(train):,} images to train on: set it lower")
        splits = {"train": train[:-held_out], "valid": train[-held_out:], "test": found["test"]}
        return cls(splits, place, gate, device, config)

    @property
    def origin(self) -> str:
        return f"MNIST from {self.place}: {len(self.splits['train']):,} images to train on"

    @property
    def facts(self) -> dict[str, Any]:
        return {"order": self.config.mnist.order, "sequence_length": len(self.labels)} | {
            f"{split}_images": len(images) for split, images in self.splits.items()
        }

    @cached_property
    def permutation(self) -> Tensor:
        """(S * S,) the pixel that each step reads; NumPy's first generator gives it on every version."""
        if self.config.mnist.order != "permuted":
            return torch.arange(SIDE * SIDE)
        return torch.from_numpy(np.random.RandomState(self.config.mnist.permutation_seed).permutation(SIDE * SIDE))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What each step reads."""
        if self.config.mnist.order in ROWS:
            return tuple(f"row {row + 1}" for row in range(SIDE))
        return tuple(f"{pixel // SIDE + 1}, {pixel % SIDE + 1}" for pixel in self.permutation.tolist())

    def word_of(self, label: str) -> None:  # noqa: ARG002
        return None

    def files(self) -> dict[str, str]:
        return {}

    def build_model(self) -> Classifier:
        size = SIDE if self.config.mnist.order in ROWS else 1
        return Classifier(size, CLASSES, **values_of(self.config.model), gate=self.gate)

    def sequences(self, pixels: Tensor) -> Tensor:
        """(B, S, S) bytes -> (T, B, D) on the task's device: a sequence is one image, a step one row or pixel of each.

        Time comes first by exchanging dimensions. A `view(S, B, S)` has the right shape too, and cuts the batch into
        sequences of rows of different images: the classic mistake, which `order=mixed` makes to show what comes of it.
        """
        x = (pixels.to(self.device).float() / 255 - MEAN) / DEVIATION  # (B, S, S)
        if self.config.mnist.order == "mixed":
            return x.view(SIDE, len(x), SIDE)
        if self.config.mnist.order == "rows":
            return x.transpose(0, 1)  # (S, B, S)
        return x.flatten(1)[:, self.permutation].t().unsqueeze(-1)  # (S * S, B, 1)

    def plan(self, generator: torch.Generator) -> list[list[int]]:
        """The images of each batch of an epoch."""
        order = torch.randperm(len(self.splits["train"]), generator=generator).split(self.config.batch_size)
        return [batch.tolist() for batch in order]  # tensors would be moved to the GPU of a worker, where no image is

    def loss(self, model: nn.Module, item: list[int], carried: Any) -> LossResult:  # noqa: ARG002
        train, part = self.splits["train"], workers.part(len(item))
        mine = part.of(torch.tensor(item), 0)
        with part.drawn():
            logits = model(self.sequences(train.pixels[mine]))  # (B, K)
        loss = F.cross_entropy(logits, train.labels[mine].to(self.device))
        return LossResult(loss, loss, len(item) * part.share, None, share=part.share)

    def restore(self, carried: Any, device: torch.device) -> Any:  # noqa: ARG002
        return None

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        variant: str = "",  # noqa: ARG002
        *,
        limit: int | None = None,
        reading: Callable[[Tensor], None] | None = None,
    ) -> Evaluation:
        """The loss in nats an image, and the share of images that are named right."""
        log_probabilities, labels = self._read(model, split, limit, reading)
        losses = F.nll_loss(log_probabilities, labels, reduction="none")
        accuracy = (log_probabilities.argmax(1) == labels).double().mean().item()
        return Evaluation({"loss": losses.double().mean().item(), "accuracy": accuracy}, losses)

    def findings(self, model: nn.Module, split: str) -> list[Confusion]:
        """Which digits are taken for which, and the images that the model is surest to be wrong about."""
        log_probabilities, labels = self._read(model, split)
        sureness, answers = log_probabilities.exp().max(1)
        counts = torch.bincount(labels * CLASSES + answers, minlength=CLASSES**2).view(CLASSES, CLASSES)
        wrong = (answers != labels).nonzero().flatten()
        surest = wrong[sureness[wrong].argsort(descending=True, stable=True)][:SHOWN].tolist()
        pixels = self.splits[split].pixels.float() / 255
        mistakes = tuple(Mistake(pixels[n], int(labels[n]), int(answers[n]), float(sureness[n])) for n in surest)
        return [Confusion(split, tuple(map(str, range(CLASSES))), counts, mistakes)]

    def digest(self, split: str, limit: int | None = None) -> str:
        """Of the images, and of the order in which their pixels are read."""
        images = self.splits[split][:limit]
        about = json.dumps([self.config.mnist.order, self.permutation.tolist()])
        content = images.pixels.numpy().tobytes() + images.labels.numpy().tobytes()
        return hashlib.sha256(about.encode() + content).hexdigest()[:20]

    def size(self, split: str, limit: int | None = None) -> str:
        return f"{len(self.splits[split][:limit]):,} images"

    def read(self, model: nn.Module, text: str | None) -> ReadText:
        """The model reads one image of valid, the first or that of the number `text`; pixels are shown by 28 steps.

        Raises:
            UserError: `text` is no number of an image.
        """
        valid = self.splits["valid"]
        if not (text or "0").isdecimal() or (number := int(text or 0)) >= len(valid):
            raise UserError(f"text={text} is no image of valid: set text=0 to text={len(valid) - 1}")
        with torch.no_grad():
            model(self.sequences(valid.pixels[number : number + 1]))
        if self.config.mnist.order == "permuted":
            return ReadText([f"step {SIDE * part + 1}" for part in range(SIDE)], [], steps=SIDE, unit="part")
        return ReadText([f"row {row + 1}" for row in range(SIDE)], [], steps=len(self.labels) // SIDE, unit="row")

    def _read(
        self, model: nn.Module, split: str, limit: int | None = None, reading: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, K) log-probabilities of the classes of images, and their (N,) labels, on the CPU."""
        images, found = self.splits[split][:limit], []
        steps = torch.arange(len(self.labels), device=self.device).unsqueeze(1)  # (T, 1)
        part = workers.part(len(images))
        for pixels in part.of(images.pixels, 0).split(EVALUATED // len(steps)):
            if reading is not None:
                reading(steps.expand(-1, len(pixels)))
            with torch.no_grad():
                found.append(F.log_softmax(model(self.sequences(pixels)).float(), 1).cpu())
        own = torch.cat(found)
        return workers.side_by_side(own[:0] if part.idle else own, 0), images.labels
