"""The report page: what stands on it by what the runs hold, and that it is whole, safe and self-contained."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from g2lstm.errors import UserError
from g2lstm.inspection.measure import ALL
from g2lstm.inspection.reading import Reading
from g2lstm.reporting.page import from_markdown, html, page
from g2lstm.reporting.report import report_page, sweep_rows
from g2lstm.reporting.run_tables import grouped, recorded_runs, run_table
from g2lstm.runs.run import Run
from g2lstm.tasks.language_model import PENN_TREEBANK

NASTY = "<script>alert(1)</script> & \"quoted\" 'words' \x00 $x$ 漢字"
EVIL = re.compile(r"""(?:src|href|action|data|poster)\s*=\s*["']?\s*(?:https?:)?//|url\((?!#)|@import|<link|<iframe""")
VOID = {"meta", "path", "use", "image", "rect"}


class Tree(HTMLParser):
    """The elements of a page as (tag, attributes), and that what is opened is closed."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def gates(*names: str, seeds: int = 1) -> list[dict]:
    rows = []
    for name in names:
        for seed in range(seeds):
            about = {"run": f"{name}{seed}", "gate": name, "seed": seed}
            for mode in ("training", "test", "tempered") if name.startswith("gumbel") else ("test",):
                metric = {"kind": "metric", "mode": mode, "split": "valid", "metric": "perplexity", "value": 90.0}
                rows.append(about | metric)
                for layer in ("layers.0", ALL):
                    for block in ("i", "f"):
                        row = {"kind": "gates", "mode": mode, "layer": layer, "block": block, "mean": 0.5, "binary": 0.6}
                        row |= {"entropy": 0.5, "histogram": [0.3, *[0.4 / 48] * 48, 0.3]}
                        rows.append(about | row | {"split": "valid", "size": "10 sentences (90 words)"})
    return rows


def reading(name: str, words: list[str], size: int = 12) -> Reading:
    generator = torch.Generator().manual_seed(1)
    values = {gate: torch.rand(len(words), size, generator=generator) for gate in ("i", "f")}
    return Reading(name, "layers.0", words, [word[:-1] for word in words if word.endswith("*")], values)


def titles(content: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", content)


@pytest.fixture(scope="module")
def runs(record_run, tmp_path_factory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    paths = [record_run(folder, seed, f"gate={gate}") for gate in ("sigmoid", "gumbel") for seed in (1, 2)]
    summary = paths[3] / "summary.json"
    summary.write_text(summary.read_text().replace('"test_perplexity": 88.0', '"test_perplexity": 90.0'))
    return [Run.open(path) for path in paths]


@pytest.fixture(scope="module")
def whole(runs) -> str:
    readings = [reading(name, ["the", "zebra*", "<eos>"]) for name in ("sigmoid", "gumbel")]
    return report_page(grouped(runs), PENN_TREEBANK, gates("sigmoid", "gumbel"), [], readings, sweep(runs))


def sweep(runs: list[Run], weights: str | None = None) -> list[dict]:
    about = {"variant": "", "cache": False, "split": "test", "gates": "if", "matrices": "input", "layers": "all"}
    about |= {"metric": "perplexity", "rank": None, "difference": 0.0, "limit": None}
    bits = {"original": 32.0, "round:0.2": 4.5, "round:0.2+clip:0.4": 2.7}
    return [
        about | {"run": str(run.path), "gate": run.gate, "setting": setting, "bits_per_gate_parameter": place}
        | {"seed": run.seed, "value": 90.0 + place, "key": f"{run.path}{setting}", "weights": weights or run.path.name}
        for run in runs for setting, place in bits.items()
    ]  # fmt: skip


def test_every_section_is_there_for_runs_that_hold_everything(whole) -> None:
    assert titles(whole) == [
        "What was run", "Training curves", "Metrics", "Compression", "Gate histograms", "Training against test",
        "Gates word by word", "Unit by unit",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#[^"]*">(.*?)</a>', whole) == titles(whole)
    assert "(* unknown to the model)" in whole


def test_a_section_is_absent_where_the_runs_hold_nothing_for_it(record_run, tmp_path) -> None:
    bare = record_run(tmp_path, 1, "gate=gumbel", curve=[])
    assert titles(report_page(grouped([Run.open(bare)]), {}, [], [], [], [])) == ["What was run", "Metrics"]
    for name in ("summary.json", "environment.json", "metrics.jsonl"):
        (bare / name).unlink()
    assert titles(report_page(grouped([Run.open(bare)]), {}, [], [], [], [])) == ["What was run"]


def test_seeds_are_folded_and_the_paper_stands_beside_its_own_task_only(runs, whole) -> None:
    row = re.search(r'<tr><th scope="row">G2-LSTM</th>(.*?)</tr>', whole[whole.index(">Metrics</h2>") :])[1]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert [cell.replace("\xa0", " ") for cell in cells[:4]] == ["92.00 ± 0.00", "58.5", "89.00 ± 1.41", "56.1"]
    assert cells[8] == "2"
    assert "The paper&#39;s values" in whole
    other = report_page(grouped(runs), {}, [], [], [], sweep(runs))
    assert "aper&#39;s" not in other
    assert ">paper<" not in other


def test_only_options_that_differ_are_shown_at_once_a_column_a_gate_and_no_folder_of_the_machine(whole, runs) -> None:
    head, _, rest = whole.partition("Options in which they differ</h3>")
    heads = re.findall(r'<th scope="(?:row|col)">(.*?)</th>', rest.partition("</table>")[0])
    assert heads[:5] == ["option", "plain LSTM", "G2-LSTM", "gate.name", "gate.tau"]
    assert "seed" not in heads
    assert '<tr><th scope="row">seeds</th><td>1; 2</td><td>1; 2</td></tr>' in head


def test_texts_are_escaped_everywhere(record_run, tmp_path) -> None:
    run = record_run(tmp_path, 1, "gate=gumbel", hardware=NASTY)
    (run / "environment.json").write_text(json.dumps({"hardware": NASTY, "torch": [NASTY]}))
    groups = {NASTY: [Run.open(run)]}
    content = report_page(groups, {}, gates(NASTY), [], [reading(NASTY, [NASTY, "漢字", "x" * 80])], [])
    assert content.count("<script>") == 1
    assert "alert(1)</script>" not in content
    assert "\x00" not in content
    assert ">漢字<" in content
    Tree(content)


def test_the_page_is_well_formed_with_unique_ids_and_loads_nothing(whole) -> None:
    tree = Tree(whole)
    ids = [found["id"] for _, found in tree.elements if "id" in found]
    own = [found["id"] for found in Tree(re.sub(r"<svg.*?</svg>", "", whole, flags=re.DOTALL)).all("section")]
    assert len(set(own)) == len(own) == 8
    drawn = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in re.findall(r"<svg.*?</svg>", whole, flags=re.DOTALL)]
    assert len(set.union(*drawn)) == sum(map(len, drawn))  # no drawing takes another's parts
    for _, found in tree.elements:
        assert found.get("aria-labelledby") in {None, *ids}
        assert (found.get("href") or found.get("xlink:href") or "#main").partition("#")[2] in ids or "data:" in str(found)
    assert not EVIL.search(re.sub(r'xmlns(:\w+)?="[^"]*"', "", whole))
    (policy,) = tree.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


def test_every_figure_can_be_read_without_seeing_it_and_every_cell_with_the_keyboard(whole) -> None:
    tree = Tree(whole)
    assert len(tree.all("svg")) == 7
    assert all(found["role"] == "img" and len(found["aria-label"]) > 10 for found in tree.all("svg"))
    for kind in ("scroll", "card"):
        assert all(found["tabindex"] == "0" and found["aria-label"] for found in tree.all("div", **{"class": kind}))
    cells = [found for found in tree.all("td") if "data-value" in found]
    assert len(cells) == 2 * 2 * 3
    assert [cell["tabindex"] for cell in cells] == ["0"] + ["-1"] * 11


def test_large_layers_and_many_runs_stay_under_two_megabytes(record_run, tmp_path) -> None:
    names, seeds, words = 4, 3, 200
    curve = [{"kind": "train", "epoch": 1, "step": n, "loss": 4 + n % 7 / 10} for n in range(3000)]
    run = Run.open(record_run(tmp_path, 1, "gate=gumbel", curve=curve))
    groups = {f"gumbel-variant{n}": [run] * seeds for n in range(names)}
    readings = [reading(name, [f"word{n}" for n in range(words)], 1300) for name in groups]
    content = report_page(groups, {}, gates(*groups, seeds=seeds), [], readings, [])
    assert len(content.encode()) < 2_000_000
    assert "word59" in content


def test_markdown_tables_keep_their_cells_and_numbers_stand_right() -> None:
    parts = from_markdown("Title\n\n| a | b |\n| --- | ---: |\n| x & y | 1 ± 2 |\n\nfoot", "c")
    assert len(parts) == 3
    shown = page("t", "i", {"One": [*parts, html.paragraph("a < b"), html.table([["a"]], "empty")]})
    assert '<th scope="row">x &amp; y</th><td class="number">1\xa0±\xa02</td>' in shown
    assert "<p>foot</p>" in shown
    assert "<p>a &lt; b</p>" in shown


def test_a_sweep_of_other_weights_is_not_taken(runs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Run, "weights", property(lambda run: run.path.name))
    path = tmp_path / "sweep.json"
    assert sweep_rows(path, grouped(runs)) == []
    path.write_text(json.dumps([*sweep(runs), *sweep(runs[:1], "of another time")]))
    found = sweep_rows(path, grouped(runs))
    assert len(found) == 3 * len(runs)
    assert {row["gate"] for row in found} == {"sigmoid", "gumbel"}
    path.write_text(json.dumps(sweep(runs, "of another time")))
    assert sweep_rows(path, grouped(runs)) == []
    for content in ("{}", "[]x", '[{"run": 1}]'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"sweep.json"):
            sweep_rows(Path(path), grouped(runs))


@pytest.mark.parametrize(
    ("pairs", "known", "shown"), [(4_400_000, 4_508_785, True), (9_984, 4_508_785, False), (9_984, None, False)]
)
def test_the_paper_stands_beside_runs_on_its_own_text_alone(record_run, tmp_path, pairs, known, shown) -> None:
    counts = {"train_pairs": pairs, "dropped_long": 100_000, "train_pairs_of_whole": known}
    record_run(tmp_path, 1, "task=wmt14", "gate=gumbel", test_bleu=20.0, valid_bleu=20.0, **counts)
    groups = recorded_runs(tmp_path)
    (name,) = groups
    assert ("22.4" in run_table(groups, {name: {"test_bleu": 22.4}})) == shown
