"""Uses that are not meant, numbers that are none and files that were made up: an error in one line or the right result."""

import copy
import ctypes
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from g2lstm import building, runtime
from g2lstm.compression import Method
from g2lstm.compression.deploy import MODEL_FILE, Deployed, deploy
from g2lstm.compression.forms import Codes, Factors, pack_form
from g2lstm.compression.model_file import save_model
from g2lstm.errors import UserError
from g2lstm.runtime import model as binding
from g2lstm.training.checkpoint import checkpoint_bytes
from tests.engines import fresh

pytestmark = pytest.mark.skipif(runtime.problem() is not None, reason=f"the runtime {runtime.problem()}")

# glibc's binary form of what `localedef` makes of LC_NUMERIC with "," for a point and "." between thousands.
COMMA = bytes.fromhex(
    "141103200600000020000000220000002400000028000000" + "2c000000300000002c002e00030300002c0000002e000000"
)


def python(folder: Path, code: str, *arguments: str, **environment: str) -> str:
    """What a new process prints, which must end well and complain of nothing."""
    out, errors = fresh.start(code, folder, *arguments, environment=os.environ | environment).communicate()
    assert errors == ""
    return out


def small(**options) -> Deployed:
    torch.manual_seed(1)
    return deploy(nn.LSTM(5, 7, **options), Method.parse("bits:8"), rest="int8")


def test_a_locale_with_a_decimal_comma_changes_nothing(tmp_path) -> None:
    (tmp_path / "comma").mkdir()
    (tmp_path / "comma" / "LC_NUMERIC").write_bytes(COMMA + b"UTF-8\0")
    content = tmp_path / "model.g2"
    content.write_bytes(replace(small(), notes={"fraction": 0.25}).file())
    code = """
import locale, sys
from pathlib import Path
from g2lstm import runtime
try:
    locale.setlocale(locale.LC_NUMERIC, "comma")
except locale.Error:
    print("no such locale")
else:
    assert locale.localeconv()["decimal_point"] == ","
    print(runtime.open(Path(sys.argv[1])).lstms[0].hidden)
"""
    found = python(tmp_path, code, str(content), LOCPATH=str(tmp_path))
    if found == "no such locale\n":
        pytest.skip("the C library doesn't read the locale that was made here")
    assert found == "7\n"


def test_copies_are_the_same_model_and_pickles_hold_its_file(tmp_path) -> None:
    save_model(path := tmp_path / "model.g2", small())
    opened, x = runtime.open(path), torch.randn(2, 3, 5)
    assert copy.copy(opened) is copy.deepcopy(opened) is opened
    again = pickle.loads(pickle.dumps(opened))
    assert again.run(x, again.state(3)).equal(opened.run(x, opened.state(3)))
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        pickle.dumps(opened)


def test_a_saved_module_loads_in_another_process(tmp_path) -> None:
    runner, x = small().model(engine="native"), torch.randn(2, 3, 5)
    torch.save({"module": runner, "x": x}, tmp_path / "saved.pt")
    code = "import sys, torch; s = torch.load(sys.argv[1], weights_only=False); print(s['module'](s['x'])[0].tolist())"
    assert python(tmp_path, code, str(tmp_path / "saved.pt")) == f"{runner(x)[0].tolist()}\n"


def test_a_trace_is_refused() -> None:
    with pytest.raises(UserError, match=r'take Deployed.model\(engine="torch"\)'):
        torch.jit.trace(small().model(engine="native"), torch.randn(2, 3, 5))


