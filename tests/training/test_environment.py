"""What is found out about the hardware."""

from pathlib import Path

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


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_the_gpu_that_is_named_is_asked(capability, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert multiplies_bfloat16(torch.device("cuda:1")) is expected
    assert asked == [torch.device("cuda:1")]
    assert not multiplies_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(("name", "value"), [("flags", "fpu avx512_bf16"), ("Features", "fp bf16")])
def test_flags_are_read_of_x86_and_of_arm(name, value, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\n{name}\t: {value}\n")
    assert environment._processor()[1] == set(value.split())


def test_hardware_is_named_with_what_matters_for_speed(monkeypatch):
    monkeypatch.setattr(environment, "_processor", lambda: ("Some CPU", {"avx512f", "avx512_bf16", "sse2"}))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert hardware(CPU) == "2-core Some CPU, AVX-512/BF16"


def test_a_package_within_somebody_elses_repository_has_no_checkout(monkeypatch):
    here = environment.checkout()
    assert here is None or (here / "g2lstm").is_dir()
    monkeypatch.setattr(environment, "_git", lambda *_: "env/lib/python3.11/site-packages/g2lstm/training/")
    assert environment.checkout() is None
    assert environment.commit() == ""
