"""Beam search over one or several encoder-decoders, for a batch of sentences at once.

    score(y) = log p(y) / |y|^a  +  b * sum_s log min(sum_t a_ts, 1)        |y| with </s>    (Wu et al. 2016, 1609.08144)

A hypothesis that ends leaves the beam, which goes on with one place less, so that a beam of 1 is greedy search. A sentence
is done when no place is left, or no hypothesis that is still open can score better than those that were asked for.

N sentences, W open hypotheses of each (at most K, the beam), V vocabulary, S source steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from g2lstm.errors import UserError
from g2lstm.layers.attention import Memory
from g2lstm.models.translation import BOS, EOS, PAD, Translator

NEVER = -torch.inf
LEAST_COVERAGE = 1e-6
MOST_BEAM = 1000  # a step scores beam * V continuations of each sentence


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A translation.

    Attributes:
        tokens: its sub-words, without `<s>` and `</s>`.
        score: what hypotheses are ordered by.
        attention: (len(tokens) + 1, S) on the CPU, what was looked at for each sub-word and for `</s>`; or None.
    """

    tokens: list[int]
    score: float
    attention: Tensor | None = None


@dataclass
class _Open:
    """The hypotheses that have not ended: blocks of W rows, one for each sentence that is not done.

    Attributes:
        sentences: (N,) which of the batch these are.
        scores: (N, W) log-probabilities, -inf where a block has less than W.
        tokens: (N * W, length), `<s>` first.
        coverage: (N * W, S) attention summed over steps.
        attention: (N * W, length - 1, S), or of no steps where it is not kept.
    """

    sentences: Tensor
    scores: Tensor
    tokens: Tensor
    coverage: Tensor
    attention: Tensor


@torch.no_grad()
def beam_search(
    models: Sequence[Translator],
    source: Tensor,
    source_lengths: Tensor,
    *,
    beam: int = 5,
    n_best: int = 1,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    max_length: int | None = None,
    attention: bool = False,
) -> list[list[Hypothesis]]:
    """The best translations of each sentence, best first.

    Args:
        models: in eval mode, of one target vocabulary; the mean of their probabilities is searched.
        source: (S, B), each sentence with `</s>` and then padding.
        source_lengths: (B,) on the CPU.
        beam: hypotheses of a sentence at a time, at most `MOST_BEAM`; 1 is greedy.
        n_best: how many are returned, fewer where there are no more.
        length_penalty: a >= 0; 0 compares log-probabilities, 1 their mean over sub-words.
        coverage_penalty: b >= 0, the price of source steps, `</s>` among them, that were looked at too little.
        max_length: sub-words that a translation has at most, after which it ends; None is twice the source's steps and 10.
        attention: whether hypotheses have it.

    Raises:
        UserError: an option out of its range, models that do not fit each other, or that give no numbers.
    """
    check_search(
        beam=beam, n_best=n_best, length_penalty=length_penalty, coverage_penalty=coverage_penalty, max_length=max_length
    )
    _check_vocabularies(models)
    memories = [model.encode(source, source_lengths) for model in models]
    states: list[Any] = [model.start(memory) for model, memory in zip(models, memories, strict=True)]
    size, device = len(source_lengths), source.device
    limits = 2 * source_lengths.to(device) + 10 if max_length is None else torch.full((size,), max_length, device=device)
    longest = (limits + 1.0) ** length_penalty  # (B,) the mildest division
    finished: list[list[Hypothesis]] = [[] for _ in range(size)]
    wanted = torch.full((size,), NEVER, device=device)  # (B,) score of the n_best-th that has ended
    here = _begin(source)

    for length in range(int(limits.max()) + 1):
        count, width = here.scores.shape
        log_p, looked, states = _step(models, here.tokens[:, -1], states, memories)
        best, row, token = _best(here.scores, log_p, limits[here.sentences] <= length, beam)  # (N, K)
        coverage = here.coverage + looked
        if attention:
            here.attention = torch.cat([here.attention, looked.unsqueeze(1)], 1)

        room = torch.tensor([beam - len(finished[n]) for n in here.sentences.tolist()], device=device)
        inside = (torch.arange(best.shape[1], device=device) < room.unsqueeze(1)) & (best > NEVER)
        ends = inside & (token == EOS)
        final = best / (length + 1) ** length_penalty
        if coverage_penalty:
            final = final + coverage_penalty * _coverage_terms(coverage, memories[0].inside, width)[row]
        for block, k in ends.nonzero().tolist():
            n, ended = int(here.sentences[block]), int(row[block, k])
            kept = here.attention[ended, :, : int(source_lengths[n])].clone().cpu() if attention else None
            finished[n].append(Hypothesis(here.tokens[ended, 1:].tolist(), float(final[block, k]), kept))
            if len(finished[n]) >= n_best:
                wanted[n] = sorted((h.score for h in finished[n]), reverse=True)[n_best - 1]

        going = best.masked_fill(~inside | ends, NEVER)  # (N, K)
        bound = going.amax(1) / longest[here.sentences]  # a log-probability only falls, and no coverage term is above 0
        blocks = (bound > wanted[here.sentences]).nonzero().squeeze(1)
        if not len(blocks):
            break
        going = going[blocks]
        chosen, order = going.topk(int((going > NEVER).sum(1).max()))  # (N, W), the next step's
        rows = row[blocks].gather(1, order).flatten()
        if len(blocks) < count:
            memories = [memory.select(blocks) for memory in memories]
        states = _select(states, rows)
        here = _Open(
            here.sentences[blocks], chosen,
            torch.cat([here.tokens[rows], token[blocks].gather(1, order).view(-1, 1)], 1), coverage[rows],
            here.attention[rows],
        )  # fmt: skip
    if not all(finished):
        raise UserError("the model's probabilities are not numbers: did its training diverge?")
    return [sorted(hypotheses, key=lambda h: -h.score)[:n_best] for hypotheses in finished]


