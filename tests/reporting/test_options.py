"""What options of the gates do: beside the plain LSTM of the same seed, as it is and with gates cut."""

from dataclasses import replace

import pytest
import study as command

from g2lstm.reporting.options import draw, need, table
from g2lstm.reporting.study import Measured


def measured(gate: str, seed: int, soft: float, cut: float, *, p: float = 0.2, tau: float = 0.9) -> Measured:
    panels = {
        "test perplexity": {"test perplexity": soft - 1},
        "loss of perplexity": {"SVD H/16": cut - soft, "gates cut to 0 or 1": cut - soft},
        "gate values outside [0.1, 0.9], %": {"input gate binary, training": 90.0, "input gate binary, test": 30.0},
    }
    return Measured(gate, seed, p, tau, "perplexity", False, {"test": soft, "hard": cut}, panels)


PLAIN = [measured("sigmoid", seed, 100.0 + seed, 140.0, p=0.0, tau=1.0) for seed in (1, 2)]
HARD = [measured("gumbel-hardtrue", seed, 103.0 + seed, 1.1 * (100 + seed)) for seed in (1, 2)]


def test_each_gate_has_a_line_and_its_differences_from_the_plain_lstm_of_the_same_seed():
    lines = table([*HARD, measured("gumbel-hardtrue", 3, 1.0, 1.0), *PLAIN]).splitlines()
    assert lines[0] == (
        "| gate | test perplexity | valid perplexity | valid perplexity, cut | valid perplexity, at its last temperature"
        " | input gate binary | loss, SVD H/16 | n |"
    )
    assert (
        lines[2]
        == "| plain LSTM | 100.50 ± 0.71 | 101.50 ± 0.71 | 140.00 ± 0.00 | 101.50 ± 0.71 | 30.0 ± 0.0 | +38.50 ± 0.71 | 2 |"
    )
    assert lines[3].startswith("| G2-LSTM (hard true) |")
    assert lines[3].endswith("| 3 |")
    difference = next(line for line in lines[4:] if line.startswith("| G2-LSTM (hard true)"))
    # 10% above the plain LSTM as it is, and 3 above it where gates are not cut, in both seeds; the third has no peer
    assert "| +10.0 (+10.0 to +10.0) | +3.00 (+3.00 to +3.00) | +3.00 (+3.00 to +3.00) | -28.35 (" in difference
    assert difference.endswith("| 2 |")


def test_numbers_have_the_digits_of_the_metric():
    runs = [replace(run, digits=4) for run in (*HARD, *PLAIN)]
    lines = table(runs).splitlines()
    assert lines[2].startswith("| plain LSTM | 100.5000 ± 0.7071 | 101.5000 ± 0.7071 | 140.0000 ± 0.0000 |")
    assert "| 30.0 ± 0.0 | +38.5000 ± 0.7071 |" in lines[2]
    assert "| +10.0 (+10.0 to +10.0) | +3.0000 (+3.0000 to +3.0000) |" in lines[-3]


def test_without_a_plain_lstm_nothing_is_paired():
    assert "paired" not in table(HARD)


@pytest.mark.parametrize(
    ("gates", "needed"),
    [
        (["gumbel", "gumbel-p0.5", "gumbel-tau0.5", "gumbel-p0-tau1e-3", "sigmoid"], False),
        (["sigmoid", "gumbel-hardtrue"], True),
        (["gumbel-tau1-tau_end0.2"], True),
        (["sigmoid-dropout2", "gumbel"], True),
    ],
)
def test_options_are_shown_where_names_say_more_than_p_and_tau(gates, needed):
    assert need([measured(gate, 1, 9.0, 9.0) for gate in gates]) == needed


def test_the_only_plain_lstm_is_the_peer_whatever_its_options():
    plain = [replace(run, gate="sigmoid-dropout2") for run in PLAIN]
    assert "| +10.0 (+10.0 to +10.0) |" in table([*plain, *HARD])
    assert "paired" not in table([*plain, *(replace(run, gate="sigmoid-dropout3") for run in PLAIN), *HARD])


def test_a_metric_of_zero_has_no_percentage():
    plain = [replace(run, valid={"test": 0.0, "hard": 0.0}) for run in PLAIN]
    assert "%" not in table([*plain, *HARD]).split("paired by seed")[1].splitlines()[0]


def test_a_score_that_gets_lower_is_sorted_from_the_top():
    runs = [replace(run, losses=True) for run in (*HARD, *PLAIN)]
    assert draw(runs).axes[0].get_yticklabels()[0].get_text() == "plain LSTM"  # 140 when cut, against 112


def test_the_figure_has_a_line_for_each_gate_and_what_is_close_to_the_plain_lstm():
    axes = draw([*HARD, *PLAIN]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "G2-LSTM (hard true)",
        "plain LSTM",
    ]  # best when cut first
    band = axes.patches[0].get_bbox()
    assert (band.x0, band.x1) == pytest.approx((101.5 * 0.99, 101.5 * 1.01))


def test_the_command_shows_runs_by_their_options(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command.study, "read", lambda *_: [*HARD, *PLAIN])
    assert command.run_study([f"results={tmp_path}", "name=x"]) == 0
    assert "| G2-LSTM (hard true) |" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"study.md", "study.png", "study.svg"}
