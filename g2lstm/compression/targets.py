"""Which blocks of a model are compressed: by gate, matrix and layer, in any model that holds LSTM layers or cells.

H hidden units, D input, P proj_size or H. The rows of W_ih (4H, D) and W_hh (4H, P) are blocks, see `g2lstm.layout`; each
is compressed by itself. Biases and projections never are.
"""

import copy
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from g2lstm.compression.forms import Form
from g2lstm.compression.methods import Method
from g2lstm.layout import BLOCKS, MATRICES, matrices, rows


@dataclass(frozen=True)
class Target:
    """What is to be compressed; the default is the paper's.

    Attributes:
        gates: of i, f, g, o.
        matrices: of input (W_ih) and recurrent (W_hh).
        layers: numbers, counted through the model and from its end where negative, or names of layers, cells or modules that
            hold some; None is all of them.
    """

    gates: tuple[str, ...] = ("i", "f")
    matrices: tuple[str, ...] = ("input", "recurrent")
    layers: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        _check("gates", self.gates, BLOCKS)
        _check("matrices", self.matrices, MATRICES)

    @classmethod
    def parse(cls, gates: str = "if", matrices: str = "both", layers: str = "all") -> "Target":
        """From texts: "if" or "i,f"; "input", "recurrent" or "both"; "all" or "0,-1,encoder"."""
        wanted = tuple(MATRICES) if matrices == "both" else tuple(matrices.split(","))
        parts = [part.strip() for part in layers.split(",")]
        names = None if layers == "all" else tuple(int(p) if re.fullmatch(r"[+-]?\d+", p) else p for p in parts)
        return cls(tuple(sorted(gates.replace(",", ""), key="".join(BLOCKS).find)), wanted, names)

    def __str__(self) -> str:
        layers = "all layers" if self.layers is None else f"layers {', '.join(map(str, self.layers))}"
        return f"gates {', '.join(self.gates)} of the {' and '.join(self.matrices)} matrices, {layers}"


@dataclass(frozen=True)
class Block:
    """The rows of one gate in one weight matrix."""

    parameter: str  # its name in the `state_dict`
    start: int  # its rows
    stop: int
    layer: str  # the name of the layer, as "encoder.l0", or of the cell, as "decoder"

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """(H, D) or (H, P) view of a `state_dict`'s tensor."""
        return state[self.parameter][self.start : self.stop]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed state."""

    method: Method
    state: dict[str, Tensor]  # a `state_dict` like the model's, which shares with it what is not compressed
    forms: dict[Block, Form]  # how each block is kept

    @property
    def bits_per_parameter(self) -> float:
        """Bits that the blocks cost, for each of their entries."""
        entries = sum(block.of(self.state).numel() for block in self.forms)
        return sum(form.bits for form in self.forms.values()) / entries

    @property
    def mean_rank(self) -> float | None:
        """Of the blocks; None where no SVD was asked for."""
        found = (self.method.rank(tuple(block.of(self.state).shape)) for block in self.forms)
        ranks = [rank for rank in found if rank is not None]
        return sum(ranks) / len(ranks) if ranks else None

    def applied_to(self, model: nn.Module) -> nn.Module:
        """A copy of the model with this state."""
        result = copy.deepcopy(model)
        result.load_state_dict(self.state)
        return result


def find_blocks(model: nn.Module, target: Target | None = None) -> list[Block]:
    """The blocks of a model, layer by layer.

    Raises:
        ValueError: the model has no LSTM layer or cell, none that is asked for, or keeps its weights under other names.
    """
    target = target or Target()
    layers = matrices(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no nn.LSTM or G2LSTM layer or cell: there is nothing to compress")
    state, blocks = model.state_dict(), []
    for layer in list(layers) if target.layers is None else _chosen(list(layers), target.layers):
        for parameter in (name for matrix in target.matrices for name in layers[layer][matrix]):
            if parameter not in state:
                raise ValueError(f"the state_dict has no {parameter}: remove parametrisations before compressing")
            for gate in target.gates:
                place = rows(gate, len(state[parameter]) // len(BLOCKS))
                blocks.append(Block(parameter, place.start, place.stop, layer))
    return blocks


def compress(model: nn.Module, method: Method, target: Target | None = None) -> Compressed:
    """A model's state with every targeted block compressed. The model stays as it is.

    Raises:
        ValueError: as `find_blocks`, and where values of the model are not finite.
    """
    originals = dict(model.state_dict())
    for name, tensor in originals.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite: did the training diverge?")
    state = dict(originals)
    forms = {block: method.store(block.of(originals)) for block in find_blocks(model, target)}
    for block, form in forms.items():
        if state[block.parameter] is (original := originals[block.parameter]):
            place = (original.data_ptr(), original.shape)
            shared = [name for name, other in originals.items() if (other.data_ptr(), other.shape) == place]
            state |= dict.fromkeys(shared, original.clone())  # several names where modules share it
        block.of(state).copy_(form.matrix())
    return Compressed(method, state, forms)


def compressed_copy(model: nn.Module, method: Method, target: Target | None = None) -> nn.Module:
    """A copy of the model that computes with the compressed weights."""
    return compress(model, method, target).applied_to(model)


def _chosen(names: list[str], wanted: tuple[int | str, ...]) -> list[str]:
    """The layers asked for, in the model's order. A module's name stands for all layers and cells in it."""
    chosen = set[str]()
    for layer in wanted:
        if isinstance(layer, int):
            matches = [names[layer]] if -len(names) <= layer < len(names) else []
        else:
            matches = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if not matches:
            raise ValueError(f"there is no LSTM layer {layer}: choose 0 to {len(names) - 1}, or of {', '.join(names)}")
        chosen.update(matches)
    return [name for name in names if name in chosen]


def _check(kind: str, given: tuple[str, ...], known: Collection[str]) -> None:
    if not given or not set(given) <= set(known) or len(set(given)) < len(given):
        raise ValueError(f"{kind} must be some of {', '.join(known)}, got {', '.join(given) or 'none'}")
