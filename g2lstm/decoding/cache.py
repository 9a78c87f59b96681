"""The continuous cache pointer (Grave et al. 2016, arXiv 1612.04426).

A language model tends to say again what it has just said. The cache remembers the last `window` hidden states h_i and
the words x_i+1 that followed them, and votes for those words by how much the states resemble the present one:

    p_cache(w | t) = sum over i with x_i+1 = w of  softmax_i(theta * h_t . h_i),    t - window <= i < t
    p(w | t)       = (1 - lambda) * p_model(w | t) + lambda * p_cache(w | t)

T time, B batch, D hidden, K positions in reach of a block (remembered + T).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Blocks are cut to this or the window, whichever is more: longer ones mostly compute scores outside the window.
MIN_PIECE = 128


class ContinuousCache:
    """A cache pointer over B streams of one text that arrive in blocks; the blocks' lengths do not change the result.

    Args:
        window: positions remembered.
        theta: how sharply resemblance counts; 0 makes all remembered positions equal.
        weight: lambda, the share of the cache in the mixture, in [0, 1).

    Raises:
        ValueError: no position is remembered, or the weight is out of range.
    """

    def __init__(self, window: int = 500, theta: float = 1.0, weight: float = 0.1) -> None:
        if window < 1 or not 0 <= weight < 1:
            raise ValueError(f"window must be at least 1 and weight in [0, 1), got {window} and {weight}")
        self.window, self.theta, self.weight = window, theta, weight
        self._hidden: Tensor | None = None  # (W, B, D), W <= window
        self._words: Tensor | None = None  # (W, B), the word that followed each

    @torch.no_grad()
    def probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The cache's probability of each target, then takes the block into the cache.

        Args:
            hidden: (T, B, D), the state that predicts each target.
            targets: (T, B) int64.

        Returns:
            (T, B) in float32 (float64 for float64 states); 0 at the first position of a text.
        """
        piece = max(self.window, MIN_PIECE)
        pairs = zip(hidden.split(piece), targets.split(piece), strict=True)
        return torch.cat([self._piece(h, words) for h, words in pairs])

    @torch.no_grad()
    def mix(self, hidden: Tensor, targets: Tensor, log_probabilities: Tensor) -> Tensor:
        """Log-probability of each target under model and cache together, then takes the block into the cache.

        Args:
            hidden, targets: as in `probabilities`.
            log_probabilities: (T, B), the model's own log p(target).

        Returns:
            (T, B) log p(target), natural, in the dtype of log_probabilities.
        """
        if self.weight == 0:
            return log_probabilities
        # deviation: AWD-LSTM's pointer.py leaves the cache out until the window is full; here the positions that are
        # there are used from the second word on, and only the first word is the model's alone.
        alone = 1 if self._words is None else 0
        cache = self.probabilities(hidden, targets).log_()  # (T, B), -inf for a word not remembered
        model = log_probabilities.to(cache.dtype)
        mixed = torch.logaddexp(model + math.log1p(-self.weight), cache + math.log(self.weight))
        mixed[:alone] = model[:alone]
        return mixed.to(log_probabilities.dtype)

    def _piece(self, hidden: Tensor, targets: Tensor) -> Tensor:
        hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        past = 0 if self._words is None else len(self._words)
        keys = hidden if self._hidden is None else torch.cat([self._hidden, hidden])  # (K, B, D)
        words = targets if self._words is None else torch.cat([self._words, targets])  # (K, B)
        with torch.autocast(hidden.device.type, enabled=False):
            scores = torch.bmm(hidden.transpose(0, 1), keys.permute(1, 2, 0)).mul_(self.theta)  # (B, T, K)
        now = torch.arange(past, past + len(targets), device=targets.device).unsqueeze(1)  # (T, 1)
        index = torch.arange(len(words), device=targets.device)  # (K)
        outside = (index >= now) | (index < now - self.window)  # (T, K)
        attention = scores.masked_fill_(outside, -math.inf).softmax(-1)
        if past == 0:
            attention[:, 0] = 0  # a softmax over nothing
        same = targets.mT.unsqueeze(2) == words.mT.unsqueeze(1)  # (B, T, K)
        self._hidden, self._words = keys[-self.window :], words[-self.window :]
        return attention.mul_(same).sum(-1).mT
