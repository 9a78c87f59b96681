"""What is found on the rows of train, and the season."""

import json

import numpy as np
import pytest

from g2lstm.data.scaling import Scaling, season_of
from g2lstm.data.series import Series
from g2lstm.errors import UserError


def series(**columns) -> Series:
    values = np.array(list(columns.values()), dtype=float).T
    return Series(tuple(columns), values, np.arange(len(values), dtype=float))


def test_the_rows_of_train_alone_decide():
    a, b = np.random.default_rng(1).normal(5, 3, (2, 40))
    found = Scaling.of("own.csv", series(a=a, b=b), 30, ("b",), 7)
    assert found.columns == ("b", "a")
    np.testing.assert_allclose(found.mean, [b[:30].mean(), a[:30].mean()])
    np.testing.assert_allclose(found.scale, [b[:30].std(), a[:30].std()])
    np.testing.assert_allclose(found.steps, [abs(np.diff(b[:30])).mean()])
    assert found.season == 7
    other = Scaling.of("own.csv", series(a=[*a[:30], *[1e6] * 10], b=[*b[:30], *[-1e6] * 10]), 30, ("b",), 7)
    assert other == found
    assert Scaling.parse(found.text()) == found
    values = np.stack([b, a], 1)
    np.testing.assert_allclose(found.restored(found.normalised(values)[:, :1]), values[:, :1])


def test_numbers_too_large_for_their_squares_are_said():
    with pytest.raises(UserError, match=r"own\.csv: b has 3e\+200, too large to reckon with"):
        Scaling.of("own.csv", series(a=[1.0, 2, 3, 4], b=[1.0, 3e200, 2.0, 0.0]), 4, (), None)


def test_constant_columns_are_left_out_and_counted_but_no_targets():
    varied = [1.0, 2, 4, 3, 5]
    found = Scaling.of("own.csv", series(a=varied, b=[0.1] * 5, c=[7.0, 7, 7, 7, 8]), 4, (), None)
    assert (found.columns, found.targets, found.constant) == (("a",), 1, 2)
    with pytest.raises(UserError, match=r"b is 0\.1 in all 4 rows to train on"):
        Scaling.of("own.csv", series(a=varied, b=[0.1] * 5), 4, ("b",), None)
    with pytest.raises(UserError, match="names a twice"):
        Scaling.of("own.csv", series(a=varied), 4, ("a", "a"), None)
    with pytest.raises(UserError, match="a is 3 in all 4 rows to train on"):
        Scaling.of("own.csv", series(a=[3.0] * 5), 4, (), None)
    with pytest.raises(UserError, match="no column of numbers 'x': it has a"):
        Scaling.of("own.csv", series(a=varied), 4, ("x",), None)


def test_damaged_text_is_refused():
    text = Scaling.of("own.csv", series(a=[1.0, 2, 4, 3]), 4, (), None).text()
    for wrong in (text[:30], "[]", "{}", json.dumps(json.loads(text) | {"mean": []})):
        with pytest.raises(UserError, match=r"scaling\.json is damaged"):
            Scaling.parse(wrong)


def test_the_season_is_found_under_a_trend_and_noise_and_not_where_there_is_none():
    t, draw = np.arange(1500), np.random.default_rng(1)
    daily = np.sin(2 * np.pi * t / 24) + 0.3 * np.sin(2 * np.pi * t / 168) + 0.01 * t + 0.1 * draw.normal(size=1500)
    assert season_of(daily[:, None]) == 24
    assert season_of(draw.normal(size=(1500, 2)).cumsum(0)) == 1
    assert season_of(t[:100, None].astype(float)) == 1
    assert season_of(t[:2, None].astype(float)) == 1
