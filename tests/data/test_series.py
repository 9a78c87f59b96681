"""CSV files with every fault that people have, and the Mackey-Glass series."""

import random
from datetime import date, timedelta

import numpy as np
import pytest

from g2lstm.data.series import mackey_glass, read_csv
from g2lstm.errors import UserError


@pytest.fixture
def read(tmp_path):
    def reader(text: str | bytes, **options):
        path = tmp_path / "own.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_csv(path, **options)

    return reader


def days(count: int, first: date = date(2024, 1, 1)) -> list[str]:
    return [str(first + timedelta(place)) for place in range(count)]


def test_mackey_glass_is_the_closed_form_while_the_delayed_value_is_constant():
    found = mackey_glass(17, washout=0).values[:, 0]
    drive = 0.2 * 1.2 / (1 + 1.2**10)
    t = np.arange(1, 18)
    np.testing.assert_allclose(found, 10 * drive + (1.2 - 10 * drive) * np.exp(-0.1 * t), rtol=1e-8)


def test_mackey_glass_is_that_of_finer_steps_and_goes_on():
    coarse, fine = mackey_glass(100, washout=0).values, mackey_glass(100, washout=0, substeps=80).values
    assert abs(coarse - fine).max() < 2e-3
    np.testing.assert_array_equal(mackey_glass(50, washout=50).values, coarse[50:])


@pytest.mark.parametrize(
    ("text", "columns", "values"),
    [
        ("a,b\n1,2\n3,4\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("\ufeffa,b\n1,2\n", ("a", "b"), [[1, 2]]),
        ("a,b\r\n1,2\r\n\r\n3,4\r\n", ("a", "b"), [[1, 2], [3, 4]]),
        ("1,2\n3,4\n", ("c1", "c2"), [[1, 2], [3, 4]]),
        ("a\tb\n1\t-2e3\n", ("a", "b"), [[1, -2000]]),
        ("a;b\n1,5;2\n0,25;3\n", ("a", "b"), [[1.5, 2], [0.25, 3]]),
        ("a;b\n1.234,5;2\n12.345;3\n", ("a", "b"), [[1234.5, 2], [12345, 3]]),
        ('a,b\n"1,5",2\n"2,25",3\n', ("a", "b"), [[1.5, 2], [2.25, 3]]),
        ('a,b\n"1,234",2\n"1,234,567.5",3\n', ("a", "b"), [[1234, 2], [1234567.5, 3]]),
        ("a\n1,5\n2,5\n", ("a",), [[1.5], [2.5]]),
        ("date,a\n2024-01-01,1\n", ("a",), [[1]]),
        (",a\n0,5\n1,6\n", ("a",), [[5], [6]]),
        ("a,city\n1,Ulm\n2,Bonn\n", ("a",), [[1], [2]]),
    ],
)
def test_a_file_is_read_whatever_wrote_it(read, text, columns, values):
    found = read(text)
    assert found.columns == columns
    np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n", "has a header and no rows"),
        ("a,b\n1,2\n3\n", "line 3 has 1 cells and the first line 2"),
        ("a,b\n1,2\n3,cold\n5,6\n", "line 3: b is 'cold', which is no number"),
        ("a,b\n1,2\n3,inf\n5,6\n", "line 3: b is 'inf', which is no number"),
        ("a,b\n1,2\n3,1_0\n5,6\n", "line 3: b is '1_0', which is no number"),
        ("a,a\n1,2\n", "has two columns 'a'"),
        ("name,city\nx,y\n", "has no column of numbers: it has name, city"),
        ("a,b\n1,\n2,\n3,4\n", "b is empty in 2 of 3 rows"),
        ("date,a\n2024-01-01,1\nsoon,2\n", "line 3: date is 'soon', which is no time"),
        ("date,a\n" + "2024-01-01,1\n" * 8, "7 of 8 rows have the time (date) of another row"),
        (b"a,b\n1,\xff\n", "is not UTF-8"),
        ('a,b\n1,"2\n3,4\n', "unexpected end of data"),
    ],
)
def test_what_cannot_be_put_right_is_one_line_that_names_the_place(read, text, said):
    with pytest.raises(UserError) as error:
        read(text)
    assert said in str(error.value)
    assert "own.csv" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"columns": ["c"]}, "no column 'c': it has a, b"), ({"time": "t"}, "no column 't' for data.time"),
     ({"columns": ["b"]}, "line 2: b is 'x', which is no number")],
)  # fmt: skip
def test_columns_that_are_asked_for_must_be_there(read, options, said):
    with pytest.raises(UserError, match=said):
        read("a,b\n1,x\n2,y\n", **options)


