"""Attention of a decoder on what an encoder read (Bahdanau et al. 2015, arXiv 1409.0473; Luong et al. 2015, 1508.04025).

    dot        e_ts = q_t . (W m_s)
    additive   e_ts = v . tanh(U q_t + W m_s)
    a_t = softmax_s(e_t),   context_t = sum_s a_ts m_s

S source steps, T target steps, N sentences, R rows of queries, a multiple of N; Q query size, M memory size, A size of keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

KINDS = ("dot", "additive")
# Additive energies take an (A,) vector for each pair of steps: so many numbers at a time, which stay in the cache.
CHUNK_ELEMENTS = 2**19


@dataclass(frozen=True)
class Memory:
    """What an encoder read.

    Attributes:
        values: (N, S, M), 0 beyond a sentence's length.
        keys: (N, S, A), what queries are compared with.
        inside: (N, S), true in the steps of each sentence.
    """

    values: Tensor
    keys: Tensor
    inside: Tensor

    def select(self, sentences: Tensor) -> "Memory":
        """Some of the sentences, by their numbers."""
        return Memory(*(part.index_select(0, sentences) for part in (self.values, self.keys, self.inside)))

    def mean(self) -> Tensor:
        """(N, M) mean of each sentence's values."""
        return self.values.sum(1) / self.inside.sum(1, keepdim=True)


class Attention(nn.Module):
    """Which parts of the source a decoder state reads.

    Args:
        query_size: Q.
        memory_size: M.
        kind: "dot" or "additive"; A is Q for both.
    """

    def __init__(self, query_size: int, memory_size: int, kind: str = "additive") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"attention must be one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind
        self.key = nn.Linear(memory_size, query_size, bias=False)
        if kind == "additive":
            self.query = nn.Linear(query_size, query_size)
            self.energy = nn.Parameter(torch.empty(query_size).uniform_(-(query_size**-0.5), query_size**-0.5))

    def remember(self, values: Tensor, inside: Tensor) -> Memory:
        """(S, N, M) encoder states, 0 beyond a sentence's length, and (N, S) where they are not -> what is read."""
        values = values.transpose(0, 1).contiguous()
        return Memory(values, self.key(values), inside)

    def forward(self, queries: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """(T, R, Q) queries, those of a sentence side by side -> (T, R, M) contexts, (T, R, S) weights."""
        time, rows, _ = queries.shape
        sentences = len(memory.inside)
        sizes = time, sentences, rows // sentences, -1
        q = queries.reshape(sizes).transpose(0, 1).flatten(1, 2)  # (N, T * R/N, Q)
        energies = self._additive(self.query(q), memory.keys) if self.kind == "additive" else q @ memory.keys.mT
        weights = energies.masked_fill(~memory.inside.unsqueeze(1), -torch.inf).softmax(-1)  # (N, T * R/N, S)
        context = weights.to(memory.values.dtype) @ memory.values

        def by_step(x: Tensor) -> Tensor:
            return x.view(sentences, time, -1, x.shape[-1]).transpose(0, 1).flatten(1, 2)

        return by_step(context), by_step(weights)

    def _additive(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(N, T, A), (N, S, A) -> (N, T, S)."""
        steps = max(CHUNK_ELEMENTS // keys.numel(), 1)
        return torch.cat([_energies(part, keys, self.energy.to(keys.dtype)) for part in queries.split(steps, 1)], 1)


def _energies(queries: Tensor, keys: Tensor, energy: Tensor) -> Tensor:
    return (queries.unsqueeze(2) + keys.unsqueeze(1)).tanh() @ energy
