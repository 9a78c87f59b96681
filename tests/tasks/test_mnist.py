"""MNIST as sequences: the layout, the split, what is measured and shown, and files that are not as they should be.

A tiny set has images of one bright column, that of their class: what is right can be said without MNIST.
"""

import gzip
import json
import os
import struct
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from g2lstm.compression import Method, Target
from g2lstm.compression.model_file import save_model
from g2lstm.compression.stored import StoredModel, deploy_run
from g2lstm.data import images
from g2lstm.data.download import HubFiles
from g2lstm.data.images import load_mnist, read_idx
from g2lstm.errors import UserError
from g2lstm.gates import SigmoidGate
from g2lstm.inspection.reading import read_text
from g2lstm.lstm import G2LSTM
from g2lstm.models.classifier import Classifier
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config
from g2lstm.runs.run import Run
from g2lstm.runs.start import start
from g2lstm.tasks.mnist import MnistTask

SIDE = 28


def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
    labels = (np.arange(count) % 10).astype(np.uint8)
    pixels = np.zeros((count, SIDE, SIDE), np.uint8)
    pixels[np.arange(count), :, 2 * labels + 3] = 200
    pixels[:, :, 27], pixels[:, 0, 1] = np.arange(SIDE), np.arange(count)  # say which row and which image it is
    return pixels, labels


def write(path: Path, values: np.ndarray) -> None:
    content = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def write_mnist(folder: Path, train: int = 60, test: int = 20) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        pixels, labels = drawn(count)
        write(folder / f"{name}-images-idx3-ubyte.gz", pixels)
        write(folder / f"{name}-labels-idx1-ubyte", labels)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("images") / "mnist")


@cache
def composed(*overrides: str) -> Config:
    tiny = ["data.counts=null", "mnist.valid=20", "model.hidden_size=8", "batch_size=10", "threads=1"]
    return Config.parse(compose(["task=mnist", *tiny, *overrides]))


def config(folder: Path, options: dict | None = None) -> Config:
    return composed().with_values({"data.dir": str(folder)} | (options or {}))


def task(folder: Path, order: str = "rows", **options) -> MnistTask:
    """`options` of the section mnist."""
    given = {f"mnist.{name}": value for name, value in {"order": order, **options}.items()}
    return config(folder, given).build_task(torch.device("cpu"))


