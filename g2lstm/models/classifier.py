"""A sequence is read by an LSTM and classified by its last hidden state. T time, B batch, D input, H hidden, K classes."""

from typing import Any

import torch
from torch import Tensor, nn

from g2lstm import layout
from g2lstm.gates import Gate
from g2lstm.layers.regularization import locked_dropout
from g2lstm.lstm import G2LSTM


class Classifier(nn.Module):
    """Sequences -> logits. `Classifier(**model.options, gate=...)` builds one of the same kind again.

    Args:
        input_size: D.
        classes: K.
        hidden_size: H.
        num_layers: of the LSTM.
        dropout: between layers and on the last hidden state.
        forget_bias: what is added to the forget gates' initial bias.
        chrono: a number of steps. In place of that the forget gates' biases begin at log u, u uniform from 1 to chrono - 1,
            and the input gates' at -log u, so that units remember from one step to all (Tallec and Ollivier 2018).
        gate, engine: as in `G2LSTM`.
    """

    kind = "classifier"

    def __init__(
        self, input_size: int, classes: int, hidden_size: int = 128, num_layers: int = 1, *,
        dropout: float = 0.0, forget_bias: float = 0.0, chrono: int | None = None,
        gate: Gate | None = None, engine: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__()
        self.options: dict[str, Any] = {
            "input_size": input_size, "classes": classes, "hidden_size": hidden_size, "num_layers": num_layers,
            "dropout": dropout, "forget_bias": forget_bias, "chrono": chrono,
        }  # fmt: skip
        between = dropout if num_layers > 1 else 0.0
        self.lstm = G2LSTM(input_size, hidden_size, num_layers, dropout=between, gate=gate, engine=engine)
        self.dropout = dropout
        self.output = nn.Linear(hidden_size, classes)
        for (ending,) in layout.endings(self.lstm):
            weights = layout.weights(self.lstm, ending)
            _initialise(weights.bias_ih, weights.bias_hh, hidden_size, forget_bias, chrono)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, D) -> (B, K)."""
        _, (h, _) = self.lstm(x)  # (layers, B, H)
        return self.output(locked_dropout(h[-1:], self.dropout, self.training)[0])


@torch.no_grad()
def _initialise(bias: Any, other: Any, size: int, forget_bias: float, chrono: int | None) -> None:
    """The input and forget gates' part of a layer's two (4H,) biases, which are added."""
    i, f = layout.rows("i", size), layout.rows("f", size)
    if chrono is None:
        bias[f] += forget_bias
        return
    bias[f] = torch.empty(size).uniform_(1, chrono - 1).log()
    bias[i] = -bias[f]
    other[i] = other[f] = 0.0
