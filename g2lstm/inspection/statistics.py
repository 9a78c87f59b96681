"""Statistics of gate values over a corpus of any length in constant memory: by layer, direction, gate, unit and word.

N steps, H hidden units, V words.
"""

import torch
from torch import Tensor

from g2lstm.inspection.gates import GateRecord

MARGIN = 0.1  # a gate below it counts as shut, above 1 - it as open
WORD_COLUMNS = ("count", "mean", "mean_squared", "below", "above", "entropy")


class Tally:
    """Sums over gate values of H = `size` units, and of V = `words` words where they are kept.

    Attributes:
        histogram: (H, bins) counts of each unit in equally wide bins over [0, 1], the last one of which includes 1.
        units: (H, 4) float64 sums of each unit: values, values below `MARGIN`, above 1 - `MARGIN`, binary entropies in bits.
        words: (V, 6) float64 sums of each word: steps, mean over units and its square, shares below and above, entropy.
        steps: N.
    """

    def __init__(self, size: int, bins: int, words: int | None, device: torch.device) -> None:
        self.histogram = torch.zeros(size, bins, dtype=torch.int64, device=device)
        self.units = torch.zeros(size, 4, dtype=torch.float64, device=device)
        columns = len(WORD_COLUMNS)
        self.words = None if words is None else torch.zeros(words, columns, dtype=torch.float64, device=device)
        self.steps = 0
        self._offset = torch.arange(size, device=device) * bins

    def add(self, values: Tensor, words: Tensor | None = None) -> None:
        """Counts (N, H) gate values, of the (N,) words if these are counted; a ValueError where one is no number."""
        total = values.sum(0)  # (H,)
        check_numbers(total)
        size, bins = self.histogram.shape
        place = (values * bins).to(torch.int64).clamp_(max=bins - 1).add_(self._offset)  # (N, H)
        self.histogram += place.flatten().bincount(minlength=size * bins).view(size, bins)
        sums = (values, (values < MARGIN).to(values.dtype), (values > 1 - MARGIN).to(values.dtype), binary_entropy(values))
        self.units += torch.stack([total, *(each.sum(0) for each in sums[1:])], dim=1)
        self.steps += len(values)
        if self.words is not None and words is not None:
            mean, below, above, entropy = (each.mean(1).double() for each in sums)
            columns = torch.stack([torch.ones_like(mean), mean, mean.square(), below, above, entropy], dim=1)  # (N, 6)
            self.words.index_add_(0, words, columns)

    @property
    def count(self) -> int:
        """N * H, the number of values."""
        return self.steps * len(self.histogram)

    def shares(self) -> list[float]:
        """The share of all values in each bin."""
        return (self.histogram.sum(0).double() / max(self.count, 1)).tolist()

    def summary(self) -> dict[str, float]:
        """Mean, shares below `MARGIN`, above 1 - `MARGIN` and outside both, and mean binary entropy in bits."""
        mean, below, above, entropy = (self.units.sum(0) / max(self.count, 1)).tolist()
        return {"mean": mean, "below": below, "above": above, "binary": below + above, "entropy": entropy}


class GateStatistics:
    """`tallies` of all that it is given, by layer, as it is called with its direction, and gate; of V `words` each too."""

    def __init__(self, bins: int = 50, words: int | None = None) -> None:
        self.bins, self.words = bins, words
        self.tallies: dict[tuple[str, str], Tally] = {}

    def add(self, record: GateRecord, words: Tensor | None = None) -> None:
        """Counts a record, as `inspection.gates.watched` hands them out, and of the (T, B) words that were read."""
        chosen = None if words is None else words.flatten() if record.mask is None else words[record.mask]
        for gate in record.values:
            key, values = (record.layer_name, gate), record.steps(gate)
            if key not in self.tallies:
                self.tallies[key] = Tally(values.shape[-1], self.bins, self.words, values.device)
            self.tallies[key].add(values, chosen)


def check_numbers(values: Tensor) -> None:
    """Raises a ValueError where a gate value, or a sum of them, is no number."""
    if not bool(values.isfinite().all()):
        raise ValueError("a gate value is not a number: the model diverged, or its weights are damaged")


def binary_entropy(values: Tensor) -> Tensor:
    """`-v log2 v - (1 - v) log2 (1 - v)`, 0 for v = 0 and 1: how far a gate is from a decision, in bits."""
    tiny, other = torch.finfo(values.dtype).tiny, 1 - values
    # torch.special.entr would do the same, but slower.
    return values.clamp(min=tiny).log2_().mul_(values).add_(other.clamp(min=tiny).log2_().mul_(other)).neg_()
