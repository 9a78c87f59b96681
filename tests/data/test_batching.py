"""Batches: each pair once, little padding, the same again for the same generator."""

import numpy as np
import pytest
import torch

from g2lstm.data.batching import evaluation_batches, padded, padded_sources, padding_share, plan_batches
from g2lstm.data.pairs import encode_pairs
from g2lstm.errors import UserError
from g2lstm.models.translation import BOS, EOS, PAD


def sentence_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Lengths of sources and of targets that are about as long, at most 64."""
    draw = np.random.default_rng(seed)
    source = draw.gamma(2.5, 9, count)
    target = source * draw.lognormal(0, 0.2, count)
    return np.clip(np.stack([source, target], axis=1).round(), 1, 64).astype(np.int64)


LENGTHS = sentence_lengths(50_000)


@pytest.mark.parametrize("size", [{"tokens": 1500}, {"sentences": 32}, {"sentences": 64}])
def test_each_pair_is_in_one_batch_and_little_is_padding(size: dict[str, int]):
    batches = plan_batches(LENGTHS, generator=torch.Generator().manual_seed(1), **size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert padding_share(LENGTHS, batches) < 0.06
    if "tokens" in size:
        assert max(len(batch) * (LENGTHS[batch, 1].max() + 1) for batch in batches) <= size["tokens"]
    else:
        assert sorted(len(batch) for batch in batches)[1:] == [size["sentences"]] * (len(batches) - 1)


def test_the_padding_share_counts_both_sides():
    lengths = np.array([[1, 3], [3, 3]])  # 2 and 4 source steps, 4 and 4 target steps
    assert padding_share(lengths, [[0, 1]]) == 2 / 16
    assert padding_share(lengths, [[0], [1]]) == 0


def test_a_plan_is_the_same_for_the_same_state_and_another_in_the_next_epoch():
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    first, second = (plan_batches(LENGTHS, generator=generator, tokens=1500) for _ in range(2))
    generator.set_state(state)
    assert plan_batches(LENGTHS, generator=generator, tokens=1500) == first
    assert len({frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}) < 0.02 * len(first)
    lengths = [LENGTHS[batch, 1].max() for batch in first]
    assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.2  # not short ones first


def test_a_pair_longer_than_a_batch_is_one_by_itself():
    batches = plan_batches(np.array([[3, 500], [2, 2], [2, 2]]), generator=torch.Generator(), tokens=20)
    assert sorted(map(sorted, batches)) == [[0], [1, 2]]
    assert plan_batches(np.zeros((0, 2), np.int64), generator=torch.Generator(), tokens=20) == []


@pytest.mark.parametrize("size", [{}, {"tokens": 9, "sentences": 9}, {"tokens": 0}, {"sentences": -1}])
def test_a_batch_has_one_size(size: dict[str, int]):
    with pytest.raises(UserError, match="set one of batch_tokens and batch_size"):
        plan_batches(LENGTHS, generator=torch.Generator(), **size)


def test_an_evaluation_batch_has_one_target_length_and_bounds_both_sides():
    batches = evaluation_batches(LENGTHS, 2000)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert all(len({*LENGTHS[batch, 1].tolist()}) == 1 for batch in batches)
    assert max(len(batch) * (LENGTHS[batch].max() + 1) for batch in batches) <= 2000


def test_a_batch_holds_its_sentences_and_padding():
    ids = {"a": [5, 6, 7], "b": [8], "c": [9, 10], "d": [11, 12, 13, 14]}
    pairs = encode_pairs([("a", "b"), ("c", "d")], lambda *sides: tuple([ids[line] for line in side] for side in sides))
    batch = padded(pairs, [1, 0]).to(torch.device("cpu"))
    assert batch.source.T.tolist() == [[9, 10, EOS, PAD], [5, 6, 7, EOS]]
    assert batch.source_lengths.tolist() == [3, 4]
    assert batch.inputs.T.tolist() == [[BOS, 11, 12, 13, 14], [BOS, 8, PAD, PAD, PAD]]
    assert batch.targets.T.tolist() == [[11, 12, 13, 14, EOS], [8, EOS, PAD, PAD, PAD]]
    assert {part.dtype for part in (batch.source, batch.source_lengths, batch.inputs, batch.targets)} == {torch.int64}


def test_an_empty_line_is_a_source_too():
    source, lengths = padded_sources([[], [7, 8]])
    assert source.T.tolist() == [[EOS, PAD, PAD], [7, 8, EOS]]
    assert lengths.tolist() == [1, 3]
