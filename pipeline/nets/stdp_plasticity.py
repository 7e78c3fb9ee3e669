"""What happens to the synapses of the STDP network: depression, potentiation, decay and normalisation.

    on a pixel's spike (eta_pre > 0):        w <- w - eta_pre * x_post * w^mu
    on a neuron's spike, or once a window:   w <- w + k * eta_post * x_pre * (w_max - w)^mu
then w is clamped to [0, w_max], rounded to its format, and masked. x are traces: set to 1 by a spike (or raised by
1 where `additive`), decaying exponentially. Pair-based STDP as in Morrison et al. 2008; window and k
as in FSpiNN (Putra and Shafique 2020); weight decay as in SpikeDyn (Putra and Shafique 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.nets.stdp_rounding import TRACE, WEIGHT, quantized, quantized_array

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


@njit(cache=True, nogil=True)
def write_column(w, shadow, mask, j, pixels, first, last, values, formats, rng):  # type: ignore[no-untyped-def]
    """values[e - first] become w[pixels[e], j] for e in [first, last): masked, kept in full precision in the
    shadow (where there is one), and rounded."""
    masked, shadowed = mask.shape[0] > 0, shadow.shape[0] > 0
    if masked:
        for e in range(first, last):
            if mask[pixels[e], j] == 0:
                values[e - first] = np.float32(0.0)
    if shadowed:
        for e in range(first, last):
            shadow[pixels[e], j] = values[e - first]
    if formats[WEIGHT, 0] > 0:
        quantized_array(values[: last - first], formats, WEIGHT, rng)
    for e in range(first, last):
        w[pixels[e], j] = values[e - first]


@njit(cache=True, nogil=True)
def is_plain(shadow, mask, formats):  # type: ignore[no-untyped-def]
    """True where a weight is just a float32: nothing masked, shadowed or rounded."""
    return mask.shape[0] == 0 and shadow.shape[0] == 0 and formats[WEIGHT, 0] <= 0


@njit(cache=True, nogil=True)
def depress(  # type: ignore[no-untyped-def]
    w, shadow, mask, pixels, first, last, active, active_count, waiting, post_time, faded, t, values, rule,
    formats, rng, dirty, ops,
):  # fmt: skip
    """Presynaptic update of the rows that spiked, in the columns of neurons that fired in this sample.

    Columns of the other neurons have x_post = 0. Where a neuron fires in this very step and is updated per
    event, potentiation follows at once and the clamp comes after both, as in BindsNET.
    """
    held = shadow if shadow.shape[0] > 0 else w
    plain = is_plain(shadow, mask, formats) and rule.mu == 0.0
    for i in range(active_count):
        j = active[i]
        dirty[j] = 1
        step = np.float32(rule.eta_pre) * quantized(faded[t - post_time[j]], formats, TRACE, rng)
        lowest = np.float32(-np.inf) if waiting[j] == 1 and rule.window <= 1 else np.float32(0.0)
        if plain:
            for e in range(first, last):
                w[pixels[e], j] = max(w[pixels[e], j] - step, lowest)
            continue
        for e in range(first, last):
            old = held[pixels[e], j]
            new = old - step if rule.mu == 0.0 else np.float32(old - step * old**rule.mu)
            values[e - first] = max(new, lowest)
        write_column(w, shadow, mask, j, pixels, first, last, values, formats, rng)
    ops[PRE_WRITES] += active_count * (last - first)
    ops[DENSE_PRE_WRITES] += w.shape[1] * (last - first)
    ops[LEARN_READS] += active_count * (last - first)


@njit(cache=True, nogil=True)
def potentiate(  # type: ignore[no-untyped-def]
    w, shadow, mask, j, k, seen, seen_count, pre_time, pre_trace, faded, t, values, rule, formats, rng, ops
):
    """Postsynaptic update of column j: the pixels that spiked in this sample; the others have x_pre = 0."""
    held = shadow if shadow.shape[0] > 0 else w
    rate, w_max = np.float32(k * rule.eta_post), np.float32(rule.w_max)
    ops[POST_WRITES] += seen_count
    ops[DENSE_POST_WRITES] += w.shape[0]
    ops[LEARN_READS] += seen_count
    if is_plain(shadow, mask, formats) and rule.mu == 0.0 and formats[TRACE, 0] <= 0:
        for i in range(seen_count):
            p = seen[i]
            new = w[p, j] + rate * (pre_trace[p] * faded[t - pre_time[p]])
            w[p, j] = min(max(new, np.float32(0.0)), w_max)
        return
    for i in range(seen_count):
        p = seen[i]
        values[i] = pre_trace[p] * faded[t - pre_time[p]]
    quantized_array(values[:seen_count], formats, TRACE, rng)
    for i in range(seen_count):
        old = held[seen[i], j]
        change = rate * values[i]
        if rule.mu == 1.0:
            change *= w_max - old
        elif rule.mu != 0.0:
            change *= np.float32(max(w_max - old, np.float32(0.0)) ** rule.mu)
        values[i] = min(max(old + change, np.float32(0.0)), w_max)
    write_column(w, shadow, mask, j, seen, 0, seen_count, values, formats, rng)


@njit(cache=True, nogil=True)
def normalise(w, shadow, mask, dirty, everyone, values, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Weight decay, then the sum of every changed column back to `norm`; clears `dirty`.

    A column that sums to 0 stays as it is. The result is rounded again: a scaled grid is no grid.
    """
    held = shadow if shadow.shape[0] > 0 else w
    inputs, n = w.shape
    keep = np.float32(1.0 - rule.weight_decay)
    for j in range(n):
        if dirty[j] == 0 and rule.weight_decay <= 0:
            continue
        dirty[j] = 0
        total = 0.0
        for p in range(inputs):
            values[p] = held[p, j] * keep
            total += values[p]
        if rule.norm > 0 and total > 0:
            factor = np.float32(rule.norm / total)
            for p in range(inputs):
                values[p] *= factor
        elif rule.weight_decay <= 0:
            continue
        write_column(w, shadow, mask, j, everyone, 0, inputs, values, formats, rng)
        ops[NORM_WRITES] += inputs
        ops[LEARN_READS] += inputs
