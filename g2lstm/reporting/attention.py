"""What a translation looked at: a figure of the attention weights, a row a target sub-word, a column a source sub-word."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from g2lstm.reporting.figures import grid


def draw_attention(weights: Any, source: Sequence[str], target: Sequence[str], rows: str = "translation") -> Figure:
    """(T, S) weights in [0, 1] with the labels of their columns and rows; `rows` is what all rows are called."""
    drawn, ((axes,),) = grid(1, 1, (2 + 0.3 * len(source), 1.5 + 0.25 * len(target)))
    image = axes.imshow(np.asarray(weights), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source)), source, rotation=90, parse_math=False)
    axes.set_yticks(range(len(target)), target, parse_math=False)
    axes.set_xlabel("source")
    axes.set_ylabel(rows)
    drawn.colorbar(image, label="attention")
    return drawn
