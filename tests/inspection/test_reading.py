"""A task's model reads text while its gates are watched."""

import pytest
import torch
from torch import nn

from g2lstm.errors import UserError
from g2lstm.inspection.gates import recorded_gates
from g2lstm.inspection.measure import chosen_layer, corpus_statistics, layer_names
from g2lstm.inspection.reading import cluster_order, read_text
from g2lstm.runs.compose import compose
from g2lstm.runs.config import Config


@pytest.fixture
def make_task(tiny):
    return lambda *more: Config.parse(compose([*tiny, "gate=gumbel", *more])).build_task(torch.device("cpu"))


def test_statistics_do_not_depend_on_how_much_is_read_at_a_time(make_task) -> None:
    task = make_task()
    model, size = task.build_model().eval(), len(task.labels)
    whole, pieces = (corpus_statistics(t, model, "valid", 9, words=size) for t in (task, make_task("eval.bptt=7")))
    assert list(whole.tallies) == [(f"layers.{n}", gate) for n in (0, 1) for gate in "if"]
    tokens = task._tokens("valid", 9)
    stream = tokens[: len(tokens) // 2 * 2].view(2, -1)[:, :-1].flatten()  # each stream's last word is only predicted
    for key, tally in whole.tallies.items():
        assert tally.steps == len(stream)
        assert pieces.tallies[key].summary() == pytest.approx(tally.summary())
        assert tally.words is not None
        assert tally.words[:, 0].tolist() == stream.bincount(minlength=size).tolist()


def test_a_text_is_read_with_the_gates_of_its_own_words(make_task) -> None:
    task = make_task("data.min_count=2")
    model = task.build_model().eval()
    reading = read_text(task, model, "gumbel", "w1 zebra w3", "layers.1")
    assert (reading.words, reading.unknown, reading.layer) == (["w1", "zebra*", "w3", "<eos>"], ["zebra"], "layers.1")
    numbers = [task.corpus.vocabulary.index[word] for word in ("<eos>", "w1", "<unk>", "w3", "<eos>")]
    with torch.no_grad(), recorded_gates(model) as records:
        model(torch.tensor(numbers).unsqueeze(1))
    for gate, values in reading.gates.items():
        torch.testing.assert_close(values, records[1].steps(gate)[1:])
    assert [len(reading.told()["mean"][gate]) for gate in "if"] == [4, 4]


def test_a_model_that_diverged_is_one_line(make_task) -> None:
    task = make_task()
    model = task.build_model().eval()
    torch.nn.init.constant_(model.layers[0].weight_ih_l0, torch.nan)
    for look in (lambda: read_text(task, model, "gumbel", None), lambda: corpus_statistics(task, model, "valid")):
        with pytest.raises(UserError, match="a gate value is not a number: the model diverged"):
            look()


def test_the_decoders_first_layer_is_taken_or_the_first() -> None:
    assert chosen_layer(["encoder.0", "decoder.0", "decoder.1"], None) == "decoder.0"
    assert chosen_layer(["layers.0", "layers.1"], None) == "layers.0"
    assert chosen_layer(["layers.0", "layers.1"], "layers.1") == "layers.1"
    with pytest.raises(UserError, match=r"no layer 7: layer=\.\.\. is one of layers\.0, layers\.1"):
        chosen_layer(["layers.0", "layers.1"], "7")
    assert layer_names(nn.LSTM(2, 3, 2, bidirectional=True)) == ["lstm", "lstm.reverse", "lstm.1", "lstm.1.reverse"]


def test_like_units_stand_together() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    kinds = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    order = cluster_order(centres[kinds] + 0.01 * torch.randn(10, 3))
    assert sorted(order) == list(range(10))
    changes = sum(int(a != b) for a, b in zip(kinds[order][:-1], kinds[order][1:], strict=True))
    assert changes == 2
    assert cluster_order(torch.rand(1, 3)) == [0]
