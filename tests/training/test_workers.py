"""Workers meet under a name of their own attempt, whatever those before them left behind."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from g2lstm.training import workers
from g2lstm.training.workers import met


def test_workers_that_are_started_again_meet_where_one_had_died_before_it_came(monkeypatch):
    store, names = HashStore(), []
    with ThreadPoolExecutor(3) as pool:
        for first in (2, 0, 1):  # who comes first in each attempt, the others a little later
            with monkeypatch.context() as patch:
                patch.setattr(workers, "MEETING", timedelta(seconds=0.1))
                for came in (0, 1):  # of an attempt in which the others died before
                    with pytest.raises(RuntimeError):
                        met(store, came, 3)
            order = [first, *(number for number in range(3) if number != first)]
            meeting = [pool.submit(met, store, order[0], 3)]
            with pytest.raises(TimeoutError):
                meeting[0].result(0.1)
            meeting += [pool.submit(met, store, number, 3) for number in order[1:]]
            found = {one.result(10) for one in meeting}
            assert len(found) == 1
            names += found
    assert len(set(names)) == 3
