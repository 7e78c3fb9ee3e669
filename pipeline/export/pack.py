"""Tensors as bits: every weight at its own width, zeros left out by the encodings of the cost model.

Bits run from the lowest of the first byte upwards; codes are two's complement, float32 is its own bit pattern. A
tensor has `rows` filters of ``size / rows`` entries. Its streams, one behind the other:

    dense     every value
    bitmask   one bit per entry; nonzero values
    rle       zeros before each stored value (`run_bits` each), the values; a run too long stores a zero value
    cp        values per row, column of each, nonzero values
    uop       offset of each row and the end, column of each, nonzero values

Lengths are those of `pipeline.hardware.encoding.store`, bit for bit.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from pipeline.types import DataError

Encoding = Literal["dense", "bitmask", "rle", "cp", "uop"]
ENCODINGS: tuple[Encoding, ...] = ("dense", "bitmask", "rle", "cp", "uop")
MAX_RUN_BITS = 16


def index_bits(things: int) -> int:
    """Bits to tell `things` apart."""
    return max(0, math.ceil(math.log2(things))) if things > 1 else 0


def to_bits(codes: np.ndarray, width: int) -> np.ndarray:
    """int64 [n] -> uint8 [n * width] of 0 and 1, lowest bit first."""
    shifts = np.arange(width, dtype=np.uint64)
    return (
        ((codes.astype(np.int64).view(np.uint64)[:, None] >> shifts) & np.uint64(1)).astype(np.uint8).ravel()
    )


def from_bits(bits: np.ndarray, width: int, signed: bool) -> np.ndarray:
    """uint8 [n * width] of 0 and 1 -> int64 [n]."""
    if width == 0:
        return np.zeros(0, np.int64)
    powers = np.int64(1) << np.arange(width, dtype=np.int64)
    if signed:
        powers[-1] = -powers[-1]
    return bits.reshape(-1, width).astype(np.int64) @ powers


class Writer:
    """Streams put one behind the other without any gap."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.bits = 0

    def put(self, bits: np.ndarray) -> tuple[int, int]:
        """Append; returns (offset, length) in bits."""
        self.parts.append(bits)
        at, self.bits = self.bits, self.bits + len(bits)
        return at, len(bits)

    def bytes(self) -> bytes:
        """Everything, the last byte filled up with zeros."""
        whole = np.concatenate(self.parts) if self.parts else np.zeros(0, np.uint8)
        return np.packbits(whole, bitorder="little").tobytes()


class Reader:
    """Bits of one stream, front to back, never beyond its end."""

    def __init__(self, bits: np.ndarray) -> None:
        self.left = bits

    def take(self, count: int, width: int, signed: bool = False) -> np.ndarray:
        """The next `count` numbers.

        Raises:
            DataError: there are fewer.
        """
        if count < 0 or count * width > len(self.left):
            raise DataError(f"a stream of {len(self.left)} bits cannot hold {count} numbers of {width} bits")
        if width == 0:
            return np.zeros(count, np.int64)
        taken, self.left = self.left[: count * width], self.left[count * width :]
        return from_bits(taken, width, signed)


def best_run_bits(codes: np.ndarray, width: int) -> int:
    """The run width that stores the tensor smallest (the narrower one where two are equal)."""
    return min(range(1, MAX_RUN_BITS + 1), key=lambda run: _entries(codes, run) * (width + run))


def _entries(codes: np.ndarray, run_bits: int) -> int:
    places = np.flatnonzero(codes)
    gaps = np.diff(places, prepend=-1) - 1
    return len(places) + int((gaps >> run_bits).sum())


def encode(
    encoding: Encoding, codes: np.ndarray, rows: int, width: int, run_bits: int = 0
) -> tuple[np.ndarray, int]:
    """int64 [size] -> (its bits, stored entries)."""
    if encoding == "dense":
        return to_bits(codes, width), len(codes)
    places = np.flatnonzero(codes)
    values = to_bits(codes[places], width)
    if encoding == "bitmask":
        return np.concatenate([(codes != 0).astype(np.uint8), values]), len(places)
    if encoding == "rle":
        runs, held = _runs(codes, run_bits)
        return np.concatenate([to_bits(runs, run_bits), to_bits(held, width)]), len(held)
    row = len(codes) // rows
    columns = to_bits(places % row if row else places, index_bits(row))
    counts = np.bincount(places // row if row else places, minlength=rows)
    if encoding == "cp":
        return np.concatenate([to_bits(counts, index_bits(row + 1)), columns, values]), len(places)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return np.concatenate([to_bits(offsets, index_bits(len(places) + 1)), columns, values]), len(places)


def _runs(codes: np.ndarray, run_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """(zeros before, value) of every stored entry; 2^run_bits zeros too many take an entry with the value 0."""
    places = np.flatnonzero(codes)
    gaps = np.diff(places, prepend=-1) - 1
    fills = gaps >> run_bits
    last = np.cumsum(fills + 1) - 1
    runs = np.full(int((fills + 1).sum()), (1 << run_bits) - 1, np.int64)
    held = np.zeros(len(runs), np.int64)
    runs[last], held[last] = gaps & ((1 << run_bits) - 1), codes[places]
    return runs, held


def decode(
    encoding: Encoding,
    bits: np.ndarray,
    size: int,
    rows: int,
    width: int,
    entries: int,
    run_bits: int = 0,
    signed: bool = True,
) -> np.ndarray:
    """The inverse of `encode`: int64 [size]; `signed`: the values are two's complement.

    Raises:
        DataError: the stream has another length, or names a place that is not there.
    """
    if rows < 1 or size % rows or not 0 <= entries <= size:
        raise DataError(f"{entries} entries in {rows} rows cannot be a tensor of {size}")
    reader = Reader(bits)
    out = np.zeros(size, np.int64)
    if encoding == "dense":
        out[:] = reader.take(size, width, signed)
    else:
        places = _places(encoding, reader, size, rows, entries, run_bits)
        out[places] = reader.take(entries, width, signed)
    if len(reader.left):
        raise DataError(f"{len(reader.left)} bits are left over after the tensor")
    return out


def _places(
    encoding: Encoding, reader: Reader, size: int, rows: int, entries: int, run_bits: int
) -> np.ndarray:
    """Where the stored values go, strictly increasing."""
    row = size // rows
    if encoding == "bitmask":
        places = np.flatnonzero(reader.take(size, 1))
    elif encoding == "rle":
        places = np.cumsum(reader.take(entries, run_bits) + 1) - 1
    else:
        if encoding == "cp":
            counts = reader.take(rows, index_bits(row + 1))
        else:
            offsets = reader.take(rows + 1, index_bits(entries + 1))
            if offsets[0]:
                raise DataError("the first row does not begin at 0")
            counts = np.diff(offsets)
        if counts.min(initial=0) < 0 or counts.sum() != entries:
            raise DataError("the rows' numbers of values do not add up")
        columns = reader.take(entries, index_bits(row))
        if columns.max(initial=0) >= max(row, 1):
            raise DataError("a value lies beyond the end of its row")
        places = np.repeat(np.arange(rows), counts) * row + columns
    if len(places) != entries or (entries and (places[-1] >= size or (np.diff(places) <= 0).any())):
        raise DataError("values lie beyond the tensor, or in no order")
    return places