def of_pixels(x: torch.Tensor) -> torch.Tensor:
    """Normalised values as the bytes that they were."""
    return ((x * 0.3081 + 0.1307) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("order", ["rows", "pixels", "permuted"])
def test_what_the_lstm_reads_as_one_sequence_is_one_image(folder, order):
    t, read = task(folder, order), []
    model = t.build_model()
    model.lstm.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    batch = [7, 3, 31]
    t.loss(model, batch, None)
    (x,) = read  # (T, B, D)
    assert x.shape == ((28, 3, 28) if order == "rows" else (784, 3, 1))
    for place, number in enumerate(batch):
        image = t.splits["train"].pixels[number]
        assert of_pixels(x[:, place]).flatten().equal(image.flatten()[t.permutation])


def test_a_view_in_place_of_the_exchange_mixes_the_images_of_a_batch(folder):
    t = task(folder)
    pixels = t.splits["train"].pixels[:5]  # (B, S, S)
    right, wrong = t.sequences(pixels), task(folder, "mixed").sequences(pixels)  # (S, B, S)
    assert wrong.shape == right.shape
    assert not wrong[:, 0].equal(right[:, 0])
    assert wrong[1, 0].equal(right[5, 0])  # the "second row" of the first sequence


def test_the_permutation_is_fixed_by_its_own_seed_and_named_by_digest_and_labels(folder):
    one, again, other, plain = (
        task(folder, order, permutation_seed=seed)
        for order, seed in (("permuted", 0), ("permuted", 0), ("permuted", 5), ("pixels", 0))
    )
    assert one.permutation.equal(again.permutation)
    assert one.permutation.sort().values.equal(torch.arange(784))
    assert one.permutation[:4].tolist() == [693, 85, 647, 392]  # for good
    digests = [t.digest("test") for t in (one, again, other, plain, task(folder))]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4
    assert one.labels[0] == "25, 22"
    assert plain.digest("test", 5) != plain.digest("test")


def test_valid_is_the_last_of_the_training_images_and_an_epoch_reads_each_other_once(folder):
    t = task(folder)
    assert t.splits["valid"].pixels[:, 0, 1].tolist() == list(range(40, 60))
    plan = t.plan(torch.Generator().manual_seed(3))
    assert sorted(chain(*plan)) == list(range(40))
    assert plan == t.plan(torch.Generator().manual_seed(3))
    assert t.size("valid") == "20 images"
    assert t.facts["train_images"] == 40
    with pytest.raises(UserError, match=r"mnist\.valid=60 leaves nothing of 60 images"):
        task(folder, valid=60)


def test_accuracy_loss_and_confusion_are_those_of_a_model_read_image_by_image(folder):
    t = task(folder)
    torch.manual_seed(2)
    model = t.build_model().eval()
    test = t.splits["test"]
    with torch.no_grad():
        logits = torch.cat([model(t.sequences(test.pixels[n : n + 1])) for n in range(20)])
    losses = [-float(logits[n].log_softmax(0)[test.labels[n]]) for n in range(20)]
    right = sum(int(logits[n].argmax()) == int(test.labels[n]) for n in range(20))
    found = t.evaluate(model, "test")
    assert found.metrics["accuracy"] == pytest.approx(right / 20)
    assert found.losses.tolist() == pytest.approx(losses, abs=1e-5)
    assert found.metrics["loss"] == pytest.approx(sum(losses) / 20, abs=1e-5)
    assert len(t.evaluate(model, "test", limit=7).losses) == 7
    (confusion,) = t.findings(model, "test")
    assert confusion.counts.sum(1).tolist() == [2] * 10
    assert int(confusion.counts.trace()) == right
    assert len(confusion.mistakes) == 20 - right
    sureness = [mistake.probability for mistake in confusion.mistakes]
    assert sureness == sorted(sureness, reverse=True)
    first = confusion.mistakes[0]
    number = int(first.image[0, 1] * 255 + 0.5)
    assert (first.truth, first.answer) == (number % 10, int(logits[number].argmax()))
    assert first.probability == pytest.approx(float(logits[number].softmax(0).max()), abs=1e-5)


@pytest.mark.parametrize(("order", "label"), [("rows", "row 4"), ("pixels", "row 4"), ("permuted", "step 85")])
def test_gates_are_shown_over_28_steps_or_means_of_28(folder, order, label):
    t = task(folder, order)
    model = t.build_model().eval()
    shown = read_text(t, model, "sigmoid", "3")
    assert len(shown.words) == 28
    assert shown.words[3] == label
    with torch.no_grad():
        h = model.lstm(t.sequences(t.splits["valid"].pixels[3:4]))[0][:, 0]  # (T, H)
    x = t.sequences(t.splits["valid"].pixels[3:4])[:, 0]
    before = torch.cat([torch.zeros(1, 8), h[:-1]])
    w = model.lstm
    a = x @ w.weight_ih_l0.t() + w.bias_ih_l0 + before @ w.weight_hh_l0.t() + w.bias_hh_l0
    expected = torch.sigmoid(a[:, 8:16]).view(28, -1, 8).mean(1)
    torch.testing.assert_close(shown.gates["f"], expected.detach())
    for wrong in ("20", "-1", "two"):
        with pytest.raises(UserError, match="no image of valid: set text=0 to text=19"):
            t.read(model, wrong)


def test_the_classifier_is_an_lstm_and_a_linear_layer_on_its_last_state():
    torch.manual_seed(0)
    model = Classifier(3, 4, 5, 2, dropout=0.5, gate=SigmoidGate()).eval()
    plain = torch.nn.LSTM(3, 5, 2)
    plain.load_state_dict(model.lstm.state_dict())
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(model(x), model.output(plain(x)[0][-1]))


def test_dropout_acts_once_on_the_last_state_in_training():
    torch.manual_seed(0)
    model = Classifier(3, 4, 400, dropout=0.4, gate=SigmoidGate())
    x, read = torch.randn(2, 5, 3), []
    model.output.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model.eval()(x)
    model.train()(x)
    whole, dropped = read
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.6)
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.05)


def test_forget_gates_start_as_asked_and_chrono_spreads_memory_over_its_steps():
    torch.manual_seed(0)
    before = G2LSTM(3, 200)
    torch.manual_seed(0)
    biased = Classifier(3, 4, 200, forget_bias=1.0).lstm
    expected = torch.cat([torch.zeros(200), torch.ones(200), torch.zeros(400)])
    torch.testing.assert_close(biased.bias_ih_l0 - before.bias_ih_l0, expected)
    lstm = Classifier(3, 4, 200, chrono=100).lstm
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach()
    steps = bias[200:400].exp()
    assert 1 <= steps.min() < 10
    assert 90 < steps.max() <= 99
    assert bias[:200].equal(-bias[200:400])


def test_a_run_learns_and_is_stored_with_its_model(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 8, "batch_size": 5, "optimizer.lr": 0.05, "precision": "float32", "model.dropout": 0.0}
    accuracy = start(config(folder, options).values, ["task=mnist"], Path("run"), Console(quiet=True))
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["valid_accuracy"] == accuracy > 0.9
    assert summary["test_accuracy"] == 1.0
    assert summary["images_per_second"] > 0
    save_model(Path("model.g2"), deploy_run(Run.open("run"), Method.parse("bits:8"), Target()))
    stored = StoredModel(Path("model.g2"), {"data.dir": str(folder)})  # which only this machine knows
    assert isinstance(stored.deployed.model(), Classifier)
    again = stored.task()
    assert again.evaluate(stored.model(again), "test").metrics["accuracy"] > 0.9


