"""An order of units in which those that do alike stand together. H units, N steps."""

from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor

MOST_TURNED = 800  # units of a tree whose branches are turned round, which takes the time of H^3


def cluster_order(values: Tensor) -> list[int]:
    """An order of the rows (H, N) in which similar ones are neighbours: the leaves of an average-linkage tree."""
    if len(values) < 2:
        return list(range(len(values)))
    tree = linkage(values.double().cpu().numpy(), "average", optimal_ordering=len(values) <= MOST_TURNED)
    return [int(leaf) for leaf in leaves_list(tree)]
