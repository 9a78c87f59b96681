"""How far the members of the reproduction are, found from records, folders and shards."""

from pathlib import Path

import pytest

from g2lstm.errors import UserError
from g2lstm.runs import members
from g2lstm.runs.members import Experiment, Member, Places, Plan, State, state_of
from g2lstm.runs.shards import write_shards
from g2lstm.tasks.language_model import PENN_TREEBANK
from g2lstm.tasks.translation import IWSLT14, WMT14

MEMBER = Member("text", Experiment(size="cpu", options=("task=text",), seeds=(1,)), "gumbel", 1)
TRAINED = [{"kind": kind, "step": 7, "epoch": 1, "progress": 0.25, "eta": 600.0} for kind in ("train", "valid")]


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.setattr(members, "hardware", lambda _device: "here")


def places(folder: Path) -> Places:
    return Places(folder / "results", folder / "runs", folder / "shards")


def test_every_table_of_the_plan_says_what_the_tasks_publish():
    plan = Plan.load()
    for table, row in plan.tables["1"].paper.items():
        assert PENN_TREEBANK[table] == dict(zip(PENN_TREEBANK[table], row[2:], strict=True))
        assert plan.tables["2"].paper[table] == (WMT14[table]["test_bleu"], IWSLT14[table]["test_bleu"])
        assert plan.tables["3"].paper[table][0] == row[-1]
    assert [member.name for member in plan.members("ptb")] == [f"ptb/{gate}-seed1" for gate in plan.gates]
    assert plan.members("ptb_cpu")[-1].name == "ptb_cpu/gumbel-seed2"


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("place", ["results", "runs"])
def test_a_run_is_done_where_its_summary_says_that_it_finished(write_run, tmp_path, place, finished):
    assert state_of(MEMBER, places(tmp_path)) == State("missing")
    summary = {"finished": finished, "seconds": 90.0, "hardware": "elsewhere"}
    write_run(tmp_path / place / MEMBER.name, summary=summary)
    expected = State("done", 1.0, 90.0) if finished else State("running") if place == "runs" else State("missing")
    assert state_of(MEMBER, places(tmp_path)) == expected


def test_an_unfinished_run_has_the_pace_of_its_curve_where_that_is_of_this_machine(write_run, tmp_path):
    run = write_run(tmp_path / "runs" / MEMBER.name, curve=TRAINED, hardware="here")
    assert state_of(MEMBER, places(tmp_path)) == State("running", 0.25, 600.0)
    write_shards(run, MEMBER.name, tmp_path / "shards" / MEMBER.name, 0.0)
    assert state_of(MEMBER, Places(tmp_path, tmp_path / "none", tmp_path / "shards")) == State("running", 0.25, 600.0)
    run.folder.write_json("environment.json", {"hardware": "here", "resumed_on": [{"hardware": "elsewhere"}]})
    assert state_of(MEMBER, places(tmp_path)) == State("running", 0.25, None)


def test_a_missing_run_takes_what_others_of_its_gate_took_on_such_a_machine(write_run, tmp_path):
    for seed, seconds, hardware in ((2, 100.0, "here"), (3, 200.0, "here"), (4, 900.0, "elsewhere")):
        summary = {"finished": True, "seconds": seconds, "hardware": hardware}
        write_run(tmp_path / "results" / "text" / f"gumbel-seed{seed}", seed=seed, summary=summary)
    assert state_of(MEMBER, places(tmp_path)) == State("missing", 0.0, 150.0)
    other = Member("text", MEMBER.about, "sigmoid", 1)
    assert state_of(other, places(tmp_path)) == State("missing", 0.0, 150.0)  # no run of its gate
    alien = Member("ptb", Plan.load().experiments["ptb"], "gumbel", 1)
    assert state_of(alien, places(tmp_path)).seconds is None


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("gates:", "gates", "can't read"),
        ("size: cpu", "size: small", "must be one of cpu, paper"),
        ("ptb_cpu: [valid_perplexity,", "ptb_gpu: [valid_perplexity,", "names ptb_gpu, which is no experiment"),
        ("[60.7, ", "[", "a row of another length"),
    ],
)
def test_a_plan_that_is_wrong_is_one_line(tmp_path, before, after, text):
    content = (Path(members.__file__).parents[2] / "conf" / "reproduction.yaml").read_text()
    (tmp_path / "plan.yaml").write_text(content.replace(before, after, 1))
    with pytest.raises(UserError, match=text):
        Plan.load(tmp_path / "plan.yaml")
