"""The language-modelling task: what is optimised and what is reported."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from g2lstm.data.text import TextCorpus, Vocabulary
from g2lstm.errors import UserError
from g2lstm.gates import SigmoidGate
from g2lstm.models.language_model import LanguageModel
from g2lstm.training.tasks import CacheSettings, LanguageModelTask, evaluate_language_model

V = 7


def corpus(train: int = 101, valid: int = 47, test: int = 31) -> TextCorpus:
    draw = torch.Generator().manual_seed(0)
    splits = [torch.randint(V, (size,), generator=draw) for size in (train, valid, test)]
    return TextCorpus(Vocabulary(("<eos>", *"abcdef")), *splits, origin="drawn")


def make_model(size: int, **options) -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel(size, 5, 6, 2, gate=SigmoidGate(), **options)


def task(**options) -> LanguageModelTask:
    options = {"batch_size": 4, "valid_batch_size": 3, "bptt": 6, "eval_bptt": 8} | options
    return LanguageModelTask(corpus(), make_model, torch.device("cpu"), **options)


def word_losses(model: LanguageModel, words: torch.Tensor) -> list[float]:
    """-log p of each word but the first of one stream, read a word at a time."""
    state, losses = None, []
    with torch.no_grad():
        for word, following in pairwise(words):
            features = model(word.view(1, 1), state)
            state = features.state
            logits = F.linear(features.dropped.view(1, -1), model.decoder_weight, model.output_bias)
            losses.append(F.cross_entropy(logits, following.view(1)).item())
    return losses


def test_an_epoch_reads_every_word_once_in_order():
    t = task()
    plan = t.plan(torch.Generator().manual_seed(1))
    assert plan[0][0] == 0
    assert all(start + length == following for (start, length), (following, _) in pairwise(plan))
    assert sum(plan[-1]) == 101 // 4 - 1
    assert plan == t.plan(torch.Generator().manual_seed(1)) != t.plan(torch.Generator().manual_seed(2))


def test_the_objective_is_cross_entropy_plus_ar_plus_tar():
    t = task(alpha=2.0, beta=1.5)
    model = t.build_model()
    torch.manual_seed(9)
    result = t.loss(model, (6, 5), None)

    columns = t.corpus.train[: 4 * 25].view(4, 25).t()
    torch.manual_seed(9)
    features = model(columns[6:11])
    logits = F.linear(features.dropped, model.decoder_weight, model.output_bias)
    loss = F.cross_entropy(logits.flatten(0, 1), columns[7:12].flatten())
    ar = 2.0 * features.dropped.pow(2).mean()
    tar = 1.5 * (features.raw[1:] - features.raw[:-1]).pow(2).mean()
    torch.testing.assert_close(result.loss, loss)
    torch.testing.assert_close(result.objective, loss + ar + tar)
    assert result.count == 20
    assert not any(part.requires_grad for pair in result.carried for part in pair)


def test_without_ar_and_tar_the_objective_is_the_loss():
    t = task(alpha=0.0, beta=0.0)
    result = t.loss(t.build_model(), (0, 5), None)
    assert result.objective is result.loss


def test_the_learning_rate_follows_the_length_of_a_drawn_segment():
    for random_length, scale in ((True, 3 / 6), (False, 1.0)):
        t = task(random_length=random_length)
        assert t.loss(t.build_model(), (0, 3), None).lr_scale == scale


def test_a_segment_starts_from_the_carried_state():
    t = task()
    model = t.build_model().eval()
    carried = t.loss(model, (0, 6), None).carried
    with_state, without = (t.loss(model, (6, 5), state).loss.item() for state in (carried, None))
    both = t.loss(model, (0, 11), None).loss.item()
    first = t.loss(model, (0, 6), None).loss.item()
    assert with_state == pytest.approx((11 * both - 6 * first) / 5, rel=1e-5)
    assert with_state != without


def test_evaluation_is_a_word_at_a_time():
    t = task(valid_batch_size=2)
    model = t.build_model().eval()
    losses = [loss for half in t.corpus.valid[:46].view(2, 23) for loss in word_losses(model, half)]
    metrics = t.evaluate(model, "valid")
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))


@pytest.mark.parametrize("cache", [None, CacheSettings(10, 1.0, 0.2)])
def test_evaluation_does_not_depend_on_the_lengths_read_at_a_time(cache):
    model = make_model(V).eval()
    stream = corpus().valid.view(-1, 1)
    losses = [evaluate_language_model(model, stream, bptt, cache)["loss"] for bptt in (1, 7, 8, 100)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_evaluation_with_cache_is_the_mixture_of_grave_et_al():
    t, cache = task(), CacheSettings(window=5, theta=0.7, weight=0.3)
    model, words = t.build_model().eval(), t.corpus.test
    with torch.no_grad():
        states = model(words[:-1].view(-1, 1)).raw.squeeze(1)
    total = 0.0
    for place, loss in enumerate(word_losses(model, words)):
        past = range(max(place - 5, 0), place)
        votes = torch.tensor([0.7 * (states[place] @ states[i]).item() for i in past]).softmax(0)
        cached = sum(vote.item() for vote, i in zip(votes, past, strict=True) if words[i + 1] == words[place + 1])
        p = math.exp(-loss)
        total -= math.log(0.7 * p + 0.3 * cached) if place else math.log(p)
    assert t.evaluate_with_cache(model, "test", cache)["loss"] == pytest.approx(total / 30, rel=1e-5)


def test_the_cache_helps_where_words_come_back():
    t = task()
    words = torch.tensor([1, 2, 2] * 40)
    model = t.build_model().eval()
    plain = evaluate_language_model(model, words.view(-1, 1), 20)
    cached = evaluate_language_model(model, words.view(-1, 1), 20, CacheSettings(50, 0.0, 0.3))
    assert cached["perplexity"] < 0.7 * plain["perplexity"]


@pytest.mark.parametrize("sizes", [{"batch_size": 90}, {"valid_batch_size": 40}, {"test_batch_size": 20}])
def test_too_short_a_text_is_found_before_training(sizes):
    with pytest.raises(UserError, match="too few for batch_size"):
        task(**sizes)
