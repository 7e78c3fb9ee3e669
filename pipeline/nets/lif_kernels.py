"""The kernels under the fused LIF scan: numba on a CPU, plain tensor operations anywhere else.

All arrays are [K, membranes] in memory order; `betas` and `thresholds` hold one number, or one per neuron of a
sample (then `membranes` is a whole number of samples). The equations are in `pipeline.nets.scan`. Rules are
compile-time constants, so that the inner loops have no branches and vectorise; numba keeps the compiled code on
disk. No fastmath: values must equal snnTorch's to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pipeline.compiled import njit

EXACT, NEAREST, TRUNCATION, STOCHASTIC = 0, 1, 2, 3
"""How a new membrane gets onto its grid; exact: it has none."""
SUBTRACT, ZERO, NONE = 0, 1, 2  # snnTorch's own numbers: SpikingNeuron.reset_dict
_BLOCK = 1024  # membranes per block: the state of a block stays in the first-level cache over all steps
_TO_UNIT = np.float32(2.0**-24)
Kernel = Callable[..., None]


@njit(cache=True, nogil=True, inline="always")
def _hashed(i):  # type: ignore[no-untyped-def]
    """uint32 -> uint32 (lowbias32, Wellons 2018): the numbers of `pipeline.compress.kernels`, drawn in here."""
    i = np.uint32(i ^ (i >> np.uint32(16)))  # numba widens without the casts
    i = np.uint32(i * np.uint32(0x7FEB352D))
    i = np.uint32(i ^ (i >> np.uint32(15)))
    i = np.uint32(i * np.uint32(0x846CA68B))
    return np.uint32(i ^ (i >> np.uint32(16)))


@njit(cache=True, nogil=True, inline="always")
def _drawn(seat, key):  # type: ignore[no-untyped-def]
    """Uniform [0, 1) of one membrane (its `seat`: the hash of its number) in the step with this key."""
    return np.float32(_hashed(np.uint32(seat ^ key)) >> np.uint32(8)) * _TO_UNIT


@njit(cache=True, nogil=True)
def _seat(seats, first, n):  # type: ignore[no-untyped-def]
    for i in range(n):
        seats[i] = _hashed(np.uint32(first + i))


@cache
def forward_kernel(reset: int, delay: bool, vector: bool, keep: bool, grid: int = EXACT) -> Kernel:
    """(x, start, spikes, kept, states, betas, thresholds, format, keys): fills spikes, kept (v) and states.

    With a `grid` every new membrane is rounded to format = (step, lowest code, highest code) and saturates;
    kept is the membrane before that. Stochastic rounding draws number i of step t from (keys[t], i), keys [K] uint32.
    """

    # One function per kernel, no inner ones: numba cannot find a closure over compiled functions on disk again.
    @njit(nogil=True, cache=True, error_model="numpy")
    def forward(x, start, spikes, kept, states, betas, thresholds, format, keys):  # type: ignore[no-untyped-def]
        steps, size = x.shape
        period = len(betas) if vector else size
        number = x.dtype.type
        one, zero, half = number(1), number(0), number(0.5)
        step, lowest, highest = format[0], format[1], format[2]
        buffer = np.empty(_BLOCK, x.dtype)
        seats = np.empty(_BLOCK if grid == STOCHASTIC else 1, np.uint32)
        for row in range(0, size, period):
            for low in range(0, period, _BLOCK):
                n = min(_BLOCK, period - low)
                p, q = row + low, row + low + n
                bs, hs = (betas[low : low + n], thresholds[low : low + n]) if vector else (betas, thresholds)
                b, h = bs[0], hs[0]
                membrane = buffer[:n]
                membrane[:] = start[0, p:q]
                if grid == STOCHASTIC:
                    _seat(seats, p, n)
                for t in range(steps):
                    current, spike = x[t, p:q], spikes[t, p:q]
                    kept_t = kept[t, p:q] if keep else membrane
                    for i in range(n):
                        if vector:
                            b, h = bs[i], hs[i]
                        u = membrane[i]
                        due = one if u > h else zero
                        if reset == ZERO:
                            u = (one - due) * u
                        v = b * u + current[i]
                        if reset == SUBTRACT:
                            v = v - due * h
                        if keep:
                            kept_t[i] = v
                        if grid == NEAREST:
                            v = np.floor(v / step + half)
                        elif grid == TRUNCATION:
                            v = np.floor(v / step)
                        elif grid == STOCHASTIC:
                            v = np.floor(v / step + number(_drawn(seats[i], keys[t])))
                        if grid != EXACT:
                            v = min(max(v, lowest), highest) * step
                        s = one if v > h else zero
                        spike[i] = s
                        if not delay and reset == SUBTRACT:
                            v = v - (s - due) * h
                        if not delay and reset == ZERO:
                            v = v - (s - due) * v
                        membrane[i] = v
                    if len(states) > 1:
                        states[t, p:q] = membrane
                states[len(states) - 1, p:q] = membrane

    return forward


@cache
def backward_kernel(
    reset: int,
    delay: bool,
    detach: bool,
    vector: bool,
    params: bool,
    atan: bool,
    slope: float,
    grid: int = EXACT,
) -> Kernel:
    """(kept, start, g_spikes, g_states, g_x, betas, thresholds, g_start, g_betas, g_thresholds, format, keys).

    Fills g_x and g_start, adds to g_betas and g_thresholds, which are [membranes] (ignored unless `params`).
    g_states has K rows, or one for the last state, or none.
    A grid passes the gradient straight through where it does not saturate.
    """
    peak, scale = slope / 2, math.pi / 2 * slope
    same_step = not delay and reset != NONE  # the membrane that is carried on is not v

    @njit(nogil=True, cache=True, error_model="numpy")
    def backward(  # type: ignore[no-untyped-def]
        kept, start, g_spikes, g_states, g_x, betas, thresholds, g_start, g_betas, g_thresholds, format, keys
    ):
        steps, size = kept.shape
        period = len(betas) if vector else size
        number = kept.dtype.type
        one, zero, half = number(1), number(0), number(0.5)
        step, lowest, highest = format[0], format[1], format[2]
        a, c, k = number(peak), number(scale), number(slope)
        # Flat: of rows of a matrix LLVM cannot tell that they are apart, and computes one membrane at a time.
        buffer = np.empty(steps * _BLOCK if same_step else 1, kept.dtype)
        seats = np.empty(_BLOCK if grid == STOCHASTIC else 1, np.uint32)
        for row in range(0, size, period):
            for low in range(0, period, _BLOCK):
                n = min(_BLOCK, period - low)
                p, q = row + low, row + low + n
                bs, hs = (betas[low : low + n], thresholds[low : low + n]) if vector else (betas, thresholds)
                b, h = bs[0], hs[0]
                if grid == STOCHASTIC:
                    _seat(seats, p, n)
                if same_step:  # replay the membranes that each step started from
                    buffer[0:n] = start[0, p:q]
                    for t in range(steps - 1):
                        kept_t, at = kept[t, p:q], t * n
                        before, after = buffer[at : at + n], buffer[at + n : at + 2 * n]
                        for i in range(n):
                            if vector:
                                h = hs[i]
                            v = kept_t[i]
                            if grid == NEAREST:
                                v = np.floor(v / step + half)
                            elif grid == TRUNCATION:
                                v = np.floor(v / step)
                            elif grid == STOCHASTIC:
                                v = np.floor(v / step + number(_drawn(seats[i], keys[t])))
                            if grid != EXACT:
                                v = min(max(v, lowest), highest) * step
                            due = one if before[i] > h else zero
                            s = one if v > h else zero
                            after[i] = v - (s - due) * (h if reset == SUBTRACT else v)
                carry = g_start[p:q]
                carry[:] = zero
                if len(g_states) == 1:
                    carry += g_states[0, p:q]
                for t in range(steps - 1, -1, -1):
                    if len(g_states) > 1:
                        carry += g_states[t, p:q]
                    kept_t, g_spike, g_x_t = kept[t, p:q], g_spikes[t, p:q], g_x[t, p:q]
                    if same_step:
                        before = buffer[t * n : t * n + n]
                    elif t > 0:
                        before = kept[t - 1, p:q]
                    else:
                        before = start[0, p:q]
                    g_b, g_h = (g_betas[p:q], g_thresholds[p:q]) if params else (carry, carry)
                    for i in range(n):
                        if vector:
                            b, h = bs[i], hs[i]
                        u, v, g_u, g_s = before[i], kept_t[i], carry[i], g_spike[i]
                        passes = one
                        if grid != EXACT:
                            earlier = not same_step and t > 0  # kept is what was there before the rounding
                            if grid == STOCHASTIC:
                                code = np.floor(v / step + number(_drawn(seats[i], keys[t])))
                                if earlier:
                                    u = np.floor(u / step + number(_drawn(seats[i], keys[t - 1])))
                            else:
                                shift = half if grid == NEAREST else zero
                                code = np.floor(v / step + shift)
                                if earlier:
                                    u = np.floor(u / step + shift)
                            held = min(max(code, lowest), highest)
                            passes = one if held == code else zero
                            v = held * step
                            if earlier:
                                u = min(max(u, lowest), highest) * step
                        due = one if u > h else zero
                        s = one if v > h else zero
                        left = one - due if reset == ZERO else one
                        z = v - h
                        if atan:
                            slant = a / (one + (c * z) * (c * z))
                        else:
                            root = k * abs(z) + one
                            slant = one / (root * root)
                        if same_step and not detach:
                            g_s = g_s - g_u * (h if reset == SUBTRACT else v)
                        g_v = g_u
                        if same_step and reset == ZERO:
                            g_v = g_u * (one - (s - due))
                        g_v = (g_v + g_s * slant) * passes
                        g_x_t[i] = g_v
                        carry[i] = b * g_v * left
                        if params:
                            g_b[i] += g_v * (left * u)
                            g_threshold = -g_s * slant
                            if reset == SUBTRACT:
                                g_threshold = g_threshold - due * g_v
                                if same_step:
                                    g_threshold = g_threshold - (s - due) * g_u
                            g_h[i] += g_threshold

    return backward


@dataclass(frozen=True)
class TensorGrid:
    """A membrane's format for the tensor operations; `grid` is EXACT, NEAREST or TRUNCATION."""

    grid: int
    step: float
    low: float
    high: float

    def onto(self, v: Tensor) -> Tensor:
        """The new membrane as it is held."""
        return v if self.grid == EXACT else self._codes(v).clamp_(self.low, self.high).mul_(self.step)

    def passes(self, v: Tensor) -> Tensor | float:
        """1 where the gradient passes: where the membrane does not saturate."""
        if self.grid == EXACT:
            return 1.0
        codes = self._codes(v)
        return ((codes >= self.low) & (codes <= self.high)).to(v.dtype)

    def _codes(self, v: Tensor) -> Tensor:
        scaled = v / self.step
        return (scaled.add_(0.5) if self.grid == NEAREST else scaled).floor_()


