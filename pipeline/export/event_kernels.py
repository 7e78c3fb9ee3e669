"""Fully connected layers of binary inputs in the integer engine: events from whole words, sums in vector registers.

Where every input is 0 or 1, weights fit eight bits and sums sixteen (see `program.bounds`), a row of inputs becomes a
list of places, eight inputs at a time and without a branch, and 16, 64 or 128 sums are held in registers while the
rows of weights at these places are added. The first layer reads the encoded float32 input itself, so that nothing is
written down between a spike train and the spikes of that layer.
"""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.extending import intrinsic

from pipeline.export.fire_kernel import align, fire, neurons_of, quick

_generated: Any = intrinsic  # its type says nothing of the caller's arguments
BLOCK = 248
"""Most inputs of a block, a multiple of eight; places in a block fit a byte, and the place after the last is zeros."""
_WORD, _BYTE = ir.IntType(64), ir.IntType(8)


def _adder(lanes: int, parts: int) -> Any:
    """The intrinsic that adds int8 rows of lanes * parts to as many int16 sums."""

    @_generated
    def add(context, source, places, count, begin, target):  # type: ignore[no-untyped-def]
        """target = begin + sum of source[places[e]] over e < count; all are addresses, count is even."""
        small, wide = ir.VectorType(_BYTE, lanes), ir.VectorType(ir.IntType(16), lanes)

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            source, places, count, begin, target = args
            rows = builder.inttoptr(source, small.as_pointer())
            first, to = (builder.inttoptr(at, wide.as_pointer()) for at in (begin, target))
            listed = builder.inttoptr(places, _BYTE.as_pointer())

            def row(e):  # type: ignore[no-untyped-def]
                index = builder.zext(builder.load(builder.gep(listed, [e])), _WORD)
                at = builder.gep(rows, [builder.mul(index, _WORD(parts))])
                loads = [builder.load(builder.gep(at, [_WORD(k)]), align=1) for k in range(parts)]
                return [builder.sext(each, wide) for each in loads]

            sums = [builder.load(builder.gep(first, [_WORD(k)]), align=2) for k in range(parts)]
            sums += [ir.Constant(wide, None)] * parts
            before = builder.block
            loop, done = builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed(">", count, _WORD(0)), loop, done)
            builder.position_at_end(loop)
            at = builder.phi(_WORD)
            held = [builder.phi(wide) for _ in sums]
            terms = row(at) + row(builder.add(at, _WORD(1)))
            added = [builder.add(phi, term) for phi, term in zip(held, terms, strict=True)]
            after = builder.add(at, _WORD(2))
            at.add_incoming(_WORD(0), before)
            at.add_incoming(after, loop)
            for phi, start, end in zip(held, sums, added, strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            builder.cbranch(builder.icmp_signed("<", after, count), loop, done)
            builder.position_at_end(done)
            totals = [builder.phi(wide) for _ in sums]
            for phi, start, end in zip(totals, sums, added, strict=True):
                phi.add_incoming(start, before)
                phi.add_incoming(end, loop)
            for k in range(parts):
                total = builder.add(totals[k], totals[parts + k])
                builder.store(total, builder.gep(to, [_WORD(k)]), align=2)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 5), generate

    return add


_add_16, _add_64, _add_128 = _adder(16, 1), _adder(32, 2), _adder(32, 4)


def width(outputs: int) -> int:
    """Sums that are held in registers together."""
    return 16 if outputs <= 16 else 64 if outputs <= 64 else 128


@_generated
def _ones(context, at):  # type: ignore[no-untyped-def]
    """Of the eight float32 at an address: bit k is set where number k is not 0, bit 8 + k where it is also not 1."""
    row = ir.VectorType(ir.FloatType(), 8)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        x = builder.load(builder.inttoptr(args[0], row.as_pointer()), align=4)
        there = builder.fcmp_unordered("!=", x, ir.Constant(row, [0.0] * 8))
        other = builder.and_(there, builder.fcmp_unordered("!=", x, ir.Constant(row, [1.0] * 8)))
        low, high = (builder.zext(builder.bitcast(bits, _BYTE), _WORD) for bits in (there, other))
        return builder.or_(low, builder.shl(high, _WORD(8)))

    return types.int64(types.int64), generate


@_generated
def _read(context, at):  # type: ignore[no-untyped-def]
    """Eight bytes at any address, as one number."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()), align=1)

    return types.uint64(types.int64), generate


@_generated
def _write(context, at, eight):  # type: ignore[no-untyped-def]
    """Eight bytes to any address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[1], builder.inttoptr(args[0], _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@_generated
def _fetch(context, at):  # type: ignore[no-untyped-def]
    """Ask for the memory at an address, any address, before it is needed."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at = builder.inttoptr(args[0], _BYTE.as_pointer())
        builder.call(
            builder.module.declare_intrinsic(
                "llvm.prefetch", [at.type], ir.FunctionType(ir.VoidType(), [at.type] + [ir.IntType(32)] * 3)
            ),
            [at, *(ir.IntType(32)(number) for number in (0, 3, 1))],  # to read, keep close, data
        )
        return context.get_dummy_value()

    return types.void(types.int64), generate


_SET = [[k for k in range(8) if bits >> k & 1] for bits in range(256)]
_FOUND = np.array([sum(k << 8 * n for n, k in enumerate(places)) for places in _SET], np.uint64)
"""The set bits of a byte, from the lowest, as bytes of one number."""
_COUNT = np.array([len(places) for places in _SET], np.int64)
_EACH = np.uint64(0x0101010101010101)
_COLLECT = np.uint64(0x0102040810204080)
"""Times eight bytes of 0 or 1: their bits, in order, in the highest byte."""


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
        for i in range(0, many, 8):
            if size == 4:
                if i % 16 == 0:
                    _fetch(here + ahead + 4 * i)
                bits = _ones(here + 4 * i)
                wrong |= bits >> 8
                bits &= 255
            else:
                bits = np.int64((_read(here + i) * _COLLECT) >> np.uint64(56))
            _write(to + count, _FOUND[bits] + np.uint64(i) * _EACH)
            count += _COUNT[bits]
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
