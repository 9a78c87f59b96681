"""What memory holds at the fullest moment of a training step, by category."""

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function

MARK = "g2lstm memory "
CATEGORIES = ("parameters", "optimiser state", "gradients", "activations", "other")


class MemoryStep:
    """Watches one training step: `begin` before it, `end` after it, or `stop` to learn nothing.

    Activations are what autograd keeps for the way back; other is what else is allocated in the step. What a library
    allocates for itself, the data, and averages of weights are not seen.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._model, self._optimizer, self._device = model, optimizer, device
        self._stack = ExitStack()
        self.begun = False

    def begin(self) -> None:
        self.begun = True
        enter = self._stack.enter_context
        self._profile = enter(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
        for parameter in self._model.parameters():
            if parameter.requires_grad:
                self._stack.callback(parameter.register_post_accumulate_grad_hook(_mark_gradient).remove)
        enter(saved_tensors_hooks(_mark_activation, lambda kept: kept))

    def stop(self) -> None:
        self.begun = False
        self._stack.close()

    def end(self) -> dict[str, float]:
        """Megabytes by category, whose sum is the peak."""
        self.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "memory.json"
            self._profile.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        state = [value for of_one in self._optimizer.state.values() for value in of_one.values()]
        found = {"parameters": _bytes(list(self._model.parameters())), "optimiser state": _bytes(state)}
        found |= _fullest(events, int(self._device.type == "cuda"))
        return {name: round(found[name] / 1e6, 3) for name in CATEGORIES}


def _mark(category: str, tensor: Tensor) -> None:
    with record_function(f"{MARK}{category} {tensor.untyped_storage().data_ptr()}"):
        pass


def _mark_activation(tensor: Tensor) -> Tensor:
    _mark("activations", tensor)
    return tensor.detach()  # what is kept as it is would keep its own graph


def _mark_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        _mark("gradients", parameter.grad)


def _bytes(values: list[Any]) -> int:
    return sum({one.data_ptr(): one.nbytes for one in values if isinstance(one, Tensor)}.values())


def _fullest(events: list[dict[str, Any]], device_type: int) -> dict[str, int]:
    """Bytes by category where most of what was allocated since the trace began is alive."""
    live: dict[int, dict[str, str]] = {}
    changes: list[tuple[dict[str, str], int]] = []  # an allocation that comes or goes, and its bytes
    for event in sorted((one for one in events if "ts" in one), key=lambda one: one["ts"]):
        name, args = event["name"], event.get("args", {})
        if name == "[memory]" and args["Device Type"] == device_type:
            address, size = args["Addr"], args["Bytes"]
            if size > 0:
                live[address] = {"category": "other"}
                changes.append((live[address], size))
            elif address in live:
                changes.append((live.pop(address), size))
        elif name.startswith(MARK):
            category, _, address = name.removeprefix(MARK).rpartition(" ")
            if int(address) in live:
                live[int(address)]["category"] = category
    now = dict.fromkeys(CATEGORIES[2:], 0)
    peak = dict(now)
    for allocation, size in changes:
        now[allocation["category"]] += size
        peak = max(peak, dict(now), key=lambda one: sum(one.values()))
    return peak
