"""The kernels under the fused LIF scan: numba on a CPU, plain tensor operations anywhere else.

All arrays are [K, membranes] in memory order; `betas` and `thresholds` hold one number, or one per neuron of a
sample (then `membranes` is a whole number of samples). The equations are in `pipeline.nets.scan`. Rules are
compile-time constants, so that the inner loops have no branches and vectorise; numba keeps the compiled code on
disk. No fastmath: values must equal snnTorch's to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

SUBTRACT, ZERO, NONE = 0, 1, 2  # snnTorch's own numbers: SpikingNeuron.reset_dict
_BLOCK = 1024  # membranes per block: the state of a block stays in the first-level cache over all steps
Kernel = Callable[..., None]


@cache
def forward_kernel(reset: int, delay: bool, vector: bool, keep: bool) -> Kernel:
    """(x, start, spikes, kept, states, betas, thresholds): fills spikes, kept (v) and states."""

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def forward(x, start, spikes, kept, states, betas, thresholds):  # type: ignore[no-untyped-def]
        steps, size = x.shape
        period = len(betas) if vector else size
        one, zero = x.dtype.type(1), x.dtype.type(0)
        membrane = np.empty(_BLOCK, x.dtype)
        b, h = betas[0], thresholds[0]
        for row in range(0, size, period):
            for low in range(0, period, _BLOCK):
                n = min(_BLOCK, period - low)
                at = row + low
                membrane[:n] = start[0, at : at + n]
                for t in range(steps):
                    for i in range(n):
                        if vector:
                            b, h = betas[low + i], thresholds[low + i]
                        u = membrane[i]
                        due = one if u > h else zero
                        if reset == ZERO:
                            u = (one - due) * u
                        v = b * u + x[t, at + i]
                        if reset == SUBTRACT:
                            v = v - due * h
                        s = one if v > h else zero
                        spikes[t, at + i] = s
                        if keep:
                            kept[t, at + i] = v
                        if not delay and reset == SUBTRACT:
                            v = v - (s - due) * h
                        if not delay and reset == ZERO:
                            v = v - (s - due) * v
                        membrane[i] = v
                    if len(states) > 1:
                        states[t, at : at + n] = membrane[:n]
                states[len(states) - 1, at : at + n] = membrane[:n]

    return forward


@cache
def backward_kernel(
    reset: int, delay: bool, detach: bool, vector: bool, params: bool, atan: bool, slope: float
) -> Kernel:
    """(kept, start, g_spikes, g_states, g_x, betas, thresholds, g_start, g_betas, g_thresholds).

    Fills g_x and g_start, adds to g_betas and g_thresholds, which are [membranes] (ignored unless `params`).
    """
    peak, scale = slope / 2, math.pi / 2 * slope
    through_reset = not delay and not detach and reset != NONE

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def backward(kept, start, g_spikes, g_states, g_x, betas, thresholds, g_start, g_betas, g_thresholds):  # type: ignore[no-untyped-def]
        steps, size = kept.shape
        period = len(betas) if vector else size
        number = kept.dtype.type
        one, zero = number(1), number(0)
        a, c, k = number(peak), number(scale), number(slope)
        carry = np.empty(_BLOCK, kept.dtype)
        before = np.empty((steps, _BLOCK), kept.dtype)  # the membrane that each step started from
        b, h = betas[0], thresholds[0]
        for row in range(0, size, period):
            for low in range(0, period, _BLOCK):
                n = min(_BLOCK, period - low)
                at = row + low
                before[0, :n] = start[0, at : at + n]
                for t in range(steps - 1):
                    for i in range(n):
                        v = kept[t, at + i]
                        if not delay and reset != NONE:
                            if vector:
                                h = thresholds[low + i]
                            due = one if before[t, i] > h else zero
                            s = one if v > h else zero
                            v = v - (s - due) * (h if reset == SUBTRACT else v)
                        before[t + 1, i] = v
                if len(g_states) == 1:
                    carry[:n] = g_states[0, at : at + n]
                else:
                    carry[:n] = zero
                for t in range(steps - 1, -1, -1):
                    if len(g_states) > 1:
                        carry[:n] += g_states[t, at : at + n]
                    for i in range(n):
                        if vector:
                            b, h = betas[low + i], thresholds[low + i]
                        u, v, g_u = before[t, i], kept[t, at + i], carry[i]
                        due = one if u > h else zero
                        s = one if v > h else zero
                        z = v - h
                        if atan:
                            slant = a / (one + (c * z) * (c * z))
                        else:
                            q = k * abs(z) + one
                            slant = one / (q * q)
                        g_s = g_spikes[t, at + i]
                        if through_reset:
                            g_s = g_s - g_u * (h if reset == SUBTRACT else v)
                        g_v = g_u
                        if not delay and reset == ZERO:
                            g_v = g_u * (one - (s - due))
                        g_v = g_v + g_s * slant
                        g_x[t, at + i] = g_v
                        left = one - due if reset == ZERO else one
                        if params:
                            g_betas[at + i] += g_v * (left * u)
                            g_h = -g_s * slant
                            if reset == SUBTRACT:
                                g_h = g_h - due * g_v
                                if not delay:
                                    g_h = g_h - (s - due) * g_u
                            g_thresholds[at + i] += g_h
                        carry[i] = b * g_v * left
                g_start[at : at + n] = carry[:n]

    return backward


def forward_tensors(
    reset: int, delay: bool, x: Tensor, u: Tensor, beta: Tensor, threshold: Tensor, *out: Tensor
) -> None:
    """The same as `forward_kernel` in tensor operations; `out` is (spikes, kept, states)."""
    spikes, kept, states = out
    for t in range(len(x)):
        due = (u > threshold).to(x.dtype)
        u = (1 - due) * u if reset == ZERO else u
        v = beta * u + x[t]
        v = v - due * threshold if reset == SUBTRACT else v
        spike = (v > threshold).to(x.dtype)
        spikes[t] = spike
        if len(kept):
            kept[t] = v
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
    v: Tensor,
    start: Tensor,
    beta: Tensor,
    threshold: Tensor,
    grads: tuple[Tensor, Tensor],
    out: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """The same as `backward_kernel` in tensor operations; `slant` is the surrogate derivative."""
    (g_spikes, g_states), (g_x, g_start, g_beta, g_threshold) = grads, out
    before = [start]
    for t in range(len(v) - 1):
        u = v[t]
        if not delay and reset != NONE:
            extra = (u > threshold).to(u.dtype) - (before[t] > threshold).to(u.dtype)
            u = u - extra * (threshold if reset == SUBTRACT else u)
        before.append(u)
    carry = torch.zeros_like(start) if len(g_states) > 1 else g_states[0]
    for t in range(len(v) - 1, -1, -1):
        g_u = carry + g_states[t] if len(g_states) > 1 else carry
        due = (before[t] > threshold).to(v.dtype)
        extra = (v[t] > threshold).to(v.dtype) - due
        bend = slant(v[t] - threshold)
        g_s = g_spikes[t]
        if not delay and not detach and reset != NONE:
            g_s = g_s - g_u * (threshold if reset == SUBTRACT else v[t])
        g_v = (g_u * (1 - extra) if not delay and reset == ZERO else g_u) + g_s * bend
        g_x[t] = g_v
        left = 1 - due if reset == ZERO else torch.ones_like(due)
        if len(g_beta):
            g_beta += g_v * left * before[t]
            g_threshold -= g_s * bend
            if reset == SUBTRACT:
                g_threshold -= due * g_v + (0 if delay else extra * g_u)
        carry = beta * g_v * left
    g_start.copy_(carry)
