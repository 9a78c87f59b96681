"""The report page: what stands on it by what the runs hold, and that it is whole, safe and self-contained."""

import base64
import io
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from omegaconf import OmegaConf
from report import recorded_gates, recorded_sweep, report, weights_digest
from rich.console import Console

from g2lstm.errors import UserError
from g2lstm.reporting.charts import LOOKS, MOST_MARKS, Axis, Series, line_chart, look_classes, mark
from g2lstm.reporting.page import Section, from_markdown, page, tag
from g2lstm.reporting.report import Sweep, report_page
from g2lstm.reporting.report_gates import MOST_CELLS, Reading
from g2lstm.reporting.report_runs import MOST_POINTS, Panel, RunFacts, looks
from g2lstm.runs import NamedRun

NASTY = "<script>alert(1)</script> & \"quoted\" 'words' \x00 $x$ 漢字"
EVIL = re.compile(r"""(?:src|href|action|data|poster)\s*=\s*["']?\s*(?:https?:)?//|url\(|@import|<link|<iframe""")


def facts(label: str = "G2-LSTM", seed: int = 1, *, ended: bool = True, task: str = "ptb", records: int = 40) -> RunFacts:
    gate = "gumbel" if label.startswith("G2") else "sigmoid"
    config = {"task.name": task, "gate.name": gate, "experiment_name": "study", "run_dir": "/home/me/x", "epochs": 3}
    if gate == "gumbel":
        config |= {"gate.tau": 0.9, "gate.gates": ["i", "f"]}
    summary = {"parameters": 3_454_800, "epochs": 3, "best_epoch": 2, "seconds": 90.0, "words_per_second": 4000.0}
    summary |= {"valid_perplexity": 91.0, "test_perplexity": 86.65, "valid_perplexity_cache": None}
    steps = [{"kind": "train", "step": n, "loss": 6 - n / 20} for n in range(1, records)]
    steps += [{"kind": "valid", "step": n, "loss": 5.5 - n / 20} for n in range(10, records, 10)]
    environment = {"hardware": "2-core test", "device": "cpu", "threads": 1, "torch": "2", "g2lstm": "0", "commit": "abc"}
    return RunFacts(f"results/{label}", label, seed, config, environment, summary if ended else {}, steps)


def gates(*labels: str) -> dict:
    rows, metrics = [], []
    shares = [0.3, *[0.4 / 48] * 48, 0.3]
    for label in labels:
        for mode in ("training", "test", "tempered") if label.startswith("G2") else ("test",):
            for layer in ("layers.0", "all layers"):
                for block in ("i", "f"):
                    row = {"run": label, "label": label, "mode": mode, "layer": layer, "block": block, "mean": 0.5}
                    rows.append(row | {"binary": 0.6, "entropy": 0.5, "histogram": shares})
            metrics.append({"run": label, "label": label, "mode": mode, "split": "valid", "perplexity": 90.0})
    about = {"split": "valid", "sentences": 10, "words": 90, "layer": "layers.0"}
    return about | {"rows": rows, "metrics": metrics}


def reading(label: str, words: list[str], size: int = 12) -> Reading:
    generator = torch.Generator().manual_seed(1)
    values = {gate: torch.rand(len(words), size, generator=generator) for gate in ("i", "f")}
    return Reading(label, "layers.0", words, values)


def sweep(*labels: str) -> Sweep:
    table = "Test perplexity\n\n| gate | original | n |\n| --- | ---: | ---: |\n| G2-LSTM | 86.65 | 1 |"
    lines = [Series(label, [(2.7, 99.0), (32.0, 87.0)]) for label in labels or ("G2-LSTM",)]
    return Sweep(table, [Panel("Rounding", "bits a parameter", "perplexity", lines)])


def whole(words: tuple[str, ...] = ("the", "zebra*", "<eos>")) -> str:
    labels = ("plain LSTM", "G2-LSTM")
    runs, readings = [facts(label) for label in labels], [reading(label, list(words)) for label in labels]
    return report_page(runs, gates=gates(*labels), readings=readings, sweep=sweep())


def parsed(content: str) -> ElementTree.Element:
    head, _, rest = content.partition("\n")
    assert head == "<!DOCTYPE html>"
    return ElementTree.fromstring(rest)


