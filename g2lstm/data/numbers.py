"""Number words, German to English: a task of translation that needs no files ("dreiundzwanzig" to "twenty-three")."""

import random

LIMIT = 1_000_000  # below which all numbers are said
SMALL = 10_000  # below which every number is in one of the splits, or words of few digits would be too rare to learn
HELD_OUT = 2_000  # pairs of valid, and of test
SEED = 1806

_ENGLISH = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_ENGLISH_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN = [
    "null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun",
    "zehn", "elf", "zwölf", "dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn",
]  # fmt: skip
_GERMAN_TENS = ["", "", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def german(number: int) -> str:
    """A number below a million in German, as counted: 121,001 is "einhunderteinundzwanzigtausendeins"."""
    _check(number)
    thousands, rest = divmod(number, 1000)
    words = f"{_german_below_1000(thousands)}tausend" if thousands else ""
    if rest or not thousands:
        words += _german_below_1000(rest)
    return words + "s" if rest % 100 == 1 else words  # "eins" at the end, "ein" before what it counts


def _german_below_1000(number: int) -> str:
    hundreds, rest = divmod(number, 100)
    words = f"{_GERMAN[hundreds]}hundert" if hundreds else ""
    if rest == 0:
        return words or _GERMAN[0]
    if rest < 20:
        return words + _GERMAN[rest]
    tens, ones = divmod(rest, 10)
    return words + (f"{_GERMAN[ones]}und" if ones else "") + _GERMAN_TENS[tens]


def english(number: int) -> str:
    """A number below a million in English, without "and": 121,001 is "one hundred twenty-one thousand one"."""
    _check(number)
    thousands, rest = divmod(number, 1000)
    words = [*_english_below_1000(thousands), "thousand"] if thousands else []
    if rest or not thousands:
        words += _english_below_1000(rest)
    return " ".join(words)


def _english_below_1000(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_ENGLISH[hundreds], "hundred"] if hundreds else []
    tens, ones = divmod(rest, 10)
    if rest >= 20:
        words.append(_ENGLISH_TENS[tens] + (f"-{_ENGLISH[ones]}" if ones else ""))
    elif rest or not hundreds:
        words.append(_ENGLISH[rest])
    return words


def _check(number: int) -> None:
    if not 0 <= number < LIMIT:
        raise ValueError(f"number must be from 0 to {LIMIT - 1:,}, got {number:,}")


def number_pairs(train: int = 26_000, *, seed: int = SEED) -> dict[str, list[tuple[str, str]]]:
    """Pairs of train, valid and test; no number is in two of them.

    Args:
        train: pairs to train on; valid and test have `HELD_OUT` each.
        seed: of the draw; numbers below `SMALL` are all drawn, the others evenly.

    Returns:
        split to (German, English) pairs in random order.
    """
    draw = random.Random(seed)
    total = train + 2 * HELD_OUT
    small = min(SMALL, total // 3)
    numbers = draw.sample(range(SMALL), small) + draw.sample(range(SMALL, LIMIT), total - small)
    draw.shuffle(numbers)
    pairs = [(german(number), english(number)) for number in numbers]
    return {"test": pairs[:HELD_OUT], "valid": pairs[HELD_OUT : 2 * HELD_OUT], "train": pairs[2 * HELD_OUT :]}
