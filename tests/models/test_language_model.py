"""The AWD-LSTM language model against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from g2lstm.gates import GumbelGate, SharpenedGate, SigmoidGate
from g2lstm.models.language_model import LanguageModel, detached

V, E, H = 11, 6, 9


def model(seed: int = 0, **options) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(V, E, H, options.pop("num_layers", 3), **options)


def words(time: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(V, (time, batch), generator=torch.Generator().manual_seed(5))


def logits(lm: LanguageModel, tokens: torch.Tensor) -> torch.Tensor:
    return F.linear(lm(tokens).dropped, lm.decoder_weight, lm.output_bias)


def test_tied_weights_count_once():
    tied, untied = (sum(p.numel() for p in model(tied=tied).parameters()) for tied in (True, False))
    assert untied - tied == V * E


def test_tied_weights_learn_from_input_and_output():
    lm, tokens = model().eval(), words(5)
    lm.loss(lm(tokens[:-1]).dropped, tokens[1:]).backward()
    both = lm.embedding.weight.grad

    separate = model(tied=False).eval()
    separate.load_state_dict(lm.state_dict() | {"output_weight": lm.embedding.weight.detach()})
    separate.loss(separate(tokens[:-1]).dropped, tokens[1:]).backward()
    parts = (separate.embedding.weight.grad, separate.output_weight.grad)
    assert all(part.abs().sum() > 0 for part in parts)
    torch.testing.assert_close(both, parts[0] + parts[1])


@pytest.mark.parametrize("gate", [SigmoidGate(), SharpenedGate(), GumbelGate()])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_is_the_cross_entropy_of_the_logits(gate, tied):
    lm, tokens = model(gate=gate, tied=tied).eval(), words(7)
    inputs, targets = tokens[:-1], tokens[1:]
    with torch.no_grad():
        expected = F.cross_entropy(logits(lm, inputs).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        dropped = lm(inputs).dropped
        torch.testing.assert_close(lm.loss(dropped, targets), expected.mean())
        torch.testing.assert_close(lm.loss(dropped, targets, reduction="none"), expected)


def test_nothing_is_random_in_eval_mode():
    lm, tokens = model().eval(), words(6)
    first, second = lm(tokens), lm(tokens)
    assert torch.equal(first.dropped, second.dropped)
    assert first.dropped is first.raw


def test_everything_is_random_in_training():
    lm, tokens = model(), words(6)
    first, second = lm(tokens), lm(tokens)
    assert not torch.equal(first.raw, second.raw)
    assert not torch.equal(first.dropped, first.raw)


@pytest.mark.parametrize(
    "part", ["dropout_input", "dropout_hidden", "dropout_output", "dropout_embedding", "weight_dropout"]
)
def test_each_dropout_acts_by_itself(part):
    none = dict.fromkeys(("dropout_input", "dropout_hidden", "dropout_output", "dropout_embedding", "weight_dropout"), 0.0)
    tokens = words(6)
    plain = model(gate=SigmoidGate(), **none)
    torch.testing.assert_close(plain(tokens).dropped, plain.eval()(tokens).dropped)  # two engines
    noisy = model(gate=SigmoidGate(), **none | {part: 0.5})
    torch.manual_seed(1)
    training = noisy(tokens)
    evaluation = noisy.eval()(tokens)
    assert not torch.allclose(training.dropped, evaluation.dropped)
    assert torch.allclose(training.raw, evaluation.raw) == (part == "dropout_output")


def test_a_carried_state_gives_the_same_as_one_long_pass():
    lm, tokens = model().eval(), words(10)
    with torch.no_grad():
        whole = lm(tokens)
        first = lm(tokens[:4])
        rest = lm(tokens[4:], first.state)
    torch.testing.assert_close(torch.cat([first.raw, rest.raw]), whole.raw)
    for (h, c), (h_whole, c_whole) in zip(rest.state, whole.state, strict=True):
        torch.testing.assert_close(h, h_whole)
        torch.testing.assert_close(c, c_whole)


def test_a_detached_state_cuts_the_graph_and_keeps_the_values():
    lm = model()
    state = lm(words(3)).state
    cut = detached(state)
    assert all(part.requires_grad for pair in state for part in pair)
    assert not any(part.requires_grad for pair in cut for part in pair)
    assert all(torch.equal(a, b) for pair, other in zip(state, cut, strict=True) for a, b in zip(pair, other, strict=True))


def test_shapes_follow_the_sizes():
    features = model()(words(4, 3))
    assert features.raw.shape == features.dropped.shape == (4, 3, E)
    assert [(h.shape[-1], c.shape[-1]) for h, c in features.state] == [(H, H), (H, H), (E, E)]
    assert model(num_layers=1)(words(4, 3)).raw.shape == (4, 3, E)


def test_initialisation_is_awd_lstms():
    torch.manual_seed(0)
    lm = LanguageModel(500, 40, 60, tied=False)
    for weight in (lm.embedding.weight, lm.output_weight):
        assert 0.099 < weight.abs().max() <= 0.1
        assert weight.std().item() == pytest.approx(0.2 / math.sqrt(12), rel=0.02)
    assert not lm.output_bias.any()
    assert 0.99 / math.sqrt(60) < lm.layers[0].weight_hh_l0.abs().max() <= 1 / math.sqrt(60)
