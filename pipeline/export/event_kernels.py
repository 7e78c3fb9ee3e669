"""Fully connected layers of binary inputs in the integer engine: events from whole words, sums in vector registers.

Where every input is 0 or 1, weights fit eight bits and sums sixteen (see `program.bounds`), a row of inputs becomes a
list of places, eight inputs at a time and without a branch, and 16, 64 or 128 sums are held in registers while the
rows of weights at these places are added. The first layer reads the encoded float32 input itself, so that nothing is
written down between a spike train and the spikes of that layer.
"""

from __future__ import annotations

import numpy as np

from pipeline.compiled import adder, list_bytes, list_floats, njit, quick
from pipeline.export.fire_kernel import align, fire, neurons_of

BLOCK = 248
"""Most inputs of a block, a multiple of eight; places in a block fit a byte, and the place after the last is zeros."""
_add_16, _add_64, _add_128 = adder(16, 1, False), adder(32, 2, False), adder(32, 4, False)


def width(outputs: int) -> int:
    """Sums that are held in registers together."""
    return 16 if outputs <= 16 else 64 if outputs <= 64 else 128


@quick
def _list(x, ahead, inputs, size, block, places, ends):  # type: ignore[no-untyped-def]
    """Places of the ones of the row at address x, block by block; nonzero where something is neither 0 nor 1.

    size: bytes of an input, 4 (float32) or 1. An odd number of places is followed by one of a row of zeros.
    """
    count, wrong = 0, 0
    to = places.ctypes.data
    for number in range(ends.shape[0] - 1):
        low = number * block
        many = min(block, inputs - low)
        here = x + size * low
        if size == 4:
            found, odd = list_floats(here, many, ahead, to + count)
            wrong |= odd
        else:
            found = list_bytes(here, many, to + count)
        count += found
        places[count] = block
        count += count & 1
        ends[number + 1] = count
    return wrong


@njit(cache=True, nogil=True)
def run_binary(  # type: ignore[no-untyped-def]
    x, strides, same, size, inputs, block, w, wide, lifts, biases, constants, half, down, low, high, out
):
    """All samples and steps of one fully connected stage of binary inputs; False where an input is not binary.

    x: address of the first row; strides: bytes from sample to sample and from step to step; `same`: no step differs.
    inputs: a multiple of eight; w [blocks, tiles, block + 1, wide] int8, the last row of a block zeros.
    out [B, T, neurons] uint8. The rest: as in `kernels.run_stage`.
    """
    blocks, tiles = w.shape[:2]
    places, ends = np.empty(inputs + blocks + 16, np.uint8), np.zeros(blocks + 1, np.int64)
    acc, nothing = np.zeros(tiles * wide, np.int16), np.zeros(wide, np.int16)
    u, current, few = neurons_of(out.shape[2], constants)
    memory = places, ends, acc, nothing, u, current, few
    of = x, strides, same, size, inputs, block, w, wide, lifts, biases, constants, half, down, low, high
    return _run(of, out, memory) == 0


@quick
def _run(of, out, memory):  # type: ignore[no-untyped-def]
    """`run_binary` with memory to work in; not counting references to it saves half of a small layer's time."""
    x, strides, same, size, inputs, block, w, wide, lifts, biases, constants, half, down, low, high = of
    places, ends, acc, nothing, u, current, few = memory
    samples, steps, n = out.shape
    blocks, tiles = w.shape[:2]
    wrong = 0
    for b in range(samples):
        u[:] = 0
        for t in range(steps):
            if t == 0 or not same:
                ahead = strides[1] if t + 1 < steps and not same else strides[0] - t * strides[1]
                row = x + b * strides[0] + t * strides[1]
                wrong |= _list(row, ahead, inputs, size, block, places, ends)
                for tile in range(tiles):
                    target = acc.ctypes.data + 2 * tile * wide
                    begin = nothing.ctypes.data
                    for number in range(blocks):
                        source = w[number, tile].ctypes.data
                        first = ends[number]
                        count = ends[number + 1] - first
                        if wide == 16:
                            _add_16(source, places.ctypes.data + first, count, begin, target)
                        elif wide == 64:
                            _add_64(source, places.ctypes.data + first, count, begin, target)
                        else:
                            _add_128(source, places.ctypes.data + first, count, begin, target)
                        begin = target
                align(acc[:n], lifts, biases, current)
            fire(current, u, out[b, t], constants, half, down, low, high, few)
    return wrong
