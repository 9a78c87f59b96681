"""Reading a text while its gates are watched."""

import pytest
import torch

from g2lstm import GumbelGate
from g2lstm.data.text import EOS, UNK, Vocabulary
from g2lstm.errors import UserError
from g2lstm.inspection.reading import (
    MOST_WORDS,
    chosen_layer,
    corpus_statistics,
    first_sentences,
    layer_name,
    read,
    read_sentence,
)
from g2lstm.inspection.statistics import Key
from g2lstm.models.language_model import LanguageModel

VOCABULARY = Vocabulary(("a", "b", "c", EOS, UNK))


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(2)
    return LanguageModel(5, 4, 6, 2, gate=GumbelGate()).eval()


def test_first_sentences_end_with_their_own_end() -> None:
    tokens = torch.tensor([0, 1, 3, 2, 3, 3, 0])
    assert first_sentences(tokens, 3, 2)[0].tolist() == [0, 1, 3, 2, 3]
    assert first_sentences(tokens, 3, 2)[1] == 2
    for count in (None, 3, 100):
        assert first_sentences(tokens, 3, count) == (tokens, 3)


def test_statistics_do_not_depend_on_how_much_is_read_at_a_time(model) -> None:
    tokens = torch.randint(5, (101,))
    whole, pieces = (corpus_statistics(model, tokens, batch_size=2, rows=rows, words=5) for rows in (100, 7))
    assert list(whole.tallies) == [Key(f"layers.{n}", 0, False, gate) for n in (0, 1) for gate in "if"]
    for key, tally in whole.tallies.items():
        assert tally.steps == 98  # 2 streams of 50 words, the last of each is only predicted
        assert pieces.tallies[key].summary() == pytest.approx(tally.summary())
        assert tally.words is not None
        stream = tokens[:100].view(2, 50)[:, :49].flatten()
        assert tally.words[:, 0].tolist() == stream.bincount(minlength=5).tolist()


def test_a_sentence_is_read_after_the_end_of_another(model) -> None:
    words, unknown, values = read_sentence(model, VOCABULARY, "a  b zebra b")
    assert (words, unknown) == (["a", "b", "zebra", "b", EOS], ["zebra"])
    kept = []
    read(model, torch.tensor([3, 0, 1, 4, 1, 3, 0]), lambda record, _: kept.append(record), batch_size=1)
    for key, found in values.items():
        (record,) = (record for record in kept if record.name == key.name)
        torch.testing.assert_close(found, record.steps(key.gate)[1:])


def test_text_that_cannot_be_shown_is_one_line(model) -> None:
    with pytest.raises(UserError, match="text has no words"):
        read_sentence(model, VOCABULARY, "  ")
    with pytest.raises(UserError, match=f"text has {MOST_WORDS} words"):
        read_sentence(model, VOCABULARY, "a " * MOST_WORDS)
    with pytest.raises(UserError, match=r"'zebra' \(text=\) is not in the vocabulary"):
        read_sentence(model, Vocabulary(("a", EOS)), "a zebra")


def test_the_decoders_first_layer_is_taken_or_the_first() -> None:
    assert chosen_layer(["encoder.0", "decoder.0", "decoder.1"], None) == "decoder.0"
    assert chosen_layer(["layers.0", "layers.1"], None) == "layers.0"
    assert chosen_layer(["layers.0", "layers.1"], "layers.1") == "layers.1"
    with pytest.raises(UserError, match=r"no layer 7: layer=\.\.\. is one of layers\.0, layers\.1"):
        chosen_layer(["layers.0", "layers.1"], "7")


def test_layers_and_directions_have_names() -> None:
    assert layer_name(Key("layers.0", 0, False, "f")) == "layers.0"
    assert layer_name(Key("", 2, True, "f")) == "lstm.2.reverse"
