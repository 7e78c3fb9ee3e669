"""One loop over samples and time steps for the STDP network: integrate, fire, inhibit and, when asked, learn.

Event-driven: the input current of a sample is the sum of the weight rows of the pixels that spiked (float32), added
up for all its steps at once, which is right for every neuron that has not learned in this sample. The columns of those
that have are kept side by side, and their current is summed step by step. Traces are kept as the time of the last
spike. The plain numpy form of the same equations stands in tests/nets/stdp_reference.py.

Voltages are in mV above rest (rest = 0), so the fixed-point ranges of `formats` need no shift. With
``x(t)`` the pixels' spikes, ``s(t)`` the excitatory and ``i(t)`` the inhibitory ones, one step is
    v <- v * decay;  theta <- theta * theta_decay
    v <- v + gain * x(t-1) @ w - w_inh * (other neurons' i(t-1))     unless refractory
    fired: v >= threshold + theta  ->  v = reset, refractory, theta += theta_plus;  s(t): the winner of `fired`
    layer:  i(t): inhibitory LIF neuron j driven by s_j(t-1);    direct: i(t) = s(t)
which is BindsNET's DiehlAndCook2015 (0.3.4) step for step; STDP follows in `stdp_plasticity`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pipeline.compiled import list_floats, njit, quick
from pipeline.nets.stdp_cell import ALL, choose, find_fired, inhibit
from pipeline.nets.stdp_columns import Rule, activate, memory_of, sum_columns
from pipeline.nets.stdp_lanes import LANES, advance, aligned, rows_of, sum_rows
from pipeline.nets.stdp_plasticity import depress, normalise, potentiate, trace
from pipeline.nets.stdp_rounding import MEMBRANE, THETA, quantized, quantized_array, uniform

# Rows of the counters that one call adds to. "dense" is what a simulator of full matrices would touch.
INPUT_SPIKES, SPIKES, READS, EXCITATORY_UPDATES, INHIBITORY_UPDATES, INHIBITIONS = 0, 1, 2, 3, 4, 5
FIRED = 6
COUNTERS = 16
BYTES = 248
"""Pixels that are listed at once: places among them fit a byte."""
FOLD = np.float32(1e-4)
"""theta is kept as it was when the sample began, and its decay apart, until the decay is this much."""


class State(NamedTuple):
    """Of the neurons; v, currents and theta [..., n rounded up to LANES] float32, the others [n]."""

    v: Any
    currents: Any
    """[steps, n]: input of the sample."""
    theta: Any
    faded: Any
    """[steps] decay of theta since the sample began."""
    free: Any
    """Step from which a neuron is out of its refractory time, int32."""
    held: Any
    """[2 n] int32, neurons in their refractory time, in the order in which they fired."""
    fired: Any
    spiked: Any
    silenced: Any
    inh_v: Any
    inh_time: Any
    inh_free: Any
    rng: Any
    """[1] uint64."""


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
    first + s alone. Adds to counts [S, n] and ops [COUNTERS], and writes raster [S, steps, n] where it is
    not empty.
    """
    inputs, n = w.shape
    wide = (n + LANES - 1) // LANES * LANES
    # On a grid theta does not decay: a factor of 1 - 1e-7 per step is below every step of the grid, and truncation
    # would take a whole step each time.
    theta_step = cell.theta_decay if learn and formats[THETA, 0] <= 0 else 1.0
    faded_theta = (theta_step ** np.arange(1.0, steps + 1.0)).astype(np.float32)
    state = State(
        aligned(np.int64(1), wide)[0], aligned(steps, wide), aligned(np.int64(1), wide)[0], faded_theta,
        np.zeros(n, np.int32), np.zeros(2 * n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32),
        np.zeros(n, np.int32), np.zeros(n, np.float32), np.zeros(n, np.int32), np.zeros(n, np.int32),
        np.zeros(1, np.uint64),
    )  # fmt: skip
    plastic = memory_of(inputs, n, steps, learn, shadow.shape[0] > 0, mask, rule)
    rows = rows_of(w, pixels, starts, steps)
    loop(
        starts, pixels, steps, w, shadow, theta, cell, rule, learn, whole, formats, seed, first, counts, raster,
        ops, state, plastic, rows,
    )  # fmt: skip


