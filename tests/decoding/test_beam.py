"""Beam search against all sequences of a small vocabulary, and what must never change a translation."""

import math
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from g2lstm.decoding.beam import Hypothesis, beam_search
from g2lstm.errors import UserError
from g2lstm.gates import SigmoidGate
from g2lstm.models.translation import BOS, EOS, PAD, UNK, Translator

DECODERS = ("conditional", "stacked")
MODELS = [
    *({"decoder": decoder} for decoder in DECODERS),
    {"decoder": "stacked", "attention": "dot"},  # the recipe's
    {"decoder": "stacked", "attention": "dot", "input_feeding": True},
    {"decoder": "conditional", "input_feeding": True},
]
every_model = pytest.mark.parametrize("form", MODELS, ids=lambda form: "-".join(map(str, form.values())))
LENGTHS = torch.tensor([6, 3, 9, 1, 4, 7, 2, 5])


def model(seed: int = 0, words: int = 5, scale: float = 4.0, **options) -> Translator:
    """A model whose probabilities are far from equal."""
    torch.manual_seed(seed)
    translator = Translator(20, words, 8, 8, gate=SigmoidGate(), **options).eval()
    with torch.no_grad():
        for parameter in translator.parameters():
            parameter.mul_(scale)
    return translator


def sources(rows: list[int] | None = None, pad: int = 0) -> tuple[Tensor, Tensor]:
    rows = list(range(len(LENGTHS))) if rows is None else rows
    source = torch.full((int(LENGTHS[rows].max()) + pad, len(rows)), PAD)
    for column, row in enumerate(rows):
        length = int(LENGTHS[row])
        source[:length, column] = torch.randint(4, 20, (length,), generator=torch.Generator().manual_seed(row))
        source[length - 1, column] = EOS
    return source, LENGTHS[rows]


def worth(models: list[Translator], source: Tensor, tokens: list[int]) -> tuple[float, float]:
    """The log-probability of one translation of one (S,) source, and how much it looks at, by teacher forcing."""
    return worths(models, source, [tokens])[0]


def worths(models: list[Translator], source: Tensor, every: list[list[int]]) -> list[tuple[float, float]]:
    """`worth` of each; those of one length are read at once, (T, B)."""
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    for length in sorted({len(tokens) for tokens in every}):
        some = torch.tensor([tokens for tokens in every if len(tokens) == length]).long().mT
        inputs = torch.cat([torch.full((1, some.shape[1]), BOS), some])
        targets = torch.cat([some, torch.full((1, some.shape[1]), EOS)])
        probabilities, attention = [], []
        for m in models:
            with torch.no_grad():
                memory = m.encode(source.unsqueeze(1).repeat(1, some.shape[1]), torch.full((some.shape[1],), len(source)))
                features, looked, _ = m.decode(inputs, m.start(memory), memory)  # (T, B, F), (T, B, S)
            logits = features @ m.decoder_weight.T + m.output_bias
            probabilities.append(logits.softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2))
            attention.append(looked)
        log_p = torch.stack(probabilities).mean(0).log().sum(0)
        covered = torch.stack(attention).mean(0).sum(0).clamp(1e-6, 1).log().sum(1)
        found |= zip(map(tuple, some.mT.tolist()), zip(log_p.tolist(), covered.tolist(), strict=True), strict=True)
    return [found[tuple(tokens)] for tokens in every]


