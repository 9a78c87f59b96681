"""Settings: what texts mean, and what is stored."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from g2lstm.compression.forms import Codes, Dense, Factors
from g2lstm.compression.methods import PRESETS, Method, chosen_methods
from g2lstm.compression.operators import clip_to, factorize, prune, quantize, round_to, ternarize

OPERATORS = {"round": round_to, "clip": clip_to, "prune": prune}
MORE = {"original", "ternary+prune:0.2", "clip:0.3", "round:0.3+svd:2"}
EVERY = sorted({text for settings in PRESETS.values() for text in settings} | MORE)


def truncate(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, right = factorize(matrix, rank)
    return left @ right


@pytest.mark.parametrize("text", EVERY)
def test_a_text_names_the_setting_that_prints_it(text) -> None:
    assert str(Method.parse(text)) == text


def test_a_value_is_named_with_all_its_digits() -> None:
    assert str(Method.parse("round:0.1234561+prune:0.9999999")) == "round:0.1234561+prune:0.9999999"


def test_settings_do_what_their_operators_do() -> None:
    matrix = torch.randn(40, 24)
    expected = {
        "original": matrix,
        "round:0.2+clip:0.4": clip_to(round_to(matrix, 0.2), 0.4),
        "prune:0.5": prune(matrix, 0.5),
        "bits:4": quantize(matrix, 4).matrix(),
        "prune:0.5+bits:4": quantize(prune(matrix, 0.5), 4).matrix(),
        "svd:H/8": truncate(matrix, 5),
        "svd:24": matrix,
        "svd:64+round:0.5": round_to(matrix, 0.5),
        "round:0.5+svd:4": truncate(round_to(matrix, 0.5), 4),
        "prune:0.9+svd:2": truncate(prune(matrix, 0.9), 2),
    }
    for text, result in expected.items():
        assert torch.equal(Method.parse(text).store(matrix).matrix(), result), text


def test_what_follows_an_svd_is_done_to_its_factors() -> None:
    matrix = torch.randn(40, 24)
    form = Method.parse("svd:4+bits:8").store(matrix)
    plain = Method.parse("svd:4").store(matrix)
    assert isinstance(form, Factors)
    assert isinstance(plain, Factors)
    assert isinstance(form.left, Codes)
    assert form.left.matrix().shape == (40, 4)
    assert torch.equal(form.left.matrix(), quantize(plain.left.matrix(), 8).matrix())
    assert torch.equal(form.right.matrix(), quantize(plain.right.matrix(), 8).matrix())


def test_bits_are_those_of_the_form() -> None:
    matrix = torch.randn(60, 30)
    count = matrix.numel()
    assert Method.parse("original").store(matrix).bits == 32 * count
    assert Method.parse("svd:4").store(matrix).bits == 32 * 4 * (60 + 30)
    assert Method.parse("round:0.2+clip:0.4").store(matrix).bits == 8 * count // 3 + 5 * 32
    assert Method.parse("bits:4").store(matrix).bits == 4 * count + 60 * 32
    assert Method.parse("ternary").store(matrix).bits == 8 * count // 5 + 60 * 32
    assert Method.parse("prune:0.5").store(matrix).bits == count + 16 * count


def test_factors_that_would_be_larger_than_their_product_are_multiplied_out() -> None:
    matrix = torch.randn(40, 24)
    form = Method.parse("svd:20").store(matrix)
    assert isinstance(form, Dense)
    torch.testing.assert_close(form.matrix(), truncate(matrix, 20))
    assert Method.parse("svd:20").rank((40, 24)) == 20


def computed(text: str, matrix: torch.Tensor) -> torch.Tensor:
    """What a setting makes of a matrix, step by step."""
    for place, step in enumerate(() if text == "original" else text.split("+")):
        name, _, value = step.partition(":")
        if name == "svd":
            rank = max(1, len(matrix) // int(value[2:])) if value.startswith("H/") else int(value)
            if rank < min(matrix.shape):
                rest = "+".join(text.split("+")[place + 1 :]) or "original"
                return torch.linalg.multi_dot([computed(rest, factor) for factor in factorize(matrix, rank)])
        elif name in ("bits", "ternary"):
            matrix = (quantize(matrix, int(value)) if name == "bits" else ternarize(matrix)).matrix()
        else:
            matrix = OPERATORS[name](matrix, float(value))
    return matrix


@given(st.sampled_from(EVERY), st.integers(1, 20), st.integers(1, 20), st.integers(0, 1000))
def test_what_is_stored_is_what_is_evaluated(text, rows, columns, seed) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    before = matrix.clone()
    result = Method.parse(text).store(matrix).matrix()
    torch.testing.assert_close(result, computed(text, matrix))
    assert torch.equal(matrix, before)


def test_a_rank_is_a_number_or_a_share_of_the_hidden_units_and_at_least_one() -> None:
    ranks = {"svd:64": 64, "svd:400": 100, "svd:H/16": 25, "svd:H/800": 1, "bits:4": None}
    assert {text: Method.parse(text).rank((400, 100)) for text in ranks} == ranks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rounded", "'rounded' is no compression setting: write for example round:0.2"),
        ("round:", "'round:' is no compression setting"),
        ("round:0", "round:0: round must be a number > 0, got 0"),
        ("clip:-1", "clip must be a number > 0, got -1"),
        ("svd:0", "'svd:0' is no compression setting"),
        ("svd:H/0", "'svd:H/0' is no compression setting"),
        ("svd:H", "'svd:H' is no compression setting"),
        ("svd:2.5", "'svd:2.5' is no compression setting"),
        ("bits:9", "bits:9: bits must be from 2 to 8, got 9"),
        ("prune:50", "prune must be a share in"),
        ("ternary:2", "'ternary:2' is no compression setting"),
        ("svd:8+svd:4", "svd:8+svd:4 has two SVDs"),
        ("svd:8+bits:1", "bits must be from 2 to 8, got 1"),
        ("round:1e-46", "round:1e-46: round:1e-46 makes values that are not finite"),
        ("", "'' is no compression setting"),
    ],
)
def test_a_text_that_names_nothing_is_one_line(text, message) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Method.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_presets_start_with_the_original_and_have_no_doubles() -> None:
    texts = [str(method) for method in chosen_methods("translation,relative", "svd:16,bits:4")]
    assert texts[0] == "original"
    assert len(texts) == len(set(texts)) == 1 + 4 + 4 + 1
    with pytest.raises(ValueError, match="there is no preset papers: choose of paper"):
        chosen_methods("papers")
