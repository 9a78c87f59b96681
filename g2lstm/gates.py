"""The gates: what happens to an LSTM's pre-activations. Everything G2-LSTM adds to an LSTM is in this file.

A training step of G2-LSTM is an ordinary LSTM step on pre-activations that were scaled by 1/tau and had logistic noise
added (Li et al. 2018, eq. 11-16). So a gate only answers three questions: which rows it tempers, at which temperature,
and which noise is added. The recurrence itself (`g2lstm.engines`) knows nothing about gates.

T time, B batch, H hidden units; blocks of H rows in the framework's order i, f, g, o.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from g2lstm import columns
from g2lstm.layout import BLOCKS

NoiseScope = Literal["step", "mask", "sequence"]
ScheduleKind = Literal["constant", "linear", "exponential", "cosine"]


@dataclass(frozen=True)
class SigmoidGate:
    """The ordinary gate, `sigmoid(a)`, in training and in evaluation (eq. 2-5)."""

    tau: ClassVar[float] = 1.0
    gates: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class SharpenedGate:
    """`sigmoid(a / tau)` in training and in evaluation, without noise: the paper's second baseline.

    Args:
        tau: temperature > 0; the paper uses 0.2.
        gates: which of "i", "f", "o" are sharpened.
    """

    tau: float = 0.2
    gates: tuple[str, ...] = ("i", "f")

    def __post_init__(self) -> None:
        object.__setattr__(self, "gates", _checked_gates(self.gates))
        checked_temperature(self.tau)


@dataclass(frozen=True)
class GumbelGate:
    """The G2 gate: `sigmoid((a + m * logit(U)) / tau)` in training, the plain sigmoid in evaluation (eq. 11-12).

    U is uniform on (0, 1) and m ~ Bernoulli(noise_p) says which gate values are perturbed at all. Both are fresh for every
    unit, time step and sequence, unless `noise_scope` says otherwise. The temperature divides perturbed and unperturbed
    pre-activations alike.

    Args:
        tau: temperature > 0; 0.9 in the paper.
        noise_p: share of gate values that are perturbed, in [0, 1]; 0.2 in the paper's experiments.
        noise_scope: "step" draws U and m at every time step; "mask" keeps m for the whole sequence; "sequence" keeps both.
        eps: 0 for exact logistic noise; 1e-3 is the released code's `log(U + eps) - log(1 + eps - U)`, which bounds the
            noise at about 6.9.
        gates: which of "i", "f", "o" are trained this way. The paper's ablation adds "o", which lowers quality.
        hard: straight-through: in training the gate is 0 or 1, whichever the relaxed one is nearer to, and has the relaxed
            one's gradient, as in torch.nn.functional.gumbel_softmax. Off in the paper.
    """

    tau: float = 0.9
    noise_p: float = 0.2
    noise_scope: NoiseScope = "step"
    eps: float = 0.0
    gates: tuple[str, ...] = ("i", "f")
    hard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "gates", _checked_gates(self.gates))
        checked_temperature(self.tau)
        if not isinstance(self.hard, bool):
            raise ValueError(f"hard must be True or False, got {self.hard!r}")
        if not (isinstance(self.noise_p, Real) and 0 <= self.noise_p <= 1):
            raise ValueError(f"noise_p must be in [0, 1], got {self.noise_p!r}")
        if self.noise_scope not in get_args(NoiseScope):
            raise ValueError(f"noise_scope must be one of {', '.join(get_args(NoiseScope))}, got {self.noise_scope!r}")
        if not (isinstance(self.eps, Real) and self.eps >= 0 and math.isfinite(self.eps)):
            raise ValueError(f"eps must be >= 0 and finite, got {self.eps!r}")


@dataclass(frozen=True)
class HardGate:
    """`a > 0` instead of `sigmoid(a)`, in evaluation only; gradients there are the sigmoid's.

    Args:
        gates: which of "i", "f", "o" are cut to 0 or 1.
    """

    tau: ClassVar[float] = 1.0
    gates: tuple[str, ...] = ("i", "f")

    def __post_init__(self) -> None:
        object.__setattr__(self, "gates", _checked_gates(self.gates))


Gate = SigmoidGate | SharpenedGate | GumbelGate | HardGate
GATES: dict[str, type] = {"sigmoid": SigmoidGate, "sharpened": SharpenedGate, "gumbel": GumbelGate, "hard": HardGate}


def has_temperature(gate: Gate) -> bool:
    """Whether the gate divides its pre-activations by a temperature that can be set and annealed."""
    return isinstance(gate, (SharpenedGate, GumbelGate))  # torch 2.9 compiles no A | B


def checked_temperature(tau: float) -> float:
    """Returns `tau`. Raises ValueError unless it is a finite number > 0."""
    if not (isinstance(tau, Real) and tau > 0 and math.isfinite(tau)):
        raise ValueError(f"tau must be > 0 and finite, got {tau!r}")
    return tau


def is_plain(gate: Gate, training: bool) -> bool:
    """Whether the gate is `sigmoid(a)` in this mode, so that the network is exactly the framework's LSTM."""
    return isinstance(gate, SigmoidGate) or (isinstance(gate, GumbelGate) and not training)


def is_noisy(gate: Gate, training: bool) -> bool:
    """Whether noise is added to the pre-activations in this mode."""
    return training and isinstance(gate, GumbelGate) and gate.noise_p > 0


