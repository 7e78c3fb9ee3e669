"""Fully connected layers of binary inputs in the integer engine: changes from whole words, sums in vector registers.

Where every input is 0 or 1, weights fit eight bits and sums sixteen (see `program.bounds`), a row of inputs becomes a
list of places without a branch, and 16, 64 or 128 sums are held in registers while the rows of weights at these places
are added. Where fewer inputs changed since the step before than are 1, the rows of what changed, or of what went their
negatives, are added to that step's sums, which in integers is exact: a bright pixel that spikes at nearly every step
costs nearly nothing.
The first layer reads the encoded float32 input itself, so that nothing is written down between a spike train and the
spikes of that layer.
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import adder, fetch, njit, quick
from pipeline.export.fire_kernel import align, fire, neurons_of
from pipeline.export.marks import SLACK, WORD_BITS, count, list_changes, list_ones, mark

MOST_INPUTS = 32_760
"""A place is a uint16: inputs, zeros, and the negatives of both."""
_add_16, _add_64, _add_128 = (adder(lanes, parts, False, 16) for lanes, parts in ((16, 1), (32, 2), (32, 4)))
CHANGES = 1024
"""Additions that take as long as comparing two rows and listing their difference."""
AHEAD = 2
"""Rows: memory is asked for so early."""


def width(outputs: int) -> int:
    """Sums that are held in registers together."""
    return 16 if outputs <= 16 else 64 if outputs <= 64 else 128


@quick
def _fetch_part(row, size, part):  # type: ignore[no-untyped-def]
    """Ask for a quarter of a row at an address: a processor waits for memory only so many times at once, and asked for
    a whole row it does nothing else meanwhile."""
    quarter = size // 256 * 64
    for at in range(part * quarter, (part + 1) * quarter, 64):
        fetch(row + at)


@quick
def _add(w, places, found, acc):  # type: ignore[no-untyped-def]
    """acc [tiles * wide] int16 += the rows of w at `found` places."""
    tiles, wide = w.shape[0], w.shape[2]
    places[found] = w.shape[1] - 1  # zeros, for an even number
    found += found & 1
    for tile in range(tiles):
        source, target = w[tile].ctypes.data, acc.ctypes.data + 2 * tile * wide
        if wide == 16:
            _add_16(source, places.ctypes.data, found, target, target)
        elif wide == 64:
            _add_64(source, places.ctypes.data, found, target, target)
        else:
            _add_128(source, places.ctypes.data, found, target, target)


@njit(cache=True, nogil=True)
def run_binary(  # type: ignore[no-untyped-def]
    x, strides, same, size, inputs, w, lifts, biases, constants, half, down, low, high, out
):
    """All samples and steps of one fully connected stage of binary inputs; False where an input is not binary.

    x: address of the first row; strides: bytes from sample to sample and from step to step; `same`: no step differs;
    size: bytes of an input, 4 (float32) or 1. inputs: a multiple of eight up to MOST_INPUTS; w [tiles, rows, `width`]
    int8, of a tile the inputs' rows, their negatives (or not, where one has none) and zeros. lifts and biases: one or
    as many as columns of w. out [B, T, neurons] uint8. The rest: as in `kernels.run_stage`.
    """
    places = np.empty(inputs + SLACK + 1, np.uint16)
    marks = np.zeros((2, (inputs + WORD_BITS - 1) // WORD_BITS), np.uint64)
    acc = np.zeros(w.shape[0] * w.shape[2], np.int16)
    u, current = neurons_of(out.shape[2], constants)
    memory = places, marks, acc, u, current
    of = x, strides, same, size, inputs, w, lifts, biases, constants, half, down, low, high
    return _run(of, out, memory) == 0


@quick
def _run(of, out, memory):  # type: ignore[no-untyped-def]
    """`run_binary` with memory to work in; not counting references to it saves half of a small layer's time."""
    x, strides, same, size, inputs, w, lifts, biases, constants, half, down, low, high = of
    places, marks, acc, u, current = memory
    samples, steps, _ = out.shape
    wrong, margin, signed = np.uint64(0), CHANGES // acc.shape[0], w.shape[1] > 2 * inputs
    for b in range(samples):
        u[:] = 0
        for t in range(steps):
            if t == 0 or not same:
                now, before = marks[t & 1], marks[1 - (t & 1)]
                # The row after the next, or the next sample's where no step differs, in four parts between other work.
                to = t + (steps if same else AHEAD)
                later = x + (b + to // steps) * strides[0] + to % steps * strides[1]
                wrong |= mark(x + b * strides[0] + t * strides[1], inputs, size, now)
                _fetch_part(later, inputs * size, 0)
                there, changed = count(now, before)
                if t > 0 and signed and changed + margin < there:
                    found = list_changes(now, before, inputs, places)
                else:
                    found = list_ones(now, places)
                    acc[:] = 0
                _fetch_part(later, inputs * size, 1)
                _add(w, places, found, acc)
                _fetch_part(later, inputs * size, 2)
                align(acc[: current.shape[0]], lifts, biases, current)
                _fetch_part(later, inputs * size, 3)
            fire(current, u, out[b, t], constants, half, down, low, high)
    return wrong
