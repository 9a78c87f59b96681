"""Any number of sentences go through beam search, some hundred hypotheses at a time."""

from collections.abc import Sequence
from typing import Any

import torch

from g2lstm.data.batching import padded_sources
from g2lstm.decoding.beam import Hypothesis, beam_search
from g2lstm.models.translation import Translator

SEARCHED = 320  # hypotheses that are searched at a time


def search_all(
    models: Sequence[Translator], sources: Sequence[Sequence[int]], device: torch.device, *, beam: int, **options: Any
) -> list[list[Hypothesis]]:
    """Translations of each sentence, best first, by an ensemble of models.

    Neighbours are of one length, so that few steps are spent on padding.

    Args:
        models: as `beam_search` has them.
        sources: the sub-words of each sentence, without `</s>`.
        device: where the models are.
        beam: hypotheses of a sentence at a time.
        options: the other ones of `beam_search`.
    """
    order, size = sorted(range(len(sources)), key=lambda index: len(sources[index])), max(SEARCHED // beam, 1)
    found: list[list[Hypothesis]] = [[] for _ in sources]
    for start in range(0, len(order), size):
        part = order[start : start + size]
        source, lengths = padded_sources([sources[index] for index in part])
        results = beam_search(models, source.to(device), lengths, beam=beam, **options)
        for index, hypotheses in zip(part, results, strict=True):
            found[index] = hypotheses
    return found