@quick
def loop(  # type: ignore[no-untyped-def]
    starts, pixels, steps, w, shadow, theta, cell, rule, learn, whole, formats, seed, first, counts, raster,
    ops, state, plastic, rows,
):  # fmt: skip
    """`present`, with memory to work in."""
    samples, n, wide = counts.shape[0], w.shape[1], state.v.shape[0]
    v, currents, extra, faded_theta, rng = state.v, state.currents, state.theta, state.faded, state.rng
    free, held, fired, spiked, silenced = state.free, state.held, state.fired, state.spiked, state.silenced
    inh_v, inh_time, inh_free = state.inh_v, state.inh_time, state.inh_free
    active, dirty, waiting, sums = plastic.active, plastic.dirty, plastic.waiting, plastic.sums
    post_time = plastic.post_time
    decay, gain, w_inh = np.float32(cell.decay), np.float32(cell.gain), np.float32(cell.w_inh)
    bar, reset, lowest = np.float32(cell.threshold), np.float32(cell.reset), np.float32(cell.lowest)
    quantize_v = formats[MEMBRANE, 0] > 0
    if learn:
        quantized_array(theta, formats, THETA, rng)
    extra[:] = np.inf
    for j in range(n):
        extra[j] = theta[j]
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
        zero: Any = np.int64(0)
        spikes = inhibitors = held_first = held_count = seen_count = active_count = most = zero
        inhibitions = crossed = spoken = zero
        faded, since, summed = np.float32(1.0), zero, False
        plastic.place[:] = -1
        post_time[:] = -1
        base = s * steps
        sum_rows(w, pixels, starts, base, steps, currents, rows)
        for t in range(steps):
            # What a neuron that learned in this sample gets now; then refractory neurons lose their input again.
            if t > 0:
                if not summed:
                    sum_columns(plastic, active_count, pixels, starts[base + t - 1], starts[base + t])
                for i in range(active_count):
                    if dirty[active[i]] == 1:
                        currents[t, active[i]] = sums[0, i]
            else:
                currents[0, :] = 0
            push = w_inh * np.float32(inhibitors)
            for i in range(inhibitors):
                currents[t, silenced[i]] += w_inh / gain
            inhibitions += inhibitors
            # They rest equally long, so those that are ready again are the first of the line.
            while held_first < held_count and free[held[held_first]] <= t:
                held_first += 1
            still = push / gain
            for i in range(held_first, held_count):
                currents[t, held[i]] = still
            faded = faded_theta[t - since]
            if faded < FOLD:
                for j in range(n):
                    extra[j] *= faded
                faded, since = np.float32(1.0), t + 1
            risen = advance(v, currents, t * wide, extra, decay, gain, push, lowest, bar, faded)
            if quantize_v:
                quantized_array(v[:n], formats, MEMBRANE, rng)
            if cell.layer:
                inhibitors = inhibit(cell, spiked, spikes, t, inh_v, inh_time, inh_free, silenced)
            # Fire: everyone at threshold resets, rests and adapts; the winner is the one that is heard.
            count = find_fired(v, bar, extra, faded, fired) if risen or quantize_v else 0
            spikes = 0
            if count > 0:
                if cell.winner == ALL:
                    for i in range(count):
                        spiked[i] = fired[i]
                    spikes = count
                else:
                    spiked[0] = fired[choose(cell.winner, fired, count, v, extra, faded, rng)]
                    spikes = 1
                if held_count + count > held.shape[0]:
                    for i in range(held_first, held_count):
                        held[i - held_first] = held[i]
                    held_count, held_first = held_count - held_first, zero
                for i in range(count):
                    j = fired[i]
                    v[j] = reset
                    free[j] = t + cell.refractory + 1
                    held[held_count] = j
                    held_count += 1
                    if learn:
                        extra[j] = quantized(extra[j] + cell.theta_plus / faded, formats, THETA, rng)
                crossed += count
                spoken += spikes
            if not cell.layer:
                inhibitors = spikes
                for i in range(spikes):
                    silenced[i] = spiked[i]
            for i in range(spikes):
                counts[s, spiked[i]] += 1
                most = max(most, counts[s, spiked[i]])
                if raster.shape[0] > 0:
                    raster[s, t, spiked[i]] = np.float32(1.0)
            if not learn:
                continue
            # Traces of this step's spikes, then STDP.
            seen_count = trace(
                plastic, seen_count, pixels, starts[base + t], starts[base + t + 1], t, rule, formats, rng
            )
            for i in range(spikes):
                j = spiked[i]
                if post_time[j] < 0:
                    activate(plastic, w, shadow, np.int64(j), active_count)
                    active_count += 1
                post_time[j] = t
                waiting[j] = 1
            summed = False
            if rule.eta_pre > 0 and active_count > 0:
                summed = depress(
                    plastic,
                    active_count,
                    pixels,
                    starts[base + t],
                    starts[base + t + 1],
                    t,
                    rule,
                    formats,
                    rng,
                    ops,
                )
            if rule.window <= 1 or (t + 1) % rule.window == 0 or t + 1 == steps:
                k = rule.k
                if rule.spikes_per_k > 0:
                    k = rule.k * np.ceil(most / rule.spikes_per_k)
                for i in range(active_count):
                    if waiting[active[i]] == 1:
                        potentiate(plastic, i, k, seen_count, t, rule, formats, rng, ops)
                        summed = False
        ops[INHIBITIONS] += inhibitions * (n - 1)
        ops[FIRED] += crossed
        ops[SPIKES] += spoken
        ops[INPUT_SPIKES] += starts[base + steps] - starts[base]
        ops[READS] += (starts[base + steps - 1] - starts[base]) * n
        ops[EXCITATORY_UPDATES] += n * steps
        if cell.layer:
            ops[INHIBITORY_UPDATES] += n * steps
        if learn:
            for j in range(n):
                extra[j] *= faded
            normalise(plastic, active_count, w, shadow, rule, formats, rng, ops)
    if learn:
        for j in range(n):
            theta[j] = extra[j]


