"""G2LSTM in training: its noise against the paper's equations in numpy, and DropConnect against nn.LSTM.

T time, B batch, D input, H hidden units, P projection.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm import G2LSTM, GumbelGate, HardGate, SharpenedGate, SigmoidGate

T, B, D, H, P = 5, 3, 4, 6, 2
LENGTHS = [2, 5, 4]
SIZES = {"num_layers": 2, "bidirectional": True, "proj_size": P}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def by_the_paper(rnn: G2LSTM, x, hx, lengths, noise, tau, noisy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equations 11-16, one sequence and one step at a time.

    Args:
        noise: for each layer and direction (T, B, len(noisy) * H), in the order of `noisy`.

    Returns:
        output (T, B, 2P), zero beyond a sequence's length; h_n (L * 2, B, P); c_n (L * 2, B, H).
    """
    weights = {name: parameter.detach().numpy() for name, parameter in rnn.named_parameters()}
    layer_input, h_n, c_n = x.numpy(), [], []
    for layer in range(rnn.num_layers):
        output = np.zeros((T, B, 2 * P))
        for direction in range(2):
            end = f"_l{layer}{'_reverse' if direction else ''}"
            W_ih, W_hh, W_hr = (weights[f"weight_{kind}{end}"] for kind in ("ih", "hh", "hr"))
            bias = weights[f"bias_ih{end}"] + weights[f"bias_hh{end}"]
            index = 2 * layer + direction
            final_h, final_c = np.zeros((B, P)), np.zeros((B, H))
            for b in range(B):
                h, c = hx[0][index, b].numpy(), hx[1][index, b].numpy()
                for t in reversed(range(lengths[b])) if direction else range(lengths[b]):
                    a = dict(zip("ifgo", np.split(W_ih @ layer_input[t, b] + W_hh @ h + bias, 4), strict=True))
                    for gate, n in zip(noisy, np.split(noise[index][t, b].numpy(), len(noisy)), strict=True):
                        a[gate] = (a[gate] + n) / tau
                    c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
                    h = W_hr @ (sigmoid(a["o"]) * np.tanh(c))
                    output[t, b, direction * P : (direction + 1) * P] = h
                final_h[b], final_c[b] = h, c
            h_n.append(final_h)
            c_n.append(final_c)
        layer_input = output
    return layer_input, np.stack(h_n), np.stack(c_n)


@pytest.mark.parametrize("engine", ["reference", "bptt"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("noisy", [("i", "f"), ("i",), ("f",), ("i", "o"), ("i", "f", "o")], ids=" ".join)
@pytest.mark.parametrize("tau", [0.9, 0.4])
def test_training_is_the_papers_equations(engine, packed, noisy, tau):
    torch.manual_seed(0)
    rnn = G2LSTM(D, H, **SIZES, gate=GumbelGate(tau=0.7, noise_p=0.5, gates=noisy[::-1]), engine=engine, dtype=torch.float64)
    rnn.tau = tau
    x, lengths = torch.randn(T, B, D, dtype=torch.float64), LENGTHS if packed else [T] * B
    hx = torch.randn(4, B, P, dtype=torch.float64), torch.randn(4, B, H, dtype=torch.float64)
    noise = rnn.draw_noise(T, B)
    given = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False) if packed else x
    output, state = rnn(given, hx, noise=noise)
    output = pad_packed_sequence(output)[0] if packed else output
    expected = by_the_paper(rnn, x, hx, lengths, noise, tau, noisy)
    for ours, numbers in zip((output, *state), expected, strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), numbers, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{}, SIZES | {"batch_first": True}], ids=["plain", "stacked"])
@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_given_noise_replays_a_pass_exactly(options, engine):
    rnn = G2LSTM(D, H, engine=engine, **options)
    x = torch.randn(B, T, D) if options else torch.randn(T, B, D)
    drawn, _ = rnn(x, generator=seeded(5))
    replayed, _ = rnn(x, noise=rnn.draw_noise(T, B, generator=seeded(5)))
    assert torch.equal(drawn, replayed)


def test_noise_of_unbatched_input_is_that_of_a_batch_of_one():
    rnn, x = G2LSTM(D, H, 2), torch.randn(T, D)
    noise = rnn.draw_noise(T, 1)
    output, (h_n, c_n) = rnn(x, noise=noise)
    batched, (batched_h, batched_c) = rnn(x.unsqueeze(1), noise=noise)
    torch.testing.assert_close((output, h_n, c_n), (batched.squeeze(1), batched_h.squeeze(1), batched_c.squeeze(1)))


