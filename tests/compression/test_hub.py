"""A model goes to a folder or a repository and comes back the same, with a card that says what it is."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from compress import compress
from share import share

import train
from g2lstm import cli
from g2lstm.compression.model_file import load_model
from g2lstm.errors import UserError
from tests.conftest import ROOT

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    """A folder with a run and its model, compressed."""
    path = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert train.main([*tiny, "epochs=1", "finetune=false", "run_dir=run"]) == 0
        assert compress(["run=run", "method=svd:3+bits:8", "rest=int8", "out=model.g2"]) == 0
    return path


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def same(one, two) -> bool:
    states = one.state(), two.state()
    return all(states[0][name].equal(value) for name, value in states[1].items())


def test_a_shared_folder_gives_the_model_back_with_a_card(text_dir) -> None:
    from g2lstm.compression.hub import HubModel

    assert share(["run=model.g2", "out=shared", "evaluate=true", f"data.dir={text_dir}", "license=cc-by-4.0"]) == 0
    found = HubModel.from_pretrained("shared").deployed
    assert same(found, load_model(Path("model.g2")))
    card = huggingface_hub.ModelCard.load("shared/README.md")
    summary = json.loads(Path("run/summary.json").read_text())
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("cc-by-4.0", "g2lstm", "text-generation")
    (result,) = (one for one in card.data.eval_results if (one.dataset_split, one.metric_type) == ("test", "perplexity"))
    assert result.metric_value == pytest.approx(found.notes["evaluated"]["test_perplexity"])
    assert f"| test perplexity | {summary['test_perplexity']:.2f} | {result.metric_value:.2f} |" in card.text
    size = Path("shared/model.g2").stat().st_size / 1e6
    for text in ("svd:3+bits:8", "gumbel", "1806.02988", f"{size:.2f} MB", 'from_pretrained("shared")', "| corpus | text |"):
        assert text in card.text
    assert json.loads(Path("shared/config.json").read_text())["model_type"] == "g2lstm-language_model"


def test_a_card_has_the_metrics_and_not_the_facts_of_the_data_with_enough_digits() -> None:
    from g2lstm.compression.hub import HubModel

    facts = {"test_images": 10000, "test_rmse_naive": 0.03, "parameters": 17}
    found = {"valid_perplexity": 1234.5, "test_rmse": 0.00118, "test_accuracy": 0.987, "test_perplexity_cache": None}
    notes = {"summary": facts | found | {"test_rmse_recorded_weights": 0.5}, "evaluated": {"test_rmse": 0.0012}}
    card = HubModel.of(replace(load_model(Path("model.g2")), notes=notes)).generate_model_card().text
    assert [line for line in card.splitlines() if line.startswith(("| valid", "| test"))] == [
        "| valid perplexity | 1234.50 | - |", "| test rmse | 0.001180 | 0.001200 |", "| test accuracy | 0.9870 | - |",
    ]  # fmt: skip


def test_no_recorded_summary_gives_a_card_counts_for_scores() -> None:
    from g2lstm.compression.hub import _metrics

    summaries = [json.loads(path.read_text()) for path in sorted(ROOT.glob("results/*/*/summary.json"))]
    assert {found["task"] for found in summaries} >= {"ptb", "iwslt14", "mnist"}
    for found in map(_metrics, summaries):
        assert found
        assert all(isinstance(value, float) for value in found.values()), found  # a count is none


def test_a_run_is_uploaded_as_it_is_and_downloaded_again(monkeypatch, capsys, tmp_path) -> None:
    from g2lstm.compression import hub

    def upload(self, *, repo_id, folder_path, **options) -> str:
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"https://huggingface.co/{repo_id}"

    def create(self, repo_id, **options):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo_id, filename, **_: tmp_path / repo_id / filename)
    assert share(["run=run", "repository=someone/small"]) == 0
    assert "uploaded to https://huggingface.co/someone/small" in capsys.readouterr().out
    found = hub.HubModel.from_pretrained("someone/small").deployed
    assert found.notes["method"] == "original"
    assert 'from_pretrained("someone/small")' in (tmp_path / "someone/small/README.md").read_text()


def test_a_card_that_is_there_stays_and_what_it_lacks_is_said(capsys) -> None:
    share(["run=model.g2", "out=again", "license=cc-by-4.0"])
    assert "wrote again: model.g2, config.json and README.md, the model card\n" in capsys.readouterr().out
    card = Path("again/README.md").read_text()
    for name, lacks in (("mit", "; its license is 'cc-by-4.0', not 'mit'"), ("cc-by-4.0", "")):
        assert share(["run=model.g2", "out=again", f"license={name}"]) == 0
        wrote, stays = capsys.readouterr().out.splitlines()
        assert wrote == "wrote again: model.g2 and config.json"
        assert stays == f"again/README.md was there and stays as it is{lacks}: remove it for a new model card"
    assert Path("again/README.md").read_text() == card
    Path("again/README.md").write_text("my own words")
    share(["run=model.g2", "out=again"])
    assert "as it is; its license is not said, not 'mit'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=model.g2"], "set out=DIR to write a folder, or repository=USER/NAME"),
        (["run=nowhere", "out=x"], "nowhere is not a run directory"),
        (["run=model.g2,run", "out=x"], "names 2 models: name one"),
        (["run=model.g2", "out=x", "private=true"], "private=true is of a repository: set repository=USER/NAME"),
        (["run=model.g2", "repository=no/such/name"], "can't upload to no/such/name"),
        (["run=model.g2", "out=others"], "others/config.json is of another library's model, and would be replaced"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, message) -> None:
    Path("others").mkdir(exist_ok=True)
    Path("others/config.json").write_text('{"model_type": "bert"}')
    assert cli.guarded(lambda: share(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not Path("x").exists()
    assert [path.name for path in Path("others").iterdir()] == ["config.json"]


def test_an_upload_without_a_network_is_one_line(monkeypatch, capsys) -> None:
    class UnreachableError(Exception):
        """As an HTTP client's, which is no OSError."""

    def fail(*_, **__):
        raise UnreachableError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    assert cli.guarded(lambda: share(["run=model.g2", "repository=someone/small"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: can't upload to someone/small (no route to host): ")


def test_a_card_in_the_present_folder_has_its_name(monkeypatch, tmp_path) -> None:
    model = Path("model.g2").resolve()
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    assert share([f"run={model}", "out=."]) == 0
    assert 'from_pretrained("small")' in Path("README.md").read_text()


def test_what_is_not_there_and_a_missing_package_are_said(monkeypatch, capsys) -> None:
    from g2lstm.compression import hub

    said = r"\A{} is no folder, and the Hub does not give it \(.+\)\Z"
    for name in ("/no/such/folder", "some/thing"):
        with pytest.raises(UserError, match=said.format(name)):
            hub.HubModel.from_pretrained(name, local_files_only=True)
    Path("bare").mkdir()
    with pytest.raises(UserError, match="bare"):
        hub.HubModel.from_pretrained(Path("bare"))
    monkeypatch.delitem(sys.modules, "g2lstm.compression.hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert cli.guarded(lambda: share(["run=model.g2", "out=x"])) == 2
    assert "the package huggingface_hub is not installed: pip install 'g2lstm[hub]'" in capsys.readouterr().err