def test_arguments_that_reach_beyond_memory_are_refused() -> None:
    opened, x, state = small().open(), torch.randn(3, 2, 5), (torch.zeros(1, 2, 7), torch.zeros(1, 2, 7))
    for number in (-1, 1):
        with pytest.raises(ValueError, match=f"no LSTM module {number}: the model has 1"):
            opened.run_lstm(number, x, state)
    for lengths in (torch.tensor([3]), torch.tensor([[3, 3]]), torch.tensor([1.0, 2.0])):
        with pytest.raises(ValueError, match="lengths must be 2 whole numbers"):
            opened.run_lstm(0, x, state, lengths)
    assert opened.run_lstm(0, x, state, torch.tensor([2**32 + 1, 3]))[0].equal(opened.run_lstm(0, x, state)[0])
    for tokens in (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, dtype=torch.int64, device="meta")):
        with pytest.raises(ValueError, match=r"tokens must be \(B,\) whole numbers"):
            opened.step(tokens, opened.state(2))
    for logits in (torch.zeros(2, 3), torch.zeros(3, device="meta"), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"logits must be \(V,\) on the CPU"):
            runtime.sample(logits)
    for features in (torch.zeros(7), torch.zeros(2, 7, device="meta")):
        with pytest.raises(ValueError, match=r"features must be \(N, 7\) on the CPU"):
            opened.output(features)
    logits = torch.arange(5.0)
    several = [[runtime.sample(logits, top_k=k, temperature=9, step=step) for step in range(30)] for k in (0, 2**32 + 1)]
    assert several[0] == several[1]
    with pytest.raises(UserError, match="top_k must be a number >= 0"):
        runtime.sample(logits, top_k=1 - 2**32)


def test_in_c_all_modules_take_no_state_of_one_and_null_opens_nothing() -> None:
    opened, library, room = small().open(), binding._library(), torch.zeros(64)
    at = room.data_ptr()
    for number, c in ((-1, at), (0, None)):
        assert library.g2_lstm_run(opened._handle, number, at, 1, 1, None, at, c, at) < 0
        assert b"c belongs to one module" in library.g2_last_error()
    assert library.g2_open(None) is None
    assert library.g2_last_error() == b"there is no path"
    assert library.g2_open_memory(None, 8) is None


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_batch_of_none_is_that_of_nn_lstm(engine) -> None:
    lstm = nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    for one, other in zip(_flat(deploy(lstm).model(engine=engine), 0), _flat(lstm, 0), strict=True):
        assert one.shape == other.shape


def _flat(module: nn.Module, batch: int) -> list[torch.Tensor]:
    y, (h, c) = module(torch.ones(2, batch, 5))
    return [y, h, c]


@pytest.mark.parametrize("method", ["bits:8", "original"])
def test_what_is_not_a_number_stays_so_whatever_its_bits(method) -> None:
    model = deploy(nn.LSTM(5, 7), Method.parse(method), rest="int8" if method == "bits:8" else "float32").open()
    state = torch.zeros(1, 2, 7), torch.zeros(1, 2, 7)
    before = runtime.instructions()
    for name in ("plain", before):
        runtime.instructions(name)
        for bits in (0x7FC00000, 0x7FC00001, 0x7F800001, 0xFFFFFFFF, 0xFFC00000, 0x7FFFFFFF):
            x = torch.zeros(3, 2, 5)
            x.view(torch.int32)[0, 0, 0] = bits - 2**32 if bits >= 2**31 else bits
            y, (_, c) = model.run_lstm(0, x, state)
            assert y[:, 0].isnan().all(), hex(bits)
            assert c[:, 0].isnan().all()
            assert y[:, 1].isfinite().all()
    for infinite in (float("inf"), -float("inf")):
        x = torch.zeros(1, 2, 5)
        x[0, 0, 0] = infinite
        y, _ = model.run_lstm(0, x, state)
        assert y[0, 0].isnan().all() if method == "bits:8" else (y[0, 0].abs() <= 1).all()
        assert y[0, 1].isfinite().all()


