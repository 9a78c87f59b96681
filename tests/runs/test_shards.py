"""A run's folder as shards: whole or rounded, and every way in which they can be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from g2lstm.errors import UserError
from g2lstm.runs import shards
from g2lstm.training.checkpoint import load_checkpoint
from g2lstm.training.folder import RunFolder

NAME = "text/gumbel-seed1"
NOT_KEPT = (shards.STRETCH, "last-but-one.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in NOT_KEPT}


def restored(tmp_path: Path) -> Path:
    manifest = shards.read_manifest(tmp_path / "shards", NAME)
    assert manifest is not None
    shards.restore(manifest, tmp_path / "shards", tmp_path / "back")
    return tmp_path / "back"


def test_what_fits_comes_back_bit_for_bit(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_SHARD", 10_000)
    run = write_run(tmp_path / "run", curve=[{"kind": "train", "step": 7, "epoch": 1, "eta": 9.0}])
    manifest = shards.write_shards(run, NAME, tmp_path / "shards", 1.5)
    sizes = [path.stat().st_size for path in (tmp_path / "shards").glob("*.shard")]
    assert len(sizes) == len(manifest.shards) > 2
    assert max(sizes) == 10_000
    assert (manifest.step, manifest.levels, manifest.curve[0]["eta"]) == (7, None, 9.0)
    before = contents(run.path)
    back = restored(tmp_path)
    assert contents(back) == before
    assert not (back / "last-but-one.safetensors").exists()
    assert shards.Stopping.noted(back) == manifest.stopping
    assert manifest.stopping.saving == 1.5


def test_what_is_too_large_is_rounded_and_says_so(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_TOTAL", 16_000)
    run = write_run(tmp_path / "run")
    manifest = shards.write_shards(run, NAME, tmp_path / "shards", 0.0)
    assert sum(path.stat().st_size for path in (tmp_path / "shards").glob("*.shard")) <= 16_000
    n = manifest.levels
    assert n in shards.LEVELS
    back = RunFolder(restored(tmp_path))
    (told,) = back.read_json("environment.json")["rounded"]
    assert told == {"step": 7, "levels": 255, "levels_of_differences": 2 * n + 1}

    def within(a: torch.Tensor, b: torch.Tensor, spread: torch.Tensor, levels: int) -> bool:
        half = (spread.amax(1) - spread.amin(1)) / (2 * levels) / 2
        return bool(((a - b).abs().amax(1) <= half * 1.001).all()) and not torch.equal(a, b)

    a, b = (load_checkpoint(folder.last) for folder in (run.folder, back))
    mean, rounded = (tree["average"]["module.a.weight"] for tree in (a, b))
    assert within(mean, rounded, mean, 127)
    for tree, again in ((a, b), *((load_checkpoint(run.path / name), load_checkpoint(back.path / name)) for name in (
        "best.safetensors", "best-before-finetune.safetensors"))):  # fmt: skip
        exact = tree["model"]["a.weight"]
        assert within(exact, again["model"]["a.weight"], exact - rounded, n)
        assert torch.equal(tree["model"]["a.bias"], again["model"]["a.bias"])
    square, again = (tree["optimizer"]["state"][0]["square_avg"] for tree in (a, b))
    assert within(square.log(), again.log(), square.log(), n)
    assert torch.equal(a["carried"][0], b["carried"][0])
    assert (b["position"], b["average"]["n_averaged"]) == (a["position"], 3)


def test_steps_are_those_of_the_checkpoint_that_a_run_goes_on_from(write_run, tmp_path):
    run = write_run(tmp_path / "run", 7)
    assert shards.step_of(run.path) == 7
    run.folder.last.write_bytes(b"damaged")
    assert shards.step_of(run.path) == 6
    assert shards.step_of(tmp_path) == 0


def test_a_finished_run_leaves_out_what_only_resuming_needs(write_run, tmp_path):
    run = write_run(tmp_path / "run", summary={"finished": True})
    assert shards.write_shards(run, NAME, tmp_path / "shards", 0.0).finished
    assert contents(run.path).keys() - contents(restored(tmp_path)).keys() == {"last.safetensors"}


def test_what_is_too_large_however_rounded_is_one_line(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_TOTAL", 2_000)
    with pytest.raises(UserError, match=r"MB or more as shards, however rounded.*without shards="):
        shards.write_shards(write_run(tmp_path / "run"), NAME, tmp_path / "shards", 0.0)


def damage(folder: Path) -> None:
    path = next(folder.glob("*.shard"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swapped(folder: Path) -> None:
    """A manifest that names whole shards of another run."""
    manifest = json.loads((folder / shards.MANIFEST).read_text())
    (folder / shards.MANIFEST).write_text(json.dumps(manifest | {"identity": "0"}))


WRONG = {
    "is damaged": damage,
    "can't read the shard": lambda folder: next(folder.glob("*.shard")).unlink(),
    "has shards but no shards.json": lambda folder: (folder / shards.MANIFEST).unlink(),
    "is not JSON": lambda folder: (folder / shards.MANIFEST).write_text("{"),
    "step is needed": lambda folder: (folder / shards.MANIFEST).write_text('{"run": "x"}'),
    "are not those of the run": swapped,
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_shards_are_one_line_and_leave_nothing(write_run, tmp_path, text):
    shards.write_shards(write_run(tmp_path / "run"), NAME, tmp_path / "shards", 0.0)
    WRONG[text](tmp_path / "shards")
    with pytest.raises(UserError, match=text if text != "step is needed" else "is needed"):
        restored(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "shards"}


def test_the_shards_of_another_run_are_refused(write_run, tmp_path):
    shards.write_shards(write_run(tmp_path / "run"), "text/sigmoid-seed1", tmp_path / "shards", 0.0)
    with pytest.raises(UserError, match="of another run, text/sigmoid-seed1"):
        restored(tmp_path)
    write_run(tmp_path / "back", seed=2)
    shutil.rmtree(tmp_path / "shards")
    shards.write_shards(write_run(tmp_path / "other"), NAME, tmp_path / "shards", 0.0)
    before = contents(tmp_path / "back")
    with pytest.raises(UserError, match="is another run than the shards"):
        restored(tmp_path)
    assert contents(tmp_path / "back") == before


def test_shards_that_are_only_half_written_leave_those_before(write_run, tmp_path, monkeypatch):
    shards.write_shards(write_run(tmp_path / "run", 7), NAME, tmp_path / "shards", 0.0)
    later = write_run(tmp_path / "later", 8)
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            shards.write_shards(later, NAME, tmp_path / "shards", 0.0)
    assert shards.step_of(restored(tmp_path)) == 7
    shards.write_shards(later, NAME, tmp_path / "shards", 0.0)
    assert shards.step_of(restored(tmp_path)) == 8  # in the place of the earlier state
    assert len(list((tmp_path / "shards").iterdir())) == 2
