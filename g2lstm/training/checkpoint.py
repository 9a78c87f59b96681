"""Checkpoints: a tree of dicts, lists, numbers, texts and tensors in one safetensors file. No pickle is read or written.

Tensors are the file's tensors, named by their path in the tree; the tree itself is JSON in the file's metadata.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from g2lstm.errors import UserError
from g2lstm.files import write_atomically

Tree = Any  # dict | list | tuple | Tensor | str | int | float | bool | None


@dataclass(frozen=True)
class Kind:
    """What a file is for: what it says that it is, what messages call it, and ways out where something is wrong."""

    format: str
    name: str
    missing: str
    foreign: str
    damaged: str


CHECKPOINT = Kind(
    "g2lstm-checkpoint-1",
    "checkpoint",
    missing="name a run directory that holds one",
    foreign="name a run directory's own file",
    damaged="use another checkpoint or train again",
)


def save_checkpoint(path: Path, tree: Tree, kind: Kind = CHECKPOINT) -> None:
    """Writes `tree` to `path` atomically. Floats keep every bit; tuples come back as lists."""
    write_atomically(path, checkpoint_bytes(tree, kind))


def checkpoint_bytes(tree: Tree, kind: Kind) -> bytes:
    """The content of such a file."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_pack(tree, "", tensors))
    metadata = {"format": kind.format, "tree": structure, "checksum": _checksum(structure, tensors)}
    return save(tensors, metadata=metadata)


def load_checkpoint(path: Path, device: torch.device | str = "cpu", kind: Kind = CHECKPOINT) -> Tree:
    """The tree that `save_checkpoint` wrote; a UserError where the file is missing, damaged or of another kind."""
    with _opened(path, kind) as (file, metadata):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        if _checksum(metadata["tree"], tensors) != metadata["checksum"]:
            raise ValueError("its checksum is wrong")
        return _unpack(json.loads(metadata["tree"]), tensors, device)


def read_part(path: Path, name: str, kind: Kind = CHECKPOINT) -> Tree:
    """What stands under a key of the tree, without reading the tensors: it has none. Errors as in `load_checkpoint`."""
    with _opened(path, kind) as (_, metadata):
        return _unpack(dict(json.loads(metadata["tree"])["dict"])[name], {}, "cpu")


@contextmanager
def _opened(path: Path, kind: Kind) -> Iterator[tuple[Any, dict[str, str]]]:
    """The file and its metadata, and a UserError for what is wrong with it, also where what is read of it is."""
    if not path.is_file():
        raise UserError(f"no {kind.name} {path}: {kind.missing}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if (found := metadata.get("format", "")) != kind.format:
                family = kind.format.rpartition("-")[0]
                what = f"of another version ({found})" if found.startswith(family) else f"not a {kind.name} of this project"
                raise UserError(f"{path} is {what}: {kind.foreign}")
            yield file, metadata
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): {kind.damaged}") from None


def _pack(tree: Tree, name: str, tensors: dict[str, torch.Tensor]) -> Tree:
    if isinstance(tree, torch.Tensor):
        name = name if name not in tensors else f"{name}#{len(tensors)}"  # keys 1 and "1" are written alike
        tensors[name] = tree.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(tree, dict):  # pairs, because JSON would turn an optimizer's number keys into texts
        return {"dict": [[key, _pack(value, f"{name}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_pack(value, f"{name}/{index}", tensors) for index, value in enumerate(tree)]
    return tree


def _unpack(tree: Tree, tensors: dict[str, torch.Tensor], device: torch.device | str) -> Tree:
    if isinstance(tree, list):
        return [_unpack(value, tensors, device) for value in tree]
    if isinstance(tree, dict) and "tensor" in tree:
        return tensors[tree["tensor"]].to(device)
    if isinstance(tree, dict):
        return {key: _unpack(value, tensors, device) for key, value in tree["dict"]}
    return tree


def _checksum(structure: str, tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of everything in the file: safetensors itself does not notice a changed byte."""
    value = zlib.crc32(structure.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        if tensor.numel():
            value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
