"""An exported file computes in onnxruntime what the model computes, for sequences of any length."""

import sys

import pytest
import torch
from torch import nn

from g2lstm import SharpenedGate
from g2lstm.compression import Method
from g2lstm.compression.deploy import deploy
from g2lstm.compression.onnx_files import Session, export, largest_difference, quantize_dynamically
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel


@pytest.fixture(scope="module", autouse=True)
def onnx():
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def language_model(**options) -> LanguageModel:
    torch.manual_seed(3)
    model = LanguageModel(50, 16, 24, 2, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("method", ["original", "svd:3"])
@pytest.mark.parametrize("options", [{}, {"tied": False}, {"gate": SharpenedGate()}], ids=["tied", "untied", "sharpened"])
def test_a_language_model_gives_its_logits_at_two_lengths(tmp_path, method, options) -> None:
    deployed = deploy(language_model(**options), Method.parse(method))
    size = export(tmp_path / "model.onnx", deployed)
    assert size == (tmp_path / "model.onnx").stat().st_size < 1.1 * deployed.float32_bytes + 8000
    assert largest_difference(tmp_path / "model.onnx", deployed, lengths=(1, 9)) < 1e-5


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_any_lstm_gives_its_outputs_at_two_lengths(tmp_path, options, bidirectional) -> None:
    deployed = deploy(nn.LSTM(9, 12, 2, bidirectional=bidirectional, **options), Method.parse("svd:2"))
    export(tmp_path / "model.onnx", deployed)
    assert largest_difference(tmp_path / "model.onnx", deployed, lengths=(2, 5)) < 1e-5


def test_states_go_on_from_call_to_call(tmp_path) -> None:
    deployed = deploy(language_model(), Method.parse("svd:3"))
    export(tmp_path / "layers.onnx", deployed, layers_only=True)
    session, x = Session(tmp_path / "layers.onnx"), torch.randn(6, 2, 16).numpy()
    whole, last = session(x, session.zeros(2))
    _, state = session(x[:2], session.zeros(2))
    rest, after = session(x[2:], state)
    torch.testing.assert_close(torch.from_numpy(whole[2:]), torch.from_numpy(rest))
    assert set(after) == set(last) == {"h_0.0", "c_0.0", "h_0.1", "c_0.1"}
    for name, value in last.items():
        torch.testing.assert_close(torch.from_numpy(value), torch.from_numpy(after[name]))


def test_the_runtimes_own_int8_is_smaller_and_near(tmp_path) -> None:
    deployed, path = deploy(language_model()), tmp_path / "model.onnx"
    full = export(path, deployed, tied=False)
    assert quantize_dynamically(path, path) < 0.6 * full
    assert largest_difference(path, deployed, lengths=(1, 7)) < 0.2


def test_other_models_and_a_missing_package_are_named(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="Sequential can't be exported"):
        export(tmp_path / "model.onnx", deploy(nn.Sequential(nn.LSTM(2, 3))))
    with pytest.raises(ValueError, match="an LSTM with proj_size=1 can't be exported"):
        export(tmp_path / "model.onnx", deploy(nn.LSTM(2, 3, proj_size=1)))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"the package onnx is not installed: pip install 'g2lstm\[onnx\]'"):
        export(tmp_path / "model.onnx", deploy(nn.LSTM(2, 3)))
