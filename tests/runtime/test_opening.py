"""What the runtime does with files, words and machines that are not as they should be: one line, never a crash."""

import ctypes
import random
import struct
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from g2lstm import runtime
from g2lstm.compression import Method
from g2lstm.compression.deploy import MODEL_FILE, deploy
from g2lstm.compression.model_file import save_model
from g2lstm.data.text import Vocabulary
from g2lstm.errors import UserError
from g2lstm.models.language_model import LanguageModel
from g2lstm.runtime import model as binding
from g2lstm.training.checkpoint import save_checkpoint
from tests.engines import fresh

pytestmark = pytest.mark.skipif(runtime.problem() is not None, reason=f"the runtime {runtime.problem()}")

WORDS = ("<eos>", "naïve", "\U0001d53e2", '"quoted"\\', "a")


def language_model(notes: dict | None = None) -> bytes:
    torch.manual_seed(1)
    model = LanguageModel(len(WORDS), 4, 6, 2, tied=False)
    files = {"files": {"vocabulary.json": Vocabulary(WORDS).text()}}
    return deploy(model, Method.parse("svd:2+round:0.1"), rest="int8", notes=files if notes is None else notes).file()


def rejected(file: bytes | Path) -> str:
    with pytest.raises(UserError) as error:
        runtime.Model(file)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path) -> None:
    content, draw = language_model(), random.Random(1)
    for place in [*range(0, len(content), 37), *range(len(content) - 40, len(content))]:
        damaged = bytearray(content)
        damaged[place] ^= draw.randrange(1, 256)
        rejected(bytes(damaged))
    for size in [*range(0, 40), *range(40, len(content), 97), len(content) - 1]:
        rejected(content[:size])
    assert "bytes too many" in rejected(content + b"\0")


def test_a_description_that_was_made_up_is_refused_even_with_its_checksum(tmp_path) -> None:
    path = tmp_path / "model.g2"
    lstm = deploy(nn.LSTM(3, 4), Method.parse("bits:3"), rest="int8")

    def refused(**changes: object) -> str:
        save_checkpoint(path, vars(lstm) | {"forms": {}} | changes, MODEL_FILE)
        return rejected(path)

    assert 'no right "weight_ih_l0"' in refused()
    assert 'no right "hidden_size"' in refused(lstms={"": lstm.lstms[""] | {"hidden_size": -1}})
    assert 'no right "lstms"' in refused(lstms=[1, 2])
    for hidden, message in ((5, "wrong size"), (0, "a size of 0")):
        changed = deploy(nn.LSTM(3, 4))
        changed.lstms[""]["hidden_size"] = hidden
        with pytest.raises(UserError, match=message):
            changed.open()
    codes = lstm.forms["weight_ih_l0"][0]
    tree = {
        "form": "codes",
        "shape": [4, 3],
        "levels": 7,
        "scales": codes.scales,
        "packed": torch.zeros(5, dtype=torch.uint8),
    }
    for wrong, message in (
        ({"packed": torch.zeros(2, dtype=torch.uint8)}, "wrong size"),
        ({"packed": torch.full((5,), 255, dtype=torch.uint8)}, "a code without a value"),
        ({"levels": 70000}, "wrong number of values"),
        ({"scales": torch.zeros(3)}, "not what its description says"),
        ({"shape": [4, 3, 1]}, "more than two dimensions"),
        ({"shape": [4e20, 3]}, "a wrong shape"),
        ({"form": "magic", "values": torch.zeros(1)}, "not known here: magic"),
        ({"form": "factors", "left": tree, "right": tree}, "two factors don't fit"),
    ):
        save_checkpoint(path, vars(lstm) | {"forms": {"weight_ih_l0": [tree | wrong] * 4}}, MODEL_FILE)
        with pytest.raises(UserError, match=message):
            runtime.Model(path)


