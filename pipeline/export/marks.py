"""Rows of zeros and ones as words of 64 bits, and bits as lists of their places.

Read once and without a branch, a row can be compared with the one before it: where little changed from step to step,
only what changed has to be added and subtracted. Places are uint16. Processors with AVX-512 VBMI2 make a list of 64
inputs by one instruction; others look eight of them up in a table.
"""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from pipeline.compiled import BYTE, SMALL, WORD, called, generated, has, quick, splat

WORD_BITS = 64
SLACK = 64
"""Places that may be written beyond the end of a list."""
_PLACE = ir.IntType(16)


def _number(builder: Any, held: Any) -> Any:
    """A vector of i1 as one number of 64 bits."""
    return builder.zext(builder.bitcast(held, ir.IntType(held.type.count)), WORD)


def _reader(floats: bool, many: int) -> Any:
    """The intrinsic that reads `many` inputs at an address: (bits that are set, not 0 where one is neither)."""
    lanes = min(many, 16 if floats else 64)
    row = ir.VectorType(SMALL if floats else BYTE, lanes)
    one = 0x3F800000 if floats else 1  # 1.0 as it lies in memory

    @generated
    def read(context, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            start = builder.inttoptr(args[0], row.as_pointer())
            nothing, wanted = ir.Constant(row, None), ir.Constant(row, [one] * lanes)
            # A sign bit alone is zero, too.
            kept = ir.Constant(row, [0x7FFFFFFF if floats else 255] * lanes)
            bits, odd = ir.Constant(WORD, 0), nothing
            for part in range(many // lanes):
                x = builder.load(builder.gep(start, [WORD(part)]), align=4 if floats else 1)
                there = builder.icmp_unsigned("!=", builder.and_(x, kept), nothing)
                bits = builder.or_(bits, builder.shl(_number(builder, there), WORD(lanes * part)))
                odd = builder.select(there, builder.or_(odd, builder.xor(x, wanted)), odd)
            wrong = _number(builder, builder.icmp_unsigned("!=", odd, nothing))
            return context.make_tuple(builder, signature.return_type, [bits, wrong])

        return types.UniTuple(types.uint64, 2)(types.int64), generate

    return read


_floats_64, _floats_8, _bytes_64, _bytes_8 = (_reader(floats, n) for floats in (True, False) for n in (64, 8))


@generated
def ones(context, word):  # type: ignore[no-untyped-def]
    """How many bits of a uint64 are set."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


def _lister(table: bool) -> Any:
    """The intrinsic that writes the places of a word's set bits to an address; `table`: never by VBMI2.

    To each place `low` is added, and where the bit is set in `gone`, `less`.
    """
    found = [[k for k in range(8) if bits >> k & 1] for bits in range(256)]
    places = [each + [0] * (8 - len(each)) for each in found]

    @generated
    def put(context, word, gone, low, less, to):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            word, gone, low, less, to = args

            def write(listed, marked, at):  # type: ignore[no-untyped-def]
                """Places as bytes, which of them are gone as the lowest bits of a number."""
                count = listed.type.count
                wide, flags = ir.VectorType(_PLACE, count), ir.VectorType(ir.IntType(1), count)
                value = builder.add(
                    builder.zext(listed, wide), splat(builder, builder.trunc(low, _PLACE), wide)
                )
                marked = builder.bitcast(builder.trunc(marked, ir.IntType(count)), flags)
                more = builder.add(value, splat(builder, builder.trunc(less, _PLACE), wide))
                chosen = builder.select(marked, more, value)
                builder.store(chosen, builder.inttoptr(at, wide.as_pointer()), align=2)

            if not table and has(context, "avx512vbmi2", "bmi2"):
                row, mask = ir.VectorType(BYTE, 64), ir.VectorType(ir.IntType(1), 64)
                order = [
                    ir.Constant(row, list(range(64))),
                    ir.Constant(row, None),
                    builder.bitcast(word, mask),
                ]
                packed = called(builder, "llvm.x86.avx512.mask.compress.v64i8", row, order)
                marked = called(builder, "llvm.x86.bmi.pext.64", WORD, [gone, word])
                halves = [
                    builder.shuffle_vector(packed, packed, ir.Constant(ir.VectorType(SMALL, 32), lanes))
                    for lanes in (list(range(32)), list(range(32, 64)))
                ]
                write(halves[0], marked, to)
                with builder.if_then(builder.icmp_unsigned(">", builder.ctpop(word), WORD(32)), likely=False):
                    write(halves[1], builder.lshr(marked, WORD(32)), builder.add(to, WORD(64)))
                return context.get_dummy_value()
            eight = ir.VectorType(BYTE, 8)
            kind = ir.ArrayType(eight, 256)
            held = ir.GlobalVariable(builder.module, kind, builder.module.get_unique_name("places"))
            held.global_constant, held.linkage = True, "internal"
            held.initializer = ir.Constant(kind, [ir.Constant(eight, each) for each in places])
            for sign, offset in ((builder.not_(gone), WORD(0)), (gone, less)):
                chosen = builder.and_(word, sign)
                for n in range(8):
                    bits = builder.and_(builder.lshr(chosen, WORD(8 * n)), WORD(255))
                    listed = builder.add(
                        builder.load(builder.gep(held, [WORD(0), bits])), ir.Constant(eight, [8 * n] * 8)
                    )
                    all_ = builder.select(builder.icmp_unsigned("==", offset, WORD(0)), WORD(0), WORD(255))
                    write(listed, all_, to)
                    to = builder.add(to, builder.mul(builder.ctpop(bits), WORD(2)))
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64, types.int64, types.int64, types.int64), generate

    return put


put_places, put_places_by_table = _lister(False), _lister(True)


@quick
def mark(here, inputs, size, words):  # type: ignore[no-untyped-def]
    """Inputs at address `here`, float32 (size 4) or bytes (1), into words [ceil(inputs / 64)]; 0 if all are 0 or 1.

    inputs: a multiple of eight.
    """
    wrong = np.uint64(0)
    whole = inputs // WORD_BITS
    for i in range(whole):
        if size == 4:
            words[i], odd = _floats_64(here + 256 * i)
        else:
            words[i], odd = _bytes_64(here + 64 * i)
        wrong |= odd
    if inputs % WORD_BITS:
        last = np.uint64(0)
        for i in range(WORD_BITS * whole, inputs, 8):
            bits, odd = _floats_8(here + 4 * i) if size == 4 else _bytes_8(here + i)
            last |= bits << np.uint64(i % WORD_BITS)
            wrong |= odd
        words[whole] = last
    return wrong


@quick
def count(now, before):  # type: ignore[no-untyped-def]
    """(bits of `now`, bits in which it differs from `before`), both [words] uint64."""
    there, changed = 0, 0
    for i in range(now.shape[0]):
        there += ones(now[i])
        changed += ones(now[i] ^ before[i])
    return there, changed


@quick
def list_ones(now, places):  # type: ignore[no-untyped-def]
    """Places of the set bits of now [words] into places uint16, which has SLACK more; how many they are."""
    found, to = 0, places.ctypes.data
    for i in range(now.shape[0]):
        put_places(now[i], np.uint64(0), WORD_BITS * i, 0, to + 2 * found)
        found += ones(now[i])
    return found


@quick
def list_changes(now, before, less, places):  # type: ignore[no-untyped-def]
    """As `list_ones`, of the bits that are set now and were not before, and with `less` added of those that were."""
    found, to = 0, places.ctypes.data
    for i in range(now.shape[0]):
        changed = now[i] ^ before[i]
        put_places(changed, before[i], WORD_BITS * i, less, to + 2 * found)
        found += ones(changed)
    return found
