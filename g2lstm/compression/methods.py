"""Compression settings as short texts: "round:0.2+clip:0.4", "svd:64", "svd:H/16+bits:8".

Steps are taken from left to right. What follows an SVD is done to each of its two factors.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from g2lstm.compression.lowrank import Rank, factorize
from g2lstm.compression.quantization import clip_to, prune, quantize, round_to, ternarize
from g2lstm.compression.storage import Codes, Dense, Factors, Form, cheapest, is_finite

Value = float | int | Rank | None
ORIGINAL = "original"
EXAMPLES = "round:0.2, clip:0.4, round:0.2+clip:0.4, bits:4, ternary, prune:0.5, svd:64, svd:H/16, svd:64+bits:8"
OPERATORS: dict[str, Callable[..., Tensor | Codes]] = {
    **{"round": round_to, "clip": clip_to, "prune": prune},
    **{"bits": quantize, "ternary": ternarize},
}


@dataclass(frozen=True)
class Method:
    """A setting: what is done to each block of a matrix.

    Attributes:
        steps: (operator, its value) in order; none is the original.
    """

    steps: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if sum(name == "svd" for name, _ in self.steps) > 1:
            raise ValueError(f"{self} has two SVDs: one is enough")

    @classmethod
    def parse(cls, text: str) -> "Method":
        """The setting that `text` names.

        Raises:
            ValueError: it names none, or a value is out of range.
        """
        if text.strip() == ORIGINAL:
            return cls()
        method = cls(tuple(_parse_step(part.strip(), text) for part in text.split("+")))
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
        names = {name for name, _ in self.steps}
        kinds = {"svd": {"svd"}, "prune": {"prune"}, "bits": {"bits", "ternary"}}
        return next((kind for kind, members in kinds.items() if names & members), "rounding")

    def rank(self, shape: tuple[int, ...]) -> int | None:
        """The rank that a block of `shape` is left with by the SVD, or None without one."""
        ranks = [value.of(shape[0]) for _, value in self.steps if isinstance(value, Rank)]
        return min(*ranks, *shape) if ranks else None

    def apply(self, matrix: Tensor) -> Tensor:
        """The compressed matrix, a new one of the same shape and dtype."""
        result = self.store(matrix).matrix().to(matrix.dtype)
        return result.clone() if result.data_ptr() == matrix.data_ptr() else result

    def store(self, matrix: Tensor) -> Form:
        """The compressed matrix in the form of the fewest bits: `matrix()` is what `apply` gives, `bits` what it costs.

        Args:
            matrix: (N, M).

        Raises:
            ValueError: it is no matrix, or holds values that are not finite.
        """
        if matrix.dim() != 2:
            raise ValueError(f"a matrix is expected, got shape {tuple(matrix.shape)}")
        if not is_finite(matrix):
            raise ValueError("the weights hold values that are not finite: did the training diverge?")
        matrix = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
        form: Form = Dense(matrix)
        for index, (name, value) in enumerate(self.steps):
            if isinstance(value, Rank):
                if (rank := value.of(len(matrix))) < min(matrix.shape):
                    rest = Method(self.steps[index + 1 :])
                    factors = Factors(*(rest.store(factor) for factor in factorize(form.matrix(), rank)))
                    form = _smaller(Dense(factors.matrix()), factors)  # near full rank the product is smaller
                    break
            else:
                found = OPERATORS[name](form.matrix(), *(() if value is None else (value,)))
                form = Dense(found) if isinstance(found, Tensor) else found
        result = form.matrix()
        if not is_finite(result):
            raise ValueError(f"{self} makes values that are not finite of these weights")
        return form if isinstance(form, Factors) or not self.steps else _smaller(form, cheapest(result))


def _smaller(first: Form, second: Form) -> Form:
    """The one of fewer bits, of equal ones the first."""
    return second if second.bits < first.bits else first


def _parse_step(part: str, text: str) -> tuple[str, Value]:
    name, separator, value = part.partition(":")
    try:
        if name == "ternary" and not separator:
            return name, None
        if name == "svd" and (found := re.fullmatch(r"(H/)?(\d+)", value)):
            return name, Rank(int(found[2]), found[1] is not None)
        if name == "bits":
            return name, int(value)
        if name in ("round", "clip", "prune"):
            return name, float(value)
    except ValueError as error:
        if name == "svd":
            raise ValueError(f"{text}: {error}") from None
    raise ValueError(f"{part!r} is no compression setting: write for example {EXAMPLES}")


def _exactly(value: Value) -> str:
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