@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_gradients_with_noise_and_masks_pass_finite_differences(engine):
    torch.manual_seed(0)
    rnn = G2LSTM(1, 2, 2, bidirectional=True, proj_size=1, weight_dropout=0.4, engine=engine, dtype=torch.float64)
    rnn.gate = GumbelGate(noise_p=0.5)
    names, parameters = zip(*rnn.named_parameters(), strict=True)
    x, noise = torch.randn(3, 2, 1, dtype=torch.float64, requires_grad=True), rnn.draw_noise(3, 2)
    masks = [rnn.draw_weight_mask() for _ in range(4)]
    hx = tuple(torch.randn(4, 2, size, dtype=torch.float64, requires_grad=True) for size in (1, 2))

    def run(x, h0, c0, *weights):
        weights = dict(zip(names, weights, strict=True))
        output, (h_n, c_n) = torch.func.functional_call(rnn, weights, (x, (h0, c0)), {"noise": noise, "weight_masks": masks})
        return output, h_n, c_n

    assert torch.autograd.gradcheck(run, (x, *hx, *parameters))


@pytest.mark.parametrize("engine", ["auto", "reference", "bptt"])
def test_the_generator_decides_all_random_numbers(engine):
    rnn = G2LSTM(D, H, 2, dropout=0.3, weight_dropout=0.3, engine=engine)
    x = torch.randn(T, B, D)
    before = torch.get_rng_state()
    first, again, other = (rnn(x, generator=seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_default_generator_is_used_without_one():
    rnn, x = G2LSTM(D, H, 2, dropout=0.3, weight_dropout=0.3), torch.randn(T, B, D)
    torch.manual_seed(1)
    first, following = rnn(x)[0], rnn(x)[0]
    torch.manual_seed(1)
    assert torch.equal(rnn(x)[0], first)
    assert not torch.equal(first, following)


def test_every_layer_and_direction_has_its_own_noise():
    noise = G2LSTM(D, H, 2, bidirectional=True, gate=GumbelGate(noise_p=1)).draw_noise(T, B)
    assert [tuple(part.shape) for part in noise] == [(T, B, 2 * H)] * 4
    for one in range(4):
        for other in range(one):
            assert (noise[one] != noise[other]).all()


def test_packed_noise_belongs_to_the_callers_sequences():
    rnn = G2LSTM(D, H, bidirectional=True)
    x, noise = torch.randn(T, B, D), rnn.draw_noise(T, B)
    packed, _ = rnn(pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False), noise=noise)
    output, _ = pad_packed_sequence(packed)
    for b, length in enumerate(LENGTHS):
        alone, _ = rnn(x[:length, b], noise=[part[:length, b : b + 1] for part in noise])
        torch.testing.assert_close(output[:length, b], alone)


def test_without_noise_the_temperature_still_divides():
    rnn = G2LSTM(D, H, gate=GumbelGate(tau=0.5, noise_p=0))
    sharpened = G2LSTM(D, H, gate=SharpenedGate(tau=0.5))
    sharpened.load_state_dict(rnn.state_dict())
    x = torch.randn(T, B, D)
    assert torch.equal(rnn(x)[0], sharpened(x)[0])
    assert not torch.equal(rnn(x)[0], rnn.eval()(x)[0])


def test_a_sharpened_gate_is_an_lstm_with_scaled_rows_in_both_modes():
    rnn, lstm = G2LSTM(D, H, gate=SharpenedGate(tau=0.2)), nn.LSTM(D, H)
    lstm.load_state_dict({name: weight.clone() for name, weight in rnn.state_dict().items()})
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter[: 2 * H] *= 5
    x = torch.randn(T, B, D)
    torch.testing.assert_close(rnn(x), lstm(x))
    torch.testing.assert_close(rnn.eval()(x), lstm(x))


@pytest.mark.parametrize("scope", ["step", "mask", "sequence"])
def test_noise_scope_reaches_the_layer(scope):
    """With all weights and states zero, a cell's step shows its noise: c = sigmoid(n_f) c + sigmoid(n_i) tanh(1)."""
    rnn = G2LSTM(1, 400, gate=GumbelGate(tau=1, noise_p=0.5, noise_scope=scope, gates=("i",))).requires_grad_(False)
    for parameter in rnn.parameters():
        parameter.zero_()
    rnn.bias_ih_l0[400:800] = -100.0  # the forget gate is shut, a step leaves nothing behind
    rnn.bias_ih_l0[800:1200] = 1.0
    steps = rnn(torch.zeros(3, 1, 1), generator=seeded())[0].squeeze(1)  # (3, 400)
    quiet = 0.5 * np.tanh(0.5 * np.tanh(1.0))
    perturbed = (steps - quiet).abs() > 1e-6
    assert 0.4 < perturbed.double().mean() < 0.6
    same_places = bool((perturbed == perturbed[0]).all())
    assert same_places == (scope != "step")
    assert torch.equal(steps[0], steps[1]) == (scope == "sequence")


@pytest.mark.parametrize("gate", [SigmoidGate(), SharpenedGate(), HardGate()], ids=lambda gate: type(gate).__name__)
def test_noise_for_a_gate_without_noise_is_refused(gate):
    rnn = G2LSTM(D, H, gate=gate)
    with pytest.raises(ValueError, match=f"{type(gate).__name__} takes no noise"):
        rnn(torch.zeros(T, B, D), noise=[torch.zeros(T, B, 2 * H)])
    with pytest.raises(ValueError, match="takes no noise"):
        rnn.draw_noise(T, B)


def test_noise_and_masks_in_evaluation_are_refused():
    rnn = G2LSTM(D, H, weight_dropout=0.5).eval()
    with pytest.raises(ValueError, match="in eval mode"):
        rnn(torch.zeros(T, B, D), noise=[torch.zeros(T, B, 2 * H)])
    with pytest.raises(ValueError, match="in eval mode"):
        rnn.draw_noise(T, B)
    with pytest.raises(ValueError, match="off in eval mode"):
        rnn(torch.zeros(T, B, D), weight_masks=[rnn.draw_weight_mask()])


@pytest.mark.parametrize(
    "shapes",
    [
        [],
        [(T, B, 2 * H)],
        [(T, B, 2 * H)] * 3,
        [(T, B, H)] * 2,
        [(T, B, 2 * P)] * 2,
        [(B, T, 2 * H)] * 2,
        [(T, 1, 2 * H)] * 2,
    ],
)
def test_noise_of_the_wrong_shape_is_refused(shapes):
    rnn = G2LSTM(D, H, bidirectional=True, proj_size=P)
    with pytest.raises(ValueError, match=r"noise must be a list of 2 tensors of shape \(5, 3, 12\), got shapes"):
        rnn(torch.zeros(T, B, D), noise=[torch.zeros(shape) for shape in shapes])


def test_masks_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"weight_masks must be a list of 1 tensors of shape \(24, 6\)"):
        G2LSTM(D, H)(torch.zeros(T, B, D), weight_masks=[torch.ones(H, H)])


