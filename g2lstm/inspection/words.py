"""Which words shut the forget gate, and whether function words and punctuation do so more than content words.

The paper shows three sentences in which low forget values mark function words and punctuation (section 4.4). Here the claim
is tested over a corpus, with word types as the units of the test: the occurrences of one word are no independent witnesses.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from torch import Tensor

from g2lstm.data.text import EOS, UNK
from g2lstm.inspection.statistics import WORD_COLUMNS

CLASSES = ("sentence end", "punctuation", "function", "content", "other")
DRAWS = 10_000  # of the bootstrap and of the permutation test
MOST_AT_ONCE = 2**25  # numbers of draws in memory, all of up to 3,355 words: other batches are other draws of the bootstrap
OTHER = frozenset([UNK, "N"])  # Mikolov's Penn Treebank writes N for every number
SYMBOLS = frozenset("$#%&@+=*<>/\\^|~")
# Closed classes of English: articles, pronouns, prepositions, conjunctions, auxiliaries, particles, clitics.
_FUNCTION_WORDS = """
    a an the this that these those i you he she it we they me him her us them my your his its our their mine yours hers
    ours theirs
    myself yourself himself herself itself ourselves yourselves themselves who whom whose which what whoever
    whatever whichever one ones someone somebody something anyone anybody anything everyone everybody everything nobody
    nothing none each every either neither both all some any no few many much more most several such other another
    of in to for with on at from by about as into like through after over between out against during without before under
    around among up down off above near across behind beyond within along toward towards upon onto per via amid despite
    except since until till than throughout below beside besides inside outside although though because unless while
    whereas whether if when where why how and or but nor so yet
    am is are was were be been being have has had having do does did doing will would shall should can could may might must
    ought not n't 's 're 've 'd 'll 'm there then also too very just only even still again ca wo"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class WordRow:
    """A word's gate: mean over its occurrences of the mean over units, with a 95% confidence interval."""

    word: str  # what the task calls it, and its class, one of `CLASSES`
    kind: str
    count: int  # occurrences
    mean: float  # the mean and its interval, occurrences taken as independent
    low: float
    high: float
    shut: float  # shares of gate values below 0.1 and above 0.9
    open: float


def word_class(word: str | None) -> str:
    """One of `CLASSES`, "other" for None. English; a word with letters that is not in a closed class counts as content."""
    if word is None:
        return "other"
    if word == EOS:
        return "sentence end"
    if word.lower() in FUNCTION_WORDS:
        return "function"
    if word in OTHER or any(c.isdigit() for c in word):
        return "other"
    if any(c.isalpha() for c in word):
        return "content"
    return "other" if any(c in SYMBOLS for c in word) else "punctuation"


def word_rows(
    sums: Tensor, labels: Sequence[str], min_count: int = 20, word_of: Callable[[str], str | None] = str
) -> list[WordRow]:
    """The labels seen at least `min_count` times, and twice, lowest mean first, from the (V, 6) sums of a `Tally`.

    `word_of` gives the word that a label is, by which it is classed, as a task's does.
    """
    columns = dict(zip(WORD_COLUMNS, sums.double().cpu().unbind(1), strict=True))
    rows = []
    for index in (columns["count"] >= max(min_count, 2)).nonzero().flatten().tolist():
        n, total, squared, below, above = (columns[name][index].item() for name in WORD_COLUMNS[:5])
        mean = total / n
        half = 1.96 * math.sqrt(max(squared / n - mean**2, 0.0) / (n - 1))
        label, kind = labels[index], word_class(word_of(labels[index]))
        row = WordRow(label, kind, int(n), mean, mean - half, mean + half, below / n, above / n)
        rows.append(row)
    return sorted(rows, key=lambda row: (row.mean, row.word))


def class_means(rows: list[WordRow]) -> list[dict[str, float | str]]:
    """For each class that is there: types, occurrences, the mean over types and the mean over occurrences."""
    found: list[dict[str, float | str]] = []
    for kind in CLASSES:
        means = np.array([row.mean for row in rows if row.kind == kind])
        counts = np.array([row.count for row in rows if row.kind == kind])
        if len(means):
            row = {"types": len(means), "occurrences": int(counts.sum()), "mean_of_types": float(means.mean())}
            found.append({"class": kind, **row, "mean_of_occurrences": float(np.average(means, weights=counts))})
    return found


def compare_classes(rows: list[WordRow]) -> dict[str, float] | None:
    """Tests whether function words, punctuation and sentence ends have another mean gate than content words.

    Returns:
        "difference" of the means over types from content words', with its 95% bootstrap interval "low" and "high"; "p",
        two-sided, of a permutation test; "below", the probability that such a type lies below a content word (0.5: no
        difference); "types_low", "types_high". None where a side has fewer than two types.
    """
    first = np.array([row.mean for row in rows if row.kind in CLASSES[:3]])
    second = np.array([row.mean for row in rows if row.kind == "content"])
    if min(len(first), len(second)) < 2:
        return None
    rng = np.random.default_rng(0)
    sides = (first, second)
    numbers = {"n_resamples": DRAWS, "batch": max(1, min(DRAWS, MOST_AT_ONCE // (len(first) + len(second)))), "rng": rng}
    span = scipy.stats.bootstrap(sides, _difference, method="percentile", **numbers).confidence_interval
    permuted = scipy.stats.permutation_test(
        sides, lambda a, b, axis: np.abs(_difference(a, b, axis)), alternative="greater", **numbers
    )
    found = {"difference": _difference(first, second), "low": span.low, "high": span.high, "p": permuted.pvalue}
    found["below"] = scipy.stats.mannwhitneyu(second, first).statistic / (len(first) * len(second))
    return {name: float(value) for name, value in found.items()} | {"types_low": len(first), "types_high": len(second)}


def _difference(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
    return first.mean(axis) - second.mean(axis)
