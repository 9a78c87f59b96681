"""Attention against its formulas, written with loops over sentences and steps."""

import pytest
import torch
from torch import Tensor

from g2lstm.layers import attention
from g2lstm.layers.attention import Attention, Memory

LENGTHS, QUERY, MEMORY = torch.tensor([5, 2, 1]), 4, 6


def make(kind: str) -> tuple[Attention, Memory]:
    torch.manual_seed(0)
    layer = Attention(QUERY, MEMORY, kind).double()
    inside = torch.arange(5) < LENGTHS.unsqueeze(1)
    values = torch.randn(5, 3, MEMORY, dtype=torch.float64) * inside.mT.unsqueeze(-1)
    return layer, layer.remember(values, inside)


def expected(layer: Attention, query: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Context and weights of one query on the (S, M) values of one sentence."""
    if layer.kind == "dot":
        energies = torch.stack([query @ (layer.key.weight @ value) for value in values])
    else:
        shifted = layer.query.weight @ query + layer.query.bias
        energies = torch.stack([layer.energy @ torch.tanh(shifted + layer.key.weight @ value) for value in values])
    weights = energies.exp() / energies.exp().sum()
    return weights @ values, weights


@pytest.mark.parametrize("kind", attention.KINDS)
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_each_query_reads_its_own_sentence(kind, beam, chunk, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", chunk)
    layer, memory = make(kind)
    queries = torch.randn(7, 3 * beam, QUERY, dtype=torch.float64)
    context, weights = layer(queries, memory)
    assert (context.shape, weights.shape) == ((7, 3 * beam, MEMORY), (7, 3 * beam, 5))
    for t in range(7):
        for row in range(3 * beam):
            length = int(LENGTHS[row // beam])
            read, where = expected(layer, queries[t, row], memory.values[row // beam, :length])
            torch.testing.assert_close(context[t, row], read)
            torch.testing.assert_close(weights[t, row, :length], where)
            assert not weights[t, row, length:].any()


@pytest.mark.parametrize("kind", attention.KINDS)
def test_a_chunk_changes_no_gradient(kind, monkeypatch):
    layer, memory = make(kind)
    queries = torch.randn(7, 3, QUERY, dtype=torch.float64)
    gradients = []
    for chunk in (1, 2**20):
        monkeypatch.setattr(attention, "CHUNK_ELEMENTS", chunk)
        kept = layer.remember(memory.values.transpose(0, 1), memory.inside)
        gradients.append(torch.autograd.grad(layer(queries, kept)[0].pow(2).sum(), layer.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    torch.testing.assert_close(*gradients)


def test_the_mean_leaves_padding_out():
    _, memory = make("dot")
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(memory.mean()[row], memory.values[row, :length].mean(0))


def test_selected_sentences_keep_all_they_have():
    _, memory = make("dot")
    chosen = memory.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.values, memory.values[[2, 0]])
    assert torch.equal(chosen.keys, memory.keys[[2, 0]])
    assert torch.equal(chosen.inside, memory.inside[[2, 0]])


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match=r"one of dot, additive, got 'cosine'"):
        Attention(QUERY, MEMORY, "cosine")
