"""What options of the gates do: beside the plain LSTM of the same seed, as it is and with gates cut."""

import pytest
import study as command

from g2lstm.reporting.options import differ, draw, table
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
        "| gate | test perplexity | valid perplexity | valid perplexity, cut | input gate binary | loss, SVD H/16 | n |"
    )
    assert lines[2] == "| plain LSTM | 100.50 ± 0.71 | 101.50 ± 0.71 | 140.00 ± 0.00 | 30.0 ± 0.0 | +38.50 ± 0.71 | 2 |"
    assert lines[3].startswith("| G2-LSTM (hardtrue) |")
    assert lines[3].endswith("| 3 |")
    difference = next(line for line in lines[4:] if line.startswith("| G2-LSTM (hardtrue)"))
    # 10% above the plain LSTM as it is, and 3 above it where gates are not cut, in both seeds; the third has no peer
    assert "| +10.0 (+10.0 to +10.0) | +3.00 (+3.00 to +3.00) | +3.00 (+3.00 to +3.00) | -28.35 (" in difference
    assert difference.endswith("| 2 |")


def test_without_a_plain_lstm_nothing_is_paired():
    assert "paired" not in table(HARD)


@pytest.mark.parametrize(
    ("runs", "told_apart"),
    [
        ([measured("gumbel", 1, 9, 9), measured("gumbel-tau0.5", 1, 9, 9, tau=0.5)], False),
        ([measured("gumbel", 1, 9, 9), measured("gumbel-hardtrue", 1, 9, 9)], True),  # the same p and tau
        ([measured("gumbel", 1, 9, 9, tau=0.301), measured("gumbel", 2, 9, 9, tau=0.302)], True),
    ],
    ids=["by tau", "by hard", "tau at the end differs by seed"],
)
def test_options_are_shown_where_p_and_tau_dont_tell_runs_apart(runs, told_apart):
    assert differ(runs) == told_apart


def test_the_figure_has_a_line_for_each_gate_and_what_is_close_to_the_plain_lstm():
    axes = draw([*HARD, *PLAIN]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain LSTM", "G2-LSTM (hardtrue)"]
    band = axes.patches[0].get_bbox()
    assert (band.x0, band.x1) == pytest.approx((101.5 * 0.99, 101.5 * 1.01))


def test_the_command_says_which_file_is_missing(tmp_path, capsys):
    with pytest.raises(Exception, match=r"sweep\.json"):
        command.run_study([f"results={tmp_path}", "name=x"])
