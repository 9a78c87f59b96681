"""A checkpoint comes back bit for bit, or not at all."""

import math
import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from g2lstm.errors import UserError
from g2lstm.training.checkpoint import CHECKPOINT, load_checkpoint, read_part, save_checkpoint

TREE = {
    "weights": {"a": torch.randn(3, 4), "half": torch.randn(5).bfloat16(), "scalar": torch.tensor(1.5)},
    "rng": torch.arange(7, dtype=torch.uint8),
    "counts": torch.tensor([2**62, -1]),
    "empty": torch.zeros(0, 3),
    "flags": torch.tensor([True, False]),
    "turned": torch.randn(3, 4).t(),
    "state": {0: {"step": torch.tensor(3.0)}, 1: {"step": torch.tensor(4.0)}},
    "nested": [[1, [2, None]], "text", {"yes": True, "no": False}],
    "signs": torch.tensor([-0.0, math.nan, -math.inf]),
    "numbers": [-0.0, math.inf, -math.inf, 0.1, 1e-320, 10**20],
    "nothing": None,
    "no": [],
    "none": {},
}


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same and torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and (struct.pack("d", a) == struct.pack("d", b) if isinstance(a, float) else a == b)


def test_a_tree_comes_back_bit_for_bit(tmp_path):
    save_checkpoint(tmp_path / "file", TREE)
    assert equal(TREE, load_checkpoint(tmp_path / "file"))


def test_tuples_come_back_as_lists(tmp_path):
    save_checkpoint(tmp_path / "file", {"pair": (1, (2, 3))})
    assert load_checkpoint(tmp_path / "file") == {"pair": [1, [2, 3]]}


def test_tensors_that_share_memory_come_back_whole(tmp_path):
    x = torch.arange(6.0)
    save_checkpoint(tmp_path / "file", {"x": x, "part": x[2:4], "again": x})
    back = load_checkpoint(tmp_path / "file")
    assert equal(back, {"x": x, "part": x[2:4], "again": x})


def test_names_that_look_alike_stay_apart(tmp_path):
    tree = {1: torch.tensor(1), "1": torch.tensor(2), "a/b": torch.tensor(3), "a": {"b": torch.tensor(4)}}
    save_checkpoint(tmp_path / "file", tree)
    assert equal(tree, load_checkpoint(tmp_path / "file"))


plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
tensors = st.sampled_from([torch.tensor(1.0), torch.zeros(2, 0), torch.arange(3), torch.ones(2, dtype=torch.bfloat16)])
trees = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(0, 3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=trees)
def test_any_tree_comes_back(tmp_path, tree):
    save_checkpoint(tmp_path / "file", tree)
    assert equal(tree, load_checkpoint(tmp_path / "file"))


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "file"
    save_checkpoint(path, {"weights": torch.randn(4, 4), "best": 4.25, "step": 12})
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            load_checkpoint(path)
        assert "\n" not in str(error.value)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "file"
    save_checkpoint(path, {"weights": torch.randn(4, 4)})
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path)


READERS = pytest.mark.parametrize("read", [load_checkpoint, lambda path: read_part(path, "a")], ids=["all", "a part"])


@READERS
def test_a_foreign_file_is_refused(tmp_path, read):
    save_file({"weights": torch.ones(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read(tmp_path / "foreign.safetensors")


@READERS
def test_a_file_of_another_version_is_refused_and_says_so(tmp_path, read):
    save_checkpoint(tmp_path / "older", {"a": 1}, replace(CHECKPOINT, format="g2lstm-checkpoint-0"))
    with pytest.raises(UserError, match=r"older is of another version \(g2lstm-checkpoint-0\)"):
        read(tmp_path / "older")


@READERS
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(UserError, match=r"no checkpoint .*none\.safetensors"):
        read(tmp_path / "none.safetensors")


def test_a_part_is_read_alone_and_one_that_is_not_there_is_a_damage(tmp_path):
    save_checkpoint(tmp_path / "file", {"a": {"b": [1, 2.5, "c"]}, "weights": torch.ones(2)})
    assert read_part(tmp_path / "file", "a") == {"b": [1, 2.5, "c"]}
    with pytest.raises(UserError, match="file is damaged"):
        read_part(tmp_path / "file", "c")