def damaged(folder: Path, name: str, content: bytes) -> str:
    """The line about a set of which one file has this content."""
    write_mnist(folder)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        load_mnist(folder, counts={"train": 60, "test": 20})
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(folder), "DIR")


def test_a_damaged_or_foreign_file_is_one_line_that_names_it(tmp_path):
    pixels, labels = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"
    write_mnist(tmp_path)
    packed, plain = (tmp_path / pixels).read_bytes(), (tmp_path / labels).read_bytes()
    assert damaged(tmp_path, pixels, packed[:-30]).startswith(f"can't read DIR/{pixels} (")
    assert damaged(tmp_path, pixels, b"\x1f\x8bnot gzip").startswith(f"can't read DIR/{pixels} (")
    html = damaged(tmp_path, labels, b"<html>")
    assert html == f"DIR/{labels} begins with 3c68746d, not 00000801: put the published file there"
    assert "begins with nothing" in damaged(tmp_path, labels, b"")
    cut = damaged(tmp_path, labels, plain[:-1])
    assert cut == f"DIR/{labels} has 19 bytes where it says 20: download it again"
    assert "where it says 4294967295" in damaged(tmp_path, labels, plain[:4] + b"\xff" * 4 + plain[8:])
    assert "a label 77, expected 0 to 9" in damaged(tmp_path, labels, plain[:-1] + bytes([77]))
    assert "20 images and 19 labels" in damaged(tmp_path, labels, plain[:7] + bytes([19]) + plain[8:-1])


def test_counts_are_asserted_unless_other_files_are_asked_for(folder, tmp_path):
    with pytest.raises(UserError, match=r"60 images, expected 60,000: put .* or set data\.counts=null"):
        load_mnist(folder)
    assert {split: len(found) for split, found in load_mnist(folder, counts=None)[0].items()} == {"train": 60, "test": 20}
    write(write_mnist(tmp_path) / "train-images-idx3-ubyte.gz", np.zeros((60, 20, 28), np.uint8))
    with pytest.raises(UserError, match="images of 20 x 28, expected 28 x 28"):
        load_mnist(tmp_path, counts=None)


def test_where_the_images_were_looked_for_is_said_in_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("G2LSTM_DATA", str(folder.parent))
    assert load_mnist(counts=None)[1] == str(folder)
    monkeypatch.setenv("G2LSTM_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"no MNIST: looked in .*mnist \(no such folder\).* set data\.dir=FOLDER") as error:
        load_mnist(download=False)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no train-images-idx3-ubyte, "):
        load_mnist(tmp_path)


def test_the_hubs_parquet_files_give_the_images_and_are_kept(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("G2LSTM_DATA", raising=False)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(10)})
    for split, count in (("train", 30), ("test", 10)):
        pixels, labels = drawn(count)
        rows = datasets.Dataset.from_dict({"image": list(pixels), "label": labels.tolist()}, features=features)
        (tmp_path / "hub" / "mnist").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(tmp_path / "hub" / "mnist" / f"{split}-00000-of-00001.parquet")
    monkeypatch.setattr(images, "HUB", HubFiles(str(tmp_path / "hub"), None, images.HUB.data_files, "image"))
    with pytest.raises(UserError, match="30 images, expected 31"):
        load_mnist(counts={"train": 31, "test": 10})
    assert not list((tmp_path / "cache").rglob("*ubyte*"))
    found, place = load_mnist(counts={"train": 30, "test": 10})
    assert place.endswith("on the Hub")
    assert found["train"].pixels.equal(torch.from_numpy(drawn(30)[0]))
    assert found["test"].labels.tolist() == list(range(10))
    monkeypatch.setattr(images, "HUB", HubFiles("no/where", None, {}, "image"))
    kept, place = load_mnist(counts={"train": 30, "test": 10}, download=False)
    assert kept["train"].pixels.equal(found["train"].pixels)
    assert "on the Hub" not in place


@pytest.mark.corpus
def test_the_real_files_are_as_published():
    root = Path(os.environ.get("G2LSTM_DATA", "data")) / "mnist"
    if not root.is_dir():
        pytest.skip("no MNIST: set $G2LSTM_DATA")
    found, _ = load_mnist(root)
    assert torch.bincount(found["test"].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert read_idx(root / "t10k-labels-idx1-ubyte.gz", 1)[:5].tolist() == [7, 2, 1, 0, 4]
    assert found["train"].pixels.float().div(255).mean().item() == pytest.approx(0.1307, abs=1e-4)
