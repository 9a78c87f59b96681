"""AWD-LSTM (Merity et al. 2017, arXiv 1708.02182) with the gates of `g2lstm.gates`: the paper's language model.

T time, B batch, E embedding, H hidden units, V vocabulary, L layers: E -> H -> ... -> H -> E, so that the output layer can
share the embedding's weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from g2lstm.gates import Gate
from g2lstm.layers.output import OutputLayer
from g2lstm.layers.regularization import embed, locked_dropout
from g2lstm.lstm import G2LSTM
from g2lstm.masks import RecurrentDropoutKind

LayerState = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Features:
    """What the last layer gives.

    Attributes:
        raw: (T, B, E) its hidden states, which TAR and the cache pointer read.
        dropped: (T, B, E) the same after dropout, which AR and the output layer read.
        state: (h, c) of each layer after the last step, (1, B, ·) each.
    """

    raw: Tensor
    dropped: Tensor
    state: list[LayerState]


class LanguageModel(nn.Module):
    """Word-level AWD-LSTM language model. `LanguageModel(**model.options, gate=...)` builds one of the same kind again.

    Args:
        vocabulary_size: V.
        embedding_size: E, of the embedding and of the last layer.
        hidden_size: H, of the other layers.
        num_layers: L.
        tied: the output layer's weight is the embedding's.
        dropout_input: variational dropout on the embedded words.
        dropout_hidden: variational dropout between layers.
        dropout_output: variational dropout on the last layer.
        dropout_embedding: share of words dropped from the embedding in a forward pass.
        dropout_scale: what these four are multiplied by.
        weight_dropout: DropConnect on each W_hh.
        recurrent_dropout, recurrent_dropout_kind, zoneout, gate, engine: as in `G2LSTM`.
    """

    kind = "language_model"

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int = 400,
        hidden_size: int = 1150,
        num_layers: int = 3,
        *,
        tied: bool = True,
        dropout_input: float = 0.4,
        dropout_hidden: float = 0.25,
        dropout_output: float = 0.4,
        dropout_embedding: float = 0.1,
        dropout_scale: float = 1.0,
        weight_dropout: float = 0.5,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: RecurrentDropoutKind = "h",
        zoneout: float | Sequence[float] = 0.0,
        gate: Gate | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "vocabulary_size": vocabulary_size, "embedding_size": embedding_size, "hidden_size": hidden_size,
            "num_layers": num_layers, "tied": tied, "dropout_input": dropout_input, "dropout_hidden": dropout_hidden,
            "dropout_output": dropout_output, "dropout_embedding": dropout_embedding, "dropout_scale": dropout_scale,
            "weight_dropout": weight_dropout, "recurrent_dropout": recurrent_dropout,
            "recurrent_dropout_kind": recurrent_dropout_kind, "zoneout": zoneout,
        }  # fmt: skip
        sizes = [embedding_size, *[hidden_size] * (num_layers - 1), embedding_size]
        rates = [dropout_scale * rate for rate in (dropout_input, dropout_hidden, dropout_output, dropout_embedding)]
        if not all(0 <= rate < 1 for rate in rates):
            raise ValueError(f"dropout rates must be in [0, 1), got {rates} with dropout_scale {dropout_scale}")
        self.dropout_input, self.dropout_hidden, self.dropout_output, self.dropout_embedding = rates
        self.embedding = nn.Embedding(vocabulary_size, embedding_size)
        masks = {name: self.options[name] for name in ("recurrent_dropout", "recurrent_dropout_kind", "zoneout")}
        self.layers = nn.ModuleList(
            G2LSTM(size_in, size_out, gate=gate, weight_dropout=weight_dropout, **masks, engine=engine)
            for size_in, size_out in pairwise(sizes)
        )
        self.output_weight = None if tied else nn.Parameter(torch.empty(vocabulary_size, embedding_size))
        self.output_bias = nn.Parameter(torch.zeros(vocabulary_size))
        self.output_layer = OutputLayer()
        with torch.no_grad():
            for weight in (self.embedding.weight, self.output_weight):
                if weight is not None:
                    weight.uniform_(-0.1, 0.1)

    @property
    def decoder_weight(self) -> Tensor:
        """(V, E) weight of the output layer."""
        return self.embedding.weight if self.output_weight is None else self.output_weight

    def forward(self, tokens: Tensor, state: list[LayerState] | None = None) -> Features:
        """Reads (T, B) word numbers from `state` on, or from zeros."""
        x = embed(tokens, self.embedding, self.dropout_embedding, self.training)  # (T, B, E)
        x = locked_dropout(x, self.dropout_input, self.training)
        after, raw, last = [], x, len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            raw, layer_state = layer(x, None if state is None else state[index])  # (T, B, H)
            after.append(layer_state)
            x = locked_dropout(raw, self.dropout_output if index == last else self.dropout_hidden, self.training)
        return Features(raw, x, after)

    def loss(self, dropped: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of (T, B) targets given the last layer's (T, B, E) features.

        Returns:
            a scalar, or (T, B) with reduction "none".
        """
        flat = self.output_layer(
            dropped.flatten(0, 1), self.decoder_weight, self.output_bias, targets.flatten(), reduction=reduction
        )
        return flat.view_as(targets) if reduction == "none" else flat


def detached(state: list[LayerState]) -> list[LayerState]:
    """The same state, cut off from the graph: the border of a truncated back-propagation."""
    return [(h.detach(), c.detach()) for h, c in state]
