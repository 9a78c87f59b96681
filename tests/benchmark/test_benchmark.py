"""The benchmark's steps do what they say, and its rows are computed from medians."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from g2lstm import G2LSTM, GumbelGate
from g2lstm.benchmark import cases, measure, steps
from g2lstm.benchmark.cases import (
    AUTO,
    CHUNKED_LOSS,
    IN_ONE_CALL,
    LOOP,
    LSTM,
    LSTM_WITHOUT_ONEDNN,
    PLAIN_LOSS,
    SECTIONS,
    STEP_BY_STEP,
    Case,
    Group,
    left_out,
    planned,
)
from g2lstm.benchmark.peers import DroppedLSTM, StepLoop
from g2lstm.benchmark.rows import over_passes, rows_of, rows_of_before, summary
from g2lstm.benchmark.steps import prepare
from g2lstm.errors import UserError
from g2lstm.models.translation import Translator
from tests.processor import needs_bfloat16

CPU = torch.device("cpu")


def layer_case(engine: str, **changes: object) -> Case:
    values = {"section": "recurrence", "task": "layer", "size": (3, 2, 4, 6), "dtype": "float32", "mode": "train"}
    return Case(**(values | changes), engine=engine)  # type: ignore[arg-type]


def loop_like(lstm: nn.LSTM, **options: float) -> StepLoop:
    loop = StepLoop(lstm.input_size, lstm.hidden_size, **options)
    with torch.no_grad():
        loop.weight_ih.copy_(lstm.weight_ih_l0)
        loop.weight_hh.copy_(lstm.weight_hh_l0)
        loop.bias.copy_(lstm.bias_ih_l0 + lstm.bias_hh_l0)
    return loop


def test_the_loop_in_eval_mode_is_nn_lstm():
    lstm, x, state = nn.LSTM(4, 6), torch.randn(5, 3, 4), (torch.randn(1, 3, 6), torch.randn(1, 3, 6))
    for given in (None, state):
        output, (h, c) = loop_like(lstm).eval()(x, given)
        expected, (expected_h, expected_c) = lstm(x, given)
        torch.testing.assert_close((output, h, c), (expected, expected_h, expected_c))


def test_the_loop_without_noise_is_the_tempered_lstm():
    lstm, x = nn.LSTM(4, 6), torch.randn(5, 3, 4)
    expected, _ = G2LSTM.from_lstm(lstm, GumbelGate(tau=0.9, noise_p=0.0)).train()(x)
    torch.testing.assert_close(loop_like(lstm, tau=0.9, noise_p=0.0)(x)[0], expected)
    assert not torch.equal(loop_like(lstm)(x)[0], loop_like(lstm)(x)[0])


def test_the_peer_drops_recurrent_weights_and_trains_them():
    dropped, x = DroppedLSTM(4, 6, weight_dropout=0.5), torch.randn(5, 3, 4)
    torch.manual_seed(3)
    output, _ = dropped(x)
    torch.manual_seed(3)
    masked = F.dropout(dropped.lstm.weight_hh_l0, 0.5)
    plain = nn.LSTM(4, 6)
    plain.load_state_dict(dropped.lstm.state_dict() | {"weight_hh_l0": masked})
    torch.testing.assert_close(output, plain(x)[0])
    output.sum().backward()
    assert torch.equal(dropped.lstm.weight_hh_l0.grad == 0, masked == 0)
    torch.testing.assert_close(dropped.eval()(x)[0], dropped.lstm(x)[0])


def test_all_sections_are_planned(monkeypatch):
    monkeypatch.setattr(cases, "fast_dtype", lambda _: True)
    groups = planned(SECTIONS, CPU)
    sections = [group.cases[0].section for group in groups]
    assert [sections.count(name) for name in SECTIONS] == [20, 1, 4, 1, 2, 10, 2]
    for group in groups[:20]:
        assert [case.engine for case in group.peers] == [LSTM]
        assert {LSTM, AUTO, "bptt", "reference", LOOP} <= {case.engine for case in group.cases}
        assert len({(case.size, case.dtype, case.mode) for case in group.cases}) == 1
    for group in groups[21:23]:
        assert [case.engine for case in group.peers] == [LSTM, LSTM_WITHOUT_ONEDNN]
    quick = planned(SECTIONS, CPU, quick=True)
    assert len(quick) == 12 + 1 + 2
    assert all(case.engine != "reference" for group in quick for case in group.cases)
    on_gpu = {case.engine for group in planned(["end_to_end"], torch.device("cuda")) for case in group.peers}
    assert on_gpu == {LSTM}


def test_what_onednn_lacks_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(cases, "fast_dtype", lambda dtype: dtype == torch.float32)
    groups = planned(SECTIONS, CPU)
    assert {case.dtype for group in groups for case in group.cases} == {"float32"}
    assert {case.section for group in groups for case in group.cases} == set(SECTIONS)
    assert not any("bfloat16" in group.title for group in groups)
    assert left_out(["recurrence"], CPU, quick=False) == ["bfloat16, which oneDNN doesn't have on this processor"]
    assert left_out(["evaluation"], CPU, quick=False) == []  # in float32 alone
    assert left_out(["recurrence"], torch.device("cuda"), quick=False) == []
    assert any(case.dtype == "bfloat16" for group in planned(["recurrence"], torch.device("cuda")) for case in group.cases)


@pytest.mark.parametrize(("engine", "calls"), [(IN_ONE_CALL, 1), (STEP_BY_STEP, 3)])
def test_a_decoder_is_called_once_or_word_by_word(engine, calls, monkeypatch):
    seen, real = [], Translator.decode
    monkeypatch.setattr(
        Translator, "decode", lambda model, words, *given: seen.append(len(words)) or real(model, words, *given)
    )
    prepare(Case("translation", "translation", (3, 2, 4, 6), "float32", "train", engine), CPU)()
    assert seen == [3 // calls] * calls


@pytest.mark.parametrize("task", ["loss", "ptb", "translation"])
def test_every_step_of_the_other_sections_runs_twice(task):
    for group in planned(["output_layer", "end_to_end", "translation"], CPU):
        for case in (case for case in group.cases if case.task == task):
            step = prepare(replace(case, size=(3, 2, 4, 6)), CPU)
            step()
            step()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("engine", [LSTM, AUTO, "bptt", "reference", LOOP])
def test_every_engine_runs_in_every_mode(engine, mode, dtype):
    prepare(layer_case(engine, mode=mode, dtype=dtype), CPU)()


def test_onednn_is_off_only_where_it_should_be(monkeypatch):
    seen = []
    monkeypatch.setitem(steps.STEPS, "layer", lambda *_: lambda: seen.append(torch.backends.mkldnn.enabled))
    for engine in (LSTM, LSTM_WITHOUT_ONEDNN, LSTM):
        prepare(layer_case(engine), CPU)()
    assert seen == [True, False, True]


def test_steps_are_taken_in_turns_and_warming_up_does_not_count(monkeypatch):
    taken: list[str] = []
    monkeypatch.setattr(measure, "prepare", lambda case, _: lambda: taken.append(case.engine))
    times = measure.alternate([layer_case(name) for name in "abc"], CPU, seconds=0, least=3, turn=0)
    assert [len(values) for values in times] == [3, 3, 3]
    assert len(taken) == 3 * (2 + 3)
    rounds = ["".join(taken[start : start + 3]) for start in range(0, 15, 3)]
    assert {"".join(sorted(names)) for names in rounds} == {"abc"}
    assert set(rounds) == {"abc", "bca", "cab"}


def test_short_steps_are_taken_several_times_a_turn(monkeypatch):
    monkeypatch.setattr(measure, "prepare", lambda *_: lambda: None)
    times = measure.alternate([layer_case("a")], CPU, seconds=0, least=1, turn=2.0)
    assert len(times[0]) > 1
    assert sum(times[0][:-1]) < 2.0 <= sum(times[0])


def test_peak_memory_counts_what_a_step_allocates():
    case = Case("output_layer", "loss", (50, 20, 8, 4000), "float32", "train", PLAIN_LOSS)
    plain = measure.peak_memory(case, CPU)
    if plain is None:
        pytest.skip("this system does not tell the peak memory of a process")
    logits = 50 * 20 * 4000 * 4 / 2**20  # 15 MB; cross_entropy keeps several such tensors
    assert 1.9 * logits < plain < 5 * logits


def test_ratios_are_of_medians_to_the_fastest_peer():
    cases = tuple(layer_case(name) for name in (LSTM, LSTM_WITHOUT_ONEDNN, AUTO))
    group = Group("x", cases, cases[:2])
    rows = rows_of(group, [[9.0, 10.0, 50.0], [4.0, 2.0, 3.0], [6.0, 1.0, 900.0]], [8.0, 4.0, None], [None] * 3)
    assert [row["ms"] for row in rows] == [10, 3, 6]
    assert [row["ratio"] for row in rows] == [pytest.approx(10 / 3, abs=1e-4), 1.0, 2.0]
    assert [row["memory_ratio"] for row in rows] == [2.0, 1.0, None]
    assert {row["peer"] for row in rows} == {f"{LSTM_WITHOUT_ONEDNN} float32"}
    assert rows[0]["repeats"] == 3


def test_a_training_step_of_the_model_is_given_in_words():
    cases = (layer_case(LSTM, task="ptb"),)
    (row,) = rows_of(Group("x", cases, cases), [[500.0]], [None], [None])
    assert row["words_per_second"] == 12.0


def test_the_output_layers_peer_is_the_plain_one_in_float32(monkeypatch):
    monkeypatch.setattr(cases, "fast_dtype", lambda _: True)
    (group,) = planned(["output_layer"], CPU)
    rows = rows_of(group, [[100.0], [50.0], [40.0], [30.0]], [None] * 4, [None] * 4)
    found = {(row["engine"], row["dtype"]): row["ratio"] for row in rows}
    assert found == {
        (PLAIN_LOSS, "float32"): 1.0, (PLAIN_LOSS, "bfloat16"): 0.5,
        (CHUNKED_LOSS, "float32"): 0.4, (CHUNKED_LOSS, "bfloat16"): 0.3,
    }  # fmt: skip


def test_the_summary_is_a_geometric_mean_over_the_float32_sizes():
    rows = []
    for size, auto in (([1, 1, 1, 1], 10.0), ([2, 2, 2, 2], 40.0)):
        for engine, ms in ((AUTO, auto), (LOOP, 80.0)):
            rows.append(
                {"section": "recurrence", "size": size, "dtype": "float32", "mode": "train", "engine": engine, "ms": ms}
            )
    rows += [row | {"dtype": "bfloat16", "ms": 1.0} for row in rows]
    assert summary(rows) == {"train_speedup_over_loop": 4.0}


def test_passes_become_their_median_and_range():
    about = asdict(layer_case(AUTO)) | {"repeats": 3, "memory_mb": None, "memory_ratio": None}
    rows = [about | {"ms": ms, "ratio": ratio, "spread": 0.1} for ms, ratio in ((4.0, 0.8), (9.0, 1.1), (5.0, 0.9))]
    (found,) = over_passes(rows)
    assert (found["ms"], found["ms_range"]) == (5.0, [4.0, 9.0])
    assert (found["ratio"], found["ratio_range"]) == (0.9, [0.8, 1.1])
    assert found["memory_mb"] is None
    assert "memory_mb_range" not in found
    assert found["passes"] == 3
    two = [rows[0], rows[1] | {"mode": "eval"}]
    assert over_passes(two) == [row | {"passes": 1} for row in two]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"hardware": 1, "rows": [{}]}', '{"hardware": 1, "commit": "", "rows": [{}]}']
)
def test_another_file_is_no_measurement(tmp_path, text):
    about = dict.fromkeys(("hardware", "torch", "threads", "device", "quick")) | {"hardware": 1}
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json .*: choose another file"):
        rows_of_before(tmp_path / "x.json", about)


def test_a_layer_may_return_float16_as_cudnns_does_under_autocast(monkeypatch):
    class Halved(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).half(), None

    monkeypatch.setattr(steps, "_layer", lambda _, inputs, hidden: Halved(inputs, hidden))
    prepare(Case("recurrence", "layer", (3, 2, 4, 6), "bfloat16", "train", LSTM), CPU)()
