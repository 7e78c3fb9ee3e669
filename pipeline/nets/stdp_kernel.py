"""One loop over samples and time steps for the STDP network: integrate, fire, inhibit and, when asked, learn.

Event-driven: a step adds the weight rows of the pixels that spiked in the step before (float32, eight rows at
a time), touches weight columns only of neurons that fired, and keeps traces as the time of the last spike. The
plain numpy form of the same equations stands in tests/nets/stdp_reference.py.

Voltages are in mV above rest (rest = 0), so the fixed-point ranges of `formats` need no shift. With
``x(t)`` the pixels' spikes, ``s(t)`` the excitatory and ``i(t)`` the inhibitory ones, one step is
    v <- v * decay;  theta <- theta * theta_decay
    v <- v + gain * x(t-1) @ w - w_inh * (other neurons' i(t-1))     unless refractory
    fired: v >= threshold + theta  ->  v = reset, refractory, theta += theta_plus;  s(t): the winner of `fired`
    layer:  i(t): inhibitory LIF neuron j driven by s_j(t-1);    direct: i(t) = s(t)
which is BindsNET's DiehlAndCook2015 (0.3.4) step for step; STDP follows in `stdp_plasticity`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from pipeline.nets.stdp_plasticity import Rule, depress, normalise, potentiate
from pipeline.nets.stdp_rounding import MEMBRANE, THETA, TRACE, quantized, quantized_array, uniform

# Rows of the counters that one call adds to. "dense" is what a simulator of full matrices would touch.
INPUT_SPIKES, SPIKES, READS, EXCITATORY_UPDATES, INHIBITORY_UPDATES, INHIBITIONS = 0, 1, 2, 3, 4, 5
FIRED = 6
COUNTERS = 16

RANDOM, FIRST, HIGHEST, ALL = 0, 1, 2, 3
"""Who spikes when several cross the threshold in one step: one of them (drawn, lowest index, highest
overshoot), or all of them."""


class Cell(NamedTuple):
    """Neuron constants in mV above rest and steps; decays are factors per step."""

    decay: float
    threshold: float
    reset: float
    lowest: float
    refractory: int
    theta_plus: float
    theta_decay: float
    gain: float
    w_inh: float
    winner: int
    layer: bool
    drive: float
    inh_decay: float
    inh_threshold: float
    inh_reset: float
    inh_refractory: int


@njit(cache=True, nogil=True)
def add_rows(w, pixels, first, last, out):  # type: ignore[no-untyped-def]
    """out[j] = sum of w[p, j] over the spiking pixels p; eight rows per pass keep `out` out of the way."""
    n = out.shape[0]
    for j in range(n):
        out[j] = np.float32(0.0)
    e = first
    while e + 8 <= last:
        a, b, c, d = w[pixels[e]], w[pixels[e + 1]], w[pixels[e + 2]], w[pixels[e + 3]]
        f, g, h, i = w[pixels[e + 4]], w[pixels[e + 5]], w[pixels[e + 6]], w[pixels[e + 7]]
        for j in range(n):
            out[j] += ((a[j] + b[j]) + (c[j] + d[j])) + ((f[j] + g[j]) + (h[j] + i[j]))
        e += 8
    while e + 2 <= last:
        a, b = w[pixels[e]], w[pixels[e + 1]]
        for j in range(n):
            out[j] += a[j] + b[j]
        e += 2
    if e < last:
        a = w[pixels[e]]
        for j in range(n):
            out[j] += a[j]


@njit(cache=True, nogil=True)
def find_fired(v, bar, theta, faded, fired):  # type: ignore[no-untyped-def]
    """Neurons at or above threshold into `fired`; returns how many. Counting first keeps the loop vectorised."""
    n = v.shape[0]
    above = 0
    for j in range(n):
        above += v[j] >= bar + theta[j] * faded
    if above == 0:
        return 0
    count = 0
    for j in range(n):
        if v[j] >= bar + theta[j] * faded:
            fired[count] = j
            count += 1
    return count


@njit(cache=True, nogil=True)
def choose(winner, fired, count, v, theta, faded, rng):  # type: ignore[no-untyped-def]
    """Position in `fired` of the one neuron that spikes."""
    if winner == RANDOM and count > 1:
        return int(uniform(rng) * count)
    best = 0
    if winner == HIGHEST:
        for i in range(1, count):
            if v[fired[i]] - theta[fired[i]] * faded > v[fired[best]] - theta[fired[best]] * faded:
                best = i
    return best


@njit(cache=True, nogil=True)
def inhibit(cell, spiked, spikes, t, inh_v, inh_time, inh_free, out):  # type: ignore[no-untyped-def]
    """Inhibitory neurons that spike at step t, into `out`; driven one to one by `spiked` of step t - 1.

    Their voltage only decays between drives, so it is computed when the next drive comes.
    """
    count = 0
    for i in range(spikes):
        j = spiked[i]
        v = inh_v[j] * np.float32(cell.inh_decay ** (t - inh_time[j]))
        if t >= inh_free[j]:
            v += np.float32(cell.drive)
        if v >= cell.inh_threshold:
            v = np.float32(cell.inh_reset)
            inh_free[j] = t + cell.inh_refractory + 1
            out[count] = j
            count += 1
        inh_v[j] = v
        inh_time[j] = t
    return count


@njit(cache=True, nogil=True)
def present(  # type: ignore[no-untyped-def]
    starts, pixels, steps, w, shadow, mask, theta, cell, rule, learn, whole, formats, seed, first,
    counts, raster, ops,
):  # fmt: skip
    """Show samples one after another, every one from the state of rest; learn in place when `learn`.

    starts [S * steps + 1] int64 and pixels [E] int32: the spikes of step t of sample s are
    ``pixels[starts[s * steps + t] : starts[s * steps + t + 1]]``. w, shadow, mask [P, n] (shadow and mask may
    be empty), theta [n] mV, formats [4, 4] (eps, lo, hi, rounding by quantity). whole: normalise every column after
    the first sample, not only the ones that learned. Sample s draws from `seed` (uint64) and its number
    first + s alone. Adds to counts [S, n] and ops [COUNTERS], and writes raster [steps, S, n] where it is
    not empty.
    """
    samples = counts.shape[0]
    inputs, n = w.shape
    v = np.zeros(n, np.float32)
    current = np.zeros(n, np.float32)
    free = np.zeros(n, np.int32)
    held = np.zeros(n, np.int32)
    fired = np.zeros(n, np.int32)
    spiked = np.zeros(n, np.int32)
    silenced = np.zeros(n, np.int32)
    inh_v = np.zeros(n, np.float32)
    inh_time = np.zeros(n, np.int32)
    inh_free = np.zeros(n, np.int32)
    pre_time = np.zeros(inputs, np.int32)
    pre_trace = np.zeros(inputs, np.float32)
    seen = np.zeros(inputs, np.int32)
    everyone = np.arange(inputs).astype(np.int32)
    values = np.zeros(inputs, np.float32)
    post_time = np.zeros(n, np.int32)
    active = np.zeros(n, np.int32)
    waiting = np.zeros(n, np.uint8)
    dirty = np.zeros(n, np.uint8)
    faded_pre = np.ones(steps + 1, np.float32)
    faded_post = np.ones(steps + 1, np.float32)
    for t in range(steps):
        faded_pre[t + 1] = faded_pre[t] * np.float32(rule.pre_decay)
        faded_post[t + 1] = faded_post[t] * np.float32(rule.post_decay)
    rng = np.zeros(1, np.uint64)
    decay, gain, w_inh = np.float32(cell.decay), np.float32(cell.gain), np.float32(cell.w_inh)
    bar, reset, lowest = np.float32(cell.threshold), np.float32(cell.reset), np.float32(cell.lowest)
    quantize_v = formats[MEMBRANE, 0] > 0
    # On a grid theta does not decay: a factor of 1 - 1e-7 per step is below every step of the grid, and truncation
    # would take a whole step each time.
    theta_step = cell.theta_decay if learn and formats[THETA, 0] <= 0 else 1.0
    faded_theta = (theta_step ** np.arange(1.0, steps + 1.0)).astype(np.float32)
    if learn:
        quantized_array(theta, formats, THETA, rng)
    if whole:
        dirty[:] = 1
    for s in range(samples):
        rng[0] = (seed + np.uint64(first + s)) * np.uint64(0x9E3779B97F4A7C15)
        rng[0] = np.uint64(uniform(rng) * 9007199254740992.0) << np.uint64(11)
        v[:] = 0
        free[:] = 0
        inh_v[:] = 0
        inh_time[:] = 0
        inh_free[:] = 0
        spikes = inhibitors = held_count = seen_count = active_count = most = 0
        faded = np.float32(1.0)
        pre_time[:] = -1
        post_time[:] = -1
        base = s * steps
        for t in range(steps):
            # Input of the step before; then the input of refractory neurons is taken away again.
            if t > 0:
                add_rows(w, pixels, starts[base + t - 1], starts[base + t], current)
                ops[READS] += (starts[base + t] - starts[base + t - 1]) * n
            else:
                current[:] = 0
            push = w_inh * np.float32(inhibitors)
            for i in range(inhibitors):
                current[silenced[i]] += w_inh / gain
            ops[INHIBITIONS] += inhibitors * (n - 1)
            kept = 0
            for i in range(held_count):
                if free[held[i]] > t:
                    current[held[i]] = push / gain
                    held[kept] = held[i]
                    kept += 1
            held_count = kept
            for j in range(n):
                v[j] = v[j] * decay + (current[j] * gain - push)
            if lowest > -np.inf:
                for j in range(n):
                    v[j] = max(v[j], lowest)
            if quantize_v:
                quantized_array(v, formats, MEMBRANE, rng)
            faded = faded_theta[t]
            ops[EXCITATORY_UPDATES] += n
            if cell.layer:
                inhibitors = inhibit(cell, spiked, spikes, t, inh_v, inh_time, inh_free, silenced)
                ops[INHIBITORY_UPDATES] += n
            # Fire: everyone at threshold resets, rests and adapts; the winner is the one that is heard.
            count = find_fired(v, bar, theta, faded, fired)
            spikes = 0
            if count > 0:
                if cell.winner == ALL:
                    for i in range(count):
                        spiked[i] = fired[i]
                    spikes = count
                else:
                    spiked[0] = fired[choose(cell.winner, fired, count, v, theta, faded, rng)]
                    spikes = 1
                for i in range(count):
                    j = fired[i]
                    v[j] = reset
                    free[j] = t + cell.refractory + 1
                    held[held_count] = j
                    held_count += 1
                    if learn:
                        theta[j] = quantized(theta[j] + cell.theta_plus / faded, formats, THETA, rng)
                ops[FIRED] += count
            if not cell.layer:
                inhibitors = spikes
                for i in range(spikes):
                    silenced[i] = spiked[i]
            for i in range(spikes):
                counts[s, spiked[i]] += 1
                most = max(most, counts[s, spiked[i]])
            if raster.shape[0] > 0:
                for i in range(spikes):
                    raster[t, s, spiked[i]] = np.float32(1.0)
            ops[SPIKES] += spikes
            ops[INPUT_SPIKES] += starts[base + t + 1] - starts[base + t]
            if not learn:
                continue
            # Traces of this step's spikes, then STDP.
            for e in range(starts[base + t], starts[base + t + 1]):
                p = pixels[e]
                if pre_time[p] < 0:
                    seen[seen_count] = p
                    seen_count += 1
                    pre_trace[p] = 1
                elif rule.additive:
                    pre_trace[p] = quantized(
                        pre_trace[p] * faded_pre[t - pre_time[p]] + 1, formats, TRACE, rng
                    )
                pre_time[p] = t
            for i in range(spikes):
                j = spiked[i]
                if post_time[j] < 0:
                    active[active_count] = j
                    active_count += 1
                post_time[j] = t
                waiting[j] = 1
            if rule.eta_pre > 0 and active_count > 0:
                depress(
                    w, shadow, mask, pixels, starts[base + t], starts[base + t + 1], active, active_count,
                    waiting, post_time, faded_post, t, values, rule, formats, rng, dirty, ops,
                )  # fmt: skip
            if rule.window <= 1 or (t + 1) % rule.window == 0 or t + 1 == steps:
                k = rule.k
                if rule.spikes_per_k > 0:
                    k = rule.k * np.ceil(most / rule.spikes_per_k)
                for i in range(active_count):
                    j = active[i]
                    if waiting[j] == 1:
                        potentiate(
                            w, shadow, mask, j, k, seen, seen_count, pre_time, pre_trace, faded_pre, t,
                            values, rule, formats, rng, ops,
                        )  # fmt: skip
                        waiting[j] = 0
                        dirty[j] = 1
        if learn:
            for j in range(n):
                theta[j] *= faded
            normalise(w, shadow, mask, dirty, everyone, values, rule, formats, rng, ops)


def no_rule() -> Rule:
    """A rule that changes nothing, for inference."""
    return Rule(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, False, 0, 1.0, 0.0, 0.0, 0.0)


@njit(cache=True, nogil=True)
def events_of(x):  # type: ignore[no-untyped-def]
    """Dense spikes x [T, S, P] -> (starts [S * T + 1], pixels [E]) ordered by sample and step, and whether all
    entries were 0 or 1."""
    steps, samples, inputs = x.shape
    starts = np.zeros(samples * steps + 1, np.int64)
    total = 0
    binary = True
    for s in range(samples):
        for t in range(steps):
            for p in range(inputs):
                if x[t, s, p] != 0:
                    total += 1
                    binary = binary and x[t, s, p] == 1
            starts[s * steps + t + 1] = total
    pixels = np.empty(total, np.int32)
    used = 0
    for s in range(samples):
        for t in range(steps):
            for p in range(inputs):
                if x[t, s, p] != 0:
                    pixels[used] = p
                    used += 1
    return starts, pixels, binary
