"""What explain says of each task's model, against hooks written here, the framework's count of products and sums by hand."""

import importlib
import json
from dataclasses import is_dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from g2lstm import cli
from g2lstm.inspection.shapes import Explanation, Layer, explained
from g2lstm.tasks import TASKS
from g2lstm.training.task import LossModule


def sizes(found: Any) -> list[tuple[int, ...]]:
    """The shapes of all tensors in the arguments or results of a call, those of packed sequences before packing."""
    if isinstance(found, PackedSequence):
        return [(len(found.batch_sizes), int(found.batch_sizes[0]), found.data.shape[1])]
    if isinstance(found, Tensor):
        return [] if isinstance(found, nn.Parameter) else [tuple(found.shape)]
    values = found if isinstance(found, list | tuple) else list(vars(found).values()) if is_dataclass(found) else []
    return [size for value in values for size in sizes(value)]


def first_step(task: Any, model: nn.Module) -> None:
    with torch.no_grad():
        LossModule(task, model.train())(task.plan(torch.Generator().manual_seed(1))[0], None)


def shown(several: Any) -> list[tuple[int, ...]]:
    return [tuple(size for _, size in shape) for shape in several]


@pytest.mark.parametrize("name", [*TASKS, "copying"])
def test_shapes_are_those_that_hooks_see(name, small_task):
    task, model = small_task(name)
    found, names = explained(name, task, model), {module: key for key, module in model.named_modules()}
    seen: dict[str, list[Any]] = {}

    def hook(module: nn.Module, given: Any, output: Any) -> None:
        seen.setdefault(names.get(module, "loss"), []).append((sizes(given), sizes(output)))

    handle = register_module_forward_hook(hook)
    try:
        first_step(task, model)
    finally:
        handle.remove()
    with_numbers = {key for key, module in model.named_modules() if key and list(module.parameters(recurse=False))}
    assert with_numbers <= {layer.name for layer in found.layers}
    for layer in found.layers:
        states, module = shown(layer.states), model.get_submodule(layer.name)
        calls = [output for given, output in seen[layer.name] if given[: len(layer.inputs)][:1] == shown(layer.inputs)[:1]]
        assert len(calls) == layer.calls
        assert calls[0] == (states if isinstance(module, nn.LSTMCell) else shown(layer.outputs) + states)
        own = {f"{layer.name}.{key}": tuple(one.shape) for key, one in module.named_parameters(recurse=False)}
        assert own.items() <= {key: shown([one])[0] for key, one in layer.parameters.items()}.items()
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.parameters == sum(layer.count for layer in found.layers)
    assert found.rest == {}
    assert Explanation.parse(json.loads(json.dumps(found.values()))).multiply_adds == found.multiply_adds


@pytest.mark.parametrize("name", [*TASKS, "copying"])
def test_multiply_adds_are_those_that_the_framework_counts(name, small_task):
    more = ["batch_tokens=null", "batch_size=1"] if name in ("iwslt14", "wmt14", "parallel", "numbers") else []
    task, model = small_task(name, *more)
    for module in model.modules():
        if hasattr(module, "engine"):
            module.engine = "reference"
    found = explained(name, task, model)
    with FlopCounterMode(display=False) as counter:
        first_step(task, model)
    # It counts two for a multiply-add, and none for products with a vector, which additive energies are.
    vectors = sum(
        layer.positions * (layer.inputs[2][1][1] * size)
        for layer in found.layers
        for key, ((_, size), *others) in layer.parameters.items()
        if key.endswith("attention.energy") and not others
    )
    assert counter.get_total_flops() == 2 * (round(found.multiply_adds * found.count) - vectors)


def test_a_language_model_counted_by_hand(small_task):
    task, model = small_task("text", "model.num_layers=2")
    found, words = explained("text", task, model), len(task.corpus.vocabulary)
    first, second = (layer for layer in found.layers if layer.kind == "G2LSTM")
    assert first.inputs == ((("T", 5), ("B", 3), ("D", 6)),)
    assert first.outputs == ((("T", 5), ("B", 3), ("H", 8)),)
    assert first.states == ((("L", 1), ("B", 3), ("H", 8)),) * 2
    assert first.blocks == {"W_ih": 8 * 6, "W_hh": 8 * 8, "b_ih": 8, "b_hh": 8}
    assert first.count == 4 * (8 * (6 + 8) + 2 * 8)
    assert second.count == 4 * (6 * (8 + 6) + 2 * 6)
    assert found.multiply_adds == 4 * 8 * (6 + 8) + 4 * 6 * (8 + 6) + 6 * words


def test_options_of_an_lstm_are_told():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True, proj_size=3)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    class Once:
        metric = type("Metric", (), {"unit": "images"})

        def plan(self, generator: torch.Generator) -> list[Tensor]:
            return [torch.randn(7, 9, 5, generator=generator)]

        def loss(self, model: nn.Module, item: Tensor, _: None) -> Any:
            return type("Result", (), {"loss": model(item), "count": len(item)})

    rnn, head = explained("once", Once(), Whole()).layers  # type: ignore[arg-type]
    assert isinstance(rnn, Layer)
    assert (rnn.batch_first, rnn.directions) == (True, 2)
    assert rnn.inputs == ((("B", 7), ("T", 9), ("D", 5)),)
    assert rnn.outputs == ((("B", 7), ("T", 9), ("2P", 6)),)
    assert rnn.states == ((("L", 4), ("B", 7), ("P", 3)), (("L", 4), ("B", 7), ("H", 4)))
    assert head.inputs == ((("B", 7), ("D", 6)),)
    work = sum(starmap(lambda width, size: 4 * 4 * (width + 3) * size, ((5, 2), (6, 2)))) + 4 * 3 * 4
    assert rnn.multiply_adds == work


def test_the_command_writes_tables_and_a_figure(small_options, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    explain = importlib.import_module("explain").explain
    assert cli.guarded(lambda: explain([*small_options("text"), "gate=sigmoid", "out=shapes"])) == 0
    printed = capsys.readouterr().out
    assert "layers.0" in printed
    assert "4(H(D + H) + 2H)" in printed
    assert {path.name for path in Path("shapes").iterdir()} == {"shapes.json", "unrolled.png", "unrolled.svg"}
    assert cli.guarded(lambda: explain(["task=text", "model.hiden_size=3"])) == 2
    assert "did you mean model.hidden_size?" in capsys.readouterr().err
