"""The loops that the STDP network spends its time in, written for vector registers of sixteen floats.

numba's loop vectoriser keeps sums in memory; here they stay in registers: `sum_rows` adds the weight rows of one
step's spikes for up to 128 neurons at a time, `advance` takes all neurons a step on and says whether one fired,
`lower_and_sum` depresses the synapses of one step's spikes in eight columns and sums them in the same pass.
LLVM splits the vectors on processors with shorter registers. Plain forms: `tests/nets/test_stdp_lanes.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from pipeline.compiled import njit, quick, splat

LANES = 16
"""Floats per vector; arrays of neurons' state have a multiple of it."""
LONG = 1024
"""Neurons from which rows are copied side by side."""
_FLOAT, _INT, _SMALL = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
SLOTS = 8
"""Columns of neurons that learn, side by side: few do in one sample, and 784 pixels of eight stay in a first-level
cache."""
_COLUMNS = ir.VectorType(_FLOAT, SLOTS)


def _pointer(context: Any, builder: Any, array_type: Any, value: Any) -> Any:
    return context.make_array(array_type)(context, builder, value).data


def _load(builder: Any, base: Any, offset: Any, vector: Any = _VECTOR) -> Any:
    """The vector at base[offset : offset + LANES], at any alignment."""
    address = builder.bitcast(builder.gep(base, [offset]), vector.as_pointer())
    return builder.load(address, align=4)


def _store(builder: Any, value: Any, base: Any, offset: Any) -> None:
    address = builder.bitcast(builder.gep(base, [offset]), value.type.as_pointer())
    builder.store(value, address, align=4)


def _plus(builder: Any, value: Any, constant: int) -> Any:
    return builder.add(value, ir.Constant(_INT, constant)) if constant else value


