"""The report page: what stands on it by what the runs hold, and that it is whole, safe and self-contained."""

import base64
import json
import re
from xml.etree import ElementTree

import pytest
import torch

from g2lstm.inspection.charts import Axis, Series, line_chart
from g2lstm.inspection.page import Section, from_markdown, page, tag
from g2lstm.inspection.report import Sweep, report_page
from g2lstm.inspection.report_gates import MOST_CELLS, Reading
from g2lstm.inspection.report_runs import Panel, RunFacts

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


def sweep() -> Sweep:
    table = "Test perplexity\n\n| gate | original | n |\n| --- | ---: | ---: |\n| G2-LSTM | 86.65 | 1 |"
    return Sweep(table, [Panel("Rounding", "bits a parameter", "perplexity", [("G2-LSTM", [(2.7, 99.0), (32.0, 87.0)])])])


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
    panel = Panel(NASTY, NASTY, NASTY, [(NASTY, [(1, 2), (4, 3)])])
    swept = Sweep("| gate | n |\n| --- | ---: |\n| <b>bold</b> | 1 |", [panel])
    content = report_page([run], gates=gates(NASTY), readings=read, sweep=swept)
    assert len(list(parsed(content).iter("script"))) == 1
    assert "alert(1)</script>" not in content
    assert "\x00" not in content
    cell = next(view for view in parsed(content).iter("div") if view.get("class") == "units")
    assert json.loads(cell.get("data-words"))[1] == "漢字"


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


def test_the_largest_text_on_the_largest_layers_stays_under_two_megabytes() -> None:
    words = [f"word{n}" for n in range(200)]
    readings = [reading(f"model {n}", words, 1300) for n in range(4)]
    assert sum(values.numel() for one in readings for values in one.gates.values()) > 6 * MOST_CELLS
    content = report_page([facts(f"model {n}", records=2000) for n in range(4)], readings=readings)
    assert len(content.encode()) < 2_000_000
    assert "A row is the mean of 7 units" in content


def test_a_unit_view_holds_the_values_in_the_order_it_names() -> None:
    one = reading("G2-LSTM", ["a", "b"], 5)
    view = next(v for v in parsed(report_page([facts()], readings=[one])).iter("div") if v.get("class") == "units")
    values = torch.tensor(list(base64.b64decode(view.get("data-values")))).view(5, 2) / 255
    order = [int(name.split()[1]) for name in json.loads(view.get("data-units"))]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert torch.allclose(values, one.gates["i"].T[order], atol=0.5 / 255 + 1e-6)


def test_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", tag("b", "c")).text == "<p>a &lt; b<b>c</b></p>"
    assert tag("td", "", class_="x", title='"', hidden=None).text == '<td class="x" title="&quot;"></td>'


def test_two_sections_of_one_title_are_refused() -> None:
    with pytest.raises(ValueError, match="different titles"):
        page("t", "i", [Section("One", ()), Section("one", ())])


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
