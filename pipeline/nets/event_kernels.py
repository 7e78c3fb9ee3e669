"""The loops under `pipeline.nets.event_linear`: events listed, and rows of a source added to each target.

What makes this faster than a dense product, at densities at which a plain loop over events is not, is where the rows
lie: the source is cut into blocks of `BLOCK` rows by `WIDE` columns, which stay in the first-level cache while every
target takes what it needs from them, and sums stay in vector registers over the events of a block. Ours; the nearest
relative is the packed panel of a dense product (Goto & van de Geijn 2008), gathered instead of multiplied.
"""

from __future__ import annotations

from pipeline.compiled import adder, list_floats, njit

WIDE = 64
"""Columns of a block: four registers of 16, twice for two events at a time."""
BLOCK = 160
"""Rows of a block: 40 KB of a first-level cache. Places in a block fit a byte; place BLOCK is a row of zeros."""
ROWS = 256
"""Targets that take from all blocks in turn: their sums stay in the second-level cache."""
_add_rows = adder(16, WIDE // 16, True)


@njit(cache=True, nogil=True)
def list_events(x, places, ends):  # type: ignore[no-untyped-def]
    """x [R, K] of zeros and ones -> where the ones are; False at anything else.

    places: uint8, per row and block of inputs the places in the block, an odd number of them followed by BLOCK;
    eight bytes more than that are written. ends [R * blocks + 1] int64: where each row's part of each block ends,
    after a 0.
    """
    rows, inputs = x.shape
    count, at, wrong = 0, 0, 0
    ends[0] = 0
    for r in range(rows):
        for low in range(0, inputs, BLOCK):
            size = min(BLOCK, inputs - low)
            here = x.ctypes.data + 4 * (r * inputs + low)
            whole = size // 8 * 8
            found, odd = list_floats(here, whole, 4 * inputs, places.ctypes.data + count)
            count += found
            wrong |= odd
            for i in range(whole, size):
                value = x[r, low + i]
                wrong |= (value != 0) & (value != 1)
                places[count] = i
                count += value != 0
            places[count] = BLOCK
            count += count & 1
            at += 1
            ends[at] = count
        if wrong != 0:
            return False
    return True


@njit(cache=True, nogil=True)
def pack_weights(w, packed):  # type: ignore[no-untyped-def]
    """w [N, K] -> packed [blocks, tiles, BLOCK + 1, WIDE], blocks of inputs, zeros beyond the edges."""
    n, inputs = w.shape
    for block in range(packed.shape[0]):
        low = block * BLOCK
        size = min(BLOCK, inputs - low)
        for tile in range(packed.shape[1]):
            to = packed[block, tile]
            left = min(WIDE, n - tile * WIDE)
            to[size:] = 0
            if left < WIDE:
                to[:] = 0
            for j in range(left):
                of = w[tile * WIDE + j]
                for i in range(size):
                    to[i, j] = of[low + i]


@njit(cache=True, nogil=True)
def add_weights(places, ends, packed, start, out):  # type: ignore[no-untyped-def]
    """out [R, tiles * WIDE] = start [tiles * WIDE] + the packed weights of each row's events."""
    blocks, tiles = packed.shape[:2]
    total = out.shape[0]
    for low in range(0, total, ROWS):
        for block in range(blocks):
            for tile in range(tiles):
                source = packed[block, tile].ctypes.data
                for r in range(low, min(low + ROWS, total)):
                    begin = ends[r * blocks + block]
                    target = out.ctypes.data + 4 * (r * out.shape[1] + tile * WIDE)
                    from_ = start.ctypes.data + 4 * tile * WIDE if block == 0 else target
                    _add_rows(
                        source,
                        places.ctypes.data + begin,
                        ends[r * blocks + block + 1] - begin,
                        from_,
                        target,
                    )


@njit(cache=True, nogil=True)
def add_gradients(places, ends, g, scratch, seats, counts, out):  # type: ignore[no-untyped-def]
    """out [K, tiles * WIDE] += g[r] [tiles * WIDE or less] for each event (r, i), row by row of blocks.

    scratch [BLOCK + 1, WIDE] float32, seats [K, BLOCK + 2] uint8 and counts [K] int64 are overwritten.
    """
    inputs, wide = out.shape
    rows, n = g.shape
    blocks = (inputs + BLOCK - 1) // BLOCK
    scratch[:] = 0
    for low in range(0, rows, BLOCK):
        size = min(BLOCK, rows - low)
        counts[:] = 0
        for r in range(size):
            for block in range(blocks):
                at = (low + r) * blocks + block
                for e in range(ends[at], ends[at + 1]):
                    if places[e] < BLOCK:
                        i = block * BLOCK + places[e]
                        seats[i, counts[i]] = r
                        counts[i] += 1
        for i in range(inputs):
            seats[i, counts[i]] = BLOCK
            counts[i] += counts[i] & 1
        for tile in range(wide // WIDE):
            left = min(WIDE, n - tile * WIDE)
            for r in range(size):
                for j in range(left):
                    scratch[r, j] = g[low + r, tile * WIDE + j]
                for j in range(left, WIDE):
                    scratch[r, j] = 0
            for i in range(inputs):
                target = out.ctypes.data + 4 * (i * wide + tile * WIDE)
                seat = seats.ctypes.data + i * seats.shape[1]
                _add_rows(scratch.ctypes.data, seat, counts[i], target, target)
