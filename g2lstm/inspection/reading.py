"""A model reads one text while its gates are watched. N steps shown, H hidden units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import scipy
import torch
from torch import Tensor, nn

from g2lstm.errors import UserError, quoted
from g2lstm.inspection.gates import GateRecord, watched
from g2lstm.inspection.measure import SHOWN, chosen_layer
from g2lstm.inspection.statistics import check_numbers
from g2lstm.runs.run import Run, blamed

MOST_TURNED = 800  # units of a tree whose branches are turned round, which takes the time of H^3


@dataclass(frozen=True)
class Reading:
    """What a model's gates did at each word, or whatever it reads, of a text."""

    gate: str  # what the model is called
    layer: str  # whose gates these are
    words: list[str]  # as figures show them, those that the model doesn't know with a star
    unknown: list[str]  # these, without it
    gates: dict[str, Tensor]  # (N, H) of each gate
    source: Sequence[str] = ()  # what it looked at besides, and (N, source) weights with which it did
    attention: Tensor | None = None
    unit: str = "word"  # what one of `words` is

    def told(self) -> dict[str, Any]:
        """The mean over units of each gate at each word, and what the model looked at, as JSON has it."""
        means = {gate: _rounded(values.mean(1)) for gate, values in self.gates.items()}
        found: dict[str, Any] = {"gate": self.gate, "layer": self.layer, "words": self.words, "mean": means}
        if self.attention is not None:
            found |= {"source": list(self.source), "attention": [_rounded(weights) for weights in self.attention]}
        return found


def read_text(task: Any, model: nn.Module, gate: str, text: str | None, layer: str | None = None) -> Reading:
    """The gates of one layer, as `chosen_layer` names it, at each word of a text, or of the task's example.

    Args:
        task, model: whose `read` shows the text to the model, in eval mode.
        gate: what the model is called.

    Raises:
        UserError: the text can't be read, there is no such layer, or a gate value is no number.
    """
    found: dict[str, dict[str, list[Tensor]]] = {}  # of each layer and gate

    def keep(record: GateRecord) -> None:
        for gate, values in record.values.items():
            check_numbers(values)
            found.setdefault(record.layer_name, {}).setdefault(gate, []).append(record.steps(gate))

    try:
        with torch.no_grad(), watched(model, keep, SHOWN):
            read = task.read(model, text)
    except ValueError as error:
        raise UserError(str(error)) from error
    within = tuple(f"{name}." for name in read.modules) or ("",)
    own = {name: gates for name, gates in found.items() if name.startswith(within)}
    layer = chosen_layer(own, layer)
    last = {gate: torch.cat(steps)[-len(read.labels) * read.steps :].cpu() for gate, steps in own[layer].items()}
    gates = {gate: values.unflatten(0, (-1, read.steps)).mean(1) for gate, values in last.items()}  # (N, H)
    words = [f"{word}*" if word in read.unknown else word for word in read.labels]
    return Reading(gate, layer, words, read.unknown, gates, read.source, read.attention, read.unit)


def read_runs(
    groups: Mapping[str, Sequence[Run]], text: str | None, layer: str | None, say: Callable[[str], None]
) -> list[Reading]:
    """The same text read by the first run of each group; `say` is told what a model does not know.

    Raises:
        UserError: as in `read_text`, or the models don't read the same words, so that they don't fit one figure.
    """
    readings = []
    for name, (run, *_) in groups.items():
        with blamed(run):
            task = run.task()
            readings.append(read_text(task, run.model(task), name, text, layer))
        if unknown := readings[-1].unknown:
            say(f"{run.path} does not know: {quoted(unknown)}")
    if len({(*reading.words,) for reading in readings}) > 1:
        raise UserError("the runs read different words: give runs of one vocabulary, or a text that says all that is read")
    return readings


def cluster_order(values: Tensor) -> list[int]:
    """An order of the rows (H, N) in which similar ones are neighbours: the leaves of an average-linkage tree."""
    if len(values) < 2:
        return list(range(len(values)))
    hierarchy = scipy.cluster.hierarchy
    tree = hierarchy.linkage(values.double().cpu().numpy(), "average", optimal_ordering=len(values) <= MOST_TURNED)
    return [int(leaf) for leaf in hierarchy.leaves_list(tree)]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]
