"""An order of units in which those that do alike stand together. H units, N steps."""

import math

import torch
from torch import Tensor


def cluster_order(values: Tensor) -> list[int]:
    """An order of the rows in which similar ones are neighbours: the leaves of an average-linkage tree.

    Args:
        values: (H, N), some hundred rows.
    """
    groups = [[index] for index in range(len(values))]
    distance = torch.cdist(values.double(), values.double())  # (H, H)
    distance.fill_diagonal_(math.inf)
    alive = torch.ones(len(values), dtype=torch.bool)
    for _ in range(len(values) - 1):
        a, b = divmod(int(distance.argmin()), len(values))
        n, m = len(groups[a]), len(groups[b])
        merged = (n * distance[a] + m * distance[b]) / (n + m)
        groups[a] = _joined(groups[a], groups[b], values)
        alive[b] = False
        merged[~alive] = math.inf
        merged[a] = math.inf
        distance[a], distance[:, a] = merged, merged
        distance[b], distance[:, b] = math.inf, math.inf
    return groups[int(alive.nonzero()[0])]


def _joined(first: list[int], second: list[int], values: Tensor) -> list[int]:
    """Both lists, each turned round where that brings their nearer ends together."""
    choices = [(a, b) for a in (first, first[::-1]) for b in (second, second[::-1])]
    a, b = min(choices, key=lambda pair: float((values[pair[0][-1]] - values[pair[1][0]]).norm()))
    return a + b