def score(tokens: list[int], log_p: float, covered: float, a: float = 1.0, b: float = 0.0) -> float:
    """The formula in the module's docstring."""
    return log_p / (len(tokens) + 1) ** a + b * covered


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_beam_as_wide_as_needed_is_brute_force(decoder, count):
    models = [model(seed, decoder=decoder) for seed in range(count)]
    rows, longest = [0, 1, 3], 4
    source, lengths = sources(rows)
    every = [list(tokens) for length in range(longest + 1) for tokens in product((UNK, 4), repeat=length)]
    each = [worths(models, source[: int(n), column], every) for column, n in enumerate(lengths)]
    for a, b in ((1.0, 0.0), (0.0, 0.0), (0.6, 0.3)):
        options = {"length_penalty": a, "coverage_penalty": b, "max_length": longest}
        found = beam_search(models, source, lengths, beam=31, n_best=31, **options)
        best = beam_search(models, source, lengths, beam=31, **options)
        for column, of_all in enumerate(each):
            scored = [(tokens, score(tokens, *one, a, b)) for tokens, one in zip(every, of_all, strict=True)]
            expected = sorted(scored, key=lambda pair: -pair[1])
            assert [hypothesis.tokens for hypothesis in found[column]] == [tokens for tokens, _ in expected], (a, b)
            scores = [hypothesis.score for hypothesis in found[column]]
            assert scores == pytest.approx([value for _, value in expected], abs=1e-4), (a, b)
            assert best[column][0].tokens == expected[0][0], (a, b)


@pytest.mark.parametrize("seed", range(3))
def test_five_words_and_all_sequences_of_them(seed):
    """A beam of all sequences finds the best, by length normalisation; a narrow one finds nothing better."""
    m, (source, lengths) = model(seed, words=9), sources([0, 2])
    longest = 3
    words = [UNK, *range(EOS + 1, EOS + 6)]
    every = [list(tokens) for length in range(longest + 1) for tokens in product(words, repeat=length)]
    for column, length in enumerate(lengths.tolist()):
        of_each = worths([m], source[:length, column], every)
        scores = [score(tokens, *one) for tokens, one in zip(every, of_each, strict=True)]
        best = max(range(len(every)), key=scores.__getitem__)
        of_all, of_two = (
            beam_search([m], source, lengths, beam=beam, max_length=longest)[column][0] for beam in (len(every), 2)
        )
        assert of_all.tokens == every[best]
        assert of_all.score == pytest.approx(scores[best], abs=1e-4)
        assert of_two.score <= of_all.score + 1e-4
        assert of_two.score == pytest.approx(scores[every.index(of_two.tokens)], abs=1e-4)


def greedy(m: Translator, source: Tensor, longest: int) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < longest:
        with torch.no_grad():
            features = m(source.unsqueeze(1), torch.tensor([len(source)]), torch.tensor([[BOS, *tokens]]).mT)
        logits = features[-1, 0] @ m.decoder_weight.T + m.output_bias
        logits[[PAD, BOS]] = -torch.inf
        if (token := int(logits.argmax())) == EOS:
            break
        tokens.append(token)
    return tokens


@every_model
def test_beam_one_is_greedy(form):
    source, lengths = sources()
    some_end = False
    for seed in range(2):
        m = model(seed, words=12, **form)
        with torch.no_grad():
            m.output_bias[EOS] = 2.0
        found = beam_search([m], source, lengths, beam=1)
        for column, length in enumerate(lengths.tolist()):
            expected = greedy(m, source[:length, column], 2 * length + 10)
            assert found[column][0].tokens == expected
            some_end |= len(expected) < 2 * length + 10
    assert some_end


def texts(found: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[hypothesis.tokens for hypothesis in sentence] for sentence in found]


@every_model
@pytest.mark.parametrize("n_best", [1, 3])
def test_neighbours_and_padding_never_change_a_translation(form, n_best):
    m = model(0, words=20, **form)
    options = {"beam": 3, "n_best": n_best, "coverage_penalty": 0.2}
    together = texts(beam_search([m], *sources(), **options))
    assert len({str(sentence) for sentence in together}) > 1
    assert texts(beam_search([m], *sources(pad=4), **options)) == together
    for size in (1, 3):
        for start in range(0, len(LENGTHS), size):
            rows = list(range(start, min(start + size, len(LENGTHS))))
            assert texts(beam_search([m], *sources(rows), **options)) == together[start : start + size]


