"""The point-wise half of a step as one Triton kernel forwards and one backwards. Import it only where Triton is needed.

A program handles BLOCK units of one sequence. What differs from pass to pass (where the tensors lie, their sizes, the
seed, the scale) is read from two small tables on the device, so that a captured CUDA graph serves every pass:

    numbers  int64    a step to start at, then `Numbers` in its order; tensors as addresses, absent ones as 0
    factors  float32  the scale of the blocks i, f, g, o, and eps * threshold of the noise

T time, B batch, H hidden units, Hp = H rounded up as the products like it. Step k of a pass is time t = k, or T - 1 - k
when reversed. The states lie in T + 1 slots by time: step t goes from slot t to t + 1, reversed from t + 1 to t.
"""
# mypy: disallow-untyped-defs=False

from typing import NamedTuple

import triton
import triton.language as tl


class Numbers(NamedTuple):
    """What a pass tells the kernels, behind the step to start at; in the order of the constants below."""

    time: int
    batch: int
    seed: int
    threshold: int
    noise_width: int
    lengths: int  # (B,) int64
    hidden: int  # (T + 1, B, H)
    cell: int  # (T + 1, B, H) float32
    gates: int  # (T, B, 4, H) float32
    pre: int  # (T, B, 4H); backward: its gradient
    noise: int = 0  # (T, B, noise_width) float32
    grad_hidden: int = 0  # (T, B, H)
    first: int = 0  # the sequences are those of a batch of `total` from here on, for the noise
    total: int = 0


STEP, TIME, BATCH, SEED, THRESHOLD, NOISE_WIDTH, LENGTHS, HIDDEN, CELL, GATES, PRE, NOISE, GRAD_HIDDEN, FIRST, TOTAL = (
    tl.constexpr(index) for index in range(1 + len(Numbers._fields))
)
SHIFT = tl.constexpr(4)  # in factors


@triton.jit(do_not_specialize=["offset"])
def forward_step(
    numbers,
    factors,
    state,  # (rows, Hp) h of the step before, which becomes that of this one
    recurrent,  # (rows, 4Hp) state @ W_hh^T
    offset,  # of this step from the one in `numbers`
    size,
    padded,
    REVERSE: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    GIVEN: tl.constexpr,  # noise is a tensor
    DRAWN: tl.constexpr,  # noise is drawn here
    WORD_I: tl.constexpr,  # which word of its counter a block reads, or -1
    WORD_F: tl.constexpr,
    WORD_O: tl.constexpr,
    HARD_I: tl.constexpr,  # 0 or 1
    HARD_F: tl.constexpr,
    HARD_O: tl.constexpr,
    KEEP: tl.constexpr,  # gate values for the backward pass
    BLOCK: tl.constexpr,
):
    kind = state.dtype.element_ty
    step = tl.load(numbers + STEP) + offset
    time, batch = tl.load(numbers + TIME), tl.load(numbers + BATCH)
    t = time - 1 - step if REVERSE else step
    b = tl.program_id(0)
    if b >= batch:
        return
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = j < size

    row = t * batch + b
    i, f, g, o = load_blocks(tl.load(numbers + PRE).to(tl.pointer_type(kind)) + row * 4 * size + j, size, mask)
    r_i, r_f, r_g, r_o = load_blocks(recurrent + b * 4 * padded + j, padded, mask)
    i, f, g, o = i + r_i, f + r_f, g + r_g, o + r_o

    if GIVEN:
        width = tl.load(numbers + NOISE_WIDTH)
        noise = tl.load(numbers + NOISE).to(tl.pointer_type(tl.float32)) + row * width + j
        i += tl.load(noise, mask=mask & (j < width), other=0.0)
        f += tl.load(noise + size, mask=mask & (size + j < width), other=0.0)
        g += tl.load(noise + 2 * size, mask=mask & (2 * size + j < width), other=0.0)
        o += tl.load(noise + 3 * size, mask=mask & (3 * size + j < width), other=0.0)
    if DRAWN:
        threshold, shift = tl.load(numbers + THRESHOLD).to(tl.int32), tl.load(factors + SHIFT)
        sequence = t * tl.load(numbers + TOTAL) + tl.load(numbers + FIRST) + b
        w0, w1, w2, _w3 = counter_words(tl.load(numbers + SEED), sequence * size + j)
        if WORD_I >= 0:
            i += logistic(pick(w0, w1, w2, WORD_I), threshold, shift)
        if WORD_F >= 0:
            f += logistic(pick(w0, w1, w2, WORD_F), threshold, shift)
        if WORD_O >= 0:
            o += logistic(pick(w0, w1, w2, WORD_O), threshold, shift)

    i = gate(i * tl.load(factors), HARD_I)
    f = gate(f * tl.load(factors + 1), HARD_F)
    g = tanh(g * tl.load(factors + 2))
    o = gate(o * tl.load(factors + 3), HARD_O)
    slot = row * size + j  # the earlier of the two slots in time
    early = tl.load(numbers + CELL).to(tl.pointer_type(tl.float32)) + slot
    before = early + batch * size if REVERSE else early
    after = early if REVERSE else early + batch * size
    c_before = tl.load(before, mask=mask, other=0.0)
    c = value(f, HARD_F) * c_before + value(i, HARD_I) * g
    h = (value(o, HARD_O) * tanh(c)).to(kind)
    if HAS_LENGTHS:
        inside = t < tl.load(tl.load(numbers + LENGTHS).to(tl.pointer_type(tl.int64)) + b)
        c = tl.where(inside, c, c_before)
        h = tl.where(inside, h, tl.load(state + b * padded + j, mask=mask, other=0.0))
    tl.store(after, c, mask=mask)
    tl.store(state + b * padded + j, h, mask=mask)
    hidden = tl.load(numbers + HIDDEN).to(tl.pointer_type(kind)) + slot
    tl.store(hidden if REVERSE else hidden + batch * size, h, mask=mask)
    if KEEP:
        store_blocks(tl.load(numbers + GATES).to(tl.pointer_type(tl.float32)) + row * 4 * size + j, size, mask, i, f, g, o)


