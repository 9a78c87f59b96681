"""Which classes are taken for which, and the images that a model was surest to be wrong about."""

import numpy as np
from matplotlib.figure import Figure

from g2lstm.reporting.figures import grid
from g2lstm.training.findings import Confusion

MOST_NUMBERED = 20  # classes; the cells of more have no numbers
COLUMNS = 8  # images in a row


def draw_confusion(found: Confusion, model: str) -> dict[str, Figure]:
    """ "confusion" and, where there are mistakes to show, "mistakes"."""
    figures = {"confusion": _draw_matrix(found, model)}
    return figures | ({"mistakes": _draw_mistakes(found, model)} if found.mistakes else {})


def _draw_matrix(found: Confusion, model: str) -> Figure:
    """A row a true class, a column an answer; the colour is that of errors alone, which right answers would outshine."""
    counts, classes = found.counts.numpy(), range(len(found.names))
    right, whole = int(np.trace(counts)), int(counts.sum())
    wrong = np.where(np.eye(len(counts), dtype=bool), np.nan, counts)
    inches = 2.2 + 0.42 * min(max(len(counts), 6), MOST_NUMBERED)
    figure, ((axes,),) = grid(1, 1, (inches + 0.8, inches))
    image = axes.imshow(wrong, cmap="Reds", vmin=0, vmax=max(np.nanmax(wrong, initial=0), 1))
    for (y, x), count in np.ndenumerate(counts) if len(counts) <= MOST_NUMBERED else ():
        light = x != y and count > 0.6 * image.norm.vmax
        axes.text(
            x, y, f"{count:,}" if count else "·", ha="center", va="center", fontsize=7, color="white" if light else "black"
        )
    axes.set_xticks(classes, found.names)
    axes.set_yticks(classes, found.names)
    axes.set(xlabel="answer", ylabel="truth")
    figure.colorbar(image, label="errors", shrink=0.8)
    figure.suptitle(
        f"{model} on {found.split}:\n{right:,} of {whole:,} right ({right / max(whole, 1):.2%})", fontsize="medium"
    )
    return figure


def _draw_mistakes(found: Confusion, model: str) -> Figure:
    lines = -(-len(found.mistakes) // COLUMNS)
    columns = min(len(found.mistakes), COLUMNS)
    figure, places = grid(lines, columns, (max(1.1 * columns, 3.5), 0.5 + 1.45 * lines))
    for axes in places.flat:
        axes.set_axis_off()
    for axes, mistake in zip(places.flat, found.mistakes, strict=False):
        axes.imshow(mistake.image.numpy(), cmap="Greys", vmin=0, vmax=1)
        truth, answer = found.names[mistake.truth], found.names[mistake.answer]
        axes.set_title(f"{truth}, not {answer}\n({mistake.probability:.2%})", fontsize="small", parse_math=False)
    figure.suptitle(f"{model} on {found.split}: the surest errors (truth, answer and its probability)", fontsize="medium")
    return figure
