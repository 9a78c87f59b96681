"""Measured rows in a file that several processes write."""

from g2lstm.runs.store import Store


def test_rows_that_another_process_wrote_meanwhile_stay(tmp_path):
    path = tmp_path / "rows.json"
    one = Store(path)
    one.add("a", [{"value": 1}])
    Store(path).add("b", [{"value": 2}])
    one.keep(["a"])
    assert [row["key"] for row in Store(path).all()] == ["a", "b"]
    Store(path).add("c", [{"value": 3}])
    one.add("d", [{"value": 4}])
    assert {row["key"] for row in Store(path).all()} == {"a", "b", "c", "d"}
