"""What G2LSTM is compared with, beside nn.LSTM itself.

T time, B batch, D input, H hidden units.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class StepLoop(nn.Module):
    """A G2-LSTM layer as public implementations of the method write it: Python walks over time, autograd does the rest.

    One product with the input and one with the hidden state a step, noise from a uniform and a Bernoulli draw; one mask
    of DropConnect on W_hh a forward pass.
    """

    def __init__(
        self, input_size: int, hidden_size: int, weight_dropout: float = 0.0, *, tau: float = 0.9, noise_p: float = 0.2
    ) -> None:
        super().__init__()
        self.hidden_size, self.weight_dropout, self.tau, self.noise_p = hidden_size, weight_dropout, tau, noise_p
        bound = 1 / math.sqrt(hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(T, B, D) -> (T, B, H) and the last (1, B, H) states."""
        zeros = x.new_zeros(x.shape[1], self.hidden_size)
        h, c = (zeros, zeros) if state is None else (state[0][0], state[1][0])
        weight_hh = F.dropout(self.weight_hh, self.weight_dropout, self.training)
        if self.weight_dropout and torch.is_autocast_enabled(x.device.type):
            weight_hh = weight_hh.to(torch.get_autocast_dtype(x.device.type))  # once, not at every step
        outputs = []
        for x_t in x:
            gates = F.linear(x_t, self.weight_ih, self.bias) + F.linear(h, weight_hh)  # (B, 4H), i f g o
            gated, g, o = gates.split([2 * self.hidden_size, self.hidden_size, self.hidden_size], dim=1)
            i, f = self._gate(gated).chunk(2, dim=1)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs), (h.unsqueeze(0), c.unsqueeze(0))

    def _gate(self, a: Tensor) -> Tensor:
        """Eq. 11-12 with the released code's bound on the noise."""
        if not self.training:
            return torch.sigmoid(a)
        u = torch.rand_like(a)
        perturbed = torch.bernoulli(torch.full_like(a, self.noise_p))
        noise = torch.log(u + 1e-3) - torch.log(1 + 1e-3 - u)
        return torch.sigmoid((a + perturbed * noise) / self.tau)


class DroppedLSTM(nn.Module):
    """nn.LSTM with DropConnect on W_hh (Merity et al. 2017): one mask a forward pass."""

    def __init__(self, input_size: int, hidden_size: int, weight_dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm, self.weight_dropout = nn.LSTM(input_size, hidden_size), weight_dropout

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """(T, B, D) -> (T, B, H) and the last (1, B, H) states."""
        dropped = F.dropout(self.lstm.get_parameter("weight_hh_l0"), self.weight_dropout, self.training)
        return torch.func.functional_call(self.lstm, {"weight_hh_l0": dropped}, (x, state))
