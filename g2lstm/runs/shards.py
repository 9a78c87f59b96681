"""A run's folder as a few files that travel between machines: shards of at most 16 MB, at most 60 MB together.

What fits comes back bit for bit. Of a larger run the matrices are rounded, to as many levels as fit. With a row (of the
first dimension) between its smallest and largest value,

    value = centre + step * level,    level a whole number from -n to n, in 8 bits before the files are compressed

- the average of the weights, or the weights where there is no average yet, have n = 127;
- all other weights (those that are trained, the best ones, those before the finetune stage) are told by their difference
  from these, which is small: n is less;
- squares that an optimizer keeps are told by their logarithm, with the same n as a difference.

Vectors, random numbers, the carried state and the curve are never rounded.
"""

import hashlib
import io
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from math import log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from g2lstm.errors import UserError
from g2lstm.files import read_json, write_atomically
from g2lstm.runs.run import Run
from g2lstm.schema import checked, section, values_of
from g2lstm.training.checkpoint import Tree, load_checkpoint, read_part, save_checkpoint
from g2lstm.training.folder import RunFolder

LARGEST_SHARD, LARGEST_TOTAL = 16_000_000, 60_000_000  # bytes
MANIFEST = "shards.json"
LEVELS = (127, 31, 15, 10, 7)  # of what is not rounded first, finest first
BASE = 127
LEAST_GAIN = 0.85  # a lossless compression makes weights no smaller than this
TINY = 1e-12  # squares below are alike to AdaDelta, whose epsilon is 1e-7
STRETCH = "stretch.json"
CHECKPOINT_FILES = ("last.safetensors", "best.safetensors", "best-before-finetune.safetensors")
Place = tuple[str | int, ...]


@section
class Stopping:
    """What it took to stop a run and save it, and to write its shards, in seconds."""

    saving: float
    writing: float | None = None  # None where no shards were written

    @classmethod
    def noted(cls, folder: Path) -> "Stopping | None":
        """As it was in this run folder last time; None where that was not measured."""
        path = folder / STRETCH
        return checked(read_json(path, dict, "remove it"), cls, where=str(path)) if path.is_file() else None

    def note(self, folder: Path) -> None:
        RunFolder(folder).write_json(STRETCH, values_of(self))


@section
class Manifest:
    """What lies beside the shards."""

    run: str  # whose they are, as "ptb/gumbel-seed1"
    identity: str
    step: int
    finished: bool
    hardware: str
    stopping: Stopping
    shards: tuple[str, ...]  # digests, which are the names of the files, in order
    levels: int | None  # what was not rounded first has so many to each side; None: nothing is rounded
    curve: tuple[dict[str, Any], ...]  # the last line about training, if any


def read_manifest(folder: Path, name: str) -> Manifest | None:
    """Of the shards in a folder; None where it has none.

    Raises:
        UserError: it is damaged, or of another run than `name`.
    """
    path = folder / MANIFEST
    if not path.exists():
        if any(folder.glob("*.shard")):
            raise UserError(f"{folder} has shards but no {MANIFEST}: copy all files that were written there")
        return None
    found = checked(read_json(path, dict, "copy it again"), Manifest, where=str(path))
    if found.run != name:
        raise UserError(f"{folder} has the shards of another run, {found.run}: put those of {name} there, or set shards=...")
    return found


def step_of(folder: Path) -> int:
    """How many steps the checkpoint has behind it that the run in a folder would go on from; 0 where there is none."""
    run = RunFolder(folder)
    for path in (run.last, run.last_but_one):
        with suppress(UserError):
            if path.is_file():
                return int(read_part(path, "position")["step"])
    return 0