def titles(content: str) -> list[str]:
    return ["".join(head.itertext()) for head in parsed(content).iter("h2")]


def test_every_section_is_there_for_runs_that_hold_everything() -> None:
    content = whole()
    assert titles(content) == [
        "What was run", "Training curves", "Metrics", "Compression", "Gate histograms", "Training against test",
        "Gates word by word", "Unit by unit",
    ]  # fmt: skip
    names = [link.text for link in parsed(content).iter("a") if link.get("href") != "#main"]
    assert names == titles(content)


def test_a_section_is_absent_where_the_runs_hold_nothing_for_it() -> None:
    assert titles(report_page([facts(ended=False, records=0)])) == ["What was run"]
    assert titles(report_page([facts(records=0)])) == ["What was run", "Metrics"]
    assert titles(report_page([facts(ended=False)])) == ["What was run", "Training curves"]
    assert "not finished" in report_page([facts(ended=False)])


def test_the_paper_stands_beside_its_own_task_only() -> None:
    assert "test, the paper" in report_page([facts()])
    assert "the paper" not in report_page([facts(task="text")])
    row = next(row for row in parsed(report_page([facts()])).iter("tr") if "86.65" in list(row.itertext()))
    assert list(row.itertext()) == ["G2-LSTM", "91.00", "58.5", "86.65", "56.1", "1"]


def test_seeds_become_a_mean_with_a_deviation() -> None:
    second = facts(seed=2)
    second.summary["test_perplexity"] = 88.65
    assert "87.65 ± 1.41" in report_page([facts(), second])


def test_only_options_that_differ_are_shown_at_once_and_no_folder_of_the_machine() -> None:
    content = report_page([facts("plain LSTM"), facts()])
    table = next(t for t in parsed(content).iter("table") if t.find("caption").text.startswith("Options in which"))
    heads = [row.find("th").text for row in table.iter("tr")]
    assert heads == ["option", "gate.name", "gate.tau", "gate.gates"]
    assert "/home/me" not in content


def test_texts_are_escaped_everywhere() -> None:
    run = facts(NASTY)
    run.config["data.name"] = run.environment["hardware"] = NASTY
    read = [reading(NASTY, [NASTY, "漢字", "x" * 80])]
    panel = Panel(NASTY, NASTY, NASTY, [Series(NASTY, [(1, 2), (4, 3)], names=[NASTY, "b"])])
    swept = Sweep("| gate | n |\n| --- | ---: |\n| <b>bold</b> | 1 |", [panel])
    content = report_page([run], gates=gates(NASTY), readings=read, sweep=swept)
    assert len(list(parsed(content).iter("script"))) == 1
    assert "alert(1)</script>" not in content
    assert "\x00" not in content
    words = next(view.get("data-words") for view in parsed(content).iter("div") if view.get("data-words"))
    assert json.loads(words)[1] == "漢字"


def test_the_page_is_well_formed_with_unique_ids_and_loads_nothing() -> None:
    content = whole()
    tree = parsed(content)
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(set(ids)) == len(ids) > 8
    for element in tree.iter():
        assert element.get("aria-labelledby") in {None, *ids}
        assert (element.get("href") or "#main").lstrip("#") in ids
        assert (element.get("src") or "data:").startswith("data:")
    assert not EVIL.search(content)
    assert not list(tree.iter("link"))
    policy = next(meta for meta in tree.iter("meta") if meta.get("http-equiv"))
    assert policy.get("content").startswith("default-src 'none'")


def test_every_figure_can_be_read_without_seeing_it() -> None:
    tree = parsed(whole())
    charts = [svg for svg in tree.iter("svg") if svg.get("aria-hidden") is None]
    assert len(charts) > 10
    assert all(svg.get("role") == "img" and len(svg.get("aria-label")) > 10 for svg in charts)
    assert all(len(image.get("alt")) > 20 for image in tree.iter("img"))
    assert all(figure.find("figcaption").text for figure in tree.iter("figure"))
    for kind in ("scroll", "units"):
        found = [view for view in tree.iter("div") if view.get("class") == kind]
        assert found
        assert all(view.get("tabindex") == "0" and view.get("aria-label") for view in found)
    for heat in (table for table in tree.iter("table") if table.get("class") == "heat"):
        assert [cell.get("tabindex") for cell in heat.iter("td")].count("0") == 1


