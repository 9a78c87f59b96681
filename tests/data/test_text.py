"""Vocabulary, corpora as token ids, columns and segments."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.data.text import EOS, UNK, Vocabulary, batchify, load_corpus, segments
from g2lstm.errors import UserError


def words_of(vocabulary: Vocabulary, ids: list[int]) -> str:
    return " ".join(vocabulary.tokens[id] for id in ids)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text("the cat sat\nthe dog sat\n")
    (tmp_path / "valid.txt").write_text("the cat\n")
    (tmp_path / "test.txt").write_text("the dog\n")
    return tmp_path


def test_vocabulary_is_in_order_of_first_appearance() -> None:
    assert Vocabulary.build(["b a", "a c"]).tokens == ("b", "a", EOS, "c")


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda word: word.split() == [word])


@given(st.lists(st.lists(words), min_size=1))
def test_decode_undoes_encode(lines: list[list[str]]) -> None:
    vocabulary = Vocabulary.build(" ".join(line) for line in lines)
    for line in lines:
        assert words_of(vocabulary, vocabulary.encode(" ".join(line))) == " ".join([*line, EOS])


def test_rare_words_become_unk() -> None:
    vocabulary = Vocabulary.build(["a b a", "c a b"], min_count=2)
    assert vocabulary.tokens == ("a", "b", EOS, UNK)
    assert words_of(vocabulary, vocabulary.encode("a c never")) == f"a {UNK} {UNK} {EOS}"


def test_max_vocabulary_keeps_the_most_frequent_and_counts_eos_and_unk() -> None:
    vocabulary = Vocabulary.build(["rare often often", "some some often"], max_vocabulary=4)
    assert vocabulary.tokens == (UNK, "often", EOS, "some")
    assert len(vocabulary) == 4


@pytest.mark.parametrize("tokens", [("a", "a", EOS), ("a", "b"), ("a b", EOS), ("", EOS)])
def test_impossible_vocabularies_are_refused(tokens: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="token"):
        Vocabulary(tokens)


@given(st.lists(words, unique=True))
def test_a_vocabulary_as_text_is_read_unchanged(tokens: list[str]) -> None:
    vocabulary = Vocabulary(tuple(dict.fromkeys([*tokens, EOS])))
    assert Vocabulary.parse(vocabulary.text()) == vocabulary


@pytest.mark.parametrize(
    "content",
    [
        "",
        '{"format": "g2lstm-vocabulary-1", "tokens": ["a", "<e',
        '["a", "<eos>"]',
        '{"format": "g2lstm-vocabulary-1"}',
        '{"format": "g2lstm-vocabulary-1", "tokens": ["a"]}',
        '{"format": "g2lstm-vocabulary-1", "tokens": ["a", "a", "<eos>"]}',
        '{"format": "g2lstm-vocabulary-1", "tokens": [1, "<eos>"]}',
    ],
)
def test_corrupt_vocabulary_is_named(content: str) -> None:
    with pytest.raises(UserError, match=r"vocabulary\.json is no whole vocabulary") as error:
        Vocabulary.parse(content)
    assert "\n" not in str(error.value)


def test_vocabulary_text_has_one_token_a_line() -> None:
    text = Vocabulary(("grüße", EOS)).text()
    assert '"grüße",\n"<eos>"\n' in text
    assert json.loads(text)["tokens"] == ["grüße", EOS]


def test_corpus_is_int64_streams_with_an_eos_a_line(folder: Path) -> None:
    corpus = load_corpus("text", data_dir=folder)
    assert corpus.train.dtype == torch.int64
    assert corpus.train.tolist() == [0, 1, 2, 3, 0, 4, 2, 3]
    assert words_of(corpus.vocabulary, corpus.test.tolist()) == f"the dog {EOS}"
    assert corpus.origin == str(folder)


def test_blank_line_is_an_eos_alone(folder: Path) -> None:
    (folder / "valid.txt").write_text("the\n\ncat\n")
    corpus = load_corpus("text", data_dir=folder)
    assert words_of(corpus.vocabulary, corpus.valid.tolist()) == f"the {EOS} {EOS} cat {EOS}"


def test_unknown_word_names_word_split_line_and_the_way_out(folder: Path) -> None:
    (folder / "valid.txt").write_text("the cat\n\nthe bird sat\nfish\n")
    with pytest.raises(UserError) as error:
        load_corpus("text", data_dir=folder)
    for part in ("'bird'", "line 3 of valid", str(folder), "data.min_count=2"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_the_way_out_of_an_unknown_word_works(folder: Path) -> None:
    (folder / "valid.txt").write_text("the bird sat\n")
    corpus = load_corpus("text", data_dir=folder, min_count=2)
    assert words_of(corpus.vocabulary, corpus.valid.tolist()) == f"the {UNK} sat {EOS}"


def test_text_that_brings_its_own_unk_takes_unknown_words(folder: Path) -> None:
    (folder / "train.txt").write_text(f"the {UNK} sat\n")
    corpus = load_corpus("text", data_dir=folder)
    assert words_of(corpus.vocabulary, corpus.test.tolist()) == f"the {UNK} {EOS}"


def test_given_vocabulary_is_used(folder: Path) -> None:
    vocabulary = Vocabulary(("sat", "dog", "cat", "the", EOS))
    corpus = load_corpus("text", data_dir=folder, vocabulary=vocabulary)
    assert corpus.vocabulary is vocabulary
    assert corpus.valid.tolist() == [3, 2, 4]


@given(st.integers(2, 200), st.integers(1, 20))
def test_columns_are_contiguous_streams(length: int, batch_size: int) -> None:
    tokens = torch.arange(length)
    if length < 2 * batch_size:
        with pytest.raises(UserError, match=f"batch_size {batch_size}, which needs {2 * batch_size}"):
            batchify(tokens, batch_size)
        return
    rows = batchify(tokens, batch_size)
    assert rows.shape == (length // batch_size, batch_size)
    assert rows.is_contiguous()
    assert torch.equal(rows.t().flatten(), tokens[: rows.numel()])


@given(st.integers(0, 500), st.integers(1, 90), st.booleans(), st.integers(0, 9))
def test_segments_cover_all_rows_with_a_target_once(length: int, bptt: int, random: bool, seed: int) -> None:
    pairs = segments(length, bptt, torch.Generator().manual_seed(seed), random=random)
    covered = [row for start, steps in pairs for row in range(start, start + steps)]
    assert covered == list(range(length - 1))
    assert all(steps >= 5 for _, steps in pairs[:-1] if random)


def test_fixed_segments_are_bptt_long_but_the_last() -> None:
    assert segments(12, 4, random=False) == [(0, 4), (4, 4), (8, 3)]


def test_same_generator_state_gives_the_same_segments() -> None:
    first, second = (segments(10_000, 70, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first == second
    assert first != segments(10_000, 70, torch.Generator().manual_seed(8))


def test_random_lengths_follow_the_awd_lstm_mixture() -> None:
    pairs = segments(2_000_000, 70, torch.Generator().manual_seed(0))
    lengths = torch.tensor([steps for _, steps in pairs[:-1]], dtype=torch.float64)
    short = lengths < 52.5
    assert short.double().mean().item() == pytest.approx(0.05, abs=0.005)
    assert lengths[~short].mean().item() == pytest.approx(69.5, abs=0.2)  # int() cuts half a row off on average
    assert lengths[~short].std().item() == pytest.approx(5, abs=0.2)
    assert lengths[short].mean().item() == pytest.approx(34.5, abs=0.5)


@pytest.mark.corpus
def test_penn_treebank_as_the_field_counts_it(ptb_dir: Path) -> None:
    corpus = load_corpus("ptb", data_dir=ptb_dir)
    assert [part.numel() for part in (corpus.train, corpus.valid, corpus.test)] == [929_589, 73_760, 82_430]
    assert len(corpus.vocabulary) == 10_000
    assert UNK in corpus.vocabulary.index
    assert int(corpus.train.max()) == 9_999