def _loop(builder: Any, first: Any, last: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
    """``for i in range(first, last, step): carried = body(i, carried)``; the values after the last turn."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_INT)
    index.add_incoming(first, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, last), inside, after)
    builder.position_at_end(inside)
    changed = body(index, values)
    end = builder.block
    index.add_incoming(_plus(builder, index, step), end)
    for phi, value in zip(values, changed, strict=True):
        phi.add_incoming(value, end)
    builder.branch(head)
    builder.position_at_end(after)
    return values


@intrinsic(prefer_literal=True)
def _sum_lanes(typing, w, column, pixels, first, last, out, place, vectors):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """``out.flat[place + i] = sum of w[pixels[e], column + i] over e in [first, last)``, i < 16 * vectors."""
    if not isinstance(vectors, types.IntegerLiteral):
        raise TypingError("vectors must be a constant")
    count = vectors.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rows = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = builder.extract_value(rows.shape, 1)
        base, column = rows.data, arguments[1]
        chosen = _pointer(context, builder, signature.args[2], arguments[2])
        target = _pointer(context, builder, signature.args[5], arguments[5])

        def add(e: Any, sums: list[Any]) -> list[Any]:
            pixel = builder.sext(builder.load(builder.gep(chosen, [e])), _INT)
            start = builder.add(builder.mul(pixel, width), column)
            return [
                builder.fadd(s, _load(builder, base, _plus(builder, start, LANES * i)))
                for i, s in enumerate(sums)
            ]

        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        sums = _loop(builder, arguments[3], arguments[4], 1, [zero] * count, add)
        for i, value in enumerate(sums):
            _store(builder, value, target, _plus(builder, arguments[6], LANES * i))
        return context.get_dummy_value()

    return types.void(w, types.int64, pixels, types.int64, types.int64, out, types.int64, vectors), generate


@njit(cache=True, nogil=True)
def aligned(rows, columns):  # type: ignore[no-untyped-def]
    """Zeros [rows, columns] float32 that begin on a cache line: a vector across two lines takes twice as long."""
    size = rows * columns
    made = np.zeros(size + LANES, np.float32)
    skip = (-(made.ctypes.data // 4)) % LANES
    return made[skip : skip + size].reshape((rows, columns))


@njit(cache=True, nogil=True)
def blocks(count, rows):  # type: ignore[no-untyped-def]
    """Memory [count, rows, SLOTS] float32 on a cache line, not filled: it takes pages only where it is used."""
    size = count * rows * SLOTS
    made = np.empty(size + LANES, np.float32)
    skip = (-(made.ctypes.data // 4)) % LANES
    return made[skip : skip + size].reshape((count, rows, SLOTS))


class Rows(NamedTuple):
    """Memory of `sum_rows`."""

    place: Any
    """[P] int32: where a pixel's row is in the box."""
    chosen: Any
    """[P] int32, the pixels in the box."""
    local: Any
    """[most events of a sample] int32, the place of each event's row."""
    box: Any
    """[P, 4 * LANES] float32: a block of the rows that spike."""


@njit(cache=True, nogil=True)
def rows_of(w, pixels, starts, steps):  # type: ignore[no-untyped-def]
    """Empty; without rows to copy it is next to nothing."""
    inputs, n = w.shape
    most = 0
    for s in range((starts.shape[0] - 1) // steps):
        most = max(most, starts[(s + 1) * steps] - starts[s * steps])
    copied = n > LONG or n % LANES > 0
    return Rows(
        np.empty(inputs, pixels.dtype), np.empty(inputs, pixels.dtype), np.empty(most, pixels.dtype),
        aligned(inputs if copied else 1, 4 * LANES),
    )  # fmt: skip


@quick
def _number(pixels, first, last, rows):  # type: ignore[no-untyped-def]
    """The distinct pixels of the events, each event's place among them, and how many they are."""
    place, chosen, local = rows.place, rows.chosen, rows.local
    place[:] = -1
    count = 0
    for e in range(first, last):
        p = pixels[e]
        if place[p] < 0:
            place[p] = count
            chosen[count] = p
            count += 1
        local[e - first] = place[p]
    return count


@quick
def sum_rows(w, pixels, starts, base, steps, out, rows):  # type: ignore[no-untyped-def]
    """out[t, j] = sum of w[p, j] over the pixels that spiked at step base + t - 1, for t in [1, steps).

    w [P, n] and out [steps, n rounded up to LANES], float32 and contiguous. Blocks of neurons outside, steps inside:
    what a sample needs of a block stays in the cache next to the core, whatever n is. Where rows are long or cross
    cache lines, the rows that spike are first copied side by side.
    """
    n, wide = w.shape[1], out.shape[1]
    if n < LANES:
        for t in range(1, steps):
            for j in range(n):
                total = np.float32(0)
                for e in range(starts[base + t - 1], starts[base + t]):
                    total += w[pixels[e], j]
                out[t, j] = total
        return
    first, last = starts[base], starts[base + steps]
    copied = n > LONG or n % LANES > 0
    box, chosen, local = rows.box, rows.chosen, rows.local
    spiking = _number(pixels, first, last, rows) if copied else 0
    j = 0
    while j < n:
        left = n - j
        if copied and left >= 4 * LANES:
            for k in range(spiking):
                _sum_block(w, j, chosen, k, k + 1, box, k * 4 * LANES, 4)
            for t in range(1, steps):
                e, f = starts[base + t - 1] - first, starts[base + t] - first
                _sum_block(box, 0, local, e, f, out, t * wide + j, 4)
            j += 4 * LANES
        elif left >= 9 * LANES and left % (8 * LANES) == LANES:
            for t in range(1, steps):
                _sum_block(w, j, pixels, starts[base + t - 1], starts[base + t], out, t * wide + j, 9)
            j += 9 * LANES
        elif left >= 8 * LANES:
            for t in range(1, steps):
                _sum_block(w, j, pixels, starts[base + t - 1], starts[base + t], out, t * wide + j, 8)
            j += 8 * LANES
        elif left >= 3 * LANES:
            for t in range(1, steps):
                _sum_block(w, j, pixels, starts[base + t - 1], starts[base + t], out, t * wide + j, 3)
            j += 3 * LANES
        else:
            # The last block overlaps the one before it, so that it ends with the row.
            k = min(j, n - LANES)
            for t in range(1, steps):
                _sum_block(w, k, pixels, starts[base + t - 1], starts[base + t], out, t * wide + k, 1)
            j = k + LANES


@intrinsic
def _advance(typing, v, current, place, theta, decay, gain, push, lowest, bar, faded):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """``v = max(v * decay + (current.flat[place:] * gain - push), lowest)``; whether any v >= bar + theta * faded.

    v, theta [n] float32 with n a multiple of LANES; the constants are float32.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        held = context.make_array(signature.args[0])(context, builder, arguments[0])
        state, last = held.data, builder.extract_value(held.shape, 0)
        source = _pointer(context, builder, signature.args[1], arguments[1])
        extra = _pointer(context, builder, signature.args[3], arguments[3])
        factor, weight, less, low, level, fade = (splat(builder, a, _VECTOR) for a in arguments[4:])

        def body(j: Any, carried: list[Any]) -> list[Any]:
            drive = builder.fmul(_load(builder, source, builder.add(arguments[2], j)), weight)
            new = builder.fadd(builder.fmul(_load(builder, state, j), factor), builder.fsub(drive, less))
            new = builder.select(builder.fcmp_ordered(">", new, low), new, low)
            _store(builder, new, state, j)
            limit = builder.fadd(level, builder.fmul(_load(builder, extra, j), fade))
            return [builder.or_(carried[0], builder.fcmp_ordered(">=", new, limit))]

        none = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [0] * LANES)
        (above,) = _loop(builder, ir.Constant(_INT, 0), last, LANES, [none], body)
        bits = builder.bitcast(above, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    real = types.float32
    made = types.boolean(v, current, types.int64, theta, real, real, real, real, real, real)
    return made, generate


@intrinsic
def _above(typing, v, theta, j, bar, faded):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Bit i: whether ``v[j + i] >= bar + theta[j + i] * faded``, i < LANES; bar and faded are float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        state = _pointer(context, builder, signature.args[0], arguments[0])
        extra = _pointer(context, builder, signature.args[1], arguments[1])
        level, fade = splat(builder, arguments[3], _VECTOR), splat(builder, arguments[4], _VECTOR)
        limit = builder.fadd(level, builder.fmul(_load(builder, extra, arguments[2]), fade))
        bits = builder.fcmp_ordered(">=", _load(builder, state, arguments[2]), limit)
        return builder.zext(builder.bitcast(bits, ir.IntType(LANES)), _INT)

    return types.int64(v, theta, types.int64, types.float32, types.float32), generate


@intrinsic
def _lower_and_sum(typing, columns, place, pixels, first, last, steps, lows, sums, at):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """``c = columns.flat[place + pixels[e] * SLOTS :]; c = max(c - steps, lows); sums.flat[at:] += c`` over e in
    [first, last), sums from 0; eight lanes. steps and lows are read at `at`, too."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = _pointer(context, builder, signature.args[0], arguments[0])
        block = builder.gep(base, [arguments[1]])
        chosen = _pointer(context, builder, signature.args[2], arguments[2])
        less, low = (
            _load(
                builder, _pointer(context, builder, signature.args[k], arguments[k]), arguments[8], _COLUMNS
            )
            for k in (5, 6)
        )
        target = _pointer(context, builder, signature.args[7], arguments[7])

        def body(e: Any, carried: list[Any]) -> list[Any]:
            pixel = builder.sext(builder.load(builder.gep(chosen, [e])), _INT)
            offset = builder.mul(pixel, ir.Constant(_INT, SLOTS))
            new = builder.fsub(_load(builder, block, offset, _COLUMNS), less)
            new = builder.select(builder.fcmp_ordered(">", new, low), new, low)
            _store(builder, new, block, offset)
            return [builder.fadd(carried[0], new)]

        zero = ir.Constant(_COLUMNS, [0.0] * SLOTS)
        (total,) = _loop(builder, arguments[3], arguments[4], 1, [zero], body)
        _store(builder, total, target, arguments[8])
        return context.get_dummy_value()

    whole = types.int64
    return types.void(columns, whole, pixels, whole, whole, steps, lows, sums, whole), generate


@intrinsic
def _sum_all(typing, columns, place, rows, keep, totals, at):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """``totals[at + l] = sum of columns.flat[place + row * SLOTS + l] * keep over row < rows``, in float64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = _pointer(context, builder, signature.args[0], arguments[0])
        block, factor = builder.gep(base, [arguments[1]]), splat(builder, arguments[3], _COLUMNS)
        target = _pointer(context, builder, signature.args[4], arguments[4])
        wide = ir.VectorType(ir.DoubleType(), SLOTS)

        def body(row: Any, carried: list[Any]) -> list[Any]:
            value = builder.fmul(
                _load(builder, block, builder.mul(row, ir.Constant(_INT, SLOTS)), _COLUMNS), factor
            )
            return [builder.fadd(carried[0], builder.fpext(value, wide))]

        zero = ir.Constant(wide, [0.0] * SLOTS)
        (total,) = _loop(builder, ir.Constant(_INT, 0), arguments[2], 1, [zero], body)
        address = builder.bitcast(builder.gep(target, [arguments[5]]), wide.as_pointer())
        builder.store(total, address, align=8)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(columns, whole, whole, types.float32, totals, whole), generate


_sum_block: Any = _sum_lanes
advance: Any = _advance
above: Any = _above
lower_and_sum: Any = _lower_and_sum
sum_lanes: Any = _sum_all