def block_scale(gate: Gate, tau: float, training: bool) -> tuple[float, float, float, float] | None:
    """The factor of each block's pre-activations, i, f, g, o: 1/tau where they are tempered; None where all are 1."""
    if tau == 1 or not has_temperature(gate) or is_plain(gate, training):
        return None
    i, f, g, o = (1 / tau if block in gate.gates else 1.0 for block in BLOCKS)
    return i, f, g, o


def hard_blocks(gate: Gate, training: bool) -> tuple[str, ...]:
    """The blocks whose value is 0 or 1 in this mode."""
    if isinstance(gate, HardGate) or (training and isinstance(gate, GumbelGate) and gate.hard):
        return gate.gates
    return ()


def draw_noise(
    gate: GumbelGate,
    time: int,
    batch: int,
    hidden_size: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Logistic noise on a share `noise_p` of the gate values and 0 on the others, before the division by tau (eq. 11).

    Args:
        gate: says p, scope, eps and the gates.
        time, batch, hidden_size: T, B, H.
        generator: source of randomness; torch's default generator without it.
        dtype, device: of the result; float16 and bfloat16 are drawn in float32.

    Returns:
        (T, B, len(gate.gates) * H); with `noise_scope="sequence"` an expanded view of one step.
    """
    working = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    width, steps = len(gate.gates) * hidden_size, 1 if gate.noise_scope == "sequence" else time

    def uniform(steps: int) -> Tensor:
        shape = steps, batch, width
        return columns.draw(shape, 1, lambda shape: torch.rand(shape, generator=generator, dtype=working, device=device))

    # deviation: one uniform serves both draws, u < p perturbs, and given that, u / p is uniform again.
    u = uniform(steps)
    if gate.noise_scope == "mask":
        perturbed = uniform(1) < gate.noise_p
    else:
        perturbed = u < gate.noise_p
        u.div_(max(gate.noise_p, torch.finfo(working).tiny))
    noise = logistic_(u, gate.eps).mul_(perturbed)
    return noise.to(dtype).expand(time, batch, width)


def logistic_(u: Tensor, eps: float = 0.0) -> Tensor:
    """Standard logistic noise `log(u + eps) - log(1 + eps - u)` from uniform `u`, in place; finite for every u >= 0."""
    if eps:  # deviation: the released code's 1e-3 is an option, not the default
        u.add_(eps).div_(1 + 2 * eps)
    # The outermost grid points of a uniform draw (0 and 1) would give an infinity: they count as the next ones inward.
    return u.logit_(eps=torch.finfo(u.dtype).eps / 2)


def leading_blocks(noise: Tensor, drawn: tuple[str, ...], hidden_size: int) -> Tensor:
    """Widens noise on some gates to the leading pre-activation blocks, i and f, or all four where "o" is among them.

    Args:
        noise: (..., len(drawn) * H).
        drawn: the gates it belongs to, in the order i, f, o.
        hidden_size: H.

    Returns:
        (..., 2H) or (..., 4H) with zeros for the other blocks.
    """
    if drawn == ("i", "f"):
        return noise
    parts = dict(zip(drawn, noise.split(hidden_size, dim=-1), strict=True))
    empty = torch.zeros_like(parts[drawn[0]])
    return torch.cat([parts.get(block, empty) for block in (BLOCKS if "o" in drawn else BLOCKS[:2])], dim=-1)


def _checked_gates(gates: tuple[str, ...]) -> tuple[str, ...]:
    named = list(gates) if isinstance(gates, Iterable) else []
    if not named or any(gate not in ("i", "f", "o") for gate in named) or len(set(named)) != len(named):
        raise ValueError(f'gates must be one or more of "i", "f", "o", each once, got {gates!r}')
    return tuple(block for block in BLOCKS if block in named)


@dataclass(frozen=True)
class TemperatureSchedule:
    """Anneals a temperature from `start` to `end` over a training run.

    Args:
        start: temperature at the start, > 0.
        end: temperature at the end, > 0; by default `start`.
        kind: "constant" (the paper; `end` is not used), "linear", "exponential" or "cosine".
    """

    start: float
    end: float | None = None
    kind: ScheduleKind = "constant"

    def __post_init__(self) -> None:
        checked_temperature(self.start)
        checked_temperature(self.start if self.end is None else self.end)
        if self.kind not in get_args(ScheduleKind):
            kinds = ", ".join(get_args(ScheduleKind))
            raise ValueError(f"the temperature schedule must be one of {kinds}, got {self.kind!r}")

    def __call__(self, progress: float) -> float:
        """The temperature at `progress`, which is cut to [0, 1]."""
        start, end = self.start, self.start if self.end is None else self.end
        progress = min(max(progress, 0.0), 1.0)
        if self.kind == "constant":
            return start
        if self.kind == "exponential":
            return start ** (1 - progress) * end**progress
        share = (1 - math.cos(math.pi * progress)) / 2 if self.kind == "cosine" else progress
        return start * (1 - share) + end * share


def noise_share(noise_p: float, kind: str, progress: float) -> float:
    """The share of gate values that are perturbed when a share `progress` of training is done.

    "constant" is `noise_p`; "last_third" falls from it to 0 on a straight line over the last third.
    """
    return noise_p if kind == "constant" else noise_p * min(1.0, 3 * (1 - min(progress, 1.0)))
