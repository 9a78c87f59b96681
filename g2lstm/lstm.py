"""`G2LSTM`: the framework's LSTM, trained through a gate of `g2lstm.gates`.

T time, B batch, D input, H hidden units, P proj_size or H, L layers, K = 2 where bidirectional, else 1.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from g2lstm import columns, engines, gates, layout
from g2lstm.engines import Masks, Options, Request, framework
from g2lstm.engines.contract import NO_MASKS
from g2lstm.engines.noise import NoiseRecipe
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.gated import Gated, autocast_dtype, can_meet, traced
from g2lstm.gates import Gate, GumbelGate, HardGate
from g2lstm.layout import State, Weights
from g2lstm.masks import Masked, RecurrentDropoutKind
from g2lstm.spans import span


class Draws(NamedTuple):
    """What is drawn at random in a pass, or was given instead, and the source of the rest."""

    noise: list[Tensor] | None = None
    weight_masks: list[Tensor] | None = None
    recurrent_masks: list[Tensor] | None = None
    zoneout_masks: list[Tensor] | None = None
    generator: torch.Generator | None = None


class G2LSTM(Gated, Masked, nn.LSTM):
    r"""`torch.nn.LSTM` whose input and forget gates are trained as relaxed coin flips (Li et al. 2018).

    In training, with :math:`U \sim \mathrm{Uniform}(0, 1)` and :math:`m \sim \mathrm{Bernoulli}(p)` (eq. 11-16):

    .. math::
        i &= \sigma((W_{ii} x + b_{ii} + W_{hi} h + b_{hi} + m\,\mathrm{logit}\,U) / \tau) \\
        f &= \sigma((W_{if} x + b_{if} + W_{hf} h + b_{hf} + m'\,\mathrm{logit}\,U') / \tau) \\
        g &= \tanh(W_{ig} x + b_{ig} + W_{hg} h + b_{hg}) \\
        o &= \sigma(W_{io} x + b_{io} + W_{ho} h + b_{ho}) \\
        c' &= f * c + i * g, \qquad h' = o * \tanh(c')

    In eval mode it computes what `nn.LSTM` does, unless there is zoneout. It is a subclass of `nn.LSTM`: parameters and
    their names, initialisation, inputs, outputs and errors are the framework's own, and each loads the other's `state_dict`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype: as in
            nn.LSTM.
        gate: a gate of `g2lstm.gates`; assign `rnn.gate` to change it, `rnn.tau` to anneal its temperature.
        weight_dropout: DropConnect (Wan et al. 2013): share of each W_hh's entries set to 0 in training, in [0, 1); the
            others grow by 1 / (1 - weight_dropout). One mask for each layer and direction and forward pass.
        recurrent_dropout: share of recurrent values set to 0 in training, in [0, 1); the others grow by
            1 / (1 - recurrent_dropout).
        recurrent_dropout_kind: which values: "h", what the gates read of the step before, with one mask for all steps of a
            sequence (Gal & Ghahramani 2016); "g", the candidate, a mask for each step (Semeniuta et al. 2016);
            "g_sequence", the candidate, one mask for all steps.
        zoneout: probability in [0, 1) that a unit keeps its old value in a step of training, one for c and h or (c, h);
            in eval mode both states are means of old and new (Krueger et al. 2017).
        engine: "auto", or a name in `g2lstm.engines.ENGINES`. "auto" takes the framework's own where a pass is an LSTM's and
            there is nothing to train.

    Inputs:
        input, hx: as in nn.LSTM: (T, B, D), (B, T, D) if batch_first, (T, D) unbatched, or a PackedSequence; hx = (h0, c0).
        noise: the noise to use instead of drawing it: a list with one (T, B, len(gate.gates) * H) tensor for each layer and
            direction in nn.LSTM's order, already masked, before the division by tau, i first then f; indexed by
            input time and the caller's batch order, also for the reverse direction and for packed input. B = 1 if
            unbatched.
        weight_masks: the DropConnect masks to use: a list with one (4H, P) tensor for each layer and direction, already
            inverted.
        recurrent_masks: those of recurrent dropout, likewise: (B, P) for "h", (T, B, H) for "g", (B, H) for "g_sequence".
        zoneout_masks: those of zoneout, likewise: (T, B, H + P), c first, then h, 1 where the old value is kept.
        generator: source of all random numbers of this pass; torch's default generator without it.

    Outputs:
        output, (h_n, c_n) as in nn.LSTM. Under autocast c_n is float32.

    Raises:
        ValueError: a bad gate, dropout, zoneout or engine; noise or masks in eval mode or of the wrong shape.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        gate: Gate | None = None,
        weight_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_kind: RecurrentDropoutKind = "h",
        zoneout: float | Sequence[float] = 0.0,
        engine: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0 <= weight_dropout < 1:
            raise ValueError(f"weight_dropout must be in [0, 1), got {weight_dropout}")
        engines.check_name(engine)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.gate = GumbelGate() if gate is None else gate
        self.weight_dropout = weight_dropout
        self._set_masks(recurrent_dropout, recurrent_dropout_kind, zoneout)
        self.engine = engine

    def extra_repr(self) -> str:
        extra = f", weight_dropout={self.weight_dropout}" if self.weight_dropout else ""
        return f"{super().extra_repr()}, gate={self.gate}{extra}{self._masks_repr()}, engine={self.engine!r}"

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        *,
        noise: list[Tensor] | None = None,
        weight_masks: list[Tensor] | None = None,
        recurrent_masks: list[Tensor] | None = None,
        zoneout_masks: list[Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        if (leaf := traced(self, input, hx)) is not None:
            return leaf  # type: ignore[return-value]
        self._check(input, hx)
        draws = self._checked_draws(input, Draws(noise, weight_masks, recurrent_masks, zoneout_masks, generator))
        request = self._request(input, draws)
        engine = engines.choose(self.engine, request)
        if engine == "framework" and framework.runs_whole(request) and not self._drops_out(draws):
            # nn.LSTM takes no other states; our engines do, and which one runs should make no difference
            return super().forward(input, None if hx is None else (hx[0].contiguous(), hx[1].to(hx[0].dtype).contiguous()))
        if isinstance(input, PackedSequence):
            x, lengths = pad_packed_sequence(input, total_length=columns.packed_steps())  # (T, B, D), in the caller's order
            output, state = self._run_layers(x, hx, lengths.to(x.device), engine, draws)
            if input.sorted_indices is not None:
                output, lengths = output[:, input.sorted_indices], lengths[input.sorted_indices.cpu()]
            return input._replace(data=pack_padded_sequence(output, lengths).data), state
        if input.dim() == 2:
            hx = None if hx is None else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            output, (h_n, c_n) = self._run_layers(input.unsqueeze(1), hx, None, engine, draws)  # (T, 1, D)
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        output, state = self._run_layers(input.transpose(0, 1) if self.batch_first else input, hx, None, engine, draws)
        return output.transpose(0, 1) if self.batch_first else output, state

    def _check(self, input: Tensor | PackedSequence, hx: State | None) -> None:
        """Raises what nn.LSTM raises, by asking it, for input or states of the wrong rank, size, dtype or device."""
        if self._fits(input, hx):
            return
        nn.LSTM.forward(self, input, hx)
        if isinstance(input, PackedSequence) and hx is not None:  # where nn.LSTM passes over states it has no sequence for
            self.check_forward_args(input.data, hx, input.batch_sizes)

    def _fits(self, input: Tensor | PackedSequence, hx: State | None) -> bool:
        packed = isinstance(input, PackedSequence)
        x = input.data if isinstance(input, PackedSequence) else input
        if x.dim() not in ((2,) if packed else (2, 3)) or x.shape[-1] != self.input_size:
            return False
        steps, batch = self._steps(input)
        return steps > 0 and can_meet(
            x, self.weight_ih_l0, hx, self._state_sizes(*([batch] if packed or x.dim() == 3 else []))
        )

    @property
    def _count(self) -> int:
        """L * K."""
        return self.num_layers * (2 if self.bidirectional else 1)

    def _state_sizes(self, *batch: int) -> list[tuple[int, ...]]:
        """Of h and of c, (L*K, B, P) and (L*K, B, H), without B where there is none."""
        return [(self._count, *batch, size) for size in (self.proj_size or self.hidden_size, self.hidden_size)]

    def _run_layers(
        self, x: Tensor, hx: State | None, lengths: Tensor | None, engine: str, draws: Draws
    ) -> tuple[Tensor, State]:
        """(T, B, D) input, (L*K, B, ·) states or zeros -> (T, B, K*P) output and the final states."""
        if hx is None:
            h0, c0 = (x.new_zeros(size) for size in self._state_sizes(x.shape[1]))
            hx = h0, c0
        cast = autocast_dtype(x)
        if cast is not None:
            x, hx = x.to(cast), (hx[0].to(cast), hx[1])
        h_n: list[Tensor] = []
        c_n: list[Tensor] = []
        for number, ends in enumerate(layout.endings(self)):
            if number and self.dropout and self.training:
                x = _dropout(x, self.dropout, draws.generator)
            outputs = []
            for direction, end in enumerate(ends):
                index = len(h_n)
                weights = self._dropped(layout.weights(self, end), index, draws)
                options = Options(
                    lengths, direction == 1, self._noise(index, engine, x, draws), self._block_scale(), self._hard_blocks(),
                    self._masks_of(index, x, draws),
                )  # fmt: skip
                with span(end) if self._count > 1 else nullcontext():
                    h, (h_last, c_last) = engines.ENGINES[engine].run(x, (hx[0][index], hx[1][index]), weights, options)
                outputs.append(h)
                h_n.append(h_last)
                c_n.append(c_last)
            x = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        state_dtype = x.dtype if cast is None else accumulation_dtype(x.dtype)
        return x, (torch.stack(h_n), torch.stack(c_n).to(state_dtype))

    def _request(self, input: Tensor | PackedSequence, draws: Draws) -> Request:
        """What a pass asks of an engine."""
        x = input.data if isinstance(input, PackedSequence) else input
        cast = autocast_dtype(x)
        return Request(
            x.device, cast or x.dtype, self.hidden_size, self._steps(input)[0], projected=self.proj_size > 0,
            noisy=draws.noise is not None or gates.is_noisy(self.gate, self.training),
            scaled=self._block_scale() is not None, hard=bool(self._hard_blocks()),
            masked=self._is_masked_by(draws.recurrent_masks, draws.zoneout_masks),
            training=self.training, autocast=cast is not None,
        )  # fmt: skip

    def _drops_out(self, draws: Draws) -> bool:
        """Whether something is dropped that nn.LSTM does not know, or not as it would draw it."""
        own = draws.generator is not None or columns.present() is not None
        return self.training and bool(self.weight_dropout or draws.weight_masks is not None or (self.dropout and own))

    def _dropped(self, weights: Weights, index: int, draws: Draws) -> Weights:
        """The weights of a layer and direction, W_hh under its DropConnect mask."""
        mask = None if draws.weight_masks is None else draws.weight_masks[index]
        if mask is None and self.weight_dropout and self.training:
            mask = self.draw_weight_mask(generator=draws.generator)
        return weights if mask is None else weights._replace(hh=weights.hh * mask.to(weights.hh))

    def _masks_of(self, index: int, x: Tensor, draws: Draws) -> Masks:
        """The masks of recurrent dropout and zoneout of a layer and direction."""
        if not self._is_masked_by(draws.recurrent_masks, draws.zoneout_masks):
            return NO_MASKS
        recurrent, kept = (None if part is None else part[index] for part in (draws.recurrent_masks, draws.zoneout_masks))
        like = x.new_empty(0, dtype=accumulation_dtype(x.dtype))
        return self._masks(x.shape[0], x.shape[1], like, recurrent, kept, draws.generator)

    def _noise(self, index: int, engine: str, x: Tensor, draws: Draws) -> Tensor | NoiseRecipe | None:
        """The noise as the engine takes it: what was given, what is drawn here, or how to draw it."""
        gate = self.gate
        if draws.noise is not None:
            return gates.leading_blocks(draws.noise[index], gate.gates, self.hidden_size)
        if not isinstance(gate, GumbelGate) or not gates.is_noisy(gate, self.training):
            return None
        if engine in engines.DRAW_THEMSELVES and gate.noise_scope == "step":
            device = "cpu" if draws.generator is None else draws.generator.device
            seed = torch.randint(2**63 - 1, (), generator=draws.generator, device=device).cpu()
            blocks = tuple(gates.BLOCKS.index(name) for name in gate.gates)
            return NoiseRecipe(seed, gate.noise_p, gate.eps, blocks, columns.present())
        drawn = gates.draw_noise(
            gate, x.shape[0], x.shape[1], self.hidden_size,
            generator=draws.generator, dtype=accumulation_dtype(x.dtype), device=x.device,
        )  # fmt: skip
        return gates.leading_blocks(drawn, gate.gates, self.hidden_size)

    def draw_noise(self, time: int, batch: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """The noise of one forward pass, for `forward(..., noise=...)`.

        Returns:
            One (T, B, len(gate.gates) * H) tensor for each layer and direction.

        Raises:
            ValueError: the gate takes no noise, or the module is in eval mode.
        """
        gate, weight = self._expected_noise_gate(), self.weight_hh_l0
        dtype = accumulation_dtype(weight.dtype)
        return [
            gates.draw_noise(gate, time, batch, self.hidden_size, generator=generator, dtype=dtype, device=weight.device)
            for _ in range(self._count)
        ]

    def draw_weight_mask(self, *, generator: torch.Generator | None = None) -> Tensor:
        """One inverted DropConnect mask for a W_hh: (4H, P) with entries 0 and 1 / (1 - weight_dropout)."""
        keep, weight = 1 - self.weight_dropout, self.weight_hh_l0
        if engines.is_vmapped():  # where nothing is drawn into a tensor that all share
            dtype = accumulation_dtype(weight.dtype)
            drawn = torch.rand(weight.shape, generator=generator, dtype=dtype, device=weight.device)
            return drawn.lt(keep).to(weight.dtype) / keep
        return torch.empty_like(weight, requires_grad=False).bernoulli_(keep, generator=generator).div_(keep)

    def _checked_draws(self, input: Tensor | PackedSequence, draws: Draws) -> Draws:
        """Raises ValueError for noise or masks in eval mode, of the wrong number or shape, or noise on another device."""
        noise, steps = draws.noise, self._steps(input)
        if noise is not None:
            gate = self._expected_noise_gate()
            noise = _checked_list("noise", noise, self._count, (*steps, len(gate.gates) * self.hidden_size))
            there, given = self.weight_hh_l0.device, {part.device for part in noise}
            if given != {there}:  # a kernel would take another device's address for its own
                raise ValueError(f"noise must be on {there}, as the weights, got {', '.join(map(str, given))}")
        found: dict[str, Any] = {}
        for name, shape in (
            ("weight_masks", tuple(self.weight_hh_l0.shape)),
            ("recurrent_masks", self._recurrent_shape(*steps)),
            ("zoneout_masks", (*steps, sum(self._widths))),
        ):
            if (masks := getattr(draws, name)) is not None:
                if not self.training:
                    raise ValueError(f"{name} are for training: they are off in eval mode, pass {name}=None")
                found[name] = _checked_list(name, masks, self._count, shape)
        return draws._replace(noise=noise, **found)

    def _steps(self, input: Tensor | PackedSequence) -> tuple[int, int]:
        """T and B."""
        if isinstance(input, PackedSequence):
            return len(input.batch_sizes), int(input.batch_sizes[0])
        if input.dim() == 2:
            return len(input), 1
        return (input.shape[1], input.shape[0]) if self.batch_first else (input.shape[0], input.shape[1])

    def to_lstm(self) -> nn.LSTM:
        """A new `nn.LSTM` with a copy of the weights that computes what this module computes in eval mode.

        A sharpened gate's 1/tau is folded into the weights and biases of its rows.

        Raises:
            ValueError: the gate is hard, or there is zoneout; no LSTM computes that.
        """
        if any(self.zoneout):
            raise ValueError(f"zoneout={self.zoneout} can't be turned into an nn.LSTM: assign rnn.zoneout = (0, 0) first")
        if isinstance(self.gate, HardGate):
            raise ValueError("a hard gate can't be turned into an nn.LSTM: assign rnn.gate = SigmoidGate() first")
        weights, scale = _weights_of(self), gates.block_scale(self.gate, self.tau, False)
        lstm = nn.LSTM(**_constructor_arguments(self))
        lstm.load_state_dict(weights if scale is None else layout.scale_blocks(weights, scale))
        return lstm.train(self.training)

    @classmethod
    def from_lstm(cls, lstm: nn.LSTM, gate: Gate | None = None, **options: Any) -> "G2LSTM":
        """A new `G2LSTM` with a copy of an `nn.LSTM`'s options, weights and mode; other `options` as in `G2LSTM`."""
        weights = _weights_of(lstm)
        rnn = cls(**_constructor_arguments(lstm), gate=gate, **options)
        rnn.load_state_dict(weights)
        return rnn.train(lstm.training)


def _weights_of(lstm: nn.LSTM) -> dict[str, Tensor]:
    """By nn.LSTM's names, also where they are computed from other parameters."""
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.weight_norm import WeightNorm

    for hook in lstm._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod | WeightNorm):
            hook(lstm, ())  # until the next pass they are those of the last one
    return {name: getattr(lstm, name).detach() for name in lstm._flat_weights_names}


def engines_of(model: nn.Module, device: torch.device, dtype: torch.dtype) -> list[str]:
    """The names of the engines that train a model's layers on a device, with products in a dtype, each once.

    Raises:
        ValueError: a layer asks for one that can't.
    """
    found = set()
    for rnn in model.modules():
        if isinstance(rnn, G2LSTM):
            noisy = gates.is_noisy(rnn.gate, True)
            masked = bool(rnn.recurrent_dropout) or any(rnn.zoneout)
            request = Request(device, dtype, rnn.hidden_size, projected=rnn.proj_size > 0, noisy=noisy, masked=masked)
            found.add(engines.choose(rnn.engine, request))
    return sorted(found)


def _constructor_arguments(lstm: nn.LSTM) -> dict[str, Any]:
    names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
    weight = lstm.weight_hh_l0
    return {name: getattr(lstm, name) for name in names} | {"device": weight.device, "dtype": weight.dtype}


def _dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        if columns.present() is None:
            return dropout(x, p)
        return x * columns.draw(x.shape, 1, lambda shape: dropout(x.new_ones(shape), p))
    keep = 1 - p  # p = 1 drops everything, as in nn.Dropout
    mask = columns.draw(x.shape, 1, lambda shape: x.new_empty(shape).bernoulli_(keep, generator=generator))
    return x * mask.div_(keep) if keep else x * mask


def _checked_list(name: str, tensors: list[Tensor], count: int, shape: tuple[int, ...]) -> list[Tensor]:
    tensors = list(tensors)
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if shapes != [shape] * count:
        raise ValueError(f"{name} must be a list of {count} tensors of shape {shape}, got shapes {shapes}")
    return tensors