def _begin(source: Tensor) -> _Open:
    """A hypothesis without sub-words for each sentence."""
    (steps, size), device = source.shape, source.device
    zeros = torch.zeros(size, steps, device=device)
    begun = torch.full((size, 1), BOS, device=device)
    return _Open(torch.arange(size, device=device), zeros.new_zeros(size, 1), begun, zeros, zeros.new_zeros(size, 0, steps))


def _best(scores: Tensor, log_p: Tensor, over: Tensor, beam: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, K) the best continuations' scores, the rows of (N * W) that they continue, and their sub-words.

    Args:
        scores: (N, W) of what is continued.
        log_p: (N * W, V) of each sub-word, overwritten where it can't come.
        over: (N,) whether a sentence has reached its limit and ends now.
    """
    count, width = scores.shape
    log_p[:, [PAD, BOS]] = NEVER
    ending = over.repeat_interleave(width)
    log_p[ending, :EOS] = NEVER
    log_p[ending, EOS + 1 :] = NEVER
    every = scores.unsqueeze(-1) + log_p.view(count, width, -1)  # (N, W, V)
    best, place = every.flatten(1).topk(min(beam, every[0].numel()))
    parent, token = place // log_p.shape[1], place % log_p.shape[1]
    return best, torch.arange(count, device=scores.device).unsqueeze(1) * width + parent, token


def _step(
    models: Sequence[Translator], tokens: Tensor, states: list[Any], memories: list[Memory]
) -> tuple[Tensor, Tensor, list[Any]]:
    """(R, V) log of the models' mean probability, (R, S) their mean attention, the next states."""
    steps = [model.step(tokens, *given) for model, *given in zip(models, states, memories, strict=True)]
    log_p, looked, after = (list(part) for part in zip(*steps, strict=True))
    if len(models) == 1:
        return log_p[0], looked[0].float(), after
    mean = torch.stack(log_p).logsumexp(0) - math.log(len(models))
    return mean, torch.stack(looked).mean(0).float(), after


def _coverage_terms(coverage: Tensor, inside: Tensor, width: int) -> Tensor:
    """(N * W,) sum over each sentence's own source words of log min(coverage, 1)."""
    logs = coverage.clamp(LEAST_COVERAGE, 1.0).log()
    return logs.masked_fill(~inside.repeat_interleave(width, 0), 0.0).sum(1)


def _select(state: Any, rows: Tensor) -> Any:
    """Some rows of every tensor in nested tuples and lists."""
    return state.index_select(0, rows) if isinstance(state, Tensor) else type(state)(_select(part, rows) for part in state)


def check_search(
    *,
    beam: int = 5,
    n_best: int = 1,
    length_penalty: float = 1.0,
    coverage_penalty: float = 0.0,
    max_length: int | None = None,
) -> None:
    """Raises a UserError where an option of `beam_search` is out of its range."""
    if not 1 <= beam <= MOST_BEAM:
        raise UserError(f"beam must be from 1 to {MOST_BEAM}, got {beam}: 5 to 10 are usual")
    if not 1 <= n_best <= beam:
        raise UserError(f"n_best must be in 1 to beam, which is {beam}, got {n_best}")
    if not (length_penalty >= 0 and coverage_penalty >= 0):  # nor NaN
        raise UserError(f"length and coverage penalties must be >= 0, got {length_penalty} and {coverage_penalty}")
    if max_length is not None and max_length < 0:
        raise UserError(f"max_length must be >= 0, got {max_length}")


def _check_vocabularies(models: Sequence[Translator]) -> None:
    sizes = {len(model.output_bias) for model in models}
    if len(sizes) != 1:
        given = ", ".join(map(str, sorted(sizes))) or "no model"
        raise UserError(f"an ensemble needs models of one target vocabulary, got sizes {given}")
