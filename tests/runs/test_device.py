"""Which device a worker takes."""

import pytest
import torch

from g2lstm.errors import UserError
from g2lstm.runs import device


def test_a_worker_without_a_gpu_is_told_how_many_there_are(monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="worker 1 of this machine has no GPU, it has 1: set --nproc-per-node=1"):
        device._gpu_of_worker()
