"""The English that every Python carries."""

import platform
import sys
from pathlib import Path

import pytest

from g2lstm.data.builtin import builtin_text, tokenize
from g2lstm.data.text import EOS, UNK, load_corpus
from g2lstm.errors import UserError


def test_tokenize_lowers_splits_and_hides_numbers() -> None:
    line = tokenize('The "for" loop, since *version* 3.8, doesn\'t re-use 10 names (see "iter()").')
    assert line == "the for loop , since version N , doesn't re-use N names ( see iter ( ) ) ."


def test_splits_are_eight_one_one() -> None:
    raw = builtin_text()
    sizes = {split: len(lines) for split, lines in raw.splits.items()}
    total = sum(sizes.values())
    assert total > 1_500
    assert [round(sizes[split] / total, 1) for split in ("train", "valid", "test")] == [0.8, 0.1, 0.1]


def test_no_sentence_is_in_two_splits() -> None:
    lines = [line for part in builtin_text().splits.values() for line in part]
    assert len(lines) == len(set(lines))


def test_text_is_the_same_each_time() -> None:
    assert builtin_text() == builtin_text()


def test_origin_names_the_python_version() -> None:
    assert platform.python_version() in builtin_text().origin


def test_text_is_english_not_code() -> None:
    corpus = load_corpus("builtin", min_count=2)
    most_common = [corpus.vocabulary.tokens[id] for id in corpus.train.bincount().argsort(descending=True)[:12]]
    assert {"the", "of", "is", "a", EOS} <= set(most_common)


def test_corpus_is_small_and_its_unknown_words_are_few() -> None:
    corpus = load_corpus("builtin", min_count=2)
    assert 1_000 < len(corpus.vocabulary) < 3_000
    assert 30_000 < corpus.train.numel() < 60_000
    for part, limit in ((corpus.train, 0.05), (corpus.valid, 0.1), (corpus.test, 0.1)):
        unknown = (part == corpus.vocabulary.index[UNK]).double().mean().item()
        assert 0 < unknown < limit


def test_a_folder_with_it_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.dir=.*reads no files.*task=text"):
        load_corpus("builtin", data_dir=tmp_path)


def test_python_without_the_text_gets_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"no pydoc_data.*task=text data\.dir="):
        builtin_text()
