"""The file of a compressed model: safetensors with JSON in its metadata, no pickle, checked by a CRC-32 of all in it."""

from pathlib import Path
from typing import Any

import torch

from g2lstm.compression.deploy import Deployed
from g2lstm.compression.forms import Codes, Dense, Factors, Form, Sparse, pack, unpack
from g2lstm.training.checkpoint import Kind, load_checkpoint, save_checkpoint

Tree = dict[str, Any]
MODEL_FILE = Kind(
    "g2lstm-model-2",
    "compressed model",
    missing="python experiments/compress.py writes one",
    foreign="write one with experiments/compress.py",
    damaged="if it is a compressed model at all, write it again with experiments/compress.py",
)


def save_model(path: Path, deployed: Deployed) -> int:
    """Writes a compressed model atomically. The bytes of the file."""
    forms = {name: [_pack(form) for form in forms] for name, forms in deployed.forms.items()}
    save_checkpoint(path, vars(deployed) | {"forms": forms}, MODEL_FILE)
    return path.stat().st_size


def load_model(path: Path) -> Deployed:
    """The compressed model that `save_model` wrote; `.model()` runs it. A UserError where the file is no such one."""
    tree = load_checkpoint(path, kind=MODEL_FILE)
    forms = {name: [_unpack(form) for form in packed] for name, packed in tree["forms"].items()}
    return Deployed(**tree | {"forms": forms})


def _pack(form: Form) -> Tree:
    if isinstance(form, Factors):
        return {"form": "factors", "left": _pack(form.left), "right": _pack(form.right)}
    if isinstance(form, Dense):
        return {"form": "dense", "values": form.values}
    if isinstance(form, Sparse):
        there = form.values != 0
        return {"form": "sparse", "shape": there.shape, "mask": pack(there, 2), "values": form.values[there]}
    tree = {"form": "codes", "shape": form.codes.shape, "levels": len(form.codebook)}
    tree["packed"] = pack(form.codes, len(form.codebook))
    return tree | ({"codebook": form.codebook} if form.scales is None else {"scales": form.scales})


def _unpack(tree: Tree) -> Form:
    if tree["form"] == "factors":
        return Factors(_unpack(tree["left"]), _unpack(tree["right"]))
    if tree["form"] == "dense":
        return Dense(tree["values"])
    if tree["form"] == "sparse":
        there = unpack(tree["mask"], 2, tree["shape"]).bool()
        return Sparse(torch.zeros(tree["shape"]).masked_scatter_(there, tree["values"]))
    codes = unpack(tree["packed"], tree["levels"], tree["shape"]).int()
    if "codebook" in tree:
        return Codes(codes, tree["codebook"])
    half = tree["levels"] // 2
    return Codes(codes, torch.arange(-half, half + 1.0), tree["scales"])
