"""What the compiled loops of several rooms are made of: events listed without a branch, rows added in vector registers.

numba's vectoriser keeps sums in memory and guesses at branches; these few pieces are generated for LLVM instead, which
splits the vectors on processors with shorter registers. Like `pipeline.types`, this module knows no room.
"""

# ruff: noqa: ARG001  (an intrinsic names what its caller passes; the code is generated from values)

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import caching
from numba.extending import intrinsic

njit = numba.njit
"""numba's own, here so that whoever compiles also has the rule below for what compiled code is made from."""
Compiled = TypeVar("Compiled", bound=Callable[..., Any])
generated: Any = intrinsic
"""numba's `intrinsic`; its own type says nothing of the caller's arguments."""
WORD, SMALL, BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def _made_from(function: FunctionType) -> str:
    """Digest of all that a function's machine code holds: its own file, and the files and constants it imports.

    numba looks at the function's own file alone (numba issue 1833): after an update, loops compiled before it went on
    with the old version of what they call from other files, and counted wrong without a word.
    """
    found, waiting = hashlib.sha256(), [function.__module__, __name__]
    for module in waiting:
        held = sys.modules[module]
        found.update(_bytes_of(held.__file__))
        for name, value in vars(held).items():
            if isinstance(value, np.ndarray):
                found.update(value.tobytes())
            elif isinstance(value, int | float | np.number):
                found.update(f"{name}={value!r}".encode())
            origin = getattr(value, "py_func", getattr(value, "_defn", None))
            there = value.__name__ if isinstance(value, ModuleType) else getattr(origin, "__module__", "")
            if there.split(".")[0] == __package__ and there not in waiting:
                waiting.append(there)
    return found.hexdigest()


@functools.cache
def _bytes_of(source: str | None) -> bytes:
    return Path(source).read_bytes() if source else b""


def _locator(place: Any) -> Any:
    """numba's rule for where compiled code lies, for functions of this package: good only while all of it is."""

    class Locator(place):  # type: ignore[misc]
        def __init__(self, py_func: FunctionType, py_file: str) -> None:
            super().__init__(py_func, py_file)
            self._made_from = _made_from(py_func)

        def get_source_stamp(self) -> str:
            return self._made_from

        @classmethod
        def from_function(cls, py_func: FunctionType, py_file: str) -> Any:
            ours = py_func.__module__.split(".")[0] == __package__
            return super().from_function(py_func, py_file) if ours else None

    return Locator


caching.CacheImpl._locator_classes[:0] = [
    _locator(place)
    for place in (caching.UserProvidedCacheLocator, caching.InTreeCacheLocator, caching.UserWideCacheLocator)
]


def quick(function: Compiled) -> Compiled:
    """njit for functions that allocate nothing: it does not count references to every array they touch, which costs
    an atomic operation each and took longer than the learning itself."""
    return cast(Compiled, njit(cache=True, nogil=True, _nrt=False)(function))  # type: ignore[call-overload]