@pytest.mark.parametrize(("labels", "seeds", "words", "size"), [(4, 1, 200, 1300), (12, 3, 60, 1300), (18, 5, 40, 1300)])
def test_large_layers_and_many_runs_stay_under_two_megabytes(labels, seeds, words, size) -> None:
    names = [f"G2-LSTM (variant {n})" for n in range(labels)]
    runs = [facts(name, seed, records=3000) for name in names for seed in range(seeds)]
    one = gates(*names)
    rows = [row | {"run": f"{row['run']} {seed}"} for seed in range(seeds) for row in one["rows"]]
    readings = [reading(name, [f"word{n}" for n in range(words)], size) for name in names]
    assert sum(values.numel() for r in readings for values in r.gates.values()) > 4 * MOST_CELLS
    content = report_page(runs, gates=one | {"rows": rows}, readings=readings, sweep=sweep(*names))
    assert len(content.encode()) < 2_000_000
    assert "A row is the mean of" in content


def test_long_curves_are_thinned_and_end_where_they_end() -> None:
    run = facts(records=2001)
    content = report_page([run])
    curves = [line for line in parsed(content).iter("polyline") if line.find("title") is not None]
    counts = [len(line.get("points").split()) for line in curves]
    assert all(MOST_POINTS / 2 < count <= MOST_POINTS for count in counts)
    last = torch.tensor([r["loss"] for r in run.records if r["kind"] == "valid"][-1]).exp().item()
    assert f"G2-LSTM, seed 1 {last:.1f}." in content


def test_only_lines_of_few_points_have_marks() -> None:
    few, many = ([(float(n), 1.0 + n) for n in range(count)] for count in (MOST_MARKS, MOST_MARKS + 1))
    assert line_chart("t", [Series("a", few)], "x", "y").text.count("<circle") == MOST_MARKS
    assert "<circle" not in line_chart("t", [Series("a", many)], "x", "y").text


def test_looks_differ_for_many_labels_and_only_present_ones_are_reserved() -> None:
    labels = ["G2-LSTM", *(f"variant {n}" for n in range(23))]
    found = looks(labels)
    marks = {label: re.sub(r" look-.*", "", mark(0, 0, look, None).text) for label, look in found.items()}
    assert len({(look_classes(look), marks[label]) for label, look in found.items()}) == 24
    for colour in range(LOOKS):  # the same colour has other dashes and another mark
        mine = [label for label, look in found.items() if look % LOOKS == colour]
        assert len({marks[label] for label in mine}) == len(mine) == 3
    assert found["G2-LSTM"] == 2
    assert looks(["a", "b"]) == {"a": 0, "b": 1}


def test_long_names_are_cut_but_told_apart_and_explained() -> None:
    labels = [f"G2-LSTM ({'x' * 60}{end})" for end in "ab"]
    runs = [replace(facts(label), path=str(place)) for place, label in enumerate(labels)]
    runs[1].config["gate.tau"] = 0.5
    table = f"Test\n\n| gate | n |\n| --- | ---: |\n| {labels[0]} | 1 |\n| {labels[1]} | 1 |"
    swept = Sweep(table, [Panel("p", "x", "y", [Series(label, [(1, 2)]) for label in labels])])
    readings = [reading(label, ["a"]) for label in labels]
    content = report_page(runs, gates=gates(*labels), readings=readings, sweep=swept)
    introduction = [paragraph.text for paragraph in parsed(content).find("body/header").iter("p")]
    short = [line.partition(" is ")[0] for line in introduction[1:]]
    assert [f"{name} is {label}, with gate.tau {tau}." for name, label, tau in zip(short, labels, (0.9, 0.5), strict=True)] \
        == introduction[1:]  # fmt: skip
    assert len(set(short)) == 2
    assert max(map(len, short)) <= 40
    assert all(content.count(label) == 1 for label in labels)


def test_runs_of_the_same_name_and_seed_are_told_apart() -> None:
    runs = [replace(facts(), path=f"runs/{folder}/gumbel-seed1") for folder in "ab"]
    heads = [head.text for head in next(parsed(report_page(runs)).iter("table")).iter("th")]
    assert {"G2-LSTM, seed 1, runs/a/gumbel-seed1", "G2-LSTM, seed 1, runs/b/gumbel-seed1"} <= set(heads)