def write_shards(run: Run, name: str, folder: Path, saving: float) -> Manifest:
    """Writes a run's folder as shards; those of an earlier state go when these are complete.

    Args:
        run, name: the run, and what its manifest calls it.
        folder: where to.
        saving: seconds that it took to stop the run and save it.

    Raises:
        UserError: it is too large even when it is rounded, or a checkpoint is damaged.
    """
    began = time.monotonic()
    finished, environment = bool(run.summary.get("finished")), run.folder.read_json("environment.json")
    content, levels = _packed(run.folder, finished=finished)
    pieces = [content[start : start + LARGEST_SHARD] for start in range(0, len(content), LARGEST_SHARD)]
    names = tuple(hashlib.sha256(piece).hexdigest()[:32] for piece in pieces)
    for digest, piece in zip(names, pieces, strict=True):
        write_atomically(folder / f"{digest}.shard", piece)
    curve = [line for line in run.folder.curve() if line["kind"] == "train"][-1:]
    where = [environment, *environment.get("resumed_on", [])][-1].get("hardware")
    stopping = Stopping(saving=saving, writing=round(time.monotonic() - began, 2))
    manifest = Manifest(
        run=name, identity=run.identity, step=step_of(run.path), finished=finished, hardware=str(where), stopping=stopping,
        shards=names, levels=levels, curve=tuple(curve),
    )  # fmt: skip
    stopping.note(run.path)
    RunFolder(folder).write_json(MANIFEST, values_of(manifest))
    for path in folder.glob("*.shard"):
        if path.stem not in names:
            path.unlink()
    return manifest


def restore(manifest: Manifest, folder: Path, path: Path) -> None:
    """Makes the run folder `path` of the shards in `folder`, in the place of an earlier state of the same run.

    Raises:
        UserError: a shard is missing or damaged, or `path` is another run.
    """
    if path.exists() and Run.open(path).identity != manifest.identity:
        raise UserError(f"{path} is another run than the shards in {folder}: set shards=... or move it away")
    content = b"".join(_piece(folder / f"{digest}.shard") for digest in manifest.shards)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        run = RunFolder(Path(temporary) / path.name)
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(run.path, filter="data")
        except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
            raise UserError(f"the shards in {folder} are damaged ({error}): copy them again") from None
        if manifest.levels is not None:
            base: dict[str, Tensor] = {}
            for file in _checkpoints(run):
                save_checkpoint(file, _each(load_checkpoint(file), (), lambda path, leaf: _exact(path, leaf, base)))
            environment = run.read_json("environment.json")
            rounded = {"step": manifest.step, "levels": 2 * BASE + 1, "levels_of_differences": 2 * manifest.levels + 1}
            run.write_json("environment.json", environment | {"rounded": [*environment.get("rounded", []), rounded]})
        manifest.stopping.note(run.path)
        if Run.open(run.path).identity != manifest.identity:
            raise UserError(f"the shards in {folder} are not those of the run that {MANIFEST} names: copy them again")
        if path.exists():
            shutil.rmtree(path)
        run.path.rename(path)


