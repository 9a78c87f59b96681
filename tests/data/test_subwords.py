"""Sub-words: the same in every process, and nothing of a text is taken for a special one."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.data.numbers import number_pairs
from g2lstm.data.subwords import SPECIALS, Encoder, Subwords
from g2lstm.errors import UserError
from g2lstm.models.translation import EOS, UNK

PAIRS = number_pairs(400)["train"]
GERMAN, ENGLISH = ([pair[side] for pair in PAIRS] for side in (0, 1))
JOINT = Subwords.train(GERMAN, ENGLISH, size=120, joint=True)
APART = Subwords.train(GERMAN, ENGLISH, size=80, joint=False)
LETTERS = sorted({letter for line in GERMAN + ENGLISH for letter in line if letter != " "})


def test_the_same_lines_give_the_same_vocabulary_in_another_process():
    code = """
from tests.data.test_subwords import JOINT, APART
print(JOINT.digest, APART.digest)
"""
    apart = {"PYTHONHASHSEED": "1", "RAYON_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | apart)
    assert found.stdout.split() == [JOINT.digest, APART.digest]


@pytest.mark.parametrize("subwords", [JOINT, APART], ids=["joint", "apart"])
def test_what_was_written_reads_back_the_same(subwords: Subwords):
    again = Subwords.parse(subwords.text())
    assert again.joint is subwords.joint
    assert again.digest == subwords.digest
    assert again.encode_source(GERMAN) == subwords.encode_source(GERMAN)
    assert again.encode_target(ENGLISH) == subwords.encode_target(ENGLISH)


def test_a_joint_vocabulary_has_the_size_asked_for_and_two_have_it_each():
    assert len(JOINT.source_labels) == len(JOINT.target_labels) == 120
    assert JOINT.source_labels == JOINT.target_labels
    assert len(APART.source_labels) == len(APART.target_labels) == 80
    assert APART.source_labels != APART.target_labels
    assert JOINT.source_labels[: len(SPECIALS)] == APART.target_labels[: len(SPECIALS)] == SPECIALS


@given(st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=6))
def test_decoding_undoes_encoding(words: list[str]):
    line = " ".join(words)
    (ids,) = JOINT.encode_target([line])
    assert JOINT.decode(ids) == line
    assert UNK not in ids
    assert ids == JOINT.target.tokenizer.encode(line).ids  # the library on the whole line, not word by word


def test_characters_never_seen_are_unknown():
    (ids,) = JOINT.encode_source(["ein☃s"])
    assert [JOINT.source_labels[id] for id in ids if id == UNK] == ["<unk>"]
    assert JOINT.encode_source(["☃ 中"])[0].count(UNK) == 2
    assert JOINT.encode_source([""]) == [[]]


@pytest.mark.parametrize("side", [JOINT.source, JOINT.target, APART.source, APART.target])
@pytest.mark.parametrize("line", ["e\u2603 \u4e2dt", "one \U0001f600\U0001f600", "\u2581 </s> e\u0301", ""])
def test_each_subword_is_shown_and_a_character_never_seen_as_itself(side: Encoder, line: str):
    (ids,), shown = side.encode([line]), side.shown(line)
    assert len(shown) == len(ids)
    assert [label for label, id in zip(shown, ids, strict=True) if id != UNK] == [side.labels[id] for id in ids if id != UNK]
    assert [label for label, id in zip(shown, ids, strict=True) if id == UNK] == [
        f"{letter}*" for letter in line if letter != " " and UNK in side.encode([letter])[0]
    ]


def test_words_with_unknown_characters_are_named_once_and_as_people_write_them():
    assert JOINT.source.unknown("eins \u2603 &#124;\u2603 \u2603") == ["\u2603", "|\u2603"]
    assert JOINT.source.unknown("eins") == []


def test_the_name_of_a_special_subword_in_a_text_is_only_text():
    lines = [f"a </s> <pad> {line}" for line in ENGLISH]
    subwords = Subwords.train(lines, lines, size=120, joint=True)
    (ids,) = subwords.encode_target(["a </s> <pad>"])
    assert min(ids) >= len(SPECIALS)
    assert subwords.decode([*ids, EOS]) == "a </s> <pad>"


@pytest.mark.parametrize("mark", SPECIALS)
def test_nor_is_it_within_a_word_of_many_lines(mark: str):
    lines = [f"a{mark}b {line}" for line in ENGLISH]
    subwords = Subwords.train(lines, lines, size=120, joint=True)
    for text in (f"a{mark}b", f"b{mark}", mark, f"{mark}{mark}"):
        (ids,) = subwords.encode_target([text])
        assert min(ids) >= len(SPECIALS)
        assert subwords.decode([*ids, EOS]) == text


@pytest.mark.parametrize(("joint", "which"), [(True, "source and target text"), (False, "source text")])
def test_a_vocabulary_larger_than_the_text_gives_is_told_with_what_it_gives(joint: bool, which: str):
    with pytest.raises(UserError) as error:
        Subwords.train(["ab ab"], ["ab"], size=50, joint=joint)
    # 4 special, "a", "b", "▁", "▁a" (or "ab") and "▁ab"
    assert str(error.value) == f"data.vocabulary_size=50: the {which} gives at most 9 sub-words: set one of at most 9"


def test_a_vocabulary_smaller_than_the_alphabet_is_told():
    with pytest.raises(UserError, match=r"data.vocabulary_size=10: .* at least 31 sub-words"):
        Subwords.train(["abcdefghijklmnopqrstuvwxyz"], [""], size=10, joint=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "g2lstm-subwords-1", "tokenizers": []}', JOINT.text()[:500]])
def test_a_broken_file_is_one_line(text: str):
    with pytest.raises(UserError, match=r"^runs/1/subwords.json has no whole sub-words \(.*$"):
        Subwords.parse(text, where="runs/1/subwords.json")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"the package tokenizers is missing: pip install 'g2lstm\[translation\]'"):
        Subwords.parse(JOINT.text())
