"""What happens to the synapses of the STDP network: depression, potentiation, decay and normalisation.

    on a pixel's spike (eta_pre > 0):        w <- w - eta_pre * x_post * w^mu
    on a neuron's spike, or once a window:   w <- w + k * eta_post * x_pre * (w_max - w)^mu
then w is clamped to [0, w_max], rounded to its format, and masked. x are traces: set to 1 by a spike (or raised by
1 where `additive`), decaying exponentially. Pair-based STDP as in Morrison et al. 2008; window and k
as in FSpiNN (Putra and Shafique 2020); weight decay as in SpikeDyn (Putra and Shafique 2021).
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import quick
from pipeline.nets.stdp_columns import fetch, is_plain
from pipeline.nets.stdp_lanes import SLOTS, lower_and_sum, sum_lanes
from pipeline.nets.stdp_rounding import TRACE, WEIGHT, quantized, quantized_array

PRE_WRITES, POST_WRITES, NORM_WRITES, DENSE_PRE_WRITES, DENSE_POST_WRITES, LEARN_READS = 8, 9, 10, 11, 12, 13


@quick
def trace(plastic, count, pixels, first, last, t, rule, formats, rng):  # type: ignore[no-untyped-def]
    """Traces of the pixels that spike at step t; returns how many have spiked in this sample."""
    place, seen, times, traces = plastic.place, plastic.seen, plastic.times, plastic.traces
    if rule.additive:
        for e in range(first, last):
            k = place[pixels[e]]
            if k >= 0:
                before = traces[k] * plastic.faded_pre[t - times[k]]
                traces[k] = quantized(before + 1, formats, TRACE, rng)
    for e in range(first, last):
        p = np.uint32(pixels[e])  # unsigned: numba need not look for indices from the end
        k = place[p]
        fresh = k < 0
        k = np.uint32(count if fresh else k)
        place[p], seen[k], times[k] = k, p, t
        if rule.additive and fresh:
            traces[k] = np.float32(1.0)
        count += fresh
    return count


@quick
def write(plastic, i, pixels, first, last, formats, rng):  # type: ignore[no-untyped-def]
    """plastic.values[e - first] become the weights of pixels[e], e in [first, last), in slot i: masked, kept in full
    precision in the shadow (where there is one), and rounded."""
    values, mask, lane = plastic.values, plastic.mask, i % SLOTS
    column = plastic.columns[i // SLOTS]
    if mask.shape[0] > 0:
        j = plastic.active[i]
        for e in range(first, last):
            if mask[pixels[e], j] == 0:
                values[e - first] = np.float32(0.0)
    if plastic.fulls.shape[0] > 0:
        full = plastic.fulls[i // SLOTS]
        for e in range(first, last):
            full[pixels[e], lane] = values[e - first]
    if formats[WEIGHT, 0] > 0:
        quantized_array(values[: last - first], formats, WEIGHT, rng)
    for e in range(first, last):
        column[pixels[e], lane] = values[e - first]


@quick
def depress(plastic, active_count, pixels, first, last, t, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Presynaptic update of the rows that spiked, in the columns of neurons that fired in this sample; returns
    whether plastic.sums holds what these spikes bring now.

    Columns of the other neurons have x_post = 0. Where a neuron fires in this very step and is updated per
    event, potentiation follows at once and the clamp comes after both, as in BindsNET.
    """
    plain = is_plain(plastic, formats) and rule.mu == 0.0
    held = plastic.fulls if plastic.fulls.shape[0] > 0 else plastic.columns
    active, dirty, waiting, values = plastic.active, plastic.dirty, plastic.waiting, plastic.values
    post_time, faded, inputs = plastic.post_time, plastic.faded_post, plastic.columns.shape[1]
    ops[PRE_WRITES] += active_count * (last - first)
    ops[DENSE_PRE_WRITES] += active.shape[0] * (last - first)
    ops[LEARN_READS] += active_count * (last - first)
    for i in range(active_count):
        j = active[i]
        dirty[j] = 1
        step = np.float32(rule.eta_pre) * quantized(faded[t - post_time[j]], formats, TRACE, rng)
        lowest = np.float32(-np.inf) if waiting[j] == 1 and rule.window <= 1 else np.float32(0.0)
        if plain:
            plastic.steps[0, i] = step
            plastic.lows[0, i] = lowest
            continue
        column, lane = held[i // SLOTS], i % SLOTS
        for e in range(first, last):
            old = column[pixels[e], lane]
            new = old - step if rule.mu == 0.0 else np.float32(old - step * old**rule.mu)
            values[e - first] = max(new, lowest)
        write(plastic, i, pixels, first, last, formats, rng)
    if plain:
        for i in range(0, active_count, SLOTS):
            lower_and_sum(
                plastic.columns, i * inputs, pixels, first, last, plastic.steps, plastic.lows, plastic.sums, i
            )
    return plain


@quick
def potentiate(plastic, i, k, seen_count, t, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Postsynaptic update of slot i: the pixels that spiked in this sample; the others have x_pre = 0."""
    j = plastic.active[i]
    plastic.waiting[j] = 0
    plastic.dirty[j] = 1
    held = plastic.fulls if plastic.fulls.shape[0] > 0 else plastic.columns
    column, lane, values, seen = held[i // SLOTS], i % SLOTS, plastic.values, plastic.seen
    rate, w_max = np.float32(k * rule.eta_post), np.float32(rule.w_max)
    ops[POST_WRITES] += seen_count
    ops[DENSE_POST_WRITES] += column.shape[0]
    ops[LEARN_READS] += seen_count
    times, traces, faded = plastic.times, plastic.traces, plastic.faded_pre
    for e in range(seen_count):
        values[e] = faded[np.uint32(t - times[e])]
    if rule.additive:
        for e in range(seen_count):
            values[e] *= traces[e]
    quantized_array(values[:seen_count], formats, TRACE, rng)
    if rule.mu == 0.0 and is_plain(plastic, formats):
        for e in range(seen_count):
            p = np.uint32(seen[e])
            column[p, lane] = min(max(column[p, lane] + rate * values[e], np.float32(0.0)), w_max)
        return
    for e in range(seen_count):
        old = column[seen[e], lane]
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
    columns, fulls, dirty = plastic.columns, plastic.fulls, plastic.dirty
    totals, post_time = plastic.totals, plastic.post_time
    held = fulls if fulls.shape[0] > 0 else columns
    inputs, n = w.shape
    keep = np.float32(1.0 - rule.weight_decay)
    plain = is_plain(plastic, formats)
    for i in range(0, active_count, SLOTS):
        sum_lanes(held, i * inputs, inputs, keep, totals, i)
    for j in range(n):
        if dirty[j] == 0 and rule.weight_decay <= 0:
            continue
        i = plastic.slot[j]
        if post_time[j] < 0:
            i = active_count  # free: this neuron did not spike
            fetch(plastic, w, shadow, j, i)
            block, lane, total = held[i // SLOTS], i % SLOTS, 0.0
            for p in range(inputs):
                total += np.float64(block[p, lane] * keep)
            totals[i] = total
        _settle(plastic, i, keep, plain, w, shadow, rule, formats, rng, ops)


@quick
def _settle(plastic, i, keep, plain, w, shadow, rule, formats, rng, ops):  # type: ignore[no-untyped-def]
    """Slot i of `normalise`: its sum, in plastic.totals, becomes the rule's, and its column returns to the matrices."""
    columns, fulls, values, total = plastic.columns, plastic.fulls, plastic.values, plastic.totals[i]
    held = fulls if fulls.shape[0] > 0 else columns
    j, block, lane, inputs = plastic.active[i], held[i // SLOTS], i % SLOTS, w.shape[0]
    plastic.dirty[j] = 0
    scaled = rule.norm > 0 and total > 0
    factor = np.float32(rule.norm / total) if scaled else np.float32(1.0)
    if scaled or rule.weight_decay > 0:
        ops[NORM_WRITES] += inputs
        ops[LEARN_READS] += inputs
        if plain:
            for p in range(inputs):
                w[p, j] = block[p, lane] * keep * factor
            return
        for p in range(inputs):
            values[p] = block[p, lane] * keep * factor
        write(plastic, i, plastic.everyone, np.int64(0), inputs, formats, rng)
    used = columns[i // SLOTS]
    for p in range(inputs):
        w[p, j] = used[p, lane]
    if shadow.shape[0] > 0:
        for p in range(inputs):
            shadow[p, j] = block[p, lane]
