"""Checkpoints: a tree of dicts, lists, numbers, texts and tensors in one safetensors file. No pickle is read or written.

Tensors are the file's tensors, named by their path in the tree; the tree itself is JSON in the file's metadata.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from g2lstm.errors import UserError
from g2lstm.files import write_atomically

Tree = Any  # dict | list | tuple | Tensor | str | int | float | bool | None
_FORMAT = "g2lstm-checkpoint-1"


def save_checkpoint(path: Path, tree: Tree) -> None:
    """Writes `tree` to `path` atomically. Floats keep every bit; tuples come back as lists."""
    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_pack(tree, "", tensors))
    write_atomically(path, save(tensors, metadata={"format": _FORMAT, "tree": structure}))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> Tree:
    """The tree that `save_checkpoint` wrote.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint of this project.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: name a run directory that holds one")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(f"{path} is not a checkpoint of this project: name a run directory's own file")
            return _unpack(json.loads(metadata["tree"]), file.get_tensor)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged ({reason}): use another checkpoint or train again") from None


def _pack(tree: Tree, name: str, tensors: dict[str, torch.Tensor]) -> Tree:
    if isinstance(tree, torch.Tensor):
        tensors[name] = tree.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(tree, dict):  # pairs, because JSON would turn an optimizer's number keys into texts
        return {"dict": [[key, _pack(value, f"{name}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [_pack(value, f"{name}/{index}", tensors) for index, value in enumerate(tree)]
    return tree


def _unpack(tree: Tree, tensor: Any) -> Tree:
    if isinstance(tree, list):
        return [_unpack(value, tensor) for value in tree]
    if isinstance(tree, dict) and "tensor" in tree:
        return tensor(tree["tensor"])
    if isinstance(tree, dict):
        return {key: _unpack(value, tensor) for key, value in tree["dict"]}
    return tree
