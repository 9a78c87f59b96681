"""What profile=true found: tables of a trace's spans, dearest operations and memory, and one of its steps as a figure."""

import gzip
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from g2lstm.errors import UserError
from g2lstm.reporting.figures import COLOURS, grid
from g2lstm.reporting.tables import Lines, markdown, number
from g2lstm.training.profiling import TRACE
from g2lstm.training.trace import ON_DEVICE, STEP

TABLES = ("spans", "operations", "categories")
_BACKWARD = " backward"


def read_trace(path: Path) -> dict[str, Any]:
    """A trace, given its file or the folder of its run; a UserError where there is none."""
    path = path / TRACE if path.is_dir() else path
    try:
        trace: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
        _ = trace["g2lstm"]["spans"], trace["traceEvents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no trace of a run ({type(error).__name__}): train with profile=true") from None
    return trace


def recorded(folder: Path, kind: str) -> str:
    """The table `kind`, one of `TABLES`, of the trace in a folder."""
    about = read_trace(folder)["g2lstm"] if (folder / TRACE).is_file() else None
    return "(no trace is recorded yet)" if about is None else markdown(lines(about, kind), footnote(about))


def lines(about: dict[str, Any], kind: str) -> Lines:
    """A table of what a trace says under "g2lstm"."""
    if kind == "categories":
        sizes = about["memory_mb"] or {}
        rows = [[name, number(size, 1)] for name, size in [*sizes.items(), ("in all", sum(sizes.values()))]]
        return [["at the fullest moment of a step", "MB"], *rows]
    share = [f"{100 * row['ms'] / about['step_ms']:.1f}%" for row in about[kind]]
    rows = [[row["name"], number(row["calls"], 1), number(row["ms"])] for row in about[kind]]
    head = ["layer and phase" if kind == "spans" else "operation", "calls a step", "ms a step", "of a step"]
    return [head, *([*row, part] for row, part in zip(rows, share, strict=True))]


def footnote(about: dict[str, Any]) -> str:
    """What a table is of."""
    return f"{about['steps']} training steps on {about['device']}, {about['step_ms']:.1f} ms each while they were profiled."


def draw_step(trace: dict[str, Any]) -> Figure:
    """The fastest step of a trace: a row for each layer, forwards and backwards, and its phases below it."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X" and event.get("cat") != ON_DEVICE]
    step = min((event for event in events if event["name"].startswith(STEP)), key=lambda event: event["dur"])
    begin, end = step["ts"], step["ts"] + step["dur"]
    rows: dict[str, list[tuple[float, float, bool]]] = {}
    for row in trace["g2lstm"]["spans"]:
        rows.setdefault(row["name"].removesuffix(_BACKWARD), [])
    for event in events:
        name = event["name"].removesuffix(_BACKWARD)
        if name in rows and begin <= event["ts"] < end:
            bar = (event["ts"] - begin) / 1000, event["dur"] / 1000, event["name"] != name
            rows[name].append(bar)
    order = list(rows)
    names = sorted(rows, key=lambda name: order.index(name.partition(": ")[0]))  # a layer's phases below it
    colours = {False: COLOURS["sigmoid"], True: COLOURS["sharpened"]}  # of what is backwards
    figure, ((axes,),) = grid(1, 1, (10, 1.4 + 0.28 * len(names)))
    for place, name in enumerate(names):
        for start, length, back in rows[name]:
            look = {"facecolor": colours[back], "alpha": 0.5 if ": " in name else 1}
            axes.broken_barh([(start, length)], (place - 0.4, 0.8), **look)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.legend([Patch(color=colour) for colour in colours.values()], ["forwards", "backwards"], loc="lower left")
    axes.set(xlabel="ms", xlim=(0, step["dur"] / 1000))
    axes.grid(axis="x", alpha=0.3)
    return figure
