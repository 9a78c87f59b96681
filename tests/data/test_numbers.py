"""Number words, checked against readers written for these tests."""

import re

import pytest

from g2lstm.data.numbers import HELD_OUT, LIMIT, SMALL, english, german, number_pairs

TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
GERMAN = {
    "null": 0, "eins": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "sieben": 7, "acht": 8, "neun": 9,
    "zehn": 10, "elf": 11, "zwölf": 12, "dreizehn": 13, "vierzehn": 14, "fünfzehn": 15, "sechzehn": 16, "siebzehn": 17,
    "ein": 1, "achtzehn": 18, "neunzehn": 19, "zwanzig": 20, "dreißig": 30, "vierzig": 40, "fünfzig": 50, "sechzig": 60,
    "siebzig": 70, "achtzig": 80, "neunzig": 90, "und": 0,
}  # fmt: skip
PARTS = re.compile("|".join(sorted([*GERMAN, "hundert", "tausend"], key=len, reverse=True)))


def read_english(words: str) -> int:
    total = part = 0
    for word in words.replace("-", " ").split():
        if word == "thousand":
            total, part = part * 1000, 0
        elif word == "hundred":
            part *= 100
        else:
            part += TENS[word] if word in TENS else ONES.index(word)
    return total + part


def read_german(word: str) -> int:
    assert "".join(PARTS.findall(word)) == word
    total = part = 0
    for piece in PARTS.findall(word):
        if piece == "tausend":
            total, part = part * 1000, 0
        elif piece == "hundert":
            part *= 100
        else:
            part += GERMAN[piece]
    return total + part


@pytest.mark.parametrize(
    ("number", "source", "target"),
    [
        (0, "null", "zero"),
        (1, "eins", "one"),
        (11, "elf", "eleven"),
        (16, "sechzehn", "sixteen"),
        (23, "dreiundzwanzig", "twenty-three"),
        (31, "einunddreißig", "thirty-one"),
        (70, "siebzig", "seventy"),
        (101, "einhunderteins", "one hundred one"),
        (1000, "eintausend", "one thousand"),
        (21_000, "einundzwanzigtausend", "twenty-one thousand"),
        (101_000, "einhunderteintausend", "one hundred one thousand"),
        (121_001, "einhunderteinundzwanzigtausendeins", "one hundred twenty-one thousand one"),
        (
            999_999,
            "neunhundertneunundneunzigtausendneunhundertneunundneunzig",
            "nine hundred ninety-nine thousand nine hundred ninety-nine",
        ),
    ],
)
def test_numbers_are_said_as_people_say_them(number: int, source: str, target: str):
    assert german(number) == source
    assert english(number) == target


def test_words_read_back_as_the_number():
    for number in [*range(2000), *range(2000, LIMIT, 997)]:
        assert read_english(english(number)) == number
        assert read_german(german(number)) == number


@pytest.mark.parametrize("number", [-1, LIMIT])
def test_numbers_out_of_range_are_refused(number: int):
    for words in (german, english):
        with pytest.raises(ValueError, match="must be from 0"):
            words(number)


def test_no_number_is_in_two_splits_and_the_pairs_are_the_same_each_time():
    splits = number_pairs()
    numbers = {split: {read_english(target) for _, target in pairs} for split, pairs in splits.items()}
    assert [len(numbers[split]) for split in ("train", "valid", "test")] == [26_000, HELD_OUT, HELD_OUT]
    assert len(set.union(*numbers.values())) == 26_000 + 2 * HELD_OUT
    assert set(range(SMALL)) <= set.union(*numbers.values())
    assert all(read_german(source) == read_english(target) for source, target in splits["valid"])
    assert number_pairs() == splits
    assert number_pairs(seed=2) != splits
