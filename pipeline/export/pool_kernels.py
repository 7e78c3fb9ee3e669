"""Loops of the integer engine between a layer's spikes and the next synapses: pools, and attention's gates.

Maps are [P, C], pixels (row by row) times channels, as in `pipeline.export.kernels`.
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import njit, quick

_BLOCK = 255
"""Spikes of 0 and 1 that a byte counts without overflow."""


@njit(cache=True, nogil=True)
def pool_max(x, out, kernel, stride):  # type: ignore[no-untyped-def]
    """x [M, rows, columns * C] -> out [M, out rows, out columns, C], the largest of each window."""
    _pool_max(x, out, kernel, stride, np.empty(x.shape[2], x.dtype))


@quick
def _pool_max(x, out, kernel, stride, tall):  # type: ignore[no-untyped-def]
    """`pool_max` with a row [columns * C] to work in."""
    channels = out.shape[3]
    for m in range(x.shape[0]):
        for i in range(out.shape[1]):
            of = x[m, i * stride[0]]
            for j in range(tall.shape[0]):  # whole rows first: long loops
                tall[j] = of[j]
            for k in range(1, kernel[0]):
                of = x[m, i * stride[0] + k]
                for j in range(tall.shape[0]):
                    tall[j] = max(tall[j], of[j])
            for j in range(out.shape[2]):
                to, at = out[m, i, j], j * stride[1] * channels
                for c in range(channels):
                    to[c] = tall[at + c]
                for h in range(1, kernel[1]):
                    of = tall[at + h * channels :]
                    for c in range(channels):
                        to[c] = max(to[c], of[c])


@quick
def pool_sum(x, out, kernel, stride):  # type: ignore[no-untyped-def]
    """As `pool_max`, the sum of each window."""
    channels, number = out.shape[3], out.dtype.type
    for m in range(x.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                to = out[m, i, j]
                to[:] = 0
                for k in range(kernel[0]):
                    of = x[m, i * stride[0] + k]
                    for h in range(kernel[1]):
                        at = (j * stride[1] + h) * channels
                        for c in range(channels):
                            to[c] += number(of[at + c])


@quick
def _count(x, few, counts):  # type: ignore[no-untyped-def]
    """counts [C] = the spikes x [P * C] of each channel; few [C] uint8 to count in, many channels at a time."""
    channels = counts.shape[0]
    counts[:] = 0
    few[:] = 0
    held = 0
    for at in range(0, x.shape[0], channels):
        of = x[at : at + channels]
        for c in range(channels):
            few[c] += of[c]
        held += 1
        if held == _BLOCK or at + channels == x.shape[0]:
            for c in range(channels):
                counts[c] += few[c]
            few[:] = 0
            held = 0


@quick
def _onto(code, shift):  # type: ignore[no-untyped-def]
    """A code moved by `shift` bits to the left, or to the right with rounding to nearest, ties up."""
    if shift >= 0:
        return code << shift
    return (code + (np.int64(1) << (-shift - 1))) >> -shift


@njit(cache=True, nogil=True)
def gates_of(x, time, channel, formats, table, gates):  # type: ignore[no-untyped-def]
    """Gates [B, T, C] uint8 for spikes x [B, T, P * C] uint8 of 0 and 1, as `pipeline.export.program.Attention` says.

    time [T, taps * T] and channel [C, taps * C]: what one spike of that step, of that channel adds: taps from last to
    first, outputs innermost; of the integer type that sums are proven to fit. formats: shifts of the two sums and of
    their product, lowest and highest operand, first entry of table [entries] uint8.
    """
    steps, channels = gates.shape[1], gates.shape[2]
    taps = channel.shape[1] // channels
    # Longer by what a spike at the edge adds beyond it, so that no spike has to be cut.
    a = np.zeros((channels + taps - 1) * steps, time.dtype)
    b = np.zeros((steps + taps - 1) * channels, channel.dtype)
    memory = a, b, np.zeros(channels, np.int64), np.zeros(channels, np.uint8)
    _gates_of(x, time, channel, formats, table, gates, memory)


@quick
def _gates_of(x, time, channel, formats, table, gates, memory):  # type: ignore[no-untyped-def]
    """`gates_of` with memory to work in."""
    a, b, counts, few = memory
    samples, steps, channels = gates.shape
    after = channel.shape[1] // channels // 2
    to_left, to_right, to_entry, low, high, first = formats
    last = table.shape[0] - 1
    for s in range(samples):
        a[:] = 0
        b[:] = 0
        for t in range(steps):
            _count(x[s, t], few, counts)
            for c in range(channels):
                if counts[c] != 0:
                    _add(a[c * steps :], time[t], counts[c])
                    _add(b[t * channels :], channel[c], counts[c])
        for t in range(steps):
            for c in range(channels):
                left = _onto(np.int64(a[(c + after) * steps + t]), to_left)
                right = _onto(np.int64(b[(t + after) * channels + c]), to_right)
                product = min(max(left, low), high) * min(max(right, low), high)
                gates[s, t, c] = table[min(max(_onto(product, to_entry) - first, 0), last)]


@quick
def _add(to, row, times):  # type: ignore[no-untyped-def]
    """to [at least n] += times * row [n]."""
    number = to.dtype.type
    factor = number(times)
    for j in range(row.shape[0]):
        to[j] += row[j] * factor


@njit(cache=True, nogil=True)
def weigh(x, gates):  # type: ignore[no-untyped-def]
    """x [B, T, P * C] *= gates [B, T, C] uint8, in place; the products fit the type of x."""
    channels, number = gates.shape[2], x.dtype.type
    for s in range(x.shape[0]):
        for t in range(x.shape[1]):
            of, gate = x[s, t], gates[s, t]
            for at in range(0, of.shape[0], channels):
                for c in range(channels):
                    of[at + c] = number(of[at + c] * gate[c])
