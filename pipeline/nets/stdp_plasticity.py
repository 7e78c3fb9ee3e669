"""What happens to the synapses of the STDP network: depression, potentiation, decay and normalisation.

    on a pixel's spike (eta_pre > 0):        w <- w - eta_pre * x_post * w^mu
    on a neuron's spike, or once a window:   w <- w + k * eta_post * x_pre * (w_max - w)^mu
then w is clamped to [0, w_max], rounded to its format, and masked. x are traces: set to 1 by a spike (or raised by
1 where `additive`), decaying exponentially. Pair-based STDP as in Morrison et al. 2008; window and k
as in FSpiNN (Putra and Shafique 2020); weight decay as in SpikeDyn (Putra and Shafique 2021).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pipeline.nets.stdp_rounding import TRACE, WEIGHT, quantized, quantized_array, quick

PRE_WRITES, POST_WRITES, NORM_WRITES, DENSE_PRE_WRITES, DENSE_POST_WRITES, LEARN_READS = 8, 9, 10, 11, 12, 13


class Rule(NamedTuple):
    """Learning constants; decays are factors per step."""

    eta_pre: float
    eta_post: float
    mu: float
    w_max: float
    pre_decay: float
    post_decay: float
    additive: bool
    window: int
    """Steps between updates; 0 or 1: at every spike."""
    k: float
    """Potentiation factor; with spikes_per_k > 0 multiplied by ceil(most spikes of a neuron / spikes_per_k)."""
    spikes_per_k: float
    norm: float
    """Sum of a neuron's weights after each sample; 0: no normalisation."""
    weight_decay: float
    """Fraction of every weight lost per sample, before normalisation."""


class Plastic(NamedTuple):
    """What learning keeps beside the weights: columns of the neurons that spiked in this sample, and traces.

    Columns lie side by side, slot by slot in order of the first spike: an update walks through 3 KB instead of P rows.
    """

    columns: Any
    """[n, P] float32, slot by slot: the weights that the network uses."""
    fulls: Any
    """[n, P] the same in full precision where there is a shadow, else empty."""
    mask: Any
    """[P, n] uint8, or empty."""
    slot: Any
    """[n] int32, a neuron's slot; valid where post_time >= 0."""
    active: Any
    """[n] int32, a slot's neuron."""
    waiting: Any
    """[n] uint8: spiked, and not yet updated."""
    dirty: Any
    """[n] uint8: weights changed since the last normalisation."""
    post_time: Any
    """[n] int32, step of a neuron's last spike in this sample, -1: none."""
    pre_time: Any
    """[P] the same of the pixels."""
    pre_trace: Any
    """[P] float32, the trace at that step; 1 unless traces add up."""
    seen: Any
    """[P + 1] int32, the pixels that spiked in this sample."""
    everyone: Any
    """[P] int32, 0 to P - 1."""
    values: Any
    """[P] float32, for use within a function."""
    faded_pre: Any
    """[steps + 1] float32: decay of a pixel's trace over so many steps."""
    faded_post: Any


@njit(cache=True, nogil=True)
def memory_of(inputs, n, steps, learn, shadowed, mask, rule):  # type: ignore[no-untyped-def]
    """Everything empty; columns take memory only where they are used."""
    slots = n if learn else 0
    faded_pre = np.ones(steps + 1, np.float32)
    faded_post = np.ones(steps + 1, np.float32)
    for t in range(steps):
        faded_pre[t + 1] = faded_pre[t] * np.float32(rule.pre_decay)
        faded_post[t + 1] = faded_post[t] * np.float32(rule.post_decay)
    return Plastic(
        np.empty((slots, inputs), np.float32), np.empty((slots if shadowed else 0, inputs), np.float32), mask,
        np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.uint8), np.zeros(n, np.uint8),
        np.zeros(n, np.int32), np.zeros(inputs, np.int32), np.ones(inputs, np.float32),
        np.zeros(inputs + 1, np.int32), np.arange(inputs).astype(np.int32), np.zeros(inputs, np.float32),
        faded_pre, faded_post,
    )  # fmt: skip


@quick
def fetch(plastic, w, shadow, j, i):  # type: ignore[no-untyped-def]
    """Column j into slot i."""
    plastic.slot[j] = i
    plastic.active[i] = j
    column = plastic.columns[i]
    for p in range(w.shape[0]):
        column[p] = w[p, j]
    if shadow.shape[0] > 0:
        full = plastic.fulls[i]
        for p in range(w.shape[0]):
            full[p] = shadow[p, j]


@quick
def trace(plastic, count, pixels, first, last, t, rule, formats, rng):  # type: ignore[no-untyped-def]
    """Traces of the pixels that spike at step t; returns how many have spiked in this sample."""
    pre_time, pre_trace, seen, faded = plastic.pre_time, plastic.pre_trace, plastic.seen, plastic.faded_pre
    if rule.additive:
        for e in range(first, last):
            p = pixels[e]
            before = pre_trace[p] * faded[t - pre_time[p]] if pre_time[p] >= 0 else np.float32(0.0)
            pre_trace[p] = quantized(before + 1, formats, TRACE, rng) if pre_time[p] >= 0 else np.float32(1.0)
    for e in range(first, last):
        p = np.uint32(pixels[e])  # unsigned: numba need not look for indices from the end
        seen[count] = p
        count += pre_time[p] < 0
        pre_time[p] = t
    return count


