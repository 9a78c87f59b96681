"""What an engine is asked and told. It runs one layer in one direction, and knows nothing of what a gate is.

Every engine is a module with two functions:

    run(x, (h0, c0), weights, options) -> h, (h_n, c_n)

    x          (T, B, D)   the layer's input, in whose dtype the products run
    h0, c0     (B, P), (B, H)
    weights                a `layout.Weights` in any floating dtype, W_hh masked where DropConnect is used
    h          (T, B, P)   in x's dtype, by input time; not defined beyond a sequence's length
    h_n, c_n   (B, P), (B, H) after each sequence's last step, c_n float32 where x is float16 or bfloat16

    lacks(request) -> why the engine can't do what is asked, or None

T time, B batch, D input, H hidden units, P proj_size or H.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from g2lstm.engines.noise import NoiseRecipe
from g2lstm.layout import BLOCKS

Scale = tuple[float, float, float, float]
UNSCALED: Scale = (1.0, 1.0, 1.0, 1.0)


class Masks(NamedTuple):
    """What recurrent dropout and zoneout multiply by, in the dtype of the cell state, constants for autograd, or None.

    `h` (B, P) multiplies h before the product with W_hh, `g` (T, B, H) the candidate. `kept_c` (T, B, H) and `kept_h`
    (T, B, P) say how much of the old state stays where a step has made a new one: c = kept_c * old + (1 - kept_c) * new.
    """

    h: Tensor | None = None
    g: Tensor | None = None
    kept_c: Tensor | None = None
    kept_h: Tensor | None = None


NO_MASKS = Masks()


@dataclass(frozen=True)
class Options:
    """How a pass differs from an LSTM's.

    Attributes:
        lengths: (B,) int64 steps of each sequence; a sequence keeps its state in the steps beyond. None where all have T.
        reverse: runs from the last step to the first; everything stays indexed by input time.
        noise: (T, B, K) added to the first K of the 4H pre-activations, or a recipe to draw it from, or None.
        scale: what the sum of input, recurrent part, bias and noise is multiplied by in the blocks i, f, g, o, or None.
        hard: blocks whose value is 0 or 1, a > 0, with the gradient of the sigmoid ("straight-through").
        masks: of recurrent dropout and zoneout.
    """

    lengths: Tensor | None = None
    reverse: bool = False
    noise: Tensor | NoiseRecipe | None = None
    scale: Scale | None = None
    hard: tuple[str, ...] = ()
    masks: Masks = NO_MASKS

    @property
    def hard_blocks(self) -> list[int]:
        """For each of the blocks i, f, g, o whether it is hard, 1 or 0."""
        return [int(block in self.hard) for block in BLOCKS]


@dataclass(frozen=True)
class Request:
    """What an engine has to be able to do.

    Attributes:
        device, dtype: of the input.
        size: H.
        steps: T.
        projected: whether the hidden state is projected.
        noisy, scaled, hard, masked: whether a pass has any of these `Options`.
        training: of the module.
        autocast: whether the input was cast for it: the cell state has to be kept in float32.
    """

    device: torch.device
    dtype: torch.dtype
    size: int
    steps: int = 2
    projected: bool = False
    noisy: bool = False
    scaled: bool = False
    hard: bool = False
    masked: bool = False
    training: bool = True
    autocast: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is an LSTM's pass."""
        return not (self.noisy or self.scaled or self.hard or self.masked)