def test_a_unit_view_holds_the_values_in_the_order_it_names() -> None:
    one = reading("G2-LSTM", ["a", "b"], 5)
    view = next(v for v in parsed(report_page([facts()], readings=[one])).iter("div") if v.get("class") == "units")
    values = torch.tensor(list(base64.b64decode(view.get("data-values")))).view(5, 2) / 255
    order = [unit for row in json.loads(view.get("data-units")) for unit in row]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert torch.allclose(values, one.gates["i"].T[order], atol=0.5 / 255 + 1e-6)


def test_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", tag("b", "c")).text == "<p>a &lt; b<b>c</b></p>"
    assert tag("td", "", class_="x", title='"', hidden=None).text == '<td class="x" title="&quot;"></td>'


def test_two_sections_of_one_title_are_refused() -> None:
    with pytest.raises(ValueError, match="different titles"):
        page("t", ["i"], [Section("One", ()), Section("one", ())])


def test_markdown_tables_keep_their_cells() -> None:
    parts = from_markdown("Title\n\n| a | b |\n| --- | ---: |\n| x & y | 1 |\n\nfoot", "c")
    assert [re.match(r"<(\w+)", part.text)[1] for part in parts] == ["p", "div", "p"]
    assert '<th scope="row">x &amp; y</th><td class="number">1</td>' in parts[1].text


@pytest.mark.parametrize(
    ("low", "high", "base", "expected"),
    [
        (0, 10, 0, [0, 2, 4, 6, 8, 10]),
        (90, 200, 10, [100, 200]),
        (80, 900, 10, [100, 200, 500]),
        (2, 40, 2, [2, 4, 8, 16, 32]),
        (70 / 1.1, 115 * 1.1, 2, [80, 100, 120]),
    ],
)
def test_ticks_are_round(low, high, base, expected) -> None:
    found = Axis(low, high, 0, 100, base).ticks()
    assert [value for value in expected if value in found] == expected
    assert all(low * 0.99 <= value <= high * 1.01 for value in found)
    assert 2 <= len(found) <= 7


def test_a_line_of_one_point_is_a_mark() -> None:
    drawn = line_chart("t", [Series("a", [(3, 5)], 0, marks=False)], "x", "y", y_base=10).text
    assert "polyline" not in drawn
    assert "a: y 5 at x 3" in drawn


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> dict[str, NamedRun]:
    """Runs with weights of their own, by directory."""
    monkeypatch.chdir(tmp_path)
    runs = {}
    for gate in ("sigmoid", "gumbel"):
        path = Path(f"{gate}-seed1")
        path.mkdir()
        (path / "best.safetensors").write_text(gate)
        runs[str(path)] = NamedRun(path, gate, 1, OmegaConf.create())
    return runs


def measured(runs: Iterable[str], layers: tuple[str, ...] = ("layers.0", "layers.1")) -> dict:
    """What gate_histograms.py layer=layers.1 writes."""
    content: dict = {"split": "train", "sentences": 1, "words": 2, "layer": "layers.1", "rows": [], "metrics": []}
    for run in runs:
        about = {"run": run, "weights": weights_digest(Path(run)), "gate": "as then", "label": "as then", "mode": "test"}
        row = about | {"mean": 0.5, "binary": 0.6, "entropy": 0.5, "histogram": [0.02] * 50, "block": "i"}
        content["rows"] += [row | {"layer": layer} for layer in (*layers, "all layers")]
        content["metrics"].append(about | {"split": "valid", "perplexity": 90.0})
    return content


def taken(content: object, runs: dict[str, NamedRun], layer: str | None = None) -> tuple[dict | None, str]:
    """What a report takes of a gates.json, and what it says of it."""
    Path("gates.json").write_text(json.dumps(content))
    weights, said = {run: weights_digest(Path(run)) for run in runs}, io.StringIO()
    found = recorded_gates(Path("gates.json"), list(runs.values()), weights, layer, Console(file=said, width=500))
    return found, said.getvalue()


