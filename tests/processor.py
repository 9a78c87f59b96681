"""Tests of what oneDNN computes in bfloat16, as nn.LSTM under autocast does, are skipped on processors where it can't."""

import pytest
import torch

from g2lstm.engines.products import fast_dtype

needs_bfloat16 = pytest.mark.skipif(not fast_dtype(torch.bfloat16), reason="oneDNN has no bfloat16 on this processor")
FLOAT32_AND_BFLOAT16 = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
