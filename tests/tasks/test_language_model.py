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
from g2lstm.schema import checked, values_of
from g2lstm.tasks.language_model import LanguageModelConfig, LanguageModelTask
from g2lstm.training.task import ReadText

V = 7
TOP = ("batch_size", "bptt", "random_length")


def corpus(train: int = 101, valid: int = 47, test: int = 31) -> TextCorpus:
    draw = torch.Generator().manual_seed(0)
    splits = [torch.randint(V, (size,), generator=draw) for size in (train, valid, test)]
    return TextCorpus(Vocabulary(("<eos>", *"abcdef")), *splits, origin="drawn")


def task(text: TextCorpus | None = None, **options) -> LanguageModelTask:
    """A small task; `options` by their last name, as alpha=1.5 or lambda_=0.3."""
    given = {"batch_size": 4, "bptt": 6, "random_length": True} | {k: v for k, v in options.items() if k in TOP}
    model = {
        "embedding_size": 5,
        "hidden_size": 6,
        "num_layers": 2,
        "tied": True,
        "dropout_input": 0.4,
        "dropout_hidden": 0.25,
    }
    model |= {"dropout_output": 0.4, "dropout_embedding": 0.1, "weight_dropout": 0.5, "alpha": 2.0, "beta": 1.0}
    cache = {"enabled": True, "window": 10, "theta": 1.0, "lambda": 0.2}
    read = {"bptt": options.get("eval_bptt", 8), "valid_batch_size": 3, "test_batch_size": 1}
    for section in (model, cache, read):
        section |= {name: value for name in section if (value := options.get(name.replace("lambda", "lambda_"))) is not None}
    read["bptt"] = options.get("eval_bptt", 8)
    values = given | {"data": {"name": "text"}, "model": model, "eval": read | {"cache": cache}}
    config = checked(values, LanguageModelConfig)
    return LanguageModelTask(text or corpus(), SigmoidGate(), torch.device("cpu"), config)


def model_of(t: LanguageModelTask) -> LanguageModel:
    torch.manual_seed(3)
    return t.build_model()


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
    model = model_of(t)
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
    result = t.loss(model_of(t), (0, 5), None)
    assert result.objective is result.loss


def test_the_learning_rate_follows_the_length_of_a_drawn_segment():
    for random_length, scale in ((True, 3 / 6), (False, 1.0)):
        t = task(random_length=random_length)
        assert t.loss(model_of(t), (0, 3), None).lr_scale == scale


def test_a_segment_starts_from_the_carried_state():
    t = task()
    model = model_of(t).eval()
    carried = t.loss(model, (0, 6), None).carried
    with_state, without = (t.loss(model, (6, 5), state).loss.item() for state in (carried, None))
    both = t.loss(model, (0, 11), None).loss.item()
    first = t.loss(model, (0, 6), None).loss.item()
    assert with_state == pytest.approx((11 * both - 6 * first) / 5, rel=1e-5)
    assert with_state != without


def test_evaluation_is_a_word_at_a_time():
    t = task(valid_batch_size=2)
    model = model_of(t).eval()
    losses = [loss for half in t.corpus.valid[:46].view(2, 23) for loss in word_losses(model, half)]
    found = t.evaluate(model, "valid")
    torch.testing.assert_close(found.losses, torch.tensor(losses))  # in reading order
    assert found.metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.metrics["perplexity"] == pytest.approx(math.exp(found.metrics["loss"]))


@pytest.mark.parametrize("variant", ["", "cache"])
def test_evaluation_does_not_depend_on_the_lengths_read_at_a_time(variant):
    tasks = [task(eval_bptt=bptt) for bptt in (1, 7, 8, 100)]
    losses = [t.evaluate(model_of(t).eval(), "valid", variant).metrics["loss"] for t in tasks]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def test_evaluation_with_cache_is_the_mixture_of_grave_et_al():
    t = task(window=5, theta=0.7, lambda_=0.3)
    model, words = model_of(t).eval(), t.corpus.test
    with torch.no_grad():
        states = model(words[:-1].view(-1, 1)).raw.squeeze(1)
    total = 0.0
    for place, loss in enumerate(word_losses(model, words)):
        past = range(max(place - 5, 0), place)
        votes = torch.tensor([0.7 * (states[place] @ states[i]).item() for i in past]).softmax(0)
        cached = sum(vote.item() for vote, i in zip(votes, past, strict=True) if words[i + 1] == words[place + 1])
        p = math.exp(-loss)
        total -= math.log(0.7 * p + 0.3 * cached) if place else math.log(p)
    assert t.evaluate(model, "test", "cache").metrics["loss"] == pytest.approx(total / 30, rel=1e-5)


