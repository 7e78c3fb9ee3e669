"""A machine as numbers: memories, arithmetic, how it processes, where tensors live. No behaviour beyond lookups.

Every YAML in conf/accelerator is one call of `Accelerator`; each constant there names its source, unit and node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

from pipeline.hardware.encoding import ENCODINGS, EncodingName, drops_zeros, skips
from pipeline.types import FLOAT_BITS, require

Place = Literal["dram", "buffer"]
Processing = Literal["event", "frame", "measured"]
Dataflow = Literal["row_stationary", "output_stationary", "weight_stationary", "input_stationary"]
DATAFLOWS: tuple[Dataflow, ...] = (
    "row_stationary",
    "output_stationary",
    "weight_stationary",
    "input_stationary",
)


@dataclass(frozen=True)
class Memory:
    """One level of memory; energies are for one access to one word, at the node of the accelerator."""

    word_bits: int
    read_pj: float
    write_pj: float
    capacity_kib: float | None = None
    """Of one instance; None: as large as needed."""
    instances: int = 1
    bits_per_cycle: float = 64.0
    """Bandwidth of all instances together, reads and writes sharing it."""
    leakage_uw: float = 0.0
    """Of all instances together."""
    straddles: bool = True
    """Whether an entry may begin in one word and end in the next; if not, the rest of a word stays empty."""
    sizes: tuple[tuple[float, float], ...] = ()
    """((KiB, pJ per word), ...): where given, every tensor has a memory of its own, as large as itself, and its energy
    lies on the lines through these points."""

    def __post_init__(self) -> None:
        require(self.word_bits >= 1, "word_bits", "be >= 1", self.word_bits)
        require(self.read_pj >= 0, "read_pj", "be >= 0", self.read_pj)
        require(self.write_pj >= 0, "write_pj", "be >= 0", self.write_pj)
        require(
            self.capacity_kib is None or self.capacity_kib > 0, "capacity_kib", "be > 0", self.capacity_kib
        )
        require(self.instances >= 1, "instances", "be >= 1", self.instances)
        require(self.bits_per_cycle > 0, "bits_per_cycle", "be > 0", self.bits_per_cycle)
        require(self.leakage_uw >= 0, "leakage_uw", "be >= 0", self.leakage_uw)

    @property
    def capacity_bits(self) -> float:
        """Of all instances together."""
        return float("inf") if self.capacity_kib is None else self.capacity_kib * 8192 * self.instances

    @property
    def words(self) -> int:
        """Words of one instance (1 where the capacity is left open)."""
        return int((self.capacity_kib or 0.0) * 8192 / self.word_bits) or 1

    def spread(self, entry_bits: float) -> float:
        """Bits of memory per bit of entry: 1 when entries may straddle words, more when they may not.

        64-bit words and 13-bit entries: 4 in a word, 64 / (4 x 13) = 1.23.
        """
        if self.straddles or entry_bits <= 0:
            return 1.0
        if entry_bits > self.word_bits:
            return math.ceil(entry_bits / self.word_bits) * self.word_bits / entry_bits
        return self.word_bits / (int(self.word_bits / entry_bits) * entry_bits)

    def scale(self, held_bits: float) -> float:
        """Factor on the energies of a memory that is as large as what it holds (1.0 without `sizes`)."""
        if not self.sizes:
            return 1.0
        return interpolate(held_bits / 8192, self.sizes) / self.read_pj


def interpolate(x: float, points: tuple[tuple[float, float], ...]) -> float:
    """Straight lines between sourced points; the first and last are extended (never below zero)."""
    if len(points) == 1:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1 or (x1, y1) == points[-1]:
            return max(0.0, y0 + (x - x0) * (y1 - y0) / (x1 - x0))
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Arithmetic:
    """Energies of one operation.

    Law over width (stated, and held by the sourced points within 20 %): an adder is a row of full adders, so its
    energy is linear in the width; a multiplier is an array of them, so its energy is linear in the product of its
    two widths. Between 8 and 32 bits on the line through both sourced points, below 8 bits on the line through
    the 8-bit point and zero. 32 bits mean float32: nothing that was quantized has 32.
    """

    add_int8_pj: float = 0.03
    add_int32_pj: float = 0.1
    multiply_int8_pj: float = 0.2
    multiply_int32_pj: float = 3.1
    add_fp32_pj: float = 0.9
    multiply_fp32_pj: float = 3.7
    gated_share: float = 0.03
    """Energy of an operation whose clock is gated, as a share of the operation."""

    def __post_init__(self) -> None:
        for item in fields(self):
            require(getattr(self, item.name) >= 0, item.name, "be >= 0", getattr(self, item.name))
        require(self.add_int32_pj >= self.add_int8_pj, "add_int32_pj", "be >= add_int8_pj", self.add_int32_pj)
        require(0 <= self.gated_share <= 1, "gated_share", "be in [0, 1]", self.gated_share)

    def add_pj(self, bits: int) -> float:
        """One addition (or comparison) of two `bits`-wide numbers."""
        if bits >= FLOAT_BITS:
            return self.add_fp32_pj
        return interpolate(bits, ((0, 0.0), (8, self.add_int8_pj), (32, self.add_int32_pj)))

    def multiply_pj(self, a_bits: int, b_bits: int) -> float:
        """One multiplication, `a_bits` times `b_bits`."""
        if a_bits >= FLOAT_BITS or b_bits >= FLOAT_BITS:
            return self.multiply_fp32_pj
        return interpolate(
            a_bits * b_bits, ((0, 0.0), (64, self.multiply_int8_pj), (1024, self.multiply_int32_pj))
        )


@dataclass(frozen=True)
class Operations:
    """Energies and times of whole operations as measured on a chip, memory accesses included."""

    synop_pj: float
    synop_ns: float
    update_pj: float
    """One neuron, one time step."""
    update_ns: float
    spike_pj: float
    """Bringing one spike to the core it goes to."""
    learn_pj: float
    """One weight update."""
    learn_ns: float
    step_ns: float
    """Synchronising all cores at the end of a time step."""
    neurons_per_core: int
    synapse_kib_per_core: float = float("inf")
    """What the weights of one core may take."""

    def __post_init__(self) -> None:
        for item in fields(self):
            require(getattr(self, item.name) >= 0, item.name, "be >= 0", getattr(self, item.name))
        require(self.neurons_per_core >= 1, "neurons_per_core", "be >= 1", self.neurons_per_core)


@dataclass(frozen=True)
class Area:
    """Silicon, as far as there are sources; wires, control and pads are left out."""

    sram_um2_per_bit: float
    """A bit cell divided by the array efficiency."""
    add_int8_um2: float
    add_int32_um2: float
    multiply_int8_um2: float
    multiply_int32_um2: float

    def __post_init__(self) -> None:
        for item in fields(self):
            require(getattr(self, item.name) >= 0, item.name, "be >= 0", getattr(self, item.name))

    def lane_um2(self, add_bits: int, a_bits: int, b_bits: int, multiplies: bool) -> float:
        """One adder, and one multiplier where inputs are counts; the laws over width are those of `Arithmetic`."""
        area = interpolate(add_bits, ((0, 0.0), (8, self.add_int8_um2), (32, self.add_int32_um2)))
        points = ((0, 0.0), (64, self.multiply_int8_um2), (1024, self.multiply_int32_um2))
        return area + (interpolate(a_bits * b_bits, points) if multiplies else 0.0)


@dataclass(frozen=True)
class Accelerator:
    """A machine that runs a spiking network layer by layer."""

    name: str
    node_nm: float
    clock_mhz: float
    processing: Processing
    """event: work follows spikes, no weight is reused between them. frame: every time step is a dense pass, tiles
    of weights and maps move through the memories, zeros are skipped or gated. measured: as event, but priced by whole
    operations (`operations`) instead of memory accesses and additions."""
    arithmetic: Arithmetic
    buffer: Memory
    """On-chip memory shared by the processing elements."""
    dram: Memory | None = None
    """Off-chip memory; None: what does not fit on the chip does not fit at all, and the cost says so."""
    weight_pad: Memory | None = None
    """Scratch pad of one processing element (frame only)."""
    input_pad: Memory | None = None
    psum_pad: Memory | None = None
    pe_rows: int = 1
    pe_columns: int = 1
    dataflow: Dataflow = "output_stationary"
    time_batch: int = 1
    """Time steps that a tile of weights serves before it is given up (frame only)."""
    weights_home: Place = "buffer"
    """Where weights live between two uses, if they fit; what does not fit in the buffer lives in the DRAM."""
    maps_home: Place = "buffer"
    """Where inputs and spikes live between two layers."""
    state_home: Place = "buffer"
    """Where membranes live between two time steps."""
    weights_pass_buffer: bool = False
    """Weights that live in the DRAM stream past the buffer straight to the processing elements."""
    double_buffered: bool = False
    """Half of the buffer fills while the other half is used."""
    weight_encoding: EncodingName = "dense"
    run_bits: int | None = None
    """Width of the run field of run-length encoding; None: the best one for each tensor."""
    map_encoding: EncodingName = "dense"
    map_word_bits: int | Literal["weight"] | None = None
    """Bits of one entry of a map: None: 1 for a spike, the bits of a count; "weight": as wide as a weight, for a
    machine whose memories have one word width for all tensors."""
    psum_bits: int | None = None
    """Width of a partial sum; None: the width of the neuron's state."""
    skips_zero_weights: bool | None = None
    """Whether a weight that is left out of memory costs no cycle; None: as the format says by itself (`skips`), which
    for a bitmask is no; a machine that finds the next one of a mask at once (as SparTen does) says true."""
    gates_zero_inputs: bool = True
    """A zero input costs a check, not an operation (frame only)."""
    update_adds: int = 2
    """Additions and comparisons in one neuron update."""
    update_multiplies: int = 1
    """Multiplications in one neuron update (0: the decay is a shift)."""
    address_adds: float = 0.0
    """32-bit additions per synaptic operation to find the neuron or weight (event only)."""
    address_multiplies: float = 0.0
    """32-bit multiplications, each with an addition, per event in a map to find its neurons (event only)."""
    operations: Operations | None = None
    area: Area | None = None
    sources: str = ""
    leaves_out: str = ""

    def __post_init__(self) -> None:
        kinds = ("event", "frame", "measured")
        require(self.processing in kinds, "processing", f"be one of {', '.join(kinds)}", self.processing)
        require(
            (self.operations is not None) == (self.processing == "measured"),
            "operations",
            "be given where processing is measured, and only there",
            self.operations,
        )
        require(self.dataflow in DATAFLOWS, "dataflow", f"be one of {', '.join(DATAFLOWS)}", self.dataflow)
        for key in ("weight_encoding", "map_encoding"):
            require(
                getattr(self, key) in ENCODINGS, key, f"be one of {', '.join(ENCODINGS)}", getattr(self, key)
            )
        require(
            self.processing != "frame" or self.weight_encoding != "smallest",
            "weight_encoding",
            "be one format where processing is frame (its decoders sit in the array)",
            self.weight_encoding,
        )
        for key in ("weights_home", "maps_home", "state_home"):
            home = getattr(self, key)
            require(home in ("dram", "buffer"), key, "be dram or buffer", home)
            require(home == "buffer" or self.dram is not None, key, "be buffer where there is no dram", home)
        for key in ("clock_mhz", "node_nm", "pe_rows", "pe_columns", "time_batch"):
            require(getattr(self, key) > 0, key, "be > 0", getattr(self, key))
        require(self.run_bits is None or 1 <= self.run_bits <= 16, "run_bits", "be in [1, 16]", self.run_bits)
        require(self.psum_bits is None or self.psum_bits >= 1, "psum_bits", "be >= 1", self.psum_bits)
        word = self.map_word_bits
        require(
            word in (None, "weight") or (isinstance(word, int) and word >= 1),
            "map_word_bits", "be >= 1, weight or null", word,
        )  # fmt: skip
        require(self.update_adds >= 0, "update_adds", "be >= 0", self.update_adds)
        require(self.update_multiplies >= 0, "update_multiplies", "be >= 0", self.update_multiplies)

    @property
    def skips_weights(self) -> bool:
        """Whether absent weights cost no time (a dense format leaves none out)."""
        by_format = skips(self.weight_encoding)
        asked = by_format if self.skips_zero_weights is None else self.skips_zero_weights
        return asked and drops_zeros(self.weight_encoding)

    @property
    def lanes(self) -> int:
        """Synaptic operations per cycle at best."""
        return self.pe_rows * self.pe_columns
