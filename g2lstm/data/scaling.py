"""What a run remembers of the series that it was trained on: its columns, their mean and spread, and its season.

N rows, F columns, K of them forecast, which come first.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from g2lstm.data.series import Series
from g2lstm.errors import UserError


@dataclass(frozen=True)
class Scaling:
    """Found on the rows of train alone.

    Attributes:
        source: the file's name, or "mackey_glass".
        columns: the F that are read, the K targets first.
        targets: K.
        mean, scale: of each column; the scale is the standard deviation.
        steps: of each target the mean absolute difference of neighbours, which MASE is measured in.
        season: rows after which the targets are most like themselves again; 1 where they never are.
        constant: how many columns were left out because train has one value of them.
        digest: of all rows, so that a run goes on with no others; "" where it is not known.
    """

    source: str
    columns: tuple[str, ...]
    targets: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    steps: tuple[float, ...]
    season: int
    constant: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.scale, *self.steps]
        wrong = len(self.mean) != len(self.columns) or len(self.scale) != len(self.columns)
        if wrong or len(self.steps) != self.targets or not np.isfinite(numbers).all() or min(self.scale) <= 0:
            raise ValueError("columns and numbers do not go together")

    @classmethod
    def of(cls, source: str, series: Series, rows: int, targets: tuple[str, ...], season: int | None) -> "Scaling":
        """Of the first `rows` rows; all columns are targets where none is named.

        Raises:
            UserError: there is no such target, or it is constant.
        """
        for name in targets:
            if name not in series.columns:
                raise UserError(f"{source} has no column of numbers {name!r}: it has {', '.join(series.columns)}")
            if targets.count(name) > 1:
                raise UserError(f"data.targets names {name} twice: name it once")
        train = dict(zip(series.columns, series.values[:rows].T, strict=True))
        with np.errstate(over="ignore", invalid="ignore"):
            spread = {name: float(values.std()) for name, values in train.items()}
        for name, deviation in spread.items():
            if not np.isfinite(deviation):
                largest = f"{np.abs(train[name]).max():g}"
                raise UserError(f"{source}: {name} has {largest}, too large to reckon with: correct it, or leave it empty")
        varied = [name for name in series.columns if spread[name] > 1e-12 * abs(float(train[name].mean()))]
        for name in targets or series.columns[:1] * (not varied):
            if name not in varied:
                value = f"{train[name][0]:g} in all {rows:,} rows to train on"
                raise UserError(f"{source}: {name} is {value}, there is nothing to learn: name other data.targets")
        named = targets or tuple(varied)
        columns = (*named, *(name for name in varied if name not in named))
        own = np.stack([train[name] for name in columns], 1)
        steps = np.abs(np.diff(own[:, : len(named)], axis=0)).mean(0)
        found = season or season_of(own[:, : len(named)])
        return cls(
            source, columns, len(named), tuple(own.mean(0).tolist()), tuple(own.std(0).tolist()),
            tuple(steps.tolist()), found, len(series.columns) - len(varied),
        )  # fmt: skip

    @classmethod
    def parse(cls, text: str) -> "Scaling":
        """What `text` wrote; a UserError where it is no such text."""
        try:
            found: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
            return cls(**found)
        except (ValueError, TypeError, AttributeError):
            raise UserError("scaling.json is damaged: copy it again from its run, or train again") from None

    def text(self) -> str:
        """As JSON."""
        known = {name: value for name, value in asdict(self).items() if value != ""}
        return json.dumps(known, indent=1) + "\n"

    def normalised(self, values: np.ndarray) -> np.ndarray:
        """(N, F) values with mean 0 and standard deviation 1 in train."""
        return (values - self.mean) / self.scale

    def restored(self, values: np.ndarray) -> np.ndarray:
        """(..., K) normalised targets in their own units."""
        return values * self.scale[: self.targets] + self.mean[: self.targets]


def season_of(values: np.ndarray) -> int:
    """The rows after which (N, K) columns move alike again, at most N / 3; 1 where they never do.

    Of the peaks of their differences' mean autocorrelation, after it was first below 0, the first one of at least three
    quarters of the highest.
    """
    moves = np.diff(values, axis=0)
    moves = (moves - moves.mean(0)) / np.maximum(moves.std(0), 1e-300)
    count = len(moves)
    spectrum = np.abs(np.fft.rfft(moves, 2 * count, axis=0)) ** 2
    found = np.fft.irfft(spectrum, axis=0).mean(1)[: len(values) // 3] / count
    if not (found < 0).any():
        return 1
    first = int((found < 0).argmax())
    inside = found[first + 1 : -1]
    peaks = np.flatnonzero((inside > found[first:-2]) & (inside > found[first + 2 :]))
    if not len(peaks) or inside[peaks].max() < max(0.1, 3 / count**0.5):
        return 1
    high = peaks[inside[peaks] > 0.75 * inside[peaks].max()]
    return first + 1 + int(high[0])
