"""Columns of a batch draw what they would have in the whole of it."""

import pytest
import torch

from g2lstm import G2LSTM, columns
from g2lstm.columns import Columns
from g2lstm.gates import GumbelGate
from g2lstm.layers.regularization import dropout, embed, locked_dropout


@pytest.mark.parametrize("total", [1, 2, 7, 20])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_are_a_batch(total, parts):
    found = [columns.split(total, part, parts) for part in range(parts)]
    numbers = [column for part in found if not part.idle for column in range(part.first, part.first + part.count)]
    assert numbers == list(range(total))
    assert sum(part.share for part in found) == pytest.approx(1)
    assert all(part.count for part in found)  # an idle one computes too, what does not count


@pytest.mark.parametrize("engine", ["reference", "bptt", "native"])
@pytest.mark.parametrize(("scope", "kind"), [("step", "h"), ("sequence", "g"), ("mask", "g_sequence")])
def test_noise_and_dropout_of_columns_are_those_of_the_batch(engine, scope, kind):
    part = Columns(2, 3, 7)
    gate = GumbelGate(tau=0.9, noise_p=0.7, noise_scope=scope)
    masks = {"recurrent_dropout": 0.3, "recurrent_dropout_kind": kind, "zoneout": (0.2, 0.1)}
    table = torch.nn.Embedding(2, 3)
    rnn = G2LSTM(5, 6, 2, dropout=0.4, weight_dropout=0.3, bidirectional=True, gate=gate, engine=engine, **masks)
    x = torch.randn(4, 7, 5)
    lengths = torch.tensor([4, 2, 3, 1, 2, 2, 3])  # the columns' own are shorter
    packed = torch.nn.utils.rnn.pack_padded_sequence

    def run(x, lengths):
        torch.manual_seed(1)
        dropped = dropout(locked_dropout(x, 0.3), 0.2)
        output = rnn(dropped)[0]
        padded = torch.nn.utils.rnn.pad_packed_sequence(
            rnn(packed(dropped, lengths, enforce_sorted=False))[0], total_length=4
        )[0]
        words = embed(torch.zeros(4, len(lengths), dtype=torch.int64), table, 0.5)
        return output, padded, words

    whole = run(x, lengths)
    with part.drawn(steps=4):
        parts = run(part.of(x), lengths[2:5])
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, part.of(other), atol=1e-6, rtol=1e-5)
    assert columns.present() is None


def test_a_draw_of_another_width_is_refused():
    with Columns(0, 3, 7).drawn(), pytest.raises(ValueError, match="has not as many in dimension 1"):
        locked_dropout(torch.ones(2, 4, 3), 0.5)