def forward_tensors(
    reset: int,
    delay: bool,
    grid: TensorGrid,
    x: Tensor,
    u: Tensor,
    beta: Tensor,
    threshold: Tensor,
    *out: Tensor,
) -> None:
    """The same as `forward_kernel` in tensor operations; `out` is (spikes, kept, states)."""
    spikes, kept, states = out
    for t in range(len(x)):
        due = (u > threshold).to(x.dtype)
        u = (1 - due) * u if reset == ZERO else u
        v = beta * u + x[t]
        v = v - due * threshold if reset == SUBTRACT else v
        if len(kept):
            kept[t] = v
        v = grid.onto(v)
        spike = (v > threshold).to(x.dtype)
        spikes[t] = spike
        u = v
        if not delay and reset != NONE:
            u = v - (spike - due) * (threshold if reset == SUBTRACT else v)
        if len(states) > 1 or t == len(x) - 1:
            states[t if len(states) > 1 else 0] = u


def backward_tensors(
    reset: int,
    delay: bool,
    detach: bool,
    slant: Callable[[Tensor], Tensor],
    grid: TensorGrid,
    kept: Tensor,
    start: Tensor,
    beta: Tensor,
    threshold: Tensor,
    grads: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """The same as `backward_kernel` in tensor operations; `slant` is the surrogate derivative."""
    (g_spikes, g_states), (g_x, g_start, g_beta, g_threshold) = grads, out
    before = [start]
    for t in range(len(kept) - 1):
        u = grid.onto(kept[t])
        if not delay and reset != NONE:
            extra = (u > threshold).to(u.dtype) - (before[t] > threshold).to(u.dtype)
            u = u - extra * (threshold if reset == SUBTRACT else u)
        before.append(u)
    carry = g_states[0] if len(g_states) == 1 else torch.zeros_like(start)
    for t in range(len(kept) - 1, -1, -1):
        g_u = carry + g_states[t] if len(g_states) > 1 else carry
        v = grid.onto(kept[t])
        due = (before[t] > threshold).to(v.dtype)
        extra = (v > threshold).to(v.dtype) - due
        bend = slant(v - threshold)
        g_s = g_spikes[t]
        if not delay and not detach and reset != NONE:
            g_s = g_s - g_u * (threshold if reset == SUBTRACT else v)
        passes = grid.passes(kept[t])
        g_v = ((g_u * (1 - extra) if not delay and reset == ZERO else g_u) + g_s * bend) * passes
        g_x[t] = g_v
        left = 1 - due if reset == ZERO else torch.ones_like(due)
        if len(g_beta):
            g_beta += g_v * left * before[t]
            g_threshold -= g_s * bend
            if reset == SUBTRACT:
                g_threshold -= due * g_v + (0 if delay else extra * g_u)
        carry = beta * g_v * left
    g_start.copy_(carry)
