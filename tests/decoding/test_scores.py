"""BLEU against a multi-bleu written here, and the bootstrap against what is known of it."""

import math
import random
from collections import Counter

import pytest
import torch

from g2lstm.decoding.scores import bleu_of, bleu_statistics, detokenised_scores, paired_bootstrap, signatures


def multi_bleu(hypotheses: list[str], references: list[str]) -> float:
    """The script's arithmetic: clipped counts over the corpus, geometric mean, brevity penalty; 0 where one is 0."""
    matches, possible = Counter(), Counter()
    length = sum(len(hypothesis.split()) for hypothesis in hypotheses)
    reference_length = sum(len(reference.split()) for reference in references)
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for n in range(1, 5):
            ours, theirs = (
                Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
                for words in (hypothesis.split(), reference.split())
            )
            matches[n] += sum(min(count, theirs[gram]) for gram, count in ours.items())
            possible[n] += sum(ours.values())
    if not all(matches[n] for n in range(1, 5)):
        return 0.0
    mean = sum(math.log(matches[n] / possible[n]) for n in range(1, 5)) / 4
    return 100 * math.exp(mean + min(0.0, 1 - reference_length / length))


def corpora(seed: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    words = ["a", "b", "c", "&apos;s", ",", "(", "Das", "das"]
    references = [" ".join(draw.choices(words, k=draw.randint(1, 30))) for _ in range(40)]
    hypotheses = []
    for reference in references:
        kept = [word if draw.random() > 0.2 else draw.choice(words) for word in reference.split() if draw.random() > 0.1]
        hypotheses.append(" ".join(kept))
    return hypotheses, references


@pytest.mark.parametrize("seed", range(19))
def test_bleu_equals_multi_bleu(seed):
    hypotheses, references = corpora(seed)
    found = float(bleu_of(bleu_statistics(hypotheses, references).double().sum(0)))
    assert found == pytest.approx(multi_bleu(hypotheses, references), abs=1e-9)
    assert 0 < found < 100


def test_bleu_without_a_match_of_four_words_is_zero():
    hypotheses, references = ["a b c x", "d e f y"], ["a b c d", "d e f g"]
    assert multi_bleu(hypotheses, references) == 0
    assert bleu_of(bleu_statistics(hypotheses, references).double().sum(0)) == 0
    assert bleu_of(bleu_statistics([""], ["a b c d"]).double().sum(0)) == 0


def test_bleu_keeps_the_case_of_the_text():
    statistics = bleu_statistics(["Das ist ein Haus"], ["das ist ein Haus"])
    assert statistics.tolist() == [[4, 4, 3, 2, 1, 0, 4, 3, 2, 1]]


def test_detokenised_scores_tokenise_again():
    same = detokenised_scores(["It's here, now."], ["It's here, now."])
    assert same == pytest.approx({"bleu_detokenised": 100, "chrf": 100})
    other = detokenised_scores(["It's here now and there"], ["It's here, now."])
    assert 0 < other["bleu_detokenised"] < 60
    assert 0 < other["chrf"] < 100


def test_signatures_say_how_text_was_taken():
    found = signatures()
    assert "tok:none" in found["bleu_signature"]
    assert "case:mixed" in found["bleu_signature"]
    assert "tok:13a" in found["bleu_detokenised_signature"]
    assert "chrF2" in found["chrf_signature"]


def test_bootstrap_tells_a_better_system_from_an_equal_one():
    hypotheses, references = corpora(3)
    worse = bleu_statistics(hypotheses, references)
    better = bleu_statistics([*references[:20], *hypotheses[20:]], references)
    found = paired_bootstrap(better, worse)
    assert found.low > 0
    assert found.p < 0.01
    assert found.low < found.difference < found.high
    back = paired_bootstrap(worse, better)
    assert back.difference == -found.difference
    assert back.high < 0
    nothing = paired_bootstrap(worse, worse)
    assert (nothing.difference, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)


def test_bootstrap_refuses_other_sentences():
    with pytest.raises(ValueError, match="one test set"):
        paired_bootstrap(torch.ones(2, 10), torch.full((2, 10), 2))