def no_rule() -> Rule:
    """A rule that changes nothing, for inference."""
    return Rule(0.0, 0.0, 0.0, 1.0, 1.0, 1.0, False, 0, 1.0, 0.0, 0.0, 0.0)


@njit(cache=True, nogil=True)
def events_of(x):  # type: ignore[no-untyped-def]
    """Dense spikes x [T, S, P] float32, contiguous -> (starts [S * T + 1], pixels [E]) ordered by sample and step, and
    whether all entries were 0 or 1."""
    steps, samples, inputs = x.shape
    starts = np.zeros(samples * steps + 1, np.int64)
    pixels, places = np.empty(max(1024, x.size // 16), np.int32), np.empty(BYTES + 8, np.uint8)
    used, wrong, row, ahead = 0, 0, 4 * inputs, 4 * inputs * samples
    for s in range(samples):
        for t in range(steps):
            if used + inputs > pixels.shape[0]:
                more = np.empty(2 * pixels.shape[0] + inputs, np.int32)
                more[:used] = pixels[:used]
                pixels = more
            here = x.ctypes.data + row * (t * samples + s)
            whole = inputs // 8 * 8
            for low in range(0, whole, BYTES):
                found, odd = list_floats(here + 4 * low, min(BYTES, whole - low), ahead, places.ctypes.data)
                wrong |= odd
                for e in range(found):
                    pixels[used + e] = low + places[e]
                used += found
            for p in range(whole, inputs):
                value = x[t, s, p]
                pixels[used] = p
                used += value != 0
                wrong |= (value != 0) & (value != 1)
            starts[s * steps + t + 1] = used
    return starts, pixels[:used].copy(), wrong == 0
