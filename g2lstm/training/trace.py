"""A trace of torch.profiler in the words of the model: which layer and phase an operation belongs to.

Layers are the modules that `named_layers` watches, phases what `g2lstm.spans` names inside them. What autograd runs
backwards belongs to the layer whose operation has its sequence number.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function

from g2lstm.spans import PHASES

BACKWARD = "autograd::engine::evaluate_function"
STEP = "ProfilerStep#"
OPTIMIZER = "Optimizer.step#"
ON_DEVICE = "gpu_user_annotation"  # a CUDA trace has each span twice: as it is called, and as its kernels run
SHARE = "point-wise share "  # what native.cpp measures, in which products and point-wise passes take turns of microseconds
PART = re.compile(r"_l\d+(_reverse)?")  # of an LSTM of several layers or directions
Event = dict[str, Any]
Place = tuple[str | None, str]  # layer, and which part of it with a space behind it
NOWHERE: Place = (None, "")


@contextmanager
def named_layers(model: nn.Module) -> Iterator[None]:
    """Each call of a module is a span of its name."""
    opened: list[record_function] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: opened.append(record_function(name).__enter__())

    def leave(*_: Any) -> None:
        opened.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_pre_hook(enter(name)).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        yield


def name_spans(events: list[Event], layers: set[str]) -> list[Event]:
    """Names phases by their layers, in place, and adds what the layers do backwards.

    Args:
        events: `traceEvents` of a trace.
        layers: names of modules that were spans in it.

    Returns:
        the spans of layers and phases, old and new, in the order of their beginnings.
    """
    timed = [event for event in events if event.get("ph") == "X" and event.get("cat") != ON_DEVICE]
    timed.sort(key=lambda one: (one["ts"], -one["dur"]))
    owner: dict[int, Place] = {}  # of an operation's sequence number
    inside: dict[Any, list[tuple[float, Place, Event]]] = {}  # by thread: end, place and event of what has begun
    open_backward: dict[Any, Event] = {}
    spans: list[Event] = []
    for event in timed:
        name, thread, number = event["name"], event["tid"], event.get("args", {}).get("Sequence number")
        around = inside.setdefault(thread, [])
        while around and around[-1][0] <= event["ts"]:
            around.pop()
        layer, part = around[-1][1] if around else NOWHERE
        if name.startswith(STEP):
            open_backward.clear()
        elif name.startswith(BACKWARD):
            layer, part = owner.get(number, NOWHERE)
            _extend(event, layer, open_backward, spans)
        elif event.get("cat") == "user_annotation" and name in layers:
            layer, part = name, ""
            spans.append(event)
        elif PART.fullmatch(name):
            part = f"{name[1:].replace('_', ' ')} "
        elif name in PHASES and layer:
            event["name"] = f"{layer}: {part}{name}"
            spans.append(event)
        elif name.startswith(SHARE) and layer:
            whole = next(one for _, _, one in reversed(around) if one["name"].startswith(f"{layer}: {part}recurrence"))
            event["name"] = whole["name"].replace("recurrence", "point-wise")
            event |= {"ts": whole["ts"], "dur": whole["dur"] * float(name.removeprefix(SHARE))}
            spans.append(event)
        elif name.startswith(OPTIMIZER):
            spans.append(event)
        elif number is not None:
            owner[number] = layer, part
        around.append((event["ts"] + event["dur"], (layer, part), event))
    events += [event for event in spans if event["name"].endswith(" backward") and "args" not in event]
    return spans


def _extend(event: Event, layer: str | None, open_backward: dict[Any, Event], spans: list[Event]) -> None:
    """Adds a backward operation to the layer's span that it follows, or begins another."""
    last = open_backward.get(event["tid"])
    if layer is None:
        open_backward.pop(event["tid"], None)
    elif last is not None and last["name"] == f"{layer} backward":
        last["dur"] = event["ts"] + event["dur"] - last["ts"]
    else:
        kept = {name: event[name] for name in ("ph", "pid", "tid", "ts", "dur")}
        open_backward[event["tid"]] = kept | {"cat": "user_annotation", "name": f"{layer} backward"}
        spans.append(open_backward[event["tid"]])


def span_rows(spans: list[Event], steps: int) -> list[dict[str, Any]]:
    """Calls and milliseconds a step of each name, in the order in which they first began."""
    rows: dict[str, dict[str, Any]] = {}
    for span in spans:
        row = rows.setdefault(span["name"], {"name": span["name"], "calls": 0.0, "ms": 0.0})
        row["calls"] += 1 / steps
        row["ms"] += span["dur"] / 1000 / steps
    return [row | {"calls": round(row["calls"], 1), "ms": round(row["ms"], 3)} for row in rows.values()]


def step_ms(events: list[Event], steps: int) -> float:
    """Milliseconds of a training step."""
    found = [event for event in events if event["name"].startswith(STEP) and event.get("cat") != ON_DEVICE]
    return sum(event["dur"] for event in found) / 1000 / steps
