"""A recorded trace is shown as tables and drawn, and what is no trace is said in one line."""

import gzip
import importlib
from pathlib import Path

import pytest

from g2lstm import cli
from g2lstm.reporting import profiles

BUILTIN = Path(__file__).parents[2] / "results" / "profiles" / "builtin"


def command(*arguments: str) -> int:
    return cli.guarded(lambda: importlib.import_module("step_trace").step_trace(list(arguments)))


def test_layers_and_what_none_does_add_up_to_the_step():
    about = profiles.read_trace(BUILTIN)["g2lstm"]
    of_layers = sum(row["ms"] for row in about["spans"] if ": " not in row["name"])
    assert 0.8 * about["step_ms"] < of_layers <= about["step_ms"]
    for layer in ("layers.0", "layers.1"):
        ms = {row["name"].removeprefix(f"{layer}: "): row["ms"] for row in about["spans"] if row["name"].startswith(layer)}
        assert ms["input product"] + ms["recurrence"] <= ms[layer]
        assert ms["recurrence backward"] + ms["products backward"] <= ms[f"{layer} backward"]
        assert ms["point-wise"] < ms["recurrence"]


def test_the_figure_has_a_bar_for_each_layer_both_ways():
    (axes,) = profiles.draw_step(profiles.read_trace(BUILTIN)).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:3] == ["embedding", "layers.0", "layers.0: input product"]
    bars = [bar.get_facecolor()[0][:3].tolist() for bar in axes.collections]
    assert len(bars) >= 2 * sum(": " not in name for name in names) - 1  # an optimiser steps one way
    assert len({tuple(colour) for colour in bars}) == 2


def test_the_command_prints_the_tables_and_writes_a_copy(tmp_path, capsys):
    assert command(f"run={BUILTIN}", f"out={tmp_path}") == 0
    printed = capsys.readouterr().out
    assert "output_layer backward" in printed
    assert "activations" in printed
    assert (tmp_path / "trace.json.gz").read_bytes() == (BUILTIN / "trace.json.gz").read_bytes()
    assert (tmp_path / "step.svg").is_file()


@pytest.mark.parametrize(
    "content", [b"no archive", gzip.compress(b"[]"), gzip.compress(b'{"traceEvents": []}')], ids=["text", "list", "empty"]
)
def test_what_is_no_trace_is_one_line(content, tmp_path, capsys):
    (tmp_path / "trace.json.gz").write_bytes(content)
    assert command(f"run={tmp_path}") == 2
    assert "is no trace of a run" in capsys.readouterr().err
    assert command(f"run={tmp_path / 'nowhere'}") == 2
    assert "train with profile=true" in capsys.readouterr().err
