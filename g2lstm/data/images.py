"""MNIST (LeCun et al. 1998): digits of 28 x 28 pixels in IDX files, from a local folder, else the Hugging Face Hub.

N images, S = 28.
"""

import gzip
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from g2lstm.data.download import HubFiles, UnavailableError, cache_folder, open_hub, write_to_cache
from g2lstm.data.sources import local_folders
from g2lstm.errors import UserError

SIDE = 28
CLASSES = 10
COUNTS = {"train": 60_000, "test": 10_000}
FILES = {"train": "train-{}-ubyte", "test": "t10k-{}-ubyte"}
IMAGES, LABELS = "images-idx3", "labels-idx1"
HUB = HubFiles("ylecun/mnist", None, {"train": "mnist/train-*.parquet", "test": "mnist/test-*.parquet"}, "image")


@dataclass(frozen=True, eq=False)
class Images:
    """Images with their classes.

    Attributes:
        pixels: (N, S, S) bytes, 0 paper and 255 ink.
        labels: (N,) whole numbers below `CLASSES`.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice) -> "Images":
        return Images(self.pixels[chosen], self.labels[chosen])


def load_mnist(
    data_dir: str | Path | None = None, *, download: bool = True, counts: Mapping[str, int] | None = COUNTS
) -> tuple[dict[str, Images], str]:
    """The images of "train" and "test", and where they come from.

    Args:
        data_dir: the only folder to look in; without it `$G2LSTM_DATA/mnist`, `data/mnist`, the cache folder, the Hub.
        download: whether the network may be used.
        counts: images that each must have; None takes any number.

    Raises:
        UserError: no place has them, or a file is damaged, of another kind, or of other counts.
    """
    names = [pattern.format(kind) for pattern in FILES.values() for kind in (IMAGES, LABELS)]
    tried = []
    for folder in [Path(data_dir).expanduser()] if data_dir else local_folders("mnist"):
        absent = [name for name in names if _file(folder, name) is None]
        if not absent:
            return {split: _read(folder, split, counts) for split in FILES}, str(folder)
        tried.append(f"{folder} ({'no ' + ', '.join(absent) if folder.is_dir() else 'no such folder'})")
    if download and not data_dir:
        try:
            return _from_hub(counts), f"{HUB.path} on the Hub"
        except UnavailableError as error:
            tried.append(str(error))
    ways = "set data.dir=FOLDER to one with the four IDX files, as they are or .gz; or put them under $G2LSTM_DATA/mnist"
    raise UserError(f"no MNIST: looked in {'; '.join(tried)}. Ways out: {ways}")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The bytes of an IDX file, gzipped or not: two zeros, 8 for bytes, the number of dimensions, their sizes, the values.

    Raises:
        UserError: it can't be read, is no such file, or is cut short.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"can't read {path} ({reason}): download it again") from None
    start, magic = 4 + 4 * dimensions, bytes((0, 0, 8, dimensions))
    if data[:4] != magic or len(data) < start:
        raise UserError(f"{path} begins with {data[:4].hex() or 'nothing'}, not {magic.hex()}: put the published file there")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != np.prod(shape, dtype=object):
        size = " x ".join(map(str, shape))
        raise UserError(f"{path} has {len(data) - start:,} bytes where it says {size}: download it again")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _read(folder: Path, split: str, counts: Mapping[str, int] | None) -> Images:
    paths = [_file(folder, FILES[split].format(kind)) for kind in (IMAGES, LABELS)]
    assert paths[0] is not None
    assert paths[1] is not None
    images = Images(read_idx(paths[0], 3), read_idx(paths[1], 1).long())
    if wrong := _wrong(images, split, counts):
        raise UserError(f"{paths[0]}: {wrong}: put the published files there, or set data.counts=null for others")
    return images


def _wrong(images: Images, split: str, counts: Mapping[str, int] | None) -> str | None:
    """What is wrong with a split, in one phrase."""
    count, expected = len(images.pixels), None if counts is None else counts[split]
    if count != len(images):
        return f"{count:,} images and {len(images):,} labels"
    if count == 0 or expected not in (None, count):
        return f"{count:,} images, expected {'some' if expected is None else f'{expected:,}'}"
    if images.pixels.shape[1:] != (SIDE, SIDE):
        return f"images of {' x '.join(map(str, images.pixels.shape[1:]))}, expected {SIDE} x {SIDE}"
    if (highest := int(images.labels.max())) >= CLASSES:
        return f"a label {highest}, expected 0 to {CLASSES - 1}"
    return None


def _from_hub(counts: Mapping[str, int] | None) -> dict[str, Images]:
    """The Hub's images, kept in the cache folder as IDX files."""
    pixels, labels, found = open_hub(HUB), open_hub(replace(HUB, column="label")), {}
    for split in FILES:
        drawn = torch.from_numpy(np.stack([np.asarray(image, np.uint8) for image in pixels[split]["image"]]))
        found[split] = Images(drawn, torch.tensor(list(labels[split]["label"])))
        if wrong := _wrong(found[split], split, counts):
            raise UnavailableError(f"{HUB.path} on the Hub ({wrong})")
    for split, images in found.items():
        for kind, values in {IMAGES: images.pixels, LABELS: images.labels.byte()}.items():
            head = bytes((0, 0, 8, values.dim())) + struct.pack(f">{values.dim()}I", *values.shape)
            write_to_cache(cache_folder("mnist") / FILES[split].format(kind), head + values.numpy().tobytes())
    return found