def test_other_files_are_refused_in_a_line_that_names_them(tmp_path) -> None:
    path = tmp_path / "model.g2"
    path.write_text("no model at all, a text")
    assert rejected(path) == f"can't read {path}: it is cut off or no such file"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "cut off" in rejected(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert "no right" in rejected(path)
    save_checkpoint(path, {"model": {"weight": torch.zeros(2)}})
    assert rejected(path).endswith("it is not a compressed model of this project")
    assert rejected(tmp_path).endswith("Is a directory")
    path.write_bytes(struct.pack("<Q", 20000) + b"[" * 20000)
    assert rejected(path).endswith("its description is no JSON")
    with pytest.raises(UserError, match=r"nowhere: No such file or directory: python experiments/compress.py writes one"):
        runtime.open(tmp_path / "nowhere")


def test_words_come_back_and_are_found(tmp_path) -> None:
    path = tmp_path / "model.g2"
    path.write_bytes(language_model())
    opened = runtime.open(path)
    assert opened.words == WORDS
    library = binding._library()
    library.g2_find_word.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    assert [library.g2_find_word(opened._handle, word.encode()) for word in (*WORDS, "b")] == [0, 1, 2, 3, 4, -1]
    assert library.g2_word(opened._handle, 5) is None
    assert library.g2_last_error() == b"there is no word of that number"
    assert runtime.Model(language_model({})).words == ()
    assert "another size" in rejected(language_model({"files": {"vocabulary.json": '{"tokens": ["a"]}'}}))
    assert "no JSON" in rejected(language_model({"files": {"vocabulary.json": '{"tokens": ["a"'}}))


def test_wrong_arguments_are_one_line() -> None:
    opened = runtime.Model(language_model())
    for tokens in ([5], [-1]):
        with pytest.raises(UserError, match="a token is no number of a word"):
            opened.step(tokens, opened.state())
    with pytest.raises(ValueError, match=r"state must be as of state\(2\)"):
        opened.step([1, 2], opened.state())
    with pytest.raises(ValueError, match=r"input must be \(T, B, 4\) on the CPU, got \(1, 1, 3\)"):
        opened.run(torch.zeros(1, 1, 3), opened.state())
    with pytest.raises(ValueError, match=r"a state must be \(1, 2, 6\), got \(1, 1, 6\)"):
        opened.run_lstm(0, torch.zeros(1, 2, 4), (torch.zeros(1, 1, 6), torch.zeros(1, 1, 6)))
    with pytest.raises(ValueError, match=r"features must be \(N, 4\)"):
        opened.output(torch.zeros(2, 3))
    with pytest.raises(UserError, match="a step at least"):
        opened.run(torch.zeros(0, 1, 4), opened.state())
    lstm = deploy(nn.LSTM(3, 4)).open()
    with pytest.raises(UserError, match="no language model"):
        lstm.step([0], lstm.state())


def test_draws_are_those_of_the_softmax_and_the_same_everywhere() -> None:
    logits = torch.tensor([0.5, 2.0, -1.0, 2.0, 0.0])
    counts = torch.zeros(5)
    for step in range(20_000):
        counts[runtime.sample(logits, temperature=0.7, seed=3, step=step)] += 1
    expected = torch.softmax(logits / 0.7, 0)
    assert ((counts / 20_000 - expected).abs() < 4 * (expected / 20_000).sqrt()).all()
    assert runtime.sample(logits, temperature=0) == 1
    assert {runtime.sample(logits, top_k=1, seed=seed) for seed in range(20)} == {1}
    assert {runtime.sample(logits, top_k=3, seed=seed) for seed in range(200)} == {0, 1, 3}
    draws = [runtime.sample(torch.zeros(1000), seed=seed, step=step) for seed, step in ((0, 0), (0, 1), (1, 0), (-1, 2**63))]
    assert draws == [splitmix_draw(*pair) for pair in ((0, 0), (0, 1), (1, 0), (2**64 - 1, 2**63))]
    for wrong in ({"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}):
        with pytest.raises(UserError, match="must be a number >= 0"):
            runtime.sample(logits, **wrong)
    with pytest.raises(UserError, match="a logit is not finite"):
        runtime.sample(torch.tensor([0.0, float("nan")]))


def splitmix_draw(seed: int, step: int) -> int:
    """Of 1000 equal words, as the header says."""

    def splitmix64(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    return int((splitmix64(splitmix64(seed) ^ step) >> 11) / 2**53 * 1000)


def test_a_forked_process_starts_threads_of_its_own(tmp_path) -> None:
    code = """
import os, torch
from torch import nn
from g2lstm.compression.deploy import deploy
torch.set_num_threads(2)
runner, x = deploy(nn.LSTM(3, 40), rest="int8").model(engine="native"), torch.randn(4, 2, 3)
before = runner(x)[0]
if (child := os.fork()) == 0:
    os._exit(0 if runner(x)[0].equal(before) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    fresh.start(code, tmp_path).communicate()


def test_threads_that_wait_sleep() -> None:
    runner, x = deploy(nn.LSTM(3, 40), rest="int8").model(engine="native"), torch.randn(4, 2, 3)
    torch.set_num_threads(3)
    try:
        runner(x)
        time.sleep(0.1)
        started = time.process_time()
        time.sleep(0.4)
        assert time.process_time() - started < 0.02
    finally:
        torch.set_num_threads(1)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_too_little_memory_is_one_line(tmp_path) -> None:
    code = """
import resource, torch
from torch import nn
from g2lstm.compression.deploy import deploy
from g2lstm.errors import UserError
opened, x = deploy(nn.LSTM(1, 400, 2)).open(), torch.zeros(50_000, 1, 1)
opened.run(x[:1], opened.state())
y = torch.zeros(50_000, 400)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000,) * 2)
try:
    opened.run(x, opened.state())
except UserError as error:
    print(error)
"""
    assert fresh.start(code, tmp_path).communicate() == ("there is too little memory\n", "")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CXX": "no-such-compiler"}, "could not be compiled: there is no C++ compiler: no-such-compiler (No such file or"),
        ({"CXX": f"{sys.executable} -c exit(3)"}, "could not be compiled: "),
        ({"G2LSTM_NATIVE": "0"}, "is switched off by G2LSTM_NATIVE=0"),
    ],
)
def test_without_a_library_it_says_why_and_tensor_code_takes_its_place(environment, reason, tmp_path, monkeypatch, caplog):
    for name, value in {"TORCH_EXTENSIONS_DIR": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(binding, "_found", [])
    assert runtime.problem().startswith(reason)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    lstm, x = nn.LSTM(2, 3), torch.randn(4, 1, 2)
    torch.testing.assert_close(deploy(lstm).model()(x)[0], lstm(x)[0].detach())
    with pytest.raises(UserError, match=f"the runtime of compressed models {reason[:20]}"):
        deploy(lstm).model(engine="native")


def test_the_file_of_a_saved_model_opens(tmp_path) -> None:
    path = tmp_path / "model.g2"
    size = save_model(path, deploy(nn.LSTM(2, 3)))
    assert size == path.stat().st_size == len(deploy(nn.LSTM(2, 3)).file())
    assert runtime.open(path).lstms == ((2, 3, 3, 1, 1),)
