"""How many bits a tensor with zeros takes: dense, bitmask, run-length, coordinates, offset pairs.

Each encoding stores some values and some metadata, says whether a machine that reads it can skip the zeros (save
their time) or only gate them (save their energy), and is exact when the runs of zeros are known. Names and meaning
follow Sparseloop (Wu et al., MICRO 2022, table 2); the bit counts are ours, from what must be stored to decode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pipeline.hardware.workload import Runs

EncodingName = Literal["dense", "bitmask", "rle", "cp", "uop", "smallest"]
FORMATS: tuple[EncodingName, ...] = ("dense", "bitmask", "rle", "cp", "uop")
ENCODINGS: tuple[EncodingName, ...] = (*FORMATS, "smallest")
MAX_RUN_BITS = 16


@dataclass(frozen=True)
class Stored:
    """One tensor in memory."""

    value_bits: float
    metadata_bits: float
    entries: float
    """Values stored, with the padding zeros that over-long runs need."""
    entry_bits: float = 0.0
    """Bits of one value and of the metadata that sits beside it."""
    encoding: EncodingName = "dense"
    """The format it is in."""

    @property
    def bits(self) -> float:
        return self.value_bits + self.metadata_bits

    @property
    def beside_bits(self) -> float:
        """Metadata inside the entries, each beside its value."""
        return max(self.entries * self.entry_bits - self.value_bits, 0.0)

    @property
    def apart_bits(self) -> float:
        """Metadata in a stream of its own: bitmasks, row offsets."""
        return max(self.metadata_bits - self.beside_bits, 0.0)


def skips(encoding: EncodingName) -> bool:
    """Whether zeros cost no time: run lengths and coordinates name the next nonzero; a bitmask must be scanned, and
    so must what may be in any format."""
    return encoding in ("rle", "cp", "uop")


def drops_zeros(encoding: EncodingName) -> bool:
    """Whether zeros are left out of memory."""
    return encoding != "dense"


def index_bits(values: float) -> int:
    """Bits to tell `values` things apart (0 for one thing)."""
    return max(0, math.ceil(math.log2(values))) if values > 1 else 0


def padding(nonzero: float, size: float, run_bits: int, runs: Runs) -> float:
    """Zero entries stored because a run is longer than the field can say.

    A field of r bits says 0 .. 2^r - 1 zeros before a value; each 2^r zeros more take one stored zero. Exact from
    `runs`; without them the zeros are independent with the tensor's density, and the expectation is the geometric
    sum q^m / (1 - q^m) per nonzero, m = 2^r, q = 1 - nonzero / size, never more than the zeros there are.
    """
    if nonzero <= 0 or size <= nonzero:
        return 0.0
    reach = 2**run_bits
    if runs:
        return float(sum(count * (length // reach) for length, count in runs))
    miss = (1.0 - nonzero / size) ** reach
    return min(nonzero * miss / (1.0 - miss), (size - nonzero) / reach)


@lru_cache(maxsize=65536)
def store(
    encoding: EncodingName,
    size: int,
    nonzero: float,
    fibers: int,
    bits: int,
    run_bits: int | None = None,
    runs: Runs = (),
) -> Stored:
    """Bits of a tensor of `size` entries in `fibers` rows (filters), `nonzero` of them not zero, `bits` a value.

    - dense: every value; no metadata.
    - bitmask: nonzero values; one bit per entry.
    - rle: (zeros before, value) pairs, padded where a run is too long; `run_bits` per pair, or, when None, the
      width that stores this tensor smallest (one width per tensor, known to the encoder).
    - cp (coordinate-payload): nonzero values, each with its place in its row, and for each row its number of values.
    - uop (uncompressed offset pairs over coordinates, CSR): as cp, but rows + 1 offsets into the values, so that a
      row can be found without walking the ones before it.
    - smallest: whichever of these takes least, chosen for each tensor when the network is laid out.
    """
    if size == 0:
        return Stored(0.0, 0.0, 0.0)
    if encoding == "smallest":
        every = (store(format_, size, nonzero, fibers, bits, run_bits, runs) for format_ in FORMATS)
        return min(every, key=lambda stored: stored.bits)
    row = size / fibers
    if encoding == "dense":
        return Stored(float(size * bits), 0.0, float(size), bits, "dense")
    if encoding == "bitmask":
        return Stored(nonzero * bits, float(size), nonzero, bits, "bitmask")
    if encoding in ("cp", "uop"):
        place = index_bits(row)
        rows = fibers * index_bits(row + 1) if encoding == "cp" else (fibers + 1) * index_bits(nonzero + 1)
        return Stored(nonzero * bits, nonzero * place + rows, nonzero, bits + place, encoding)
    if encoding != "rle":
        raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, but got {encoding!r}.")
    widths = range(1, MAX_RUN_BITS + 1) if run_bits is None else (run_bits,)

    def run_length(width: int) -> Stored:
        entries = nonzero + padding(nonzero, size, width, runs)
        return Stored(entries * bits, entries * width, entries, bits + width, "rle")

    return min((run_length(width) for width in widths), key=lambda stored: stored.bits)
