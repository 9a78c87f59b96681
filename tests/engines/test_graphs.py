"""Steps of a recurrence where no CUDA graph can be captured; graphs are tested on a GPU and in the interpreter."""

import logging

import torch

from g2lstm.engines.graphs import Steps


def test_steps_run_one_by_one_from_where_a_capture_failed(monkeypatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted\nand more")

    monkeypatch.setattr(Steps, "_by_graphs", lambda *_: True)
    monkeypatch.setattr(Steps, "_capture", fail)
    first = torch.zeros((), dtype=torch.int64)
    steps, seen = Steps(first), list[int]()
    with caplog.at_level(logging.WARNING):
        for time in (41, 3):
            first.zero_()
            steps.run(lambda offset: seen.append(first.item() + offset), time, "kind")
    assert seen == [*range(41), *range(3)]
    assert steps.refused
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA graphs, the recurrence is started step by step: operation not permitted"
    ]