def _piece(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read the shard {path} ({error.strerror}): copy all files that were written there") from None
    if hashlib.sha256(content).hexdigest()[:32] != path.stem:
        raise UserError(f"the shard {path} is damaged: copy it again")
    return content


def _checkpoints(run: RunFolder, *, finished: bool = False) -> list[Path]:
    """Those of a run; to a finished one its last is of no use. The one with the average comes first."""
    known = [run.path / name for name in CHECKPOINT_FILES[finished:]]
    return [path for path in (*known, *run.epochs()) if path.is_file()]


def _packed(run: RunFolder, *, finished: bool) -> tuple[bytes, int | None]:
    """The folder as a compressed archive, and the levels of differences where it is rounded."""
    checkpoints = _checkpoints(run, finished=finished)
    left_out = {run.last, run.last_but_one, *checkpoints}  # shards have digests: no need of a second one
    others = [path for path in sorted(run.path.iterdir()) if path not in left_out and not path.name.startswith(".")]
    size, least = sum(path.stat().st_size for path in checkpoints), 0.0
    if size * LEAST_GAIN <= LARGEST_TOTAL and len(content := _archive([*checkpoints, *others])) <= LARGEST_TOTAL:
        return content, None
    for levels in LEVELS:
        least = size / 4 * (log2(2 * levels + 1) - 1) / 8  # a bell curve takes about 0.8 bits less than its levels
        if least <= LARGEST_TOTAL and len(content := _rounded_archive(checkpoints, others, levels)) <= LARGEST_TOTAL:
            return content, levels
    raise UserError(
        f"{run.path} takes {least / 1e6:.0f} MB or more as shards, however rounded, where {LARGEST_TOTAL / 1e6:.0f} MB are"
        " the most: train it where its folder can stay, without shards="
    )


def _rounded_archive(checkpoints: list[Path], others: list[Path], levels: int) -> bytes:
    base: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory(dir=checkpoints[0].parent, prefix=".rounded.") as temporary:
        rounded = [Path(temporary) / path.name for path in checkpoints]
        for path, target in zip(checkpoints, rounded, strict=True):
            tree = load_checkpoint(path)
            first = {"average": tree["average"]} if "average" in tree else {}
            save_checkpoint(target, _each(first | tree, (), lambda path, leaf: _rounded(path, leaf, levels, base)))
        return _archive([*rounded, *others])


def _archive(paths: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in paths:
            archive.add(path, path.name)
    return buffer.getvalue()


def _each(tree: Tree, path: Place, change: Callable[[Place, Tree], Tree]) -> Tree:
    """The tree with what `change` makes of its leaves; a rounded tensor is one."""
    if isinstance(tree, dict) and "level" not in tree:
        return {key: _each(value, (*path, key), change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_each(value, (*path, index), change) for index, value in enumerate(tree)]
    return change(path, tree)


def _rounded(path: Place, leaf: Tree, levels: int, base: dict[str, Tensor]) -> Tree:
    """A matrix of weights or of an optimizer's state as levels; the first of a name goes to `base` as it will come back."""
    if not isinstance(leaf, Tensor) or leaf.dtype != torch.float32 or leaf.dim() < 2:
        return leaf
    name = _parameter(path)
    if name is None:
        if path[0] != "optimizer":
            return leaf
        squares = bool(leaf.min() >= 0)
        return {"squares": squares} | _levels((leaf + TINY).log() if squares else leaf, levels)
    if name in base:
        return _levels(leaf - base[name], levels)
    coded = _levels(leaf, BASE)
    base[name] = _value(coded)
    return coded


def _exact(path: Place, leaf: Tree, base: dict[str, Tensor]) -> Tree:
    """What `_rounded` made a leaf of, as a tensor again."""
    if not isinstance(leaf, dict):
        return leaf
    value, name = _value(leaf), _parameter(path)
    if name is None:
        return (value.exp() - TINY).clamp_min(0) if leaf["squares"] else value
    return value + base[name] if name in base else base.setdefault(name, value)


def _parameter(path: Place) -> str | None:
    """The name of the weights at this place; None where it is no place of weights."""
    return str(path[-1]).removeprefix("module.") if path[0] in ("model", "average") else None


def _levels(value: Tensor, levels: int) -> dict[str, Tree]:
    rows = value.flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    centre, step = (low + high) / 2, (high - low) / (2 * levels)
    level = ((rows - centre) / step.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    coder = zlib.compressobj(1, strategy=zlib.Z_HUFFMAN_ONLY)  # nothing repeats, but small levels are frequent
    coded = coder.compress(level.numpy().tobytes()) + coder.flush()
    return {
        "level": torch.frombuffer(bytearray(coded), dtype=torch.uint8),
        "shape": list(value.shape),
        "centre": centre,
        "step": step,
    }


def _value(coded: dict[str, Tree]) -> Tensor:
    level = torch.frombuffer(bytearray(zlib.decompress(coded["level"].numpy().tobytes())), dtype=torch.int8)
    return (coded["centre"] + coded["step"] * level.view(len(coded["centre"]), -1)).view(coded["shape"])
