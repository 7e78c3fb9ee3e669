"""Where energy and traffic of one layer are written down while it is priced."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from pipeline.hardware.accelerator import Accelerator, Memory
from pipeline.hardware.workload import LayerLoad

Where = Literal["dram", "buffer", "pads", "arithmetic", "leakage"]
What = Literal[
    "weights",
    "metadata",
    "inputs",
    "outputs",
    "psums",
    "state",
    "parameters",
    "learning",
    "synapses",
    "neurons",
    "addresses",
    "apart",
    "idle",
]
Entry = tuple[Where, What]


@dataclass
class Ledger:
    """Energy in pJ by (where, what), and bits through each shared memory, of one layer and one inference."""

    energy_pj: dict[Entry, float] = field(default_factory=lambda: defaultdict(float))
    traffic_bits: dict[Where, float] = field(default_factory=lambda: defaultdict(float))
    cycles: float = 0.0
    """Cycles of computation, if no memory were in the way."""

    def charge(self, where: Where, what: What, energy_pj: float) -> None:
        if energy_pj:
            self.energy_pj[where, what] += energy_pj

    def move(
        self,
        memory: Memory | None,
        where: Where,
        what: What,
        read_bits: float = 0.0,
        write_bits: float = 0.0,
        entry_bits: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        """Bits through `memory` in entries of `entry_bits`; entries are packed, an access costs its share of a word."""
        if memory is None or not (read_bits or write_bits):
            return
        spread = memory.spread(entry_bits)
        energy_pj = (read_bits * memory.read_pj + write_bits * memory.write_pj) * spread / memory.word_bits
        self.charge(where, what, energy_pj * scale)
        self.traffic_bits[where] += (read_bits + write_bits) * spread


@dataclass(frozen=True)
class Spot:
    """Where one tensor lives."""

    on_chip: float
    """The share of it that lives in the buffer, the rest in the DRAM, in [0, 1]."""
    scale: float = 1.0
    """Energy factor of a memory that is as large as what it holds."""


@dataclass(frozen=True)
class Shelf:
    """Where the tensors of one layer were placed."""

    weights: Spot
    state: Spot
    maps: Spot
    room_bits: float = float("inf")
    """What is left of the buffer for tiles."""


def map_bits(load: LayerLoad, machine: Accelerator) -> int:
    """Bits of one entry of the layer's input map."""
    if machine.map_word_bits == "weight":
        return load.weight_bits
    return machine.map_word_bits or load.input_bits


def spike_bits(load: LayerLoad, machine: Accelerator) -> int:
    """Bits of one entry of the layer's output map."""
    if machine.map_word_bits == "weight":
        return load.weight_bits
    return machine.map_word_bits or 1


def psum_bits(load: LayerLoad, machine: Accelerator) -> int:
    """Width of what synapses add to; a layer without neurons adds into a 32-bit sum."""
    return machine.psum_bits or load.state_bits or 32