@pytest.mark.parametrize("a", [0.0, 1.0])
def test_stopping_early_never_loses_the_best(a):
    source, lengths = sources()
    for seed in range(4):
        m = model(seed, words=9)
        early = beam_search([m], source, lengths, beam=4, length_penalty=a)
        late = beam_search([m], source, lengths, beam=4, n_best=4, length_penalty=a)
        assert texts(early) == [sentence[:1] for sentence in texts(late)]
        assert all(len(sentence) == 4 for sentence in late)
        assert all(x.score >= y.score for sentence in late for x, y in pairwise(sentence))


@every_model
def test_scores_are_what_a_translation_is_worth(form):
    models = [model(seed, words=9, **form) for seed in (1, 2)]
    source, lengths = sources()
    found = beam_search(models, source, lengths, beam=3, n_best=2, coverage_penalty=0.4)
    for column, sentence in enumerate(found):
        own = source[: int(lengths[column]), column]
        for hypothesis in sentence:
            tokens = hypothesis.tokens
            assert hypothesis.score == pytest.approx(score(tokens, *worth(models, own, tokens), b=0.4), abs=1e-4)


def test_an_ensemble_of_one_model_twice_is_that_model():
    m, other = model(0, words=9), model(1, words=9)
    alone = texts(beam_search([m], *sources()))
    assert texts(beam_search([m, m], *sources())) == alone
    assert texts(beam_search([m, other], *sources())) != alone


def test_attention_has_a_row_for_each_sub_word_and_the_end():
    m = model(0, words=9)
    source, lengths = sources()
    assert beam_search([m], source, lengths)[0][0].attention is None
    for column, (best, *_) in enumerate(beam_search([m], source, lengths, attention=True)):
        length = int(lengths[column])
        with torch.no_grad():
            memory = m.encode(source[:length, column : column + 1], lengths[column : column + 1])
            _, expected, _ = m.decode(torch.tensor([[BOS, *best.tokens]]).mT, m.start(memory), memory)
        torch.testing.assert_close(best.attention, expected[:, 0])


def test_padding_and_the_first_word_are_never_said():
    m = model(0, words=5)
    with torch.no_grad():
        m.output_bias[[PAD, BOS]] = 100.0
    found = beam_search([m], *sources(), beam=50, n_best=50, max_length=5)
    assert {token for sentence in found for hypothesis in sentence for token in hypothesis.tokens} == {UNK, 4}


@pytest.mark.parametrize("longest", [0, 1, 6])
def test_a_translation_that_never_ends_is_cut(longest):
    m = model(0, words=9)
    with torch.no_grad():
        m.output_bias[EOS] = -1e4
    found = beam_search([m], *sources(), max_length=longest)
    assert all(len(sentence[0].tokens) == longest for sentence in found)
    default = beam_search([m], *sources())
    assert [len(sentence[0].tokens) for sentence in default] == (2 * LENGTHS + 10).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam": 0}, "beam must be from 1 to 1000, got 0"),
        ({"beam": 1001}, "beam must be from 1 to 1000, got 1001"),
        ({"beam": 2, "n_best": 3}, "n_best must be in 1 to beam, which is 2, got 3"),
        ({"length_penalty": -1.0}, "must be >= 0, got -1.0 and 0.0"),
        ({"beam": 2, "n_best": 0}, "n_best must be in 1 to beam, which is 2, got 0"),
        ({"length_penalty": math.nan}, "must be >= 0, got nan and 0.0"),
        ({"coverage_penalty": -0.5}, "must be >= 0, got 1.0 and -0.5"),
        ({"coverage_penalty": math.nan}, "must be >= 0, got 1.0 and nan"),
        ({"max_length": -1}, "max_length must be >= 0, got -1"),
    ],
)
def test_errors_quote_what_was_given(options, message):
    with pytest.raises(UserError, match=message):
        beam_search([model()], *sources(), **options)


def test_models_of_different_vocabularies_are_an_error():
    with pytest.raises(UserError, match="one target vocabulary, got sizes 5, 9"):
        beam_search([model(), model(words=9)], *sources())


def test_a_diverged_model_is_an_error():
    m = model()
    with torch.no_grad():
        m.output_bias.fill_(torch.nan)
    with pytest.raises(UserError, match="did its training diverge"):
        beam_search([m], *sources())