def test_recorded_gates_have_the_present_names_and_the_layer_that_is_asked_for(recorded) -> None:
    found, said = taken(measured(reversed(recorded)), recorded)
    assert found is not None
    assert found["layer"] == "layers.0"  # as the heat map's
    assert list(dict.fromkeys(row["label"] for row in found["rows"])) == ["plain LSTM", "G2-LSTM"]
    assert said == ""
    found, _ = taken(measured(recorded), recorded, "layers.1")
    assert found is not None
    assert found["layer"] == "layers.1"


def test_gates_of_other_weights_are_not_taken(recorded) -> None:
    content = measured(recorded)
    Path("gumbel-seed1/best.safetensors").write_text("trained again")
    found, said = taken(content, recorded)
    assert found is None
    assert said.count("\n") == 1
    assert said.strip().endswith("present weights: gumbel-seed1")
    content = measured(recorded)
    for row in content["rows"]:
        del row["weights"]
    assert taken(content, recorded)[0] is None


def test_why_gates_without_a_metric_are_measured_again_is_said(recorded) -> None:
    for metrics in ([], [row | {"split": "test"} for row in measured(recorded)["metrics"]]):
        found, said = taken(measured(recorded) | {"metrics": metrics}, recorded)
        assert found is None
        assert "has no perplexity on valid of these runs" in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("content", [{}, [], 3, {"split": 1, "sentences": 1, "words": 1, "rows": [{}], "metrics": []}])
def test_a_foreign_file_is_one_line(content, recorded) -> None:
    with pytest.raises(UserError, match=r"^gates.json is not what gate_histograms.py writes: remove it, or run"):
        taken(content, recorded)


def swept(recorded: dict[str, NamedRun]) -> Sweep | None:
    weights = {run: weights_digest(Path(run)) for run in recorded}
    return recorded_sweep(Path("sweep.json"), list(recorded.values()), weights, Console(file=io.StringIO()))


def test_a_sweep_of_other_weights_is_not_taken_and_steps_are_not_joined(recorded) -> None:
    bits = {"original": 32.0, "round:0.2": 4.5, "round:0.2+clip:0.4": 2.7, "round:0.5+clip:1": 2.7, "clip:0.4": 3.0}
    about = {"cache": False, "split": "test", "gates": "if", "matrices": "input", "layers": "all", "metric": "perplexity"}
    rows = [
        about | {"run": run, "weights": weights_digest(Path(run)), "setting": setting, "bits_per_gate_parameter": place}
        | {"value": 90.0 + number, "difference": 0.0, "rank": None}
        for run in recorded for number, (setting, place) in enumerate(bits.items())
    ]  # fmt: skip
    Path("sweep.json").write_text(json.dumps(rows))
    found = swept(recorded)
    assert found is not None
    lines = [line for line in found.panels[0].lines if line.label == "G2-LSTM"]
    assert [(line.hollow, line.points, line.names) for line in lines] == [
        (False, [(4.5, 91.0), (32.0, 90.0)], ["round 0.2", "original"]),
        (True, [(2.7, 92.0), (2.7, 93.0)], ["round 0.2 & clip 0.4", "round 0.5 & clip 1"]),
        (False, [(3.0, 94.0), (32.0, 90.0)], ["clip 0.4", "original"]),
    ]
    runs = [facts(label) for label in ("plain LSTM", "G2-LSTM")]
    tree = parsed(report_page(runs, sweep=found))
    section = next(part for part in tree.iter("section") if part.get("id") == "compression")
    assert len(list(section.iter("polyline"))) == 4
    hollow = [shape for shape in section.iter() if "hollow" in (shape.get("class") or "")]
    assert [shape.find("title").text for shape in hollow][:1] == [
        "plain LSTM, round 0.2 & clip 0.4: test perplexity 92 at bits a parameter 2.7"
    ]
    assert len(hollow) == 4
    assert any("may differ in the last digits" in (note.text or "") for note in section.iter("p"))
    Path("gumbel-seed1/best.safetensors").write_text("trained again")
    found = swept(recorded)
    assert found is not None
    assert "G2-LSTM" not in found.tables
    Path("sigmoid-seed1/best.safetensors").write_text("trained again")
    assert swept(recorded) is None


def test_a_folder_as_out_is_refused_before_a_run_is_read(tmp_path) -> None:
    with pytest.raises(UserError, match="is a folder: name a file in it"):
        report(["runs=nowhere", f"out={tmp_path}"])