def test_gaps_have_the_value_before_and_are_counted(read):
    found = read("a,b\n,1\n2,NA\n,3\n4,-\n5,?\n6,7\n")
    np.testing.assert_array_equal(found.values, [[2, 1], [2, 3], [4, 3], [5, 3], [6, 7]])
    assert found.repairs == {"incomplete_rows": 1, "filled_cells": 4}
    assert "4 gaps filled with the value before" in found.said()


def test_shuffled_rows_are_those_in_order_and_of_one_time_the_last_counts(read):
    lines = [f"{day},{place}" for place, day in enumerate(days(30))]
    shuffled = [*lines]
    random.Random(1).shuffle(shuffled)
    ordered, found = (read("\n".join(["date,a", *rows])) for rows in (lines, shuffled))
    np.testing.assert_array_equal(found.values, ordered.values)
    assert found.labels() == ordered.labels() == days(30)
    assert found.repairs["sorted_rows"] > 10
    again = read("\n".join(["date,a", *lines, f"{days(30)[4]},40"]))
    assert again.repairs == {"sorted_rows": 1, "repeated_rows": 1}
    assert again.values[4] == 40
    assert len(again) == 30


def test_missing_rows_are_filled_where_they_are_few_and_said_where_the_file_is_irregular(read):
    lines = [f"{day},{place}" for place, day in enumerate(days(60))]
    found = read("\n".join(["date,a", *lines[:10], *lines[12:]]))
    assert found.repairs == {"filled_rows": 2}
    assert found.labels() == days(60)
    assert found.values[9:13, 0].tolist() == [9, 9, 9, 12]
    working = read("\n".join(["date,a", *(line for place, line in enumerate(lines) if place % 7 < 5)]))
    assert working.repairs == {"irregular_steps": 8}
    assert len(working) == 44


@pytest.mark.parametrize(
    ("cells", "labels", "following"),
    [
        (["31.12.2023", "01.01.2024"], ["2023-12-31", "2024-01-01"], "2024-01-02"),
        (["12/31/2023", "01/01/2024"], ["2023-12-31", "2024-01-01"], "2024-01-02"),
        (["01/02/2024", "01/03/2024"], ["2024-02-01", "2024-03-01"], "2024-04-01"),
        (["12/01/2024", "13/01/2024"], ["2024-01-12", "2024-01-13"], "2024-01-14"),
        (["1949-11", "1949-12"], ["1949-11-01", "1949-12-01"], "1950-01-01"),
        (["2024-01-01T00:00:00Z", "2024-01-01T02:00+01:00"], ["2024-01-01 00:00", "2024-01-01 01:00"], "2024-01-01 02:00"),
        (["2024-01-01 00:00:30", "2024-01-01 00:01:00"], ["2024-01-01 00:00:30", "2024-01-01 00:01:00"],
         "2024-01-01 00:01:30"),
    ],
)  # fmt: skip
def test_times_are_read_as_they_are_written_and_go_on(read, cells, labels, following):
    found = read("\n".join(["when,a", *(f"{cell},{place}" for place, cell in enumerate(cells))]))
    assert found.time_name == "when"
    assert found.labels() == labels
    assert found.labels(found.times_after(1)) == [following]


def test_years_and_row_numbers_go_on(read):
    found = read("year,a\n1990,1\n1991,2\n")
    assert (found.labels(), found.labels(found.times_after(2))) == (["1990", "1991"], ["1992", "1993"])
    assert read("a,b\n1,2\n").times_after(2).tolist() == [1, 2]
    assert read("date,a\n2024-01-01,1\n", time="none", columns=["a"]).time_name is None


def test_a_separator_and_a_decimal_mark_that_are_given_are_taken(read):
    text = "a\n1,234\n5,678\n"
    assert read(text, separator=";", decimal=".").values.tolist() == [[1234.0], [5678.0]]  # commas part thousands
    assert read(text, separator=";", decimal=",").values.tolist() == [[1.234], [5.678]]
    assert read("a,b\n1,2\n", separator=",").values.tolist() == [[1.0, 2.0]]
