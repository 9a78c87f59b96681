"""A damaged or foreign file is one clear error, whichever byte is wrong."""

import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from g2lstm.compression import Method
from g2lstm.compression.deploy import deploy
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.errors import UserError
from g2lstm.training.checkpoint import save_checkpoint


@pytest.fixture
def content(tmp_path) -> bytes:
    """A small file with factors, codes, scales and a codebook in it."""
    lstm = nn.LSTM(3, 4)
    save_model(tmp_path / "whole.g2", deploy(lstm, Method.parse("svd:1+round:0.1"), rest="int8"))
    return (tmp_path / "whole.g2").read_bytes()


def rejected(path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load_model(path)
    text = str(error.value)
    assert "\n" not in text
    assert path.name in text
    return text


def test_every_flipped_byte_is_noticed(tmp_path, content) -> None:
    places = [*range(0, len(content), 29), *range(len(content) - 40, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x15
        rejected(tmp_path / "model.g2", bytes(damaged))


def test_every_cut_is_noticed(tmp_path, content) -> None:
    for size in [0, 1, 7, 8, 9, *range(10, len(content), 61), len(content) - 1]:
        assert "is damaged" in rejected(tmp_path / "model.g2", content[:size])
    rejected(tmp_path / "model.g2", content + b"\0")


def test_files_of_other_kinds_are_refused(tmp_path) -> None:
    path = tmp_path / "model.g2"
    assert "is damaged" in rejected(path, b"no model at all, a text")
    assert "is damaged" in rejected(path, struct.pack("<Q", 2**60) + b"{}")
    save_file({"weight": torch.zeros(2)}, path)
    assert "is not a compressed model of this project" in rejected(path, path.read_bytes())
    save_checkpoint(path, {"model": {"weight": torch.zeros(2)}})
    assert "is not a compressed model of this project" in rejected(path, path.read_bytes())
    with pytest.raises(UserError, match=r"no compressed model .*nowhere.g2: python experiments/compress.py writes one"):
        load_model(tmp_path / "nowhere.g2")
