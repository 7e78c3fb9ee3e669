"""The neurons' update in the integer engine, sixteen at a time in vector registers.

numba multiplies and shifts int32 in 64 bits and leaves what does not fill a vector to a scalar loop; here the type is
the constants' own, and the last neurons are one more vector.
"""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from pipeline.compiled import BYTE, SMALL, WORD, called, generated, njit, quick, splat

LANES = 16
"""Neurons per vector; the arrays of their state have a multiple of it."""
BETA, SUBTRACTED, ZEROED, BAR, STEP_SUBTRACTED, STEP_ZEROED = range(6)
"""Rows of the constants of `fire`: BETA and, on the working grid, SUBTRACTED (the threshold where a delayed reset
subtracts), ZEROED (all bits where it sets to zero), BAR and STEP_SUBTRACTED on the membrane's grid,
STEP_ZEROED; the last two for resets in the same step. A reset that a layer does not have is a row of zeros."""


@quick
def padded(neurons):  # type: ignore[no-untyped-def]
    """`neurons` rounded up to whole vectors."""
    return (neurons + LANES - 1) // LANES * LANES


def _updater(alike: bool, whole: bool) -> Any:
    """The intrinsic for neurons that share their constants or have their own, for whole vectors or less than one."""

    @generated
    def update(context, current, u, constants, half, down, low, high, first, last, out):  # type: ignore[no-untyped-def]
        """Neurons [first, last): their u, and their spikes to out. Whole vectors, or less than one."""
        number = constants.dtype

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            kind = context.get_value_type(number)
            vector = ir.VectorType(kind, LANES)
            arrays = [context.make_array(signature.args[k])(context, builder, args[k]) for k in (0, 1, 2, 9)]
            driven, state, table, spikes = (array.data for array in arrays)
            period = builder.extract_value(arrays[2].shape, 1)

            def at(base, offset, kind_of=vector):  # type: ignore[no-untyped-def]
                return builder.bitcast(builder.gep(base, [offset]), kind_of.as_pointer())

            size = kind.width // 8
            rows = range(6)  # BETA to STEP_ZEROED
            shared = [
                splat(builder, builder.load(builder.gep(table, [builder.mul(period, WORD(row))])), vector)
                for row in (rows if alike else ())
            ]
            rounding, places, floor, ceiling = (splat(builder, value, vector) for value in args[3:7])
            one, before = ir.Constant(vector, [1] * LANES), builder.block
            loop, done = builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed("<", args[7], args[8]), loop, done)
            builder.position_at_end(loop)
            j = builder.phi(WORD)
            j.add_incoming(args[7], before)
            beta, subtracted, zeroed, bar, step_subtracted, step_zeroed = shared or [
                builder.load(at(table, builder.add(builder.mul(period, WORD(row)), j)), align=size)
                for row in rows
            ]
            old = builder.load(at(state, j), align=size)
            due = builder.sext(builder.icmp_signed(">", old, bar), vector)  # all bits, or none
            kept = builder.and_(old, builder.not_(builder.and_(due, zeroed)))
            v = builder.add(builder.mul(beta, kept), builder.load(at(driven, j), align=size))
            v = builder.add(builder.sub(v, builder.and_(due, subtracted)), rounding)
            v = builder.ashr(v, places)
            v = builder.select(builder.icmp_signed(">", v, floor), v, floor)
            v = builder.select(builder.icmp_signed("<", v, ceiling), v, ceiling)
            fired = builder.sext(builder.icmp_signed(">", v, bar), vector)
            bytes_ = builder.trunc(builder.and_(fired, one), ir.VectorType(BYTE, LANES))
            if whole:
                builder.store(bytes_, at(spikes, j, bytes_.type), align=1)
            else:
                lanes = ir.Constant(ir.VectorType(BYTE, LANES), list(range(LANES)))
                left = splat(builder, builder.trunc(builder.sub(args[8], j), BYTE), bytes_.type)
                there = builder.icmp_unsigned("<", lanes, left)
                place = at(spikes, j, bytes_.type)
                called(builder, "llvm.masked.store.v16i8.p0", ir.VoidType(), [bytes_, place, SMALL(1), there])
            v = builder.sub(v, builder.and_(fired, step_subtracted))
            v = builder.add(v, builder.and_(due, step_subtracted))
            v = builder.and_(v, builder.not_(builder.and_(fired, step_zeroed)))
            builder.store(v, at(state, j), align=size)
            after = builder.add(j, WORD(LANES))
            j.add_incoming(after, builder.block)
            builder.cbranch(builder.icmp_signed("<", after, args[8]), loop, done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        place = types.int64
        return types.void(current, u, constants, *(number,) * 4, place, place, out), generate

    return update


_alike, _alike_few, _each, _each_few = (
    _updater(alike, whole) for alike in (True, False) for whole in (True, False)
)


@quick
def fire(current, u, out, constants, half, down, low, high):  # type: ignore[no-untyped-def]
    """One step of all neurons: the update of `pipeline.export.program`, spikes into out [n] uint8.

    current and u [n rounded up to LANES]; constants [6, the same] or, where all neurons share theirs, [6, 1]. Sums wrap
    around: the caller's bounds say that they cannot.
    """
    n = out.shape[0]
    full = n // LANES * LANES
    if constants.shape[1] == 1:
        _alike(current, u, constants, half, down, low, high, 0, full, out)
        if full < n:
            _alike_few(current, u, constants, half, down, low, high, full, n, out)
    else:
        _each(current, u, constants, half, down, low, high, 0, full, out)
        if full < n:
            _each_few(current, u, constants, half, down, low, high, full, n, out)


@quick
def align(acc, lifts, biases, current):  # type: ignore[no-untyped-def]
    """current [at least n] = acc * lift + bias on the working grid, neuron j with entry j, or all with the only one."""
    number = current.dtype.type
    if lifts.shape[0] == 1:
        lift, bias = lifts[0], biases[0]
        for j in range(acc.shape[0]):
            current[j] = number(number(acc[j]) * lift) + bias
    else:
        for j in range(acc.shape[0]):
            current[j] = number(number(acc[j]) * lifts[j]) + biases[j]


@njit(cache=True, nogil=True)
def neurons_of(n, constants):  # type: ignore[no-untyped-def]
    """(u, current) of n neurons at rest, as `fire` takes them."""
    return np.zeros(padded(n), constants.dtype), np.zeros(padded(n), constants.dtype)