def test_the_cache_helps_where_words_come_back():
    words = torch.tensor([1, 2, 2] * 40)
    t = task(TextCorpus(Vocabulary(("<eos>", *"abcdef")), words, words, words, "drawn"), window=50, theta=0.0, lambda_=0.3)
    model = model_of(t).eval()
    plain, cached = (t.evaluate(model, "test", variant).metrics["perplexity"] for variant in t.variants)
    assert cached < 0.7 * plain


def test_a_limit_reads_the_first_sentences_and_tells_what_is_read():
    t = task()
    ends = (t.corpus.valid == 0).nonzero().flatten().tolist()
    seen: list[torch.Tensor] = []
    found = t.evaluate(model_of(t).eval(), "valid", limit=3, reading=seen.append)
    rows = (ends[2] + 1) // 3
    assert len(found.losses) == (rows - 1) * 3
    assert torch.equal(torch.cat(seen).t().flatten(), t.corpus.valid[: rows * 3].view(3, rows)[:, :-1].flatten())
    assert t.size("valid", 3) == f"3 sentences ({ends[2] + 1} words)"
    assert t.digest("valid", 3) != t.digest("valid") != t.digest("test")
    assert t.digest("valid") != task(window=11).digest("valid")


def test_a_text_is_read_like_a_sentence_of_the_corpus():
    t = task()
    model, seen = model_of(t).eval(), []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert t.read(model, "a b") == ReadText(["a", "b", "<eos>"], [])
    assert seen == [(4, 1, 5)]  # after the end of the sentence before
    for text, message in (("", "no words"), ("a " * 300, "at most 199"), ("a xyz", "'xyz' .* is not in the vocabulary")):
        with pytest.raises(UserError, match=message):
            t.read(model, text)
    read = t.read(model, None)  # a sentence of valid: the vocabulary lacks the example's words
    assert set(read.labels) <= set(t.labels)
    assert read.unknown == []


def test_what_a_task_saves_builds_it_again(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a b c\n" * 40)
    values = task().config
    config = checked({**_plain(values), "data": {"name": "text", "dir": str(tmp_path)}}, LanguageModelConfig)
    first = LanguageModelTask.from_config(config, gate=SigmoidGate(), device=torch.device("cpu"))
    (tmp_path / "train.txt").write_text("c b a\n" * 40)
    again = LanguageModelTask.from_config(config, gate=SigmoidGate(), device=torch.device("cpu"), files=first.files())
    assert again.labels == first.labels
    assert first.files().keys() == set(LanguageModelTask.FILES)


def _plain(config: LanguageModelConfig) -> dict:
    values = values_of(config)
    values["eval"]["cache"]["lambda"] = values["eval"]["cache"].pop("weight")
    return values


@pytest.mark.parametrize("sizes", [{"batch_size": 90}, {"valid_batch_size": 40}, {"test_batch_size": 20}])
def test_too_short_a_text_is_found_before_training(sizes, tmp_path):
    folder = tmp_path
    for split, count in (("train", 25), ("valid", 12), ("test", 8)):
        (folder / f"{split}.txt").write_text("a b c\n" * count)
    values = {**_plain(task().config), "data": {"name": "text", "dir": str(folder)}}
    values |= {name: value for name, value in sizes.items() if name == "batch_size"}
    values["eval"] |= {name: value for name, value in sizes.items() if name != "batch_size"}
    config = checked(values, LanguageModelConfig)
    with pytest.raises(UserError, match="too few for batch_size"):
        LanguageModelTask.from_config(config, gate=SigmoidGate(), device=torch.device("cpu"))
