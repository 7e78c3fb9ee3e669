"""The loops under `pipeline.nets.event_linear`: events listed, and rows of a source added to each target.

What makes this faster than a dense product, at densities at which a plain loop over events is not, is where the rows
lie: the source is cut into blocks of `BLOCK` rows by `WIDE` columns, which stay in the first-level cache while every
target takes what it needs from them, and sums stay in vector registers over the events of a block. Ours; the nearest
relative is the packed panel of a dense product (Goto & van de Geijn 2008), gathered instead of multiplied.
"""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

_generated: Any = intrinsic  # its type says nothing of the caller's arguments
WIDE = 64
"""Columns of a block: four registers of 16, twice for two events at a time."""
BLOCK = 160
"""Rows of a block: 40 KB of a first-level cache. Places in a block fit a byte; place BLOCK is a row of zeros."""
ROWS = 256
"""Targets that take from all blocks in turn: their sums stay in the second-level cache."""
_LANES = 16


@_generated
def _add_rows(context, source, places, count, begin, target):  # type: ignore[no-untyped-def]
    """target [64] = begin [64] + sum of source[places[e]] over e < count; all are addresses, count is even.

    Written as vectors of 16 because a loop over columns inside one over events leaves the sums in memory.
    """
    row = ir.VectorType(ir.FloatType(), _LANES)
    word, byte = ir.IntType(64), ir.IntType(8)
    parts = WIDE // _LANES

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, places, count, begin, target = args
        rows, first, to = (builder.inttoptr(at, row.as_pointer()) for at in (source, begin, target))
        listed = builder.inttoptr(places, byte.as_pointer())

        def read(at, part):  # type: ignore[no-untyped-def]
            return builder.load(builder.gep(at, [word(part)]), align=4)

        def place(e):  # type: ignore[no-untyped-def]
            index = builder.zext(builder.load(builder.gep(listed, [e])), word)
            return builder.gep(rows, [builder.mul(index, word(parts))])

        sums = [read(first, part) for part in range(parts)] + [ir.Constant(row, None)] * parts
        before = builder.block
        loop, done = builder.append_basic_block(), builder.append_basic_block()
        builder.cbranch(builder.icmp_signed(">", count, word(0)), loop, done)
        builder.position_at_end(loop)
        at = builder.phi(word)
        held = [builder.phi(row) for _ in sums]
        one, two = place(at), place(builder.add(at, word(1)))
        added = [builder.fadd(held[part], read(one, part)) for part in range(parts)]
        added += [builder.fadd(held[parts + part], read(two, part)) for part in range(parts)]
        after = builder.add(at, word(2))
        at.add_incoming(word(0), before)
        at.add_incoming(after, loop)
        for phi, start, end in zip(held, sums, added, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
        builder.cbranch(builder.icmp_signed("<", after, count), loop, done)
        builder.position_at_end(done)
        totals = []
        for start, end in zip(sums, added, strict=True):
            phi = builder.phi(row)
            phi.add_incoming(start, before)
            phi.add_incoming(end, loop)
            totals.append(phi)
        for part in range(parts):
            total = builder.fadd(totals[part], totals[parts + part])
            builder.store(total, builder.gep(to, [word(part)]), align=4)
        return context.get_dummy_value()

    return types.void(*(types.int64,) * 5), generate


@_generated
def _ones(context, at):  # type: ignore[no-untyped-def]
    """Of the eight float32 at an address: bit k is set where number k is not 0, bit 8 + k where it is also not 1."""
    row, word = ir.VectorType(ir.FloatType(), 8), ir.IntType(64)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        x = builder.load(builder.inttoptr(args[0], row.as_pointer()), align=4)
        there = builder.fcmp_unordered("!=", x, ir.Constant(row, [0.0] * 8))
        other = builder.and_(there, builder.fcmp_unordered("!=", x, ir.Constant(row, [1.0] * 8)))
        low, high = (builder.zext(builder.bitcast(bits, ir.IntType(8)), word) for bits in (there, other))
        return builder.or_(low, builder.shl(high, word(8)))

    return types.int64(types.int64), generate


@_generated
def _write(context, at, eight):  # type: ignore[no-untyped-def]
    """Eight bytes (uint64) at any address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        builder.store(args[1], at, align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


_SET = [[k for k in range(8) if bits >> k & 1] for bits in range(256)]
_FOUND = np.array([sum(k << 8 * n for n, k in enumerate(places)) for places in _SET], np.uint64)
"""The set bits of a byte, from the lowest, as bytes of one number."""
_COUNT = np.array([len(places) for places in _SET], np.int64)
_EACH = np.uint64(0x0101010101010101)


@njit(cache=True, nogil=True)
def list_events(x, places, ends):  # type: ignore[no-untyped-def]
    """x [R, K] of zeros and ones -> where the ones are; False at anything else.

    places: uint8, per row and block of inputs the places in the block, an odd number of them followed by BLOCK;
    eight bytes more than that are written. ends [R * blocks + 1] int64: where each row's part of each block ends,
    after a 0. Eight inputs at a time, without a branch, which a processor would guess wrong.
    """
    rows, inputs = x.shape
    count, at, wrong = 0, 0, 0
    ends[0] = 0
    for r in range(rows):
        for low in range(0, inputs, BLOCK):
            size = min(BLOCK, inputs - low)
            here = x.ctypes.data + 4 * (r * inputs + low)
            whole = size // 8 * 8
            for i in range(0, whole, 8):
                bits = _ones(here + 4 * i)
                wrong |= bits >> 8
                bits &= 255
                _write(places.ctypes.data + count, _FOUND[bits] + np.uint64(i) * _EACH)
                count += _COUNT[bits]
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