@triton.jit(do_not_specialize=["offset"])
def backward_step(
    numbers,
    factors,
    d_state,  # (rows, Hp) gradient of h from the step after
    d_gates,  # (rows, 4Hp) of the pre-activations of this step, for the product
    d_cell,  # (rows, H) gradient of c from the step after, which becomes that for the step before
    passed,  # (rows, H) gradient of h that finished sequences hand on
    offset,  # of this step from the one in `numbers`, counted from the last step of the pass
    size,
    padded,
    REVERSE: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HARD_I: tl.constexpr,
    HARD_F: tl.constexpr,
    HARD_O: tl.constexpr,
    HAS_GRAD_HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    kind = d_state.dtype.element_ty
    step = tl.load(numbers + STEP) + offset
    time, batch = tl.load(numbers + TIME), tl.load(numbers + BATCH)
    t = step if REVERSE else time - 1 - step
    b = tl.program_id(0)
    if b >= batch:
        return
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = j < size

    row = t * batch + b
    unit, local = row * size + j, b * size + j
    d_h = tl.load(d_state + b * padded + j, mask=mask, other=0.0).to(tl.float32)
    d_c = tl.load(d_cell + local, mask=mask, other=0.0)
    if HAS_LENGTHS:
        d_h += tl.load(passed + local, mask=mask, other=0.0)
    if HAS_GRAD_HIDDEN:
        grad = tl.load(numbers + GRAD_HIDDEN).to(tl.pointer_type(kind)) + unit
        d_h += tl.load(grad, mask=mask, other=0.0).to(tl.float32)

    gates = tl.load(numbers + GATES).to(tl.pointer_type(tl.float32)) + row * 4 * size + j
    i, f, g, o = load_blocks(gates, size, mask)
    early = tl.load(numbers + CELL).to(tl.pointer_type(tl.float32)) + unit
    c_before = tl.load(early + batch * size if REVERSE else early, mask=mask, other=0.0)
    tanh_c = tanh(tl.load(early if REVERSE else early + batch * size, mask=mask, other=0.0))
    through = d_c + d_h * value(o, HARD_O) * (1 - tanh_c * tanh_c)
    d_i = through * g * slope(i, HARD_I) * tl.load(factors)
    d_f = through * c_before * slope(f, HARD_F) * tl.load(factors + 1)
    d_g = through * value(i, HARD_I) * (1 - g * g) * tl.load(factors + 2)
    d_o = d_h * tanh_c * slope(o, HARD_O) * tl.load(factors + 3)
    d_before = through * value(f, HARD_F)
    if HAS_LENGTHS:
        inside = t < tl.load(tl.load(numbers + LENGTHS).to(tl.pointer_type(tl.int64)) + b)
        d_i, d_f = tl.where(inside, d_i, 0.0), tl.where(inside, d_f, 0.0)
        d_g, d_o = tl.where(inside, d_g, 0.0), tl.where(inside, d_o, 0.0)
        d_before = tl.where(inside, d_before, d_c)
        tl.store(passed + local, tl.where(inside, 0.0, d_h), mask=mask)
    tl.store(d_cell + local, d_before, mask=mask)
    d_pre = tl.load(numbers + PRE).to(tl.pointer_type(kind)) + row * 4 * size + j
    store_blocks(d_pre, size, mask, d_i, d_f, d_g, d_o)
    store_blocks(d_gates + b * 4 * padded + j, padded, mask, d_i, d_f, d_g, d_o)


@triton.jit
def load_blocks(at, stride, mask):
    """The values of i, f, g and o in float32."""
    i = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(at + stride, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(at + 2 * stride, mask=mask, other=0.0).to(tl.float32)
    o = tl.load(at + 3 * stride, mask=mask, other=0.0).to(tl.float32)
    return i, f, g, o


@triton.jit
def store_blocks(at, stride, mask, i, f, g, o):
    kind = at.dtype.element_ty
    tl.store(at, i.to(kind), mask=mask)
    tl.store(at + stride, f.to(kind), mask=mask)
    tl.store(at + 2 * stride, g.to(kind), mask=mask)
    tl.store(at + 3 * stride, o.to(kind), mask=mask)


@triton.jit
def gate(a, HARD: tl.constexpr):
    """What is kept of a gate: the sigmoid, of one that is cut to 0 or 1 negative where it is 0."""
    soft = tl.sigmoid(a)
    if HARD:
        soft = tl.where(a > 0, soft, -soft)
    return soft


@triton.jit
def value(kept, HARD: tl.constexpr):
    """The gate's value; NaN stays NaN."""
    if HARD:
        kept = tl.where(kept > 0, 1.0, kept - kept)
    return kept


@triton.jit
def slope(kept, HARD: tl.constexpr):
    """The sigmoid's derivative, straight through a cut."""
    if HARD:
        kept = tl.abs(kept)
    return kept * (1 - kept)


@triton.jit
def counter_words(seed, counter):
    """The four words of `g2lstm.engines.noise.philox`; the counter is 64 bits wide."""
    low, high = (counter & 0xFFFFFFFF).to(tl.uint32), (counter >> 32).to(tl.uint32)
    zero = low * 0
    return tl.philox(seed, low, high, zero, zero)


@triton.jit
def pick(w0, w1, w2, WORD: tl.constexpr):
    """One word of three: no more than i, f and o are perturbed."""
    if WORD == 0:
        word = w0
    elif WORD == 1:
        word = w1
    else:
        word = w2
    return word


@triton.jit
def logistic(word, threshold, shift):
    """The noise of `NoiseRecipe`, in float32: 0 where the draw of 30 bits is not below the threshold."""
    u = (word >> 2).to(tl.int32)
    perturbed = u < threshold
    below = u.to(tl.float32) + 0.5 + shift
    above = tl.where(perturbed, (threshold - u).to(tl.float32) - 0.5 + shift, 1.0)
    return tl.where(perturbed, tl.log(below / above), 0.0)


@triton.jit
def tanh(x):
    """tanh to the last places of float32 also near 0, where the form by exp cancels (polynomial of the Cephes library)."""
    size = tl.abs(x)
    large = 1 - 2 / (tl.exp(2 * size) + 1)
    z = x * x
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    return tl.where(size > 0.625, tl.where(x < 0, -large, large), p * z * x + x)


@triton.jit
def draw_words(seed, counter, words, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """The words of COUNT counters as (4, COUNT) int64, for tests."""
    at = tl.arange(0, BLOCK)
    mask = at < COUNT
    w0, w1, w2, w3 = counter_words(tl.load(seed), tl.load(counter + at, mask=mask, other=0))
    tl.store(words + at, w0.to(tl.int64), mask=mask)
    tl.store(words + COUNT + at, w1.to(tl.int64), mask=mask)
    tl.store(words + 2 * COUNT + at, w2.to(tl.int64), mask=mask)
    tl.store(words + 3 * COUNT + at, w3.to(tl.int64), mask=mask)
