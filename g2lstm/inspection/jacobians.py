"""How a small change of the state at step t reaches the last one: the norm of d h_T / d h_t, and models to measure it on.

The models are trained on delayed recall: a symbol is shown, `delay` distractors follow, then the symbol is to be named.

T time, B batch, H hidden units.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils import clip_grad_norm_

from g2lstm.lstm import G2LSTM
from g2lstm.runs.store import Row

MODELS: dict[str, Callable[[int, int], nn.RNNBase]] = {"rnn": nn.RNN, "sigmoid": nn.LSTM, "gumbel": G2LSTM}
SYMBOLS = DISTRACTORS = 8
HIDDEN, BATCH, LEARNING_RATE, CLIP = 32, 64, 3e-3, 1.0
TESTED, MEASURED = 512, 16  # sequences for the accuracy, and those of them for the norms
STATES = ("h", "c")


def jacobian_norms(rnn: nn.RNNBase, x: Tensor) -> dict[str, Tensor]:
    """The spectral norm (largest singular value) of d h_T / d h_t, and of d h_T / d c_t where there is a cell.

    h_t and c_t count as two variables: the first derivative holds c_t fixed, the second h_t. The layer runs in its present
    mode, in float64, for far from T the norms can be below what float32 holds.

    Args:
        rnn: one layer in one direction, time first.
        x: (T, B, D) input, T >= 2.

    Returns:
        for "h", and "c" where there is one, (T - 1, B): at t = 1 to T - 1.
    """
    rnn, states = copy.deepcopy(rnn).double(), list[tuple[Tensor, ...]]()
    state = None
    for step in x.double().split(1):
        _, state = rnn(step, state)
        states.append(state if isinstance(state, tuple) else (state,))
    last, before = states[-1][0][0], [part for parts in states[:-1] for part in parts]  # (B, H), each (1, B, H)
    rows = [torch.cat(torch.autograd.grad(unit.sum(), before, retain_graph=True)) for unit in last.unbind(1)]
    norms = torch.linalg.matrix_norm(torch.stack(rows, dim=-2), ord=2)  # a sequence's h_T is of its own h_t alone
    kinds = len(states[0])
    return {STATES[kind]: norms[kind::kinds] for kind in range(kinds)}


def recall_batch(size: int, delay: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences of a symbol and `delay` distractors, one-hot (1 + delay, size, D), and their symbols (size,)."""
    symbols = torch.randint(SYMBOLS, (1, size), generator=generator)
    distractors = torch.randint(SYMBOLS, SYMBOLS + DISTRACTORS, (delay, size), generator=generator)
    return one_hot(torch.cat([symbols, distractors]), SYMBOLS + DISTRACTORS).float(), symbols[0]


def measure_recall(name: str, seed: int, *, delay: int, steps: int) -> Row:
    """Trains one of `MODELS` on delayed recall, with delays from 1 to `delay`; norms and accuracy before and after it.

    Norms are measured in training mode, which is what back-propagation sees, a G2-LSTM's noise included; accuracy in test.

    Args:
        name, seed: of the model, and of its weights, its noise and its sequences.
        delay, steps: the longest delay, at which everything is measured; batches of training.

    Returns:
        for "before" and "after" the accuracy, and for each state the norms at t = 1 to `delay`: the mean over sequences of
        their log10.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rnn, head = MODELS[name](SYMBOLS + DISTRACTORS, HIDDEN), nn.Linear(HIDDEN, SYMBOLS)
        test = recall_batch(TESTED, delay, generator)
        row: Row = {"model": name, "seed": seed, "before": _measured(rnn, head, *test)}
        _train(rnn, head, delay, steps, generator)
        return row | {"after": _measured(rnn, head, *test)}


def _train(rnn: nn.RNNBase, head: nn.Linear, delay: int, steps: int, generator: torch.Generator) -> None:
    parameters = [*rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE)
    for _ in range(steps):
        x, symbols = recall_batch(BATCH, int(torch.randint(1, delay + 1, (), generator=generator)), generator)
        optimizer.zero_grad()
        cross_entropy(head(rnn(x)[0][-1]), symbols).backward()
        clip_grad_norm_(parameters, CLIP)
        optimizer.step()


def _measured(rnn: nn.RNNBase, head: nn.Linear, x: Tensor, symbols: Tensor) -> Row:
    norms = jacobian_norms(rnn.train(), x[:, :MEASURED])
    with torch.no_grad():
        correct = head(rnn.eval()(x)[0][-1]).argmax(-1) == symbols
    rnn.train()
    tiny = torch.finfo(torch.float64).tiny
    logs = {kind: found.clamp_min(tiny).log10().mean(1).tolist() for kind, found in norms.items()}
    return {"accuracy": correct.double().mean().item()} | {
        kind: [round(value, 4) for value in values] for kind, values in logs.items()
    }
