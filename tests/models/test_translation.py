"""Encoder-decoders against plain formulas, and what must never change their numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from g2lstm.compression import Method, Target, compress, compressed_copy
from g2lstm.compression.deploy import deploy
from g2lstm.compression.model_file import load_model, save_model
from g2lstm.compression.targets import find_blocks
from g2lstm.gates import GumbelGate, SharpenedGate, SigmoidGate
from g2lstm.inspection.gates import recorded_gates
from g2lstm.models.translation import BOS, EOS, PAD, Translator

V, E, H = 13, 6, 5
LENGTHS = torch.tensor([6, 3, 1, 4])
TARGET_LENGTHS = torch.tensor([5, 7, 2, 1])
FORMS = [(decoder, feeding) for decoder in ("conditional", "stacked") for feeding in (False, True)]


def model(seed: int = 0, **options) -> Translator:
    torch.manual_seed(seed)
    sizes = {"embedding_size": E, "hidden_size": H, "gate": SigmoidGate(), "dropout": 0.0}
    translator = Translator(V, V, **sizes | options)
    with torch.no_grad():
        for parameter in translator.parameters():
            parameter.mul_(2).add_(0.1 * torch.randn_like(parameter))  # so that nothing is nearly linear
    return translator


def batch(pad: int = 0, rows: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sources, their lengths, inputs and targets of four pairs or some of them, with so much more padding."""
    rows = list(range(len(LENGTHS))) if rows is None else rows
    source = torch.full((int(LENGTHS[rows].max()) + pad, len(rows)), PAD)
    inputs = torch.full((int(TARGET_LENGTHS[rows].max()) + pad, len(rows)), PAD)
    targets = inputs.clone()
    for column, row in enumerate(rows):
        draw = torch.Generator().manual_seed(row)
        size, length = int(LENGTHS[row]), int(TARGET_LENGTHS[row])
        source[:size, column] = torch.randint(4, V, (size,), generator=draw)
        source[size - 1, column] = EOS
        inputs[:length, column] = torch.randint(4, V, (length,), generator=draw)
        targets[: length - 1, column] = inputs[1:length, column]
        inputs[0, column], targets[length - 1, column] = BOS, EOS
    return source, LENGTHS[rows], inputs, targets


