"""What a task can show of a split besides numbers: plain data, drawn by `g2lstm.reporting.drawings`.

K classes, N forecasts, P steps ahead.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
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


@dataclass(frozen=True, eq=False)
class Forecast:
    """The forecasts of one series over a split, each made P steps before.

    Attributes:
        split: "train", "valid" or "test".
        name: of what is forecast.
        times: (N,) datetime64 or numbers.
        truth, forecast: (N,) in its own units.
        band: the two errors of forecasts on valid, P steps ahead, between which a share `within` of them lay.
        within: that share.
        by_step: (P,) root mean square error by steps ahead, of the model and of what it is compared with, by name.
    """

    split: str
    name: str
    times: np.ndarray
    truth: Tensor
    forecast: Tensor
    band: tuple[float, float]
    within: float
    by_step: dict[str, Tensor]


Finding: TypeAlias = Confusion | Forecast
