"""Forecasts of a series: LSTM layers and a linear head, many steps in, many steps out.

T time, B batch, D columns read, K columns forecast (the first of D), H hidden units, P steps ahead.
"""

from typing import Any

from torch import Tensor, nn

from g2lstm.gates import Gate
from g2lstm.lstm import G2LSTM


class Forecaster(nn.Module):
    """At each step it says the next P. `Forecaster(**model.options, gate=...)` builds one of the same kind again.

    Args:
        columns: D.
        targets: K.
        horizon: P.
        hidden_size, num_layers, dropout: of the LSTM, as in nn.LSTM.
        residual: the head says how far a value will be from the present one.
        gate, engine: as in `G2LSTM`.
    """

    kind = "forecaster"

    def __init__(
        self,
        columns: int,
        targets: int,
        horizon: int,
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        residual: bool = True,
        gate: Gate | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "columns": columns, "targets": targets, "horizon": horizon, "hidden_size": hidden_size,
            "num_layers": num_layers, "dropout": dropout, "residual": residual,
        }  # fmt: skip
        if dropout and num_layers == 1:
            raise ValueError(f"dropout={dropout} is between layers, and there is one: set num_layers=2, or dropout=0")
        self.targets, self.horizon, self.residual = targets, horizon, residual
        self.rnn = G2LSTM(columns, hidden_size, num_layers, dropout=dropout, gate=gate, engine=engine)
        self.head = nn.Linear(hidden_size, horizon * targets)

    def forward(self, x: Tensor, steps: int = 1) -> Tensor:
        """(T, B, D) normalised values -> (steps, B, P, K) forecasts made at the last steps."""
        output = self.head(self.rnn(x)[0][-steps:])
        found = output.unflatten(-1, (self.horizon, self.targets))
        return found + x[-steps:, :, None, : self.targets] if self.residual else found
