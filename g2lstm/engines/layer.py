"""One layer as one node of autograd, for the engines whose backward pass over time is written by hand.

Such an engine is a module with two functions on the recurrence alone; this adds the products that take all steps at once.

    forward(pre, weight_hh, weight_hr, h0, c0, options, keep) -> hidden, cell, *kept
    backward(weight_hh, weight_hr, hidden, cell, kept, grad_h, grad_c, options) -> d_pre, d_h0, d_c0, d_weight_hr

    pre            (T, B, 4H)     input part of the pre-activations with its bias, which may be overwritten
    hidden         (T + 1, B, P)  states in slots by time, the initial one in the first, or in the last when reversed
    cell           (T + 1, B, H)  likewise; where nothing is kept for a backward pass the last state alone will do
    kept                          what backward reads besides
    grad_h         (T, B, P)      None where h has no gradient
    grad_c         (B, H)         of the last cell state, or None
    d_pre          (T, B, 4H)     gradient before the scale, in the dtype of the input

T time, B batch, D input, H hidden units, P projection or H.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from g2lstm.engines.contract import NO_MASKS, Masks, Options
from g2lstm.engines.noise import NoiseRecipe
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.engines.products import over_time, product
from g2lstm.layout import State, Weights
from g2lstm.spans import span


def run(engine: ModuleType, x: Tensor, state: State, weights: Weights, options: Options) -> tuple[Tensor, State]:
    """Runs a layer by an engine's two functions; arguments and results as `g2lstm.engines.contract` says."""
    h0, c0 = state[0].to(x.dtype), state[1].to(accumulation_dtype(x.dtype))
    recipe, noise = None, options.noise
    if isinstance(noise, NoiseRecipe):
        recipe, noise = replace(noise, seed=0), noise.seed_tensor()
    tensors = x, h0, c0, noise, weights.ih, weights.hh, weights.bias(), weights.hr
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    keep = keep or torch.jit.is_tracing()  # a trace is compared with one that has no gradients
    rest = replace(options, lengths=None, noise=recipe, masks=NO_MASKS)
    h, c_n, *_ = _Layer.apply(engine, rest, keep, options.lengths, *options.masks, *tensors)
    return h, (h[0 if options.reverse else -1], c_n)


class _Layer(torch.autograd.Function):
    """Tensors are arguments of their own, those in the options too, so that whoever traces a graph finds them."""

    @staticmethod
    def forward(engine: ModuleType, options: Options, keep: bool, *tensors: Any) -> tuple[Tensor, ...]:
        lengths, *masks, x, h0, c0, noise, weight_ih, weight_hh, bias, weight_hr = tensors
        recipe = options.noise
        drawn = replace(recipe, seed=noise) if isinstance(recipe, NoiseRecipe) and noise is not None else noise
        options = replace(options, lengths=lengths, noise=drawn, masks=Masks(*masks))
        with span("input product"):
            pre = product(x, weight_ih.to(x.dtype), None if bias is None else bias.to(x.dtype))
        with span("recurrence"):
            hidden, cell, *kept = engine.forward(pre, weight_hh, weight_hr, h0, c0, options, keep)
        h, c_n = (hidden[:-1], cell[0]) if options.reverse else (hidden[1:], cell[-1])
        return h, c_n, hidden, cell, *kept

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.engine, ctx.options, _, lengths, *masks, x, _, _, noise, weight_ih, weight_hh, bias, weight_hr = inputs
        h, _, *kept = output
        wants_noise = noise is not None and noise.is_floating_point()  # no seed
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        ctx.noise_width, ctx.noise_dtype = (noise.shape[-1], noise.dtype) if wants_noise else (0, None)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(lengths, *masks, x, weight_ih, weight_hh, weight_hr, h, *kept)

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_c: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        lengths, *saved = ctx.saved_tensors
        masks, (x, weight_ih, weight_hh, weight_hr, h, hidden, cell, *kept) = Masks(*saved[:4]), saved[4:]
        options = replace(ctx.options, lengths=lengths, masks=masks)
        wants_x, wants_h0, wants_c0, wants_noise, wants_ih, wants_hh, wants_bias, wants_hr = ctx.needs_input_grad[8:]
        with torch.no_grad():
            with span("recurrence backward"):
                found = ctx.engine.backward(weight_hh, weight_hr, hidden, cell, kept, grad_h, grad_c, options)
            d_pre, d_h0, d_c0, d_hr = found
            before, exact = hidden[1:] if options.reverse else hidden[:-1], cell.dtype
            del cell, kept, saved
            if masks.h is not None:
                before = (masks.h * before).to(before.dtype)  # what the products read
            if not torch.compiler.is_compiling():
                ctx.maybe_clear_saved_tensors()  # the products take the place of the gate values, in memory still warm
            with span("products backward"):
                gradients = (
                    product(d_pre, weight_ih.to(d_pre.dtype).mT) if wants_x else None,
                    d_h0.to(x.dtype) if wants_h0 else None,
                    d_c0 if wants_c0 else None,
                    d_pre[..., : ctx.noise_width].to(ctx.noise_dtype, copy=True) if wants_noise else None,
                    over_time(d_pre, x).to(weight_ih.dtype) if wants_ih else None,
                    over_time(d_pre, before).to(weight_hh.dtype) if wants_hh else None,
                    d_pre.sum((0, 1), dtype=exact).to(ctx.bias_dtype) if wants_bias else None,
                    d_hr.to(weight_hr.dtype) if wants_hr else None,
                )
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            gradients = _Once.apply(ctx.engine, h, *gradients)
        return (*(None,) * 8, *gradients)


class _Once(torch.autograd.Function):
    """Gradients that can't be differentiated. `h` ties them to all that they depend on.

    Without it a second derivative would be taken, a wrong one, where only the loss makes it look possible.
    """

    @staticmethod
    def forward(engine: ModuleType, h: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return tuple(None if gradient is None else gradient.view_as(gradient) for gradient in gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        ctx.engine = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        name = ctx.engine.__name__.rpartition(".")[2]
        raise RuntimeError(f"the {name} engine has no second derivatives: use engine='reference'")
