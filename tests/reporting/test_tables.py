"""The one writer of tables, and how numbers look in them."""

from statistics import stdev

import pytest

from g2lstm.reporting.tables import interval, markdown, metric_title, number, spread


def test_a_table_has_a_head_a_rule_and_its_footnote() -> None:
    lines = [["a", "b", "c"], ["x", "y", "1"]]
    assert markdown(lines, "foot", texts=2) == "| a | b | c |\n| --- | --- | ---: |\n| x | y | 1 |\n\nfoot"
    assert markdown(lines[:1], texts=0) == "| a | b | c |\n| ---: | ---: | ---: |"


@pytest.mark.parametrize(
    ("values", "options", "text"),
    [
        ([], {}, "-"),
        ([1234.567], {}, "1,234.57"),
        ([1.0, 3.0], {"digits": 1}, f"2.0 ± {stdev([1, 3]):.1f}"),
        ([1.0, 3.0], {"sign": "+"}, "+2.00 ± 1.41"),
        ([-5000.0, 5000.0], {"digits": 0}, "0 ± 7,071"),
    ],
)
def test_a_spread_is_the_mean_and_the_sample_standard_deviation(values, options, text) -> None:
    assert spread(values, **options) == text


def test_a_metric_is_named_as_people_name_it() -> None:
    assert [metric_title(name) for name in ("perplexity", "bleu", "chrf", "exact_match")] == [
        "Perplexity",
        "BLEU",
        "chrF",
        "Exact match",
    ]


def test_what_was_not_measured_is_a_dash() -> None:
    assert (number(None), number(0.0), interval(-1.0, 0.5, 1, "+")) == ("-", "0.00", "-1.0 to +0.5")
