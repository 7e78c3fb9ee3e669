"""Counting in one pass over memory: what a layer's input leads to, and how many values it takes to write it down."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Reach = npt.NDArray[np.floating]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def count_rows(x, unit, nonzero_reach, all_reach, out):  # type: ignore[no-untyped-def]
    """Per row of x [rows, inputs]: events, operations with nonzero weights, with all weights -> out [rows, 3].

    An event is an entry that is not zero; `nonzero_reach` and `all_reach` [inputs] are the synapses behind each
    entry; sums are kept in their type, which must hold them exactly. Returns how many events are not `unit`: 0 says
    that x holds spikes.
    """
    nothing, one = nonzero_reach.dtype.type(0), nonzero_reach.dtype.type(1)
    odd = 0.0
    for row in range(x.shape[0]):
        events = nothing
        strange = nothing
        effective = nothing
        every = nothing
        for i in range(x.shape[1]):
            value = x[row, i]
            fires = one if value != 0.0 else nothing
            other = one if value != unit else nothing
            strange += fires * other
            events += fires
            effective += fires * nonzero_reach[i]
            every += fires * all_reach[i]
        out[row, 0] = events
        out[row, 1] = effective
        out[row, 2] = every
        odd += strange
    return odd


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def count_events(x, out):  # type: ignore[no-untyped-def]
    """Per row of x [rows, entries]: entries that are not zero -> out [rows]."""
    for row in range(x.shape[0]):
        events = 0
        for i in range(x.shape[1]):
            events += x[row, i] != 0.0
        out[row] = events


@njit(cache=True, nogil=True)
def count_runs(weights, counts):  # type: ignore[no-untyped-def]
    """Zeros before each nonzero weight of weights [size]: counts[n] += 1 for a run of n; returns the longest run."""
    run = 0
    longest = -1
    for i in range(weights.shape[0]):
        if weights[i] == 0.0:
            run += 1
            continue
        counts[run] += 1
        longest = max(longest, run)
        run = 0
    return longest
