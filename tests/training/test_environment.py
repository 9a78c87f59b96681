"""What is found out about the hardware."""

import pytest
import torch

from g2lstm.training import environment
from g2lstm.training.environment import hardware, multiplies_bfloat16

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "products", "expected"),
    [
        ("avx512f avx512_bf16", True, True),
        ("avx512f avx512_bf16 amx_bf16", True, True),
        ("fp asimd bf16", True, True),  # of ARM
        ("avx512f", True, False),  # oneDNN has them there, out of float32 instructions
        ("avx2", False, False),
        ("", True, True),  # where flags can't be read
        ("", False, False),
    ],
)
def test_bfloat16_is_for_processors_that_multiply_it(flags, products, expected, monkeypatch):
    monkeypatch.setattr(environment, "_processor", lambda: ("some processor", set(flags.split())))
    monkeypatch.setattr(environment, "fast_dtype", lambda _: products)
    assert multiplies_bfloat16(CPU) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_is_asked_without_emulation(supported, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.append(options) or supported)
    assert multiplies_bfloat16(torch.device("cuda")) is supported
    assert asked == [{"including_emulation": False}]
    assert not multiplies_bfloat16(torch.device("mps"))


def test_hardware_is_named_with_what_matters_for_speed(monkeypatch):
    monkeypatch.setattr(environment, "_processor", lambda: ("Some CPU", {"avx512f", "avx512_bf16", "sse2"}))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert hardware(CPU) == "2-core Some CPU, AVX-512/BF16"