@quick
def mixed(z):  # type: ignore[no-untyped-def]
    """Output function of splitmix64 (Steele, Lea and Flood 2014): neighbouring uint64 become unrelated ones."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


STRIDE = np.uint64(0x9E3779B97F4A7C15)
"""What splitmix64 adds to its state before each number."""


@quick
def random_bits(rng):  # type: ignore[no-untyped-def]
    """The next 53 random bits of splitmix64; rng [1] uint64 is advanced."""
    rng[0] += STRIDE
    return mixed(rng[0]) >> np.uint64(11)


def splat(builder: Any, value: Any, vector: Any) -> Any:
    """`value` in every lane of an LLVM vector."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, SMALL(0))
    lanes = ir.Constant(ir.VectorType(SMALL, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def called(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """What an intrinsic of LLVM gives, an instruction of the processor mostly."""
    kind = ir.FunctionType(result, [each.type for each in arguments])
    held = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(held, arguments)


def has(context: Any, *features: str) -> bool:
    """Whether the processor that code is made for has these instructions."""
    return all(f"+{each}," in f"{context.codegen().magic_tuple()[2]}," for each in features)


def _pair_sum(builder: Any, first: Any, second: Any) -> list[Any]:
    """first + second, 64 int8 each, as two vectors of 32 int16: of every 16 numbers the lower eight, and the others.

    One instruction widens and adds what another has interleaved, where widening each takes two.
    """
    bytes_, wide = ir.VectorType(BYTE, 64), ir.VectorType(ir.IntType(16), 32)
    ones = ir.Constant(bytes_, [1] * 64)
    sums = []
    for half in (0, 8):
        order = [16 * lane + half + k + 64 * side for lane in range(4) for k in range(8) for side in (0, 1)]
        mixed_ = builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(SMALL, 64), order))
        sums.append(called(builder, "llvm.x86.avx512.pmaddubs.w.512", wide, [ones, mixed_]))
    return sums


def _in_order(builder: Any, lower: Any, upper: Any) -> list[Any]:
    """Sums of `_pair_sum` as they belong: 64 numbers in two vectors."""
    places = [16 * lane + half + k for half in (0, 8) for lane in range(4) for k in range(8)]
    order = [places.index(n) for n in range(64)]
    lanes = ir.VectorType(SMALL, 32)
    return [builder.shuffle_vector(lower, upper, ir.Constant(lanes, order[at : at + 32])) for at in (0, 32)]


def adder(lanes: int, parts: int, floats: bool, place: int = 8) -> Any:
    """The intrinsic that adds rows of lanes * parts numbers, float32 to float32 or int8 to int16.

    place: bits of a place in the list of rows, 8 or 16.
    """
    narrow = ir.FloatType() if floats else BYTE
    small, wide = ir.VectorType(narrow, lanes), ir.VectorType(narrow if floats else ir.IntType(16), lanes)
    sparing = 4 if floats else 2  # what sums are aligned to

    @generated
    def add(context, source, places, count, begin, target):  # type: ignore[no-untyped-def]
        """target = begin + sum of source[places[e]] over e < count; all are addresses, count is even.

        Two events at a time, each with its own sums: an addition need not wait for the one before it.
        """

        def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
            source, places, count, begin, target = args
            rows = builder.inttoptr(source, small.as_pointer())
            first, to = (builder.inttoptr(at, wide.as_pointer()) for at in (begin, target))
            listed = builder.inttoptr(places, ir.IntType(place).as_pointer())
            plus = builder.fadd if floats else builder.add
            paired = not floats and lanes == 32 and parts % 2 == 0 and has(context, "avx512bw")

            def row(e, kind, many):  # type: ignore[no-untyped-def]
                index = builder.zext(builder.load(builder.gep(listed, [e])), WORD)
                start = builder.bitcast(
                    builder.gep(rows, [builder.mul(index, WORD(parts))]), kind.as_pointer()
                )
                return [
                    builder.load(builder.gep(start, [WORD(k)]), align=4 if floats else 1) for k in range(many)
                ]

            def terms(at):  # type: ignore[no-untyped-def]
                """What two events add to each of the sums."""
                both = at, builder.add(at, WORD(1))
                if paired:
                    two = [row(e, ir.VectorType(BYTE, 64), parts // 2) for e in both]
                    return [half for pair in zip(*two, strict=True) for half in _pair_sum(builder, *pair)]
                loads = [each for e in both for each in row(e, small, parts)]
                return loads if floats else [builder.sext(each, wide) for each in loads]

            starts = [builder.load(builder.gep(first, [WORD(k)]), align=sparing) for k in range(parts)]
            nothing = [ir.Constant(wide, None)] * parts
            sums = nothing if paired else starts + nothing
            before = builder.block
            loop, done = builder.append_basic_block(), builder.append_basic_block()
            builder.cbranch(builder.icmp_signed(">", count, WORD(0)), loop, done)
            builder.position_at_end(loop)
            at = builder.phi(WORD)
            held = [builder.phi(wide) for _ in sums]
            added = [plus(phi, term) for phi, term in zip(held, terms(at), strict=True)]
            after = builder.add(at, WORD(2))
            at.add_incoming(WORD(0), before)
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
            if paired:
                ordered = [_in_order(builder, *totals[k : k + 2]) for k in range(0, parts, 2)]
                totals = starts + [each for pair in ordered for each in pair]
            for k in range(parts):
                total = plus(totals[k], totals[parts + k])
                builder.store(total, builder.gep(to, [WORD(k)]), align=sparing)
            return context.get_dummy_value()

        return types.void(*(types.int64,) * 5), generate

    return add


@generated
def _ones(context, at):  # type: ignore[no-untyped-def]
    """Of the eight float32 at an address: bit k is set where number k is not 0, bit 8 + k where it is also not 1."""
    row = ir.VectorType(ir.FloatType(), 8)

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        x = builder.load(builder.inttoptr(args[0], row.as_pointer()), align=4)
        there = builder.fcmp_unordered("!=", x, ir.Constant(row, [0.0] * 8))
        other = builder.and_(there, builder.fcmp_unordered("!=", x, ir.Constant(row, [1.0] * 8)))
        low, high = (builder.zext(builder.bitcast(bits, BYTE), WORD) for bits in (there, other))
        return builder.or_(low, builder.shl(high, WORD(8)))

    return types.int64(types.int64), generate


@generated
def _write(context, at, eight):  # type: ignore[no-untyped-def]
    """Eight bytes to any address."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        builder.store(args[1], builder.inttoptr(args[0], WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), generate


@generated
def fetch(context, at):  # type: ignore[no-untyped-def]
    """Ask for the memory at an address, any address, before it is needed."""

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        at = builder.inttoptr(args[0], BYTE.as_pointer())
        builder.call(
            builder.module.declare_intrinsic(
                "llvm.prefetch", [at.type], ir.FunctionType(ir.VoidType(), [at.type] + [SMALL] * 3)
            ),
            [at, *(SMALL(number) for number in (0, 3, 1))],  # to read, keep close, data
        )
        return context.get_dummy_value()

    return types.void(types.int64), generate


_SET = [[k for k in range(8) if bits >> k & 1] for bits in range(256)]
_FOUND = np.array([sum(k << 8 * n for n, k in enumerate(places)) for places in _SET], np.uint64)
"""The set bits of a byte, from the lowest, as bytes of one number."""
_COUNT = np.array([len(places) for places in _SET], np.int64)
_EACH = np.uint64(0x0101010101010101)


@quick
def list_floats(here, many, ahead, to):  # type: ignore[no-untyped-def]
    """Places of the ones among the float32 at address `here`, as bytes from address `to` on; (how many, wrong).

    many: a multiple of eight, at most 248. Up to eight bytes more than the places are written. Eight numbers at a
    time and without a branch, which a processor would guess wrong at every event. wrong: not 0 where a number is
    neither 0 nor 1. What is read next lies `ahead` bytes on: rows of float32 are long, and waiting for them would take
    most of the time.
    """
    count, wrong = 0, 0
    for i in range(0, many, 8):
        if i % 16 == 0:
            fetch(here + ahead + 4 * i)
        bits = _ones(here + 4 * i)
        wrong |= bits >> 8
        bits &= 255
        _write(to + count, _FOUND[bits] + np.uint64(i) * _EACH)
        count += _COUNT[bits]
    return count, wrong
