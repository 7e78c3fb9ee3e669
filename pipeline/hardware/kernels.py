"""Counting in one pass over memory: what a layer's input leads to, and how many values it takes to write it down."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.compiled import njit

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Reach = npt.NDArray[np.floating]


# Four rows at a time, each from its own quarter of the array: reading four streams at once is what hides the memory's
# latency (twice the speed of one stream). The last rows may be counted twice; each is written down once.


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def count_rows(x, unit, nonzero_reach, all_reach, out):  # type: ignore[no-untyped-def]
    """Per row of x [rows, inputs]: events, operations with nonzero weights, with all weights -> out [rows, 3].

    An event is an entry that is not zero; `nonzero_reach` and `all_reach` [inputs] are the synapses behind each
    entry; sums are kept in their type, which must hold them exactly. Returns whether some event is not `unit`:
    False says that x holds spikes.
    """
    nothing, one = nonzero_reach.dtype.type(0), nonzero_reach.dtype.type(1)
    rows = x.shape[0]
    quarter = (rows + 3) // 4
    odd = False
    for first in range(quarter):
        second, third = min(first + quarter, rows - 1), min(first + 2 * quarter, rows - 1)
        fourth = min(first + 3 * quarter, rows - 1)
        a, b, c, d = x[first], x[second], x[third], x[fourth]
        events_a = events_b = events_c = events_d = strange = nothing
        live_a = live_b = live_c = live_d = all_a = all_b = all_c = all_d = nothing
        for i in range(x.shape[1]):
            live, every = nonzero_reach[i], all_reach[i]
            fires_a = one if a[i] != 0.0 else nothing
            fires_b = one if b[i] != 0.0 else nothing
            fires_c = one if c[i] != 0.0 else nothing
            fires_d = one if d[i] != 0.0 else nothing
            strange += fires_a * (one if a[i] != unit else nothing) + fires_b * (
                one if b[i] != unit else nothing
            )
            strange += fires_c * (one if c[i] != unit else nothing) + fires_d * (
                one if d[i] != unit else nothing
            )
            events_a += fires_a
            events_b += fires_b
            events_c += fires_c
            events_d += fires_d
            live_a += fires_a * live
            live_b += fires_b * live
            live_c += fires_c * live
            live_d += fires_d * live
            all_a += fires_a * every
            all_b += fires_b * every
            all_c += fires_c * every
            all_d += fires_d * every
        odd = odd or strange > nothing
        out[first, 0], out[first, 1], out[first, 2] = events_a, live_a, all_a
        out[second, 0], out[second, 1], out[second, 2] = events_b, live_b, all_b
        out[third, 0], out[third, 1], out[third, 2] = events_c, live_c, all_c
        out[fourth, 0], out[fourth, 1], out[fourth, 2] = events_d, live_d, all_d
    return odd


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def count_events(x, out):  # type: ignore[no-untyped-def]
    """Per row of x [rows, entries]: entries that are not zero -> out [rows]."""
    rows = x.shape[0]
    quarter = (rows + 3) // 4
    for first in range(quarter):
        second, third = min(first + quarter, rows - 1), min(first + 2 * quarter, rows - 1)
        fourth = min(first + 3 * quarter, rows - 1)
        a, b, c, d = x[first], x[second], x[third], x[fourth]
        events_a = events_b = events_c = events_d = np.int32(0)
        for i in range(x.shape[1]):
            events_a += np.int32(a[i] != 0.0)
            events_b += np.int32(b[i] != 0.0)
            events_c += np.int32(c[i] != 0.0)
            events_d += np.int32(d[i] != 0.0)
        out[first], out[second], out[third], out[fourth] = events_a, events_b, events_c, events_d


@njit(cache=True, nogil=True)
def survey(weights, alive, runs):  # type: ignore[no-untyped-def]
    """One pass over weights [groups, filters, fan-in] in storage order.

    alive [groups, fan-in]: += 1 for each weight that is not zero; runs [weights + 1]: += 1 at n for a nonzero weight
    with n zeros since the one before it. Returns the longest run (-1: all weights are zero).
    """
    run = 0
    longest = -1
    for group in range(weights.shape[0]):
        for filter_ in range(weights.shape[1]):
            for i in range(weights.shape[2]):
                if weights[group, filter_, i] == 0.0:
                    run += 1
                    continue
                alive[group, i] += 1
                runs[run] += 1
                longest = max(longest, run)
                run = 0
    return longest
