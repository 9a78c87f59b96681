"""Which text has Moses' tokens, and what becomes of text that has none."""

import os
from dataclasses import replace

import joblib
import pytest

from g2lstm.data import moses
from g2lstm.data.lines import Text, text_of
from g2lstm.data.moses import TextForm, detokenize, has_escapes, has_tokens, looks_tokenised, tokenize
from g2lstm.errors import UserError


def test_raw_text_is_told_from_tokenised():
    assert looks_tokenised(["das ist gut .", "ja !", "Nr. 3"])
    assert not looks_tokenised(["Das ist gut.", "Ja!", "wirklich ?"])
    assert not looks_tokenised(["one", "two"])
    assert not looks_tokenised(["Ça va ?", "Oui !", "Bon."])  # French
    assert looks_tokenised(["我 没有 钱 。", "好 。"])
    assert not looks_tokenised(["我没有钱。", "好。"])


def texts(**splits: tuple[str, str]) -> dict[str, Text]:
    """Ten pairs of each split."""
    return {split: text_of([pair] * 10) for split, pair in splits.items()}


def test_sides_and_splits_are_all_tokenised_or_none():
    raw, tokens = ("Nein.", "No."), ("Nein .", "No .")
    assert has_tokens(texts(train=tokens, valid=tokens, test=tokens))
    assert not has_tokens(texts(train=raw, valid=raw, test=raw))
    assert has_tokens(texts(train=("nein", "no"), valid=tokens, test=("ja", "Yes!")))  # of which the others say nothing
    assert not has_tokens(texts(train=("nein", "no")))
    few = text_of([("Um 3 p.m.", "At 3 p.m ."), ("Und dann...", "So ..."), ("Die U.S.", "The U.S.")] * 10)
    assert has_tokens({"train": few})  # the first of a target alone has a stop that Moses takes off
    rare = text_of([("Nein.", "no")] * 9 + [("ja", "yes")] * 91)
    assert has_tokens({"train": rare, "valid": text_of([tokens] * 10)})  # too few of its lines
    for split, side in (("test", 1), ("train", 0)):
        mixed = texts(train=tokens, valid=tokens, test=tokens)
        pair = (raw[0], tokens[1]) if side == 0 else (tokens[0], raw[1])
        mixed[split] = text_of([pair] * 10)
        with pytest.raises(UserError, match=rf"the {('source', 'target')[side]} of {split} has none: tokenise all"):
            has_tokens(mixed)


def test_tokens_without_escapes_are_told_from_those_with_them():
    assert has_escapes(text_of([("Geht &apos;s", "It &apos;s it"), ('" a " b', "c")]))
    assert not has_escapes(text_of([("Geht 's", "It 's it")]))
    assert has_escapes(text_of([("nein", "no")]))
    assert not has_escapes(text_of([("Geht 's", "It 's it")] * 9 + [("AT &amp; T", "AT &amp; T")]))  # left over
    assert str(TextForm(("de", "en"), True, False)) == "TextForm(languages=('de', 'en'), tokenised=True, lowercase=False)"
    form = TextForm(("de", "en"), tokenised=True, lowercase=False, escaped=False)
    assert form.of_raw(['It\'s "it" & more.'], 1) == ['It \'s " it " & more .']
    assert detokenize(form.of_raw(["It's it."], 1), "en") == ["It's it."]
    assert (form.values["escaped"], "escaped" in replace(form, escaped=True).values) == (False, False)


@pytest.mark.parametrize(
    ("names", "line", "tokens"),
    [
        (
            ("en", "eng", "English", "en_US", "target", "xx"),
            "I don't know, it's late.",
            "I don &apos;t know , it &apos;s late .",
        ),
        (("fr", "fra", "fre", "french", "fr-CA"), "Oui, j'ai l'eau.", "Oui , j&apos; ai l&apos; eau ."),
    ],
)
def test_rules_of_a_language_are_found_by_its_names_and_those_of_no_language_undo_themselves(names, line, tokens):
    for name in names:
        assert tokenize([line], name) == [tokens]
        assert detokenize([tokens], name) == [line]


def test_moses_tokens_are_undone_again():
    raw = ['Well, that\'s "it": 3.5 & more.'] * 3
    tokens = tokenize(raw, "en")
    assert tokens[0] == "Well , that &apos;s &quot; it &quot; : 3.5 &amp; more ."
    assert detokenize(tokens, "en") == raw
    assert tokenize(raw, "en", lower=True)[0].startswith("well ,")
    assert tokenize(["", "😀"], "en") == ["", "😀"]


def test_many_lines_are_tokenised_by_several_processes_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(moses, "_BLOCK", 10)
    monkeypatch.setattr(moses, "_MOST_PROCESSES", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    used = []

    class Counted(joblib.Parallel):
        def __init__(self, n_jobs: int) -> None:
            used.append(n_jobs)
            super().__init__(n_jobs)

    monkeypatch.setattr(joblib, "Parallel", Counted)
    raw = [f"Number {n}, please." for n in range(57)]
    assert tokenize(raw, "en") == [f"Number {n} , please ." for n in range(57)]
    assert used == [2]
