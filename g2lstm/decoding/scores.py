"""How good translations are: BLEU, chrF and paired bootstrap, by sacrebleu. N sentences.

The paper's BLEU is multi-bleu's on tokenised text with its own case. It is a function of ten sums over sentences, so what a
test of significance needs of a system are those numbers of each sentence, and no text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

ORDER = 4  # the longest n-gram
# What tables call the scores beside BLEU of tokenised text.
BESIDE = {"bleu_detokenised": "detokenised BLEU", "chrf": "chrF", "exact_match": "exact match, %"}


@dataclass(frozen=True)
class BootstrapResult:
    """Of the difference of two systems' BLEU: its value, 95% interval, and twice the share of samples of other sign."""

    difference: float
    low: float
    high: float
    p: float


def bleu_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> Tensor:
    """Of each sentence of tokenised text its length, its reference's, and matching and possible n-grams for n = 1 to 4.

    Returns:
        (N, 10) int32.
    """
    scorer = _bleu("none", effective_order=True)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found = scorer.sentence_score(hypothesis, [reference])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return torch.tensor(rows, dtype=torch.int32).view(-1, 2 + 2 * ORDER)


def bleu_of(statistics: Tensor | np.ndarray) -> np.ndarray:
    """BLEU in percent of (..., 10) sums, as multi-bleu has it: 0 where there is no match of some length."""
    sums = np.asarray(statistics, dtype=np.float64)
    length, reference, matches, possible = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.log(matches / possible).mean(-1)
        brevity = np.minimum(0.0, 1 - reference / length)
    return np.nan_to_num(100 * np.exp(precision + brevity), nan=0.0)


def detokenised_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """ "bleu_detokenised" (tokenised again by 13a) and "chrf" of plain text."""
    return {
        "bleu_detokenised": _bleu("13a").corpus_score(hypotheses, [references]).score,
        "chrf": _chrf().corpus_score(hypotheses, [references]).score,
    }


def signatures() -> dict[str, str]:
    """What sacrebleu calls each of the scores; the case is the text's own."""
    found = {}
    for name, scorer in {"bleu": _bleu("none"), "bleu_detokenised": _bleu("13a"), "chrf": _chrf()}.items():
        score = scorer.corpus_score(["a"], [["a"]])  # a scorer knows its signature once it has seen references
        found[f"{name}_signature"] = f"{score.name}|{scorer.get_signature()}"
    return found


def paired_bootstrap(first: Tensor, second: Tensor, *, draws: int = 1000, seed: int = 0) -> BootstrapResult:
    """Whether the BLEU of two systems on the same sentences differs (Koehn 2004): first - second.

    Args:
        first, second: (N, 10) as `bleu_statistics` gives them.
        draws: samples of N sentences, drawn with replacement.

    Raises:
        ValueError: they are not of the same sentences.
    """
    if first.shape != second.shape or not torch.equal(first[:, 1], second[:, 1]):
        raise ValueError("the systems translated other sentences: compare runs on one test set")
    one, other = first.double().numpy(), second.double().numpy()
    weights = _samples(len(one), draws, seed)
    differences = bleu_of(weights @ one) - bleu_of(weights @ other)
    observed = float(bleu_of(one.sum(0)) - bleu_of(other.sum(0)))
    low, high = np.quantile(differences, [0.025, 0.975])
    beyond = (differences <= 0) if observed > 0 else (differences >= 0)
    return BootstrapResult(observed, float(low), float(high), min(1.0, 2 * (beyond.sum() + 1) / (draws + 1)))


@lru_cache(maxsize=2)  # of valid and test: the same for each pair of systems, and longer to draw than to score
def _samples(count: int, draws: int, seed: int) -> np.ndarray:
    """(draws, N) how often each of N sentences is in a sample of N."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn.astype(np.float64)


@cache
def _bleu(tokenize: str, *, effective_order: bool = False) -> Any:
    from sacrebleu.metrics import BLEU

    smoothing = "exp" if tokenize == "13a" else "none"
    return BLEU(tokenize=tokenize, smooth_method=smoothing, force=True, effective_order=effective_order)


@cache
def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
