"""G2-LSTM: an LSTM whose input and forget gates are trained as relaxed coin flips (Li et al., ICML 2018)."""

from g2lstm.cell import G2LSTMCell
from g2lstm.gates import GumbelGate, HardGate, SharpenedGate, SigmoidGate, TemperatureSchedule
from g2lstm.lstm import G2LSTM
from g2lstm.version import __version__

__all__ = [
    "G2LSTM",
    "G2LSTMCell",
    "GumbelGate",
    "HardGate",
    "SharpenedGate",
    "SigmoidGate",
    "TemperatureSchedule",
    "__version__",
]
