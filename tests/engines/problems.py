"""A layer's tensors and what an engine makes of them, for the tests of all engines."""

import math
from types import ModuleType

import torch
from torch import Tensor

from g2lstm.engines import Masks, Options
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.layout import Weights

NAMES = ("x", "h0", "c0", "noise", *Weights._fields)
Tensors = dict[str, Tensor | None]


def problem(
    time: int, batch: int, size: int, dtype: torch.dtype = torch.float64, *,
    inputs: int = 3, projected: int = 0, noise: int = 0, bias: bool = True, master: torch.dtype | None = None,
) -> Tensors:  # fmt: skip
    """Leaves that want gradients: noise on as many blocks, weights in `master`."""
    generator = torch.Generator().manual_seed(3)
    width, rows, master = projected or size, 4 * size, master or dtype

    def draw(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return (torch.randn(shape, generator=generator) * 0.7).to(kind).requires_grad_()

    return {
        "x": draw(time, batch, inputs), "h0": draw(batch, width), "c0": draw(batch, size),
        "noise": draw(time, batch, noise * size) if noise else None,
        "ih": draw(rows, inputs, kind=master),
        "hh": (draw(rows, width, kind=master) * min(1, 4 / math.sqrt(size))).detach().requires_grad_(),
        "bias_ih": draw(rows, kind=master) if bias else None, "bias_hh": draw(rows, kind=master) if bias else None,
        "hr": draw(projected, size, kind=master) if projected else None,
    }  # fmt: skip


def masks(time: int, batch: int, size: int, width: int, dtype: torch.dtype) -> dict[str, Masks]:
    """Recurrent dropout on h, on g and on g for a sequence; zoneout, of one state, in evaluation; everything."""
    dtype = accumulation_dtype(dtype)
    generator = torch.Generator().manual_seed(4)

    def draw(p: float, *shape: int) -> Tensor:
        return (torch.rand(shape, generator=generator) < p).to(dtype)

    h, g = draw(0.7, batch, width) / 0.7, draw(0.7, time, batch, size) / 0.7
    c, of_h = draw(0.5, time, batch, size), draw(0.3, time, batch, width)
    expected = (torch.full((wide,), p, dtype=dtype).expand(time, batch, wide) for p, wide in ((0.5, size), (0.1, width)))
    return {
        "h": Masks(h=h),
        "g": Masks(g=g),
        "g for a sequence": Masks(g=g[0].expand_as(g)),
        "zoneout": Masks(None, None, c, of_h),
        "zoneout of h": Masks(kept_h=of_h),
        "zoneout in evaluation": Masks(None, None, *expected),
        "everything": Masks(h, g, c, of_h),
    }


MASKS = tuple(masks(1, 1, 1, 1, torch.float32))


def leaves(tensors: Tensors) -> list[Tensor]:
    return [tensor for tensor in tensors.values() if tensor is not None]


def run(engine: ModuleType, tensors: Tensors, **options) -> tuple[Tensor, Tensor, Tensor]:
    """h, h_n and c_n."""
    noise = options.pop("noise", tensors["noise"])
    weights = Weights(*(tensors[name] for name in Weights._fields))
    h, state = engine.run(tensors["x"], (tensors["h0"], tensors["c0"]), weights, Options(noise=noise, **options))
    return h, *state


def results(engine: ModuleType, tensors: Tensors, **options) -> dict[str, Tensor]:
    """Outputs, 0 where they are not defined, and gradients of a loss on all of them."""
    tensors = {
        name: None if tensor is None else tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()
    }
    outputs = list(run(engine, tensors, **options))
    if (lengths := options.get("lengths")) is not None:
        inside = torch.arange(len(outputs[0]), device=lengths.device).unsqueeze(1) < lengths
        outputs[0] = torch.where(inside.unsqueeze(-1), outputs[0], 0)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(part.shape, generator=generator).to(part) for part in outputs]
    sum((part * weight).sum().double() for part, weight in zip(outputs, weights, strict=True)).backward()
    gradients = {f"d {name}": tensor.grad for name, tensor in tensors.items() if tensor is not None}
    return dict(zip(("h", "h_n", "c_n"), outputs, strict=True)) | gradients


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Norm-wise."""
    assert left.keys() == right.keys()
    for name, expected in right.items():
        assert left[name].dtype == expected.dtype, name
        error = (left[name].double() - expected.double()).norm()
        assert error <= tolerance * expected.double().norm(), (name, error / expected.double().norm())
