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

from pipeline.compiled import BYTE, SMALL, WORD, generated, quick, splat

WORD_BITS = 64
SLACK = 64
"""Places that may be written beyond the end of a list."""
_PLACE = ir.IntType(16)


def _where(builder: Any, held: Any) -> Any:
    """A vector of i1 as one number of 64 bits."""
    return builder.zext(builder.bitcast(held, ir.IntType(held.type.count)), WORD)


def _reader(floats: bool, many: int) -> Any:
    """The intrinsic that reads `many` inputs at an address: (bits that are set, bits that are neither)."""
    row = ir.VectorType(ir.FloatType() if floats else BYTE, many)

    @generated
    def read(context, at):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            x = builder.load(builder.inttoptr(args[0], row.as_pointer()), align=4 if floats else 1)
            zero, one = ([1.0 * n] * many if floats else [n] * many for n in (0, 1))
            differs = builder.fcmp_unordered if floats else builder.icmp_unsigned
            there = differs("!=", x, ir.Constant(row, zero))
            wrong = builder.and_(there, differs("!=", x, ir.Constant(row, one)))
            return context.make_tuple(
                builder, signature.return_type, [_where(builder, b) for b in (there, wrong)]
            )

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
    """The intrinsic that writes the places of a word's set bits, plus `low`, to an address; `table`: never VBMI2."""
    found = [[k for k in range(8) if bits >> k & 1] for bits in range(256)]
    places = [each + [0] * (8 - len(each)) for each in found]

    @generated
    def put(context, word, low, to):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            word, low, to = args
            start = builder.trunc(low, _PLACE)

            def write(bytes_, at):  # type: ignore[no-untyped-def]
                wide = ir.VectorType(_PLACE, bytes_.type.count)
                value = builder.add(builder.zext(bytes_, wide), splat(builder, start, wide))
                builder.store(value, builder.inttoptr(at, wide.as_pointer()), align=2)

            if not table and "+avx512vbmi2" in str(context.codegen().magic_tuple()):
                row = ir.VectorType(BYTE, 64)
                mask = ir.VectorType(ir.IntType(1), 64)
                kind = ir.FunctionType(row, [row, row, mask])
                pack = builder.module.globals.get("llvm.x86.avx512.mask.compress.v64i8") or ir.Function(
                    builder.module, kind, "llvm.x86.avx512.mask.compress.v64i8"
                )
                order = ir.Constant(row, list(range(64)))
                packed = builder.call(pack, [order, ir.Constant(row, None), builder.bitcast(word, mask)])
                for part in range(2):
                    chosen = ir.Constant(ir.VectorType(SMALL, 32), [32 * part + k for k in range(32)])
                    half = builder.shuffle_vector(packed, packed, chosen)
                    write(half, builder.add(to, WORD(64 * part)))
                return context.get_dummy_value()
            eight = ir.VectorType(BYTE, 8)
            kind = ir.ArrayType(eight, 256)
            held = ir.GlobalVariable(builder.module, kind, builder.module.get_unique_name("places"))
            held.global_constant, held.linkage = True, "internal"
            held.initializer = ir.Constant(kind, [ir.Constant(eight, each) for each in places])
            for n in range(8):
                bits = builder.and_(builder.lshr(word, WORD(8 * n)), WORD(255))
                listed = builder.load(builder.gep(held, [WORD(0), bits]))
                write(builder.add(listed, ir.Constant(eight, [8 * n] * 8)), to)
                to = builder.add(to, builder.mul(builder.ctpop(bits), WORD(2)))
            return context.get_dummy_value()

        return types.void(types.uint64, types.int64, types.int64), generate

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
        put_places(now[i], WORD_BITS * i, to + 2 * found)
        found += ones(now[i])
    return found


@quick
def list_changes(now, before, less, places):  # type: ignore[no-untyped-def]
    """As `list_ones`, of the bits that are set now and were not before, and with `less` added of those that were."""
    found, to = 0, places.ctypes.data
    for i in range(now.shape[0]):
        gone, come = before[i] & ~now[i], now[i] & ~before[i]
        put_places(come, WORD_BITS * i, to + 2 * found)
        found += ones(come)
        put_places(gone, WORD_BITS * i + less, to + 2 * found)
        found += ones(gone)
    return found
