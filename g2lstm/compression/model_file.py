"""The file of a compressed model: safetensors with JSON in its metadata, no pickle, checked by a CRC-32 of everything in it.

N rows, M columns.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2lstm.compression.deploy import Deployed, LSTMPart
from g2lstm.compression.packing import pack, unpack
from g2lstm.compression.storage import Codes, Dense, Factors, Form, Sparse
from g2lstm.errors import UserError
from g2lstm.training.checkpoint import Kind, load_checkpoint, save_checkpoint

Tree = dict[str, Any]
MODEL_FILE = Kind(
    "g2lstm-model-1",
    "compressed model",
    missing="python experiments/compress.py writes one",
    foreign="name one that experiments/compress.py wrote",
    damaged="if it is a compressed model at all, write it again with experiments/compress.py",
)


def save_model(path: Path, deployed: Deployed) -> int:
    """Writes a compressed model atomically. The bytes of the file."""
    tree = {
        "kind": deployed.kind,
        "options": deployed.options,
        "lstms": {name: asdict(part) for name, part in deployed.lstms.items()},
        "forms": {name: [_pack(form) for form in forms] for name, forms in deployed.forms.items()},
        "notes": deployed.notes,
    }
    save_checkpoint(path, tree, MODEL_FILE)
    return path.stat().st_size


def load_model(path: Path) -> Deployed:
    """The compressed model that `save_model` wrote; `.model()` runs it. A UserError where the file is no such one."""
    tree = load_checkpoint(path, kind=MODEL_FILE)
    try:
        lstms = {name: LSTMPart(part["options"], tuple(part["scale"])) for name, part in tree["lstms"].items()}
        forms = {name: [_unpack(form) for form in packed] for name, packed in tree["forms"].items()}
        return Deployed(tree["kind"], tree["options"], lstms, forms, tree["notes"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is no model this version can read ({error!r}): {MODEL_FILE.damaged}") from None


def _pack(form: Form) -> Tree:
    if isinstance(form, Factors):
        return {"form": "factors", "left": _pack(form.left), "right": _pack(form.right)}
    if isinstance(form, Codes):
        tree = {"form": "codes", "shape": list(form.codes.shape), "levels": form.levels}
        tree["packed"] = pack(form.codes, form.levels)
        if form.scales is None:
            return tree | {"codebook": form.codebook.float()}
        return tree | {"scales": form.scales.float()}  # its codebook is the whole numbers around 0
    if isinstance(form, Sparse):
        there = form.values != 0
        mask = torch.from_numpy(np.packbits(there.cpu().numpy()))
        return {"form": "sparse", "shape": list(form.values.shape), "mask": mask, "values": form.values[there].float()}
    values = form.values.float() if form.values.dtype == torch.float64 else form.values  # 32 bits, as it states
    return {"form": "dense", "values": values}


def _unpack(tree: Tree) -> Form:
    kind = tree["form"]
    if kind == "factors":
        return Factors(_unpack(tree["left"]), _unpack(tree["right"]))
    if kind == "dense":
        return Dense(tree["values"])
    shape = tuple(tree["shape"])
    if kind == "sparse":
        there = np.unpackbits(tree["mask"].numpy(), count=math.prod(shape)).astype(bool)
        matrix = torch.zeros(shape, dtype=tree["values"].dtype)
        matrix[torch.from_numpy(there).view(shape)] = tree["values"]
        return Sparse(matrix)
    if kind != "codes":
        raise ValueError(f"unknown form {kind}")
    levels = tree["levels"]
    codes = unpack(tree["packed"], levels, shape).int()
    if "scales" in tree:
        half = (levels - 1) // 2
        return Codes(codes, torch.arange(-half, half + 1, dtype=torch.float32), tree["scales"])
    return Codes(codes, tree["codebook"])