@pytest.mark.parametrize("engine", ["reference", "bptt"])
def test_drop_connect_is_an_lstm_with_masked_recurrent_weights(engine):
    rnn = G2LSTM(D, H, **SIZES, weight_dropout=0.5, gate=SigmoidGate(), engine=engine, dtype=torch.float64)
    lstm = nn.LSTM(D, H, **SIZES, dtype=torch.float64)
    masks = [rnn.draw_weight_mask() for _ in range(4)]
    lstm.load_state_dict(rnn.state_dict())
    recurrent = [f"weight_hh_l{layer}{end}" for layer in range(2) for end in ("", "_reverse")]
    with torch.no_grad():
        for name, mask in zip(recurrent, masks, strict=True):
            getattr(lstm, name).mul_(mask)
    x = torch.randn(T, B, D, dtype=torch.float64)
    ours, theirs = rnn(x, weight_masks=masks), lstm(x)
    torch.testing.assert_close(ours, theirs)
    ours[0].pow(2).sum().backward()
    theirs[0].pow(2).sum().backward()
    for name, parameter in rnn.named_parameters():
        mask = masks[recurrent.index(name)] if name in recurrent else 1
        torch.testing.assert_close(parameter.grad, getattr(lstm, name).grad * mask, msg=name)


def test_one_mask_is_drawn_for_each_layer_and_direction_a_pass():
    rnn = G2LSTM(D, H, 2, bidirectional=True, weight_dropout=0.5, gate=SigmoidGate())
    x, generator = torch.randn(T, B, D), seeded(7)
    masks = [rnn.draw_weight_mask(generator=generator) for _ in range(4)]
    assert all(not torch.equal(masks[one], masks[other]) for one in range(4) for other in range(one))
    assert torch.equal(rnn(x, generator=seeded(7))[0], rnn(x, weight_masks=masks)[0])


def test_masks_are_inverted():
    mask = G2LSTM(D, 100, weight_dropout=0.2).draw_weight_mask(generator=seeded())
    assert set(mask.unique().tolist()) == {0.0, 1.25}
    assert (mask == 0).double().mean().item() == pytest.approx(0.2, abs=5 * (0.16 / mask.numel()) ** 0.5)


def test_drop_connect_leaves_the_parameters_alone_and_evaluation_without_it():
    rnn = G2LSTM(D, H, weight_dropout=0.9)
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in rnn.named_parameters()}
    x = torch.randn(T, B, D)
    rnn(x)[0].sum().backward()
    for name, parameter in rnn.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert set(rnn.state_dict()) == set(nn.LSTM(D, H).state_dict())
    assert torch.equal(rnn.eval()(x)[0], rnn.to_lstm()(x)[0])
    rnn.engine = "bptt"
    torch.testing.assert_close(rnn(x)[0], rnn.to_lstm()(x)[0])


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_weight_dropout_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=rf"weight_dropout must be in \[0, 1\), got {share}"):
        G2LSTM(D, H, weight_dropout=share)
