"""What a task can show of a split besides numbers: plain data, drawn by `g2lstm.reporting.drawings`. K classes."""

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        image: (height, width) in [0, 1].
        truth, answer: classes.
        probability: that the model gave its answer.
    """

    image: Tensor
    truth: int
    answer: int
    probability: float


@dataclass(frozen=True, eq=False)
class Confusion:
    """Which classes of a split are taken for which.

    Attributes:
        split: "train", "valid" or "test".
        names: of the K classes.
        counts: (K, K) items by true class and answer.
        mistakes: the most confident ones, surest first; none where there are no images to show.
    """

    split: str
    names: tuple[str, ...]
    counts: Tensor
    mistakes: tuple[Mistake, ...] = ()


Finding: TypeAlias = Confusion
