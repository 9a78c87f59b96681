"""Compression settings as short texts: "round:0.2+clip:0.4", "svd:64", "svd:H/16+bits:8".

Steps are taken from left to right. What follows an SVD is done to each of its two factors.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from g2lstm.compression.forms import Codes, Dense, Factors, Form, cheapest, smallest
from g2lstm.compression.operators import clip_to, factorize, prune, quantize, round_to, ternarize

Value = float | int | str | None
ORIGINAL = "original"
EXAMPLES = "round:0.2, clip:0.4, round:0.2+clip:0.4, bits:4, ternary, prune:0.5, svd:64, svd:H/16, svd:64+bits:8"
OPERATORS: dict[str, Callable[..., Tensor | Codes]] = {
    **{"round": round_to, "clip": clip_to, "prune": prune},
    **{"bits": quantize, "ternary": ternarize},
}
PRESETS: dict[str, tuple[str, ...]] = {
    # Table 3
    "paper": ("round:0.2", "round:0.2+clip:0.4", "svd:128", "svd:64"),
    # Tables 4 and 5
    "translation": ("round:0.5", "round:0.5+clip:1", "svd:32", "svd:16"),
    # harsh settings, with ranks that mean the same for small models
    "relative": ("round:0.5", "round:0.5+clip:1", "svd:H/4", "svd:H/8", "svd:H/16", "svd:H/32"),
    # ranges for curves
    "ranks": ("svd:H/2", "svd:H/4", "svd:H/8", "svd:H/16", "svd:H/32", "svd:H/64"),
    "rounding": ("round:0.1", "round:0.2", "round:0.3", "round:0.5", "round:0.7", "round:1"),
    "bits": ("bits:8", "bits:6", "bits:4", "bits:3", "bits:2", "ternary"),
    "pruning": ("prune:0.3", "prune:0.5", "prune:0.7", "prune:0.8", "prune:0.9", "prune:0.95"),
    "factors": ("svd:H/4+bits:8", "svd:H/8+bits:8", "svd:H/16+bits:8", "svd:H/8+bits:4", "svd:H/16+bits:4"),
}
PRESETS["curves"] = (*PRESETS["ranks"], *PRESETS["rounding"], *PRESETS["bits"], *PRESETS["pruning"])


@dataclass(frozen=True)
class Method:
    """A setting: what is done to each block of a matrix.

    Attributes:
        steps: (operator, its value) in order; none is the original. The value of "svd" is a rank, "64", or "H/16", a share
            of H: the rows of a gate's block are the layer's hidden units.
    """

    steps: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Method":
        """The setting that `text` names.

        Raises:
            ValueError: it names none, or a value is out of range.
        """
        if text.strip() == ORIGINAL:
            return cls()
        method = cls(tuple(_parse_step(part.strip()) for part in text.split("+")))
        if sum(name == "svd" for name, _ in method.steps) > 1:
            raise ValueError(f"{text} has two SVDs: one is enough")
        try:
            method.store(torch.ones(2, 2))  # the operators check their values themselves
        except ValueError as error:
            raise ValueError(f"{text}: {error}") from None
        return method

    def __str__(self) -> str:
        return "+".join(name if value is None else f"{name}:{_exactly(value)}" for name, value in self.steps) or ORIGINAL

    @property
    def label(self) -> str:
        """As a table's heading says it: "round 0.2 & clip 0.4"."""
        return str(self).replace("+", " & ").replace(":", " ").replace("svd", "SVD")

    @property
    def family(self) -> str:
        """The kind of compression, for figures: svd, prune, bits (ternary among them) or rounding."""
        names = dict(self.steps)
        kinds = {"svd": "svd", "prune": "prune", "bits": "bits", "ternary": "bits"}
        return next((kind for name, kind in kinds.items() if name in names), "rounding")

    def rank(self, shape: tuple[int, ...]) -> int | None:
        """The rank that a block of `shape` (N, M) is left with by the SVD, or None without one."""
        if not isinstance(value := dict(self.steps).get("svd"), str):
            return None
        asked = max(1, shape[0] // int(value[2:])) if value.startswith("H/") else int(value)
        return min(asked, *shape)

    def store(self, matrix: Tensor) -> Form:
        """The compressed (N, M) matrix in the form of the fewest bits: `matrix()` is what it became, `bits` what it costs.

        Raises:
            ValueError: a value is out of range, or makes of the matrix one that is not finite.
        """
        matrix = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
        form: Form = Dense(matrix)
        for index, (name, value) in enumerate(self.steps):
            if name == "svd":
                rank = self.rank(tuple(matrix.shape))
                assert rank is not None
                if rank < min(matrix.shape):
                    rest = Method(self.steps[index + 1 :])
                    factors = Factors(*(rest.store(factor) for factor in factorize(form.matrix(), rank)))
                    form = smallest(Dense(factors.matrix()), factors)  # near full rank the product is smaller
                    break
            else:
                found = OPERATORS[name](form.matrix(), *(() if value is None else (value,)))
                form = Dense(found) if isinstance(found, Tensor) else found
        result = form.matrix()
        if not result.isfinite().all():
            raise ValueError(f"{self} makes values that are not finite of these weights")
        return form if isinstance(form, Factors) or not self.steps else smallest(form, cheapest(result))


def chosen_methods(presets: str | None = None, settings: str | None = None) -> list[Method]:
    """The original, then each setting of the comma-separated presets and of `settings` once; of "paper" without both.

    Raises:
        ValueError: a preset or setting that does not exist.
    """
    listed = [[part for part in (text or "").split(",") if part] for text in (presets, settings)]
    names = listed[0] if presets or settings else ["paper"]
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"there is no preset {name}: choose of {', '.join(PRESETS)}")
    texts = [text for name in names for text in PRESETS[name]] + listed[1]
    return list(dict.fromkeys([Method(), *(Method.parse(text) for text in texts)]))


def _parse_step(part: str) -> tuple[str, Value]:
    name, _, value = part.partition(":")
    try:
        if part == "ternary":
            return name, None
        if name == "svd" and re.fullmatch(r"(H/)?[1-9]\d*", value):
            return name, value
        if name == "bits":
            return name, int(value)
        if name in ("round", "clip", "prune"):
            return name, float(value)
    except ValueError:
        pass  # no number
    raise ValueError(f"{part!r} is no compression setting: write for example {EXAMPLES}")


def _exactly(value: Value) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