def test_a_codebook_with_what_is_not_a_number_keeps_it() -> None:
    deployed = deploy(nn.LSTM(4, 4))
    for bad in (torch.nan, torch.inf):
        forms = dict(deployed.forms)
        forms["weight_ih_l0"] = [Codes(torch.ones(4, 4, dtype=torch.int32), torch.tensor([0.0, bad]))] * 4
        x = torch.ones(1, 1, 4)
        found, expected = (replace(deployed, forms=forms).model(engine=engine)(x)[0] for engine in ("native", "torch"))
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_sums_that_32_bits_may_not_hold_are_of_floats() -> None:
    lstm = nn.LSTM(140_000, 1)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.zero_()
        lstm.weight_ih_l0.fill_(1e-5)
    deployed, x = deploy(lstm, rest="int8"), torch.ones(1, 1, 140_000)
    found, expected = (deployed.model(engine=engine)(x)[0] for engine in ("native", "torch"))
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)  # a sum of so many floats is no nearer


def test_factors_of_rank_0_and_weights_out_of_nothing_are_refused() -> None:
    deployed = small()
    codebook, kept = deployed.forms["weight_ih_l0"][0].codebook, dict(deployed.forms)

    def empty(rows: int, columns: int) -> Codes:
        return Codes(torch.zeros(rows, columns, dtype=torch.uint8), codebook, torch.ones(rows))

    with pytest.raises(UserError, match="a tensor has a wrong shape"):
        replace(deployed, forms=kept | {"weight_hh_l0": [Factors(empty(7, 0), empty(0, 7))] * 4}).open()
    alike = Codes(torch.zeros(7, 5, dtype=torch.uint8), torch.tensor([0.5]))
    replace(deployed, forms=kept | {"weight_ih_l0": [alike] * 4}).open()  # nothing is stored of codes that are all one
    tree = pack_form(alike)
    assert (tree["levels"], tree["packed"].numel()) == (1, 0)
    packed = {name: [pack_form(form) for form in forms] for name, forms in kept.items()}
    packed["weight_ih_l0"] = [tree | {"shape": [2**14, 2**14]}] * 4
    with pytest.raises(UserError, match="more weights than its bytes can mean"):
        runtime.Model(checkpoint_bytes(vars(deployed) | {"forms": packed}, MODEL_FILE))


SLOW_START = """
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
// A pause before a turn begins (and wherever else something is added).
#define fetch_add(amount, order) fetch_sub((std::this_thread::sleep_for(std::chrono::milliseconds(2)), -(amount)), order)
#include "pool.h"
#undef fetch_add
extern "C" int most_runs() {
  g2::Pool& pool = *new g2::Pool;
  int most = 0;
  for (int size = 2; size <= 5; ++size) {
    g2::Team team;
    team.size = size;
    std::atomic<int> runs[8] = {};
    pool.run(team, [&](int me) { runs[me].fetch_sub(1); });
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (const auto& one : runs) most = -one > most ? -(int)one : most;
  }
  return most;
}
"""


def test_a_worker_that_comes_late_works_once(tmp_path) -> None:
    (tmp_path / "slow.cpp").write_text(SLOW_START)
    building._compile(["-std=c++17", "-O1", "-fPIC", "-pthread", "-shared", f"-I{binding.FOLDER}",
                       str(tmp_path / "slow.cpp"), "-o", str(tmp_path / "slow.so")])  # fmt: skip
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).most_runs())"
    assert python(tmp_path, code, str(tmp_path / "slow.so")) == "1\n"


@pytest.mark.parametrize("kept", [4, 40, 0.3, 0.99])
def test_a_library_that_was_cut_off_is_made_again_once(kept, tmp_path) -> None:
    made, whole = [], Path(binding._library()._name).read_bytes()

    def make() -> Path:
        if not (path := tmp_path / "lib.so").exists():
            made.append(path)
            path.write_bytes(whole)
        return path

    (tmp_path / "lib.so").write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
    assert building.loaded(ctypes.CDLL, make).g2_threads(0) >= 1
    assert len(made) == 1
    with pytest.raises(OSError, match="nothing"):
        building.loaded(ctypes.CDLL, lambda: tmp_path / "nothing")


def test_an_empty_cxx_is_none(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", " ")
    with pytest.raises(RuntimeError, match=r"c\+\+"):
        building._compile([str(tmp_path / "missing.cpp")])
