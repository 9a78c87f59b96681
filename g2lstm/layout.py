"""What the parameters of nn.LSTM and nn.LSTMCell are called, and how their rows are cut into the blocks i, f, g, o.

H hidden units, D input, P proj_size or H. W_ih (4H, D), W_hh (4H, P) and both biases (4H,) hold a block of H rows for
each of the gates i, f, the candidate g and the gate o; W_hr (P, H) projects the hidden state. nn.LSTM's names end in the
number of the layer and the direction, `weight_ih_l0_reverse`; nn.LSTMCell's don't.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCKS = ("i", "f", "g", "o")
MATRICES = {"input": "weight_ih", "recurrent": "weight_hh"}
BIASES = ("bias_ih", "bias_hh")
PROJECTION = "weight_hr"

LSTMModule = nn.LSTM | nn.LSTMCell
State = tuple[Tensor, Tensor]


class Weights(NamedTuple):
    """The parameters of one layer and direction: W_ih (4H, D), W_hh (4H, P), biases (4H,), W_hr (P, H)."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None

    def bias(self) -> Tensor | None:
        """Their sum, (4H,), which is all that the numbers depend on."""
        return None if self.bias_ih is None or self.bias_hh is None else self.bias_ih + self.bias_hh


def rows(block: str, size: int) -> slice:
    """The rows of a block, with H units."""
    place = BLOCKS.index(block)
    return slice(place * size, (place + 1) * size)


def rows_of(numbers: tuple[float, ...], size: int, like: Tensor) -> Tensor:
    """(4H,) from one number for each block, in the dtype and on the device of `like`."""
    return like.new_tensor(numbers).repeat_interleave(size)


def modules(model: nn.Module, remove_duplicate: bool = True) -> Iterator[tuple[str, LSTMModule]]:
    """Every nn.LSTM, nn.LSTMCell, G2LSTM and G2LSTMCell of a model with its name; a model that is one has the name ""."""
    for name, module in model.named_modules(remove_duplicate=remove_duplicate):
        if isinstance(module, LSTMModule):
            yield name, module


def endings(module: LSTMModule) -> list[list[str]]:
    """For each layer how the names of its parameters end, in each direction: [["_l0", "_l0_reverse"]]; [[""]] for a cell."""
    if isinstance(module, nn.LSTMCell):
        return [[""]]
    return layer_endings(module.num_layers, module.bidirectional)


def layer_endings(num_layers: int, bidirectional: bool) -> list[list[str]]:
    """The same for an nn.LSTM of these options."""
    return [[f"_l{layer}{end}" for end in ("", "_reverse")[: 1 + bidirectional]] for layer in range(num_layers)]


def weights(module: LSTMModule, ending: str) -> Weights:
    """The parameters of one layer and direction."""
    ih, hh = (getattr(module, f"{name}{ending}") for name in MATRICES.values())
    bias_ih, bias_hh = (getattr(module, f"{name}{ending}") if module.bias else None for name in BIASES)
    return Weights(ih, hh, bias_ih, bias_hh, getattr(module, f"{PROJECTION}{ending}", None))


def has_blocks(parameter: str) -> bool:
    """Whether the rows of a parameter of one of these modules, named without the module, are blocks."""
    return not parameter.startswith(PROJECTION)


def scale_blocks(state: dict[str, Tensor], factors: tuple[float, ...]) -> dict[str, Tensor]:
    """A `state_dict` of one of these modules with the rows of each block multiplied, which multiplies pre-activations."""
    scaled = {}
    for name, tensor in state.items():
        size = len(tensor) // len(BLOCKS)
        factor = rows_of(factors, size, tensor).view(-1, *[1] * (tensor.dim() - 1)) if has_blocks(name) else None
        scaled[name] = tensor if factor is None else tensor * factor
    return scaled


def matrices(model: nn.Module) -> dict[str, dict[str, list[str]]]:
    """Names of weight matrices: {"encoder.l0": {"input": [its W_ih, and the reverse direction's], "recurrent": [...]}}

    A cell is called as its module, "decoder"; a model that is a cell, "cell".
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name, module in modules(model):
        prefix = f"{name}." if name else ""
        for number, ends in enumerate(endings(module)):
            layer = f"{prefix}l{number}" if isinstance(module, nn.LSTM) else name or "cell"
            found[layer] = {kind: [f"{prefix}{matrix}{end}" for end in ends] for kind, matrix in MATRICES.items()}
    return found


def blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """The blocks i, f, g, o of a (4H, ...) tensor, as views."""
    return torch.chunk(tensor, len(BLOCKS))