def expected_features(m: Translator, source: Tensor, inputs: Tensor) -> Tensor:
    """(T, E) features of one pair, (S,) and (T,), by loops over cells; no dropout."""

    def cell(x: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        h, c = torch.lstm_cell(x.unsqueeze(0), (state[0].unsqueeze(0), state[1].unsqueeze(0)), *weights)
        return h[0], c[0]

    def weights(lstm: torch.nn.Module, end: str = "_l0") -> list[Tensor]:
        return [getattr(lstm, name + end) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    def read(xs: list[Tensor], matrices: list[Tensor], backwards: bool) -> list[Tensor]:
        state, out = (torch.zeros(H), torch.zeros(H)), []
        for x in reversed(xs) if backwards else xs:
            state = cell(x, state, matrices)
            out.append(state[0])
        return out[::-1] if backwards else out

    xs = list((m.source_embedding or m.target_embedding).weight[source] * E**0.5)
    first = m.encoder[0]
    both = zip(read(xs, weights(first), False), read(xs, weights(first, "_l0_reverse"), True), strict=True)
    xs = [torch.cat(pair) for pair in both]
    for number, layer in enumerate(m.encoder[1:], 1):
        xs = read(xs, weights(layer), number % 2 == 1)
    values = torch.stack(xs)  # (S, M)

    look = m.decoder.attention
    initial = torch.tanh(m.initial(values.mean(0))).chunk(1 + len(m.upper_decoder))
    states = [(h, torch.zeros(H)) for h in initial]
    features, fed = [], torch.zeros(E)
    for token in inputs:
        word = m.target_embedding.weight[token] * E**0.5
        if token == BOS and hasattr(m.decoder, "word"):
            word = torch.zeros(E)
        x = torch.cat([word, fed]) if m.input_feeding else word
        h, c = cell(x, states[0], weights(m.decoder.word, "") if hasattr(m.decoder, "word") else weights(m.decoder.lstm))
        if look.kind == "dot":
            energies = (values @ look.key.weight.T) @ h
        else:
            energies = torch.tanh(values @ look.key.weight.T + look.query(h)) @ look.energy
        context = energies.softmax(0) @ values
        if hasattr(m.decoder, "word"):
            h, c = cell(context, (h, c), weights(m.decoder.context, ""))
        states[0] = h, c
        for number, layer in enumerate(m.upper_decoder, 1):
            states[number] = cell(torch.cat([h, context]), states[number], weights(layer))
            h = states[number][0]
        fed = torch.tanh(m.readout(torch.cat([h, word, context])))
        features.append(fed)
    return torch.stack(features)


@pytest.mark.parametrize(("decoder", "feeding"), FORMS)
@pytest.mark.parametrize("layers", [(1, 1), (3, 3)])
@pytest.mark.parametrize("attention", ["dot", "additive"])
@pytest.mark.parametrize("training", [True, False])
def test_features_are_the_formulas(decoder, feeding, layers, attention, training):
    sizes = {"encoder_layers": layers[0], "decoder_layers": layers[1]}
    m = model(decoder=decoder, input_feeding=feeding, attention=attention, **sizes).train(training)
    source, lengths, inputs, _ = batch()
    with torch.no_grad():
        features = m(source, lengths, inputs)
        for row, (size, length) in enumerate(zip(lengths, TARGET_LENGTHS, strict=True)):
            expected = expected_features(m, source[:size, row], inputs[:length, row])
            torch.testing.assert_close(features[:length, row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("decoder", "feeding"), FORMS)
@pytest.mark.parametrize("gate", [SigmoidGate(), SharpenedGate(), GumbelGate()])
def test_steps_give_what_one_pass_gives(decoder, feeding, gate):
    m = model(decoder=decoder, input_feeding=feeding, gate=gate).eval()
    source, lengths, inputs, targets = batch()
    with torch.no_grad():
        losses = m.loss(m(source, lengths, inputs), targets, reduction="none")
        memory = m.encode(source, lengths)
        state = m.start(memory)
        for t in range(len(inputs)):
            log_p, attention, state = m.step(inputs[t], state, memory)
            torch.testing.assert_close(attention.sum(1), torch.ones(4))
            stepped = F.nll_loss(log_p, targets[t], reduction="none", ignore_index=PAD)
            torch.testing.assert_close(losses[t], stepped, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("decoder", "feeding"), FORMS)
def test_a_sentence_may_have_several_rows(decoder, feeding):
    m = model(decoder=decoder, input_feeding=feeding).eval()
    source, lengths, inputs, _ = batch()
    twice = torch.arange(4).repeat_interleave(2)
    with torch.no_grad():
        memory = m.encode(source, lengths)
        state = m.start(memory)
        log_p, attention, _ = m.step(inputs[0], state, memory)
        states, fed = state
        doubled = tuple((h[twice], c[twice]) for h, c in states), tuple(part[twice] for part in fed)
        both, looked, _ = m.step(inputs[0][twice], doubled, memory)
    torch.testing.assert_close(both, log_p[twice])
    torch.testing.assert_close(looked, attention[twice])


@pytest.mark.parametrize(("decoder", "feeding"), FORMS)
@pytest.mark.parametrize("training", [True, False])
def test_padding_and_neighbours_never_change_a_loss(decoder, feeding, training):
    m = model(decoder=decoder, input_feeding=feeding).train(training)

    def losses(*given: Tensor) -> Tensor:
        with torch.no_grad():
            return m.loss(m(*given[:3]), given[3], reduction="none")

    together, padded = losses(*batch()), losses(*batch(pad=5))
    torch.testing.assert_close(padded[: len(together)], together, rtol=0, atol=1e-6)
    assert not padded[len(together) :].any()
    for row, length in enumerate(TARGET_LENGTHS):
        alone = losses(*batch(rows=[row]))[:, 0]
        torch.testing.assert_close(together[:length, row], alone, rtol=0, atol=1e-6)
        assert not together[length:, row].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tied", ["none", "target", "all"])
def test_the_loss_is_the_cross_entropy_of_all_targets_but_padding(tied, smoothing):
    m = model(tied=tied)
    *given, targets = batch()
    features = m(*given)
    logits = F.linear(features, m.decoder_weight, m.output_bias).flatten(0, 1)
    for reduction in ("mean", "sum"):
        expected = F.cross_entropy(
            logits, targets.flatten(), ignore_index=PAD, reduction=reduction, label_smoothing=smoothing
        )
        found = m.loss(features, targets, smoothing=smoothing, reduction=reduction)
        torch.testing.assert_close(found, expected)
        wanted = torch.autograd.grad(expected, m.parameters(), retain_graph=True)
        for ours, theirs in zip(torch.autograd.grad(found, m.parameters(), retain_graph=True), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("decoder", "feeding"), FORMS)
@pytest.mark.parametrize("attention", ["dot", "additive"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_every_parameter_learns(decoder, feeding, attention, bfloat16):
    options = {"dropout": 0.1, "word_dropout": 0.1, "forget_bias": 1.0, "gate": GumbelGate()}
    m = model(decoder=decoder, input_feeding=feeding, attention=attention, decoder_layers=3, **options)
    *given, targets = batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        m.loss(m(*given), targets, smoothing=0.1).backward()
    silent = [name for name, p in m.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize("decoder", ["conditional", "stacked"])
def test_a_model_of_low_precision_is_that_of_single_precision_but_for_rounding(decoder):
    m = model(decoder=decoder).eval()
    expected = m(*batch()[:3])
    found = m.bfloat16()(*batch()[:3])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


def test_embeddings_are_shared_as_asked():
    count = {tied: sum(p.numel() for p in model(tied=tied).parameters()) for tied in ("none", "target", "all")}
    assert count["none"] - count["target"] == count["target"] - count["all"] == V * E


@pytest.mark.parametrize("part", ["dropout", "word_dropout", "readout_dropout"])
def test_each_dropout_acts_in_training_alone(part):
    m = model(**{"dropout": 0.0, "readout_dropout": 0.0} | {part: 0.5})
    given = batch()[:3]
    assert not torch.equal(m(*given), m(*given))
    m.eval()
    assert torch.equal(m(*given), m(*given))


def test_the_deep_output_has_the_other_dropout_unless_it_is_told():
    assert model(dropout=0.3).readout_dropout == 0.3
    assert model(dropout=0.3, readout_dropout=0.0).readout_dropout == 0.0


def test_the_forget_bias_goes_to_every_forget_gate():
    torch.manual_seed(0)
    plain = Translator(V, V, E, H).state_dict()
    torch.manual_seed(0)
    higher = Translator(V, V, E, H, forget_bias=1.0).state_dict()
    biases = [name for name in plain if "bias_ih" in name]
    assert len(biases) == 6  # two directions, the encoder's second layer, two cells, the upper layer
    for name in biases:
        torch.testing.assert_close(higher[name][H : 2 * H] - plain[name][H : 2 * H], torch.ones(H))
    others = [name for name in plain if name not in biases]
    assert all(torch.equal(higher[name], plain[name]) for name in others)


def test_a_scale_multiplies_what_is_read_of_embeddings_alone():
    options = {"dropout": 0.0, "tied": "target"}
    usual, scaled, plain = model(**options), model(**options, embedding_scale=3.0), model(dropout=0.0, embedding_scale=1.0)
    *given, targets = batch()
    assert not torch.allclose(usual(*given), scaled(*given))
    torch.testing.assert_close(usual(*given), model(**options, embedding_scale=E**0.5)(*given))
    plain.load_state_dict(scaled.state_dict() | {"output_weight": scaled.target_embedding.weight})
    with torch.no_grad():
        for embedding in (plain.source_embedding, plain.target_embedding):
            embedding.weight *= 3
    torch.testing.assert_close(plain(*given), scaled(*given))
    torch.testing.assert_close(*(m.loss(m(*given), targets) for m in (plain, scaled)))


@pytest.mark.parametrize("scope", ["mask", "sequence"])
def test_a_conditional_layer_keeps_noise_over_steps_and_feeding_refuses_to(scope):
    gate = GumbelGate(noise_scope=scope)
    seen, m = [], model(gate=gate)
    m.decoder.word.register_forward_pre_hook(lambda _, __, given: seen.append(given["noise"]), with_kwargs=True)
    m(*batch()[:3])
    assert len(seen) > 1
    assert all(torch.equal(noise == 0, seen[0] == 0) for noise in seen)
    assert [torch.equal(noise, seen[0]) for noise in seen[1:]] == [scope == "sequence"] * (len(seen) - 1)
    for decoder in ("conditional", "stacked"):
        with pytest.raises(ValueError, match=f"noise_scope='{scope}' outlasts a step"):
            model(gate=gate, decoder=decoder, input_feeding=True)


LAYERS = {
    "conditional": ["encoder.0.l0", "encoder.1.l0", "decoder.word", "decoder.context", "upper_decoder.0.l0"],
    "stacked": ["encoder.0.l0", "encoder.1.l0", "decoder.lstm.l0", "upper_decoder.0.l0"],
}


@pytest.mark.parametrize("decoder", LAYERS)
def test_compression_finds_every_gate_matrix(decoder):
    m = model(decoder=decoder, tied="all")
    blocks = find_blocks(m, Target())
    assert list(dict.fromkeys(block.layer for block in blocks)) == LAYERS[decoder]
    matrices = {name for name, _ in m.named_parameters() if "weight_ih" in name or "weight_hh" in name}
    assert {block.parameter for block in blocks} == matrices
    starts = {name: {block.start for block in blocks if block.parameter == name} for name in matrices}
    assert all(found == {0, H} for found in starts.values())  # i and f


@pytest.mark.parametrize("decoder", LAYERS)
def test_a_compressed_copy_computes_with_the_compressed_weights(decoder):
    m = model(decoder=decoder).eval()
    method = Method.parse("round:0.5+clip:1")
    given = batch()[:3]
    rebuilt = Translator(**m.options, gate=SigmoidGate()).eval()
    rebuilt.load_state_dict(compress(m, method).state)
    with torch.no_grad():
        found = compressed_copy(m, method)(*given)
        assert torch.equal(found, rebuilt(*given))
        assert not torch.allclose(found, m(*given))


@pytest.mark.parametrize("decoder", LAYERS)
def test_a_stored_model_translates_a_sentence(decoder, tmp_path):
    m = model(decoder=decoder, tied="all").eval()
    save_model(tmp_path / "model.safetensors", deploy(m, Method.parse("round:0.5+clip:1")))
    stored = load_model(tmp_path / "model.safetensors")
    source, lengths, inputs, _ = batch(rows=[0])
    expected = compressed_copy(m, Method.parse("round:0.5+clip:1"))(source, lengths, inputs)
    torch.testing.assert_close(stored.model(engine="torch")(source, lengths, inputs), expected)
    torch.testing.assert_close(stored.model()(source, lengths, inputs), expected, rtol=0, atol=0.01)
    torch.testing.assert_close(stored.dense_model()(*batch()[:3])[:, 0][: len(expected)], expected[:, 0])


@pytest.mark.parametrize("decoder", LAYERS)
def test_gates_of_the_first_decoder_layer_can_be_watched(decoder):
    m = model(decoder=decoder).eval()
    source, lengths, inputs, _ = batch()
    with recorded_gates(m.decoder) as records:
        m(source, lengths, inputs)
    values = {"conditional": 2 * len(inputs) * 4, "stacked": len(inputs) * 4}[decoder]
    assert sum(len(record.steps("f")) for record in records) == values
    with recorded_gates(m) as records:
        m(source, lengths, inputs)
    assert {record.name for record in records} == {name.removesuffix(".l0") for name in LAYERS[decoder]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "gru"}, "one of conditional, stacked, got 'gru'"),
        ({"attention": "cosine"}, "one of dot, additive, got 'cosine'"),
        ({"tied": "both"}, "one of none, target, all, got 'both'"),
        ({"tied": "all", "source_vocabulary": V + 1}, "14 and 13 sub-words"),
        ({"dropout": 1.0}, r"must be in \[0, 1\)"),
    ],
)
def test_errors_quote_what_was_given(options, message):
    arguments = {"source_vocabulary": V, "target_vocabulary": V} | options
    with pytest.raises(ValueError, match=message):
        Translator(**arguments)