@quick
def write(plastic, i, pixels, first, last, formats, rng):  # type: ignore[no-untyped-def]
    """plastic.values[e - first] become the weights of pixels[e], e in [first, last), in slot i: masked, kept in full
    precision in the shadow (where there is one), and rounded."""
    values, column, mask = plastic.values, plastic.columns[i], plastic.mask
    if mask.shape[0] > 0:
        j = plastic.active[i]
        for e in range(first, last):
            if mask[pixels[e], j] == 0:
                values[e - first] = np.float32(0.0)
    if plastic.fulls.shape[0] > 0:
        full = plastic.fulls[i]
        for e in range(first, last):
            full[pixels[e]] = values[e - first]
    if formats[WEIGHT, 0] > 0:
        quantized_array(values[: last - first], formats, WEIGHT, rng)
    for e in range(first, last):
        column[pixels[e]] = values[e - first]


@quick
def is_plain(plastic, formats):  # type: ignore[no-untyped-def]
    """True where a weight is just a float32: nothing masked, shadowed or rounded."""
    return plastic.mask.shape[0] == 0 and plastic.fulls.shape[0] == 0 and formats[WEIGHT, 0] <= 0


@quick
def depress(plastic, active_count, pixels, first, last, t, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Presynaptic update of the rows that spiked, in the columns of neurons that fired in this sample.

    Columns of the other neurons have x_post = 0. Where a neuron fires in this very step and is updated per
    event, potentiation follows at once and the clamp comes after both, as in BindsNET.
    """
    plain = is_plain(plastic, formats) and rule.mu == 0.0
    held = plastic.fulls if plastic.fulls.shape[0] > 0 else plastic.columns
    active, dirty, waiting, values = plastic.active, plastic.dirty, plastic.waiting, plastic.values
    post_time, faded = plastic.post_time, plastic.faded_post
    for i in range(active_count):
        j = active[i]
        dirty[j] = 1
        column = held[i]
        step = np.float32(rule.eta_pre) * quantized(faded[t - post_time[j]], formats, TRACE, rng)
        lowest = np.float32(-np.inf) if waiting[j] == 1 and rule.window <= 1 else np.float32(0.0)
        if plain:
            for e in range(first, last):
                p = np.uint32(pixels[e])
                column[p] = max(column[p] - step, lowest)
            continue
        for e in range(first, last):
            old = column[pixels[e]]
            new = old - step if rule.mu == 0.0 else np.float32(old - step * old**rule.mu)
            values[e - first] = max(new, lowest)
        write(plastic, i, pixels, first, last, formats, rng)
    ops[PRE_WRITES] += active_count * (last - first)
    ops[DENSE_PRE_WRITES] += active.shape[0] * (last - first)
    ops[LEARN_READS] += active_count * (last - first)


@quick
def potentiate(plastic, i, k, seen_count, t, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Postsynaptic update of slot i: the pixels that spiked in this sample; the others have x_pre = 0."""
    j = plastic.active[i]
    plastic.waiting[j] = 0
    plastic.dirty[j] = 1
    held = plastic.fulls if plastic.fulls.shape[0] > 0 else plastic.columns
    column, values, seen = held[i], plastic.values, plastic.seen
    rate, w_max = np.float32(k * rule.eta_post), np.float32(rule.w_max)
    ops[POST_WRITES] += seen_count
    ops[DENSE_POST_WRITES] += column.shape[0]
    ops[LEARN_READS] += seen_count
    pre_time, pre_trace, faded = plastic.pre_time, plastic.pre_trace, plastic.faded_pre
    for e in range(seen_count):
        p = seen[e]
        values[e] = pre_trace[p] * faded[t - pre_time[p]]
    quantized_array(values[:seen_count], formats, TRACE, rng)
    for e in range(seen_count):
        old = column[seen[e]]
        change = rate * values[e]
        if rule.mu == 1.0:
            change *= w_max - old
        elif rule.mu != 0.0:
            change *= np.float32(max(w_max - old, np.float32(0.0)) ** rule.mu)
        values[e] = min(max(old + change, np.float32(0.0)), w_max)
    write(plastic, i, seen, np.int64(0), seen_count, formats, rng)


@quick
def normalise(plastic, active_count, w, shadow, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Weight decay, then the sum of every changed column back to `norm`, then columns back into w and the shadow;
    clears `dirty`.

    A column that sums to 0 stays as it is. The result is rounded again: a scaled grid is no grid.
    """
    columns, fulls, dirty, values = plastic.columns, plastic.fulls, plastic.dirty, plastic.values
    held = fulls if fulls.shape[0] > 0 else columns
    inputs, n = w.shape
    keep = np.float32(1.0 - rule.weight_decay)
    for j in range(n):
        if dirty[j] == 0 and rule.weight_decay <= 0:
            continue
        i = plastic.slot[j]
        if plastic.post_time[j] < 0:
            i = active_count  # free: this neuron did not spike
            fetch(plastic, w, shadow, j, i)
        dirty[j] = 0
        total = 0.0
        for p in range(inputs):
            values[p] = held[i, p] * keep
            total += values[p]
        scaled = rule.norm > 0 and total > 0
        if scaled:
            factor = np.float32(rule.norm / total)
            for p in range(inputs):
                values[p] *= factor
        if scaled or rule.weight_decay > 0:
            write(plastic, i, plastic.everyone, np.int64(0), inputs, formats, rng)
            ops[NORM_WRITES] += inputs
            ops[LEARN_READS] += inputs
        for p in range(inputs):
            w[p, j] = columns[i, p]
        if shadow.shape[0] > 0:
            for p in range(inputs):
                shadow[p, j] = fulls[i, p]
