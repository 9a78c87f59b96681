"""A model as tensors: tables of its layers, of their parameters by gate block and by name, and a figure over three steps."""

import math
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from g2lstm.files import read_json
from g2lstm.inspection.shapes import Explanation, Layer, Shape
from g2lstm.layout import BLOCKS
from g2lstm.reporting.figures import COLOURS, MORE_LINES, grid
from g2lstm.reporting.tables import Lines, markdown, number

FILE = "shapes.json"
TEXTS = {"layers": 5, "weights": 3, "gates": 3}  # columns of texts in each table
TABLES = tuple(TEXTS)
STEPS = 3
_PITCH, _WIDTH, _HEIGHT = 2.7, 1.9, 0.62  # of columns; of boxes, whose rows are 1 apart


def recorded(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of what experiments/explain.py wrote into a folder."""
    path = folder / FILE
    if not path.is_file():
        return "(no shapes are recorded yet)"
    found = Explanation.parse(read_json(path, dict))
    return markdown(lines(found, kind), footnote(found, kind), texts=TEXTS[kind])


def lines(found: Explanation, kind: str) -> Lines:
    """The table `kind`, its head first."""
    return {"layers": _layers, "weights": _weights, "gates": _gates}[kind](found)


def footnote(found: Explanation, kind: str) -> str:
    """What a table adds up to."""
    if kind == "gates":
        return (
            "One layer and direction has 4(H(D + H) + 2H): the framework keeps two biases, b_ih and b_hh, of which only the"
            " sum matters. Textbooks count one, 4(H(D + H) + H)."
        )
    if kind == "weights":
        rest = f" Not used by a layer: {', '.join(found.rest)}." if found.rest else ""
        return f"{number(found.parameters, 0)} numbers in all.{rest}"
    return (
        f"The first batch of `task={found.task}`, {number(found.count, 0)} {found.unit}. {number(found.parameters, 0)}"
        f" parameters; {number(found.multiply_adds, 0)} multiply-adds for each of the {found.unit} forwards, and about"
        " twice as many backwards. The last column is for one position, a step of a sequence."
    )


def shape(dimensions: Shape) -> str:
    """ "(T 70, B 20, D 400)"."""
    return f"({', '.join(f'{name} {size:,}' for name, size in dimensions)})" if dimensions else "a number"


def _shapes(several: tuple[Shape, ...]) -> str:
    return ", ".join(map(shape, several)) or "-"


def _layers(found: Explanation) -> Lines:
    head = ["layer", "class", "input", "output", "h and c, each", "calls", "parameters", "multiply-adds"]
    rows = [head]
    for layer in found.layers:
        states = ", ".join(dict.fromkeys(map(shape, layer.states))) or "-"
        texts = [_name(layer), layer.kind, _shapes(layer.inputs), _shapes(layer.outputs), states]
        rows.append(texts + [number(size, 0) for size in (layer.calls, layer.count, layer.multiply_adds)])
    return rows


def _weights(found: Explanation) -> Lines:
    rows: dict[str, list[str]] = {}
    for layer in found.layers:
        for name, one in layer.parameters.items():
            users = [rows[name][1], _name(layer)] if name in rows else [_name(layer)]
            rows[name] = [name, ", ".join(dict.fromkeys(users)), shape(one), number(_numbers(one), 0)]
    return [["parameter", "used by", "shape", "numbers"], *rows.values()]


def _gates(found: Explanation) -> Lines:
    rows = [["layer", "batch_first", "directions", f"{', '.join(BLOCKS)} each", "all", "with one bias"]]
    for layer in found.layers:
        if layer.blocks:
            whole = sum(map(_numbers, layer.parameters.values()))
            sizes = [sum(layer.blocks.values()), whole, whole - len(BLOCKS) * layer.blocks.get("b_hh", 0)]
            texts = [_name(layer), str(layer.batch_first).lower(), str(layer.directions)]
            rows.append(texts + [number(size, 0) for size in sizes])
    return rows


def _name(layer: Layer) -> str:
    return layer.name or "model"


def _numbers(dimensions: Shape) -> int:
    return math.prod(size for _, size in dimensions)


def draw_unrolled(found: Explanation) -> Figure:
    """The model over three steps of its sequences: boxes are layers, arrows upwards x, arrows to the side h and c."""
    panels = list(_panels(found.layers))
    rows = max(map(len, panels))
    figure, (axes,) = grid(1, len(panels), (9 * len(panels), 1.2 + 0.95 * rows))
    for place, panel in zip(axes, panels, strict=True):
        _draw_panel(place, panel, rows)
    return figure


def _panels(layers: tuple[Layer, ...]) -> Iterator[list[Layer]]:
    """Layers that read the same sequence, from below: words that are looked up after an LSTM are another one's."""
    panel: list[Layer] = []
    for layer in layers:
        if layer.kind == "Embedding" and any(one.states for one in panel):
            yield panel
            panel = []
        panel.append(layer)
    yield panel


def _once(layer: Layer) -> bool:
    """Whether a layer reads one vector of each sequence."""
    return layer.calls == 1 and [name for name, _ in layer.inputs[0]][:-1] == ["B"]


def _draw_panel(axes: Axes, panel: list[Layer], rows: int) -> None:
    """Rows from below; a layer that reads one vector a sequence is drawn at the last step alone."""
    for row, layer in enumerate(panel):
        first = STEPS - 1 if _once(layer) else 0
        colour = COLOURS["sigmoid"] if layer.states else MORE_LINES[0][0] if len(layer.outputs) > 1 else "#777777"
        for step in range(first, STEPS):
            x = _PITCH * step
            box = FancyBboxPatch((x, row), _WIDTH, _HEIGHT, "round,pad=0.04")
            box.set(facecolor=colour + "22", edgecolor=colour)
            axes.add_patch(box)
            axes.text(x + _WIDTH / 2, row + _HEIGHT / 2, _box(layer), ha="center", va="center", fontsize=7.5)
            _arrow(axes, (x + _WIDTH / 2, row - 1 + _HEIGHT + 0.06), (x + _WIDTH / 2, row - 0.06), "black")
        if layer.states:
            _draw_states(axes, layer, row)
        axes.text(-1.9, row + _HEIGHT / 2, _margin(layer), ha="right", va="center", fontsize=7)
    for step in range(STEPS):
        axes.text(_PITCH * step + _WIDTH / 2, -0.5, f"step {step + 1}", ha="center", va="top", fontsize=9)
    axes.text(-1.9, -0.5, shape(panel[0].inputs[0]), ha="right", va="top", fontsize=9)
    axes.set(xlim=(-4.6, _PITCH * STEPS + 0.7), ylim=(-0.8, rows))
    axes.axis("off")


def _draw_states(axes: Axes, layer: Layer, row: int) -> None:
    """h and c from step to step, and back where the layer reads in both directions."""
    for direction in range(layer.directions):
        height = row + _HEIGHT * (0.72 - 0.44 * direction if layer.directions > 1 else 0.5)
        colour = COLOURS["sharpened" if direction else "sigmoid"]
        for step in range(STEPS + 1):
            left, right = (_PITCH * step - _PITCH + _WIDTH + 0.05, height), (_PITCH * step - 0.05, height)
            _arrow(axes, *((right, left) if direction else (left, right)), colour)
    size = shape(layer.states[0])
    axes.text(-0.1, row + _HEIGHT - 0.05, f"h, c {size}", ha="right", fontsize=7, color=COLOURS["sigmoid"])


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1})


def _box(layer: Layer) -> str:
    """Its name, and the vector that one step of one sequence reads and gives."""
    given, found = (f"{one[-1][0]} {one[-1][1]:,}" if one else "a number" for one in (layer.inputs[0], layer.outputs[0]))
    given = "a number" if layer.kind == "Embedding" else given
    return f"{_name(layer)}\n{given} → {found}"


def _margin(layer: Layer) -> str:
    """What stands beside its row: class and the shapes of its parameters."""
    matrices = [f"{name.rpartition('.')[2]} {shape(one)}" for name, one in layer.parameters.items() if len(one) > 1]
    memory = [f"reads {shape(layer.inputs[1])}"] if len(layer.outputs) > 1 else []
    return "\n".join([layer.kind, *memory, *matrices[:2], *(["..."] if len(matrices) > 2 else [])])
