"""What a network costs on a machine: memory, energy and latency of one inference, by layer and by part.

Pure arithmetic over `LayerLoad`s; nothing is measured here and nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.hardware import chip, event, frame
from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.encoding import Stored, store
from pipeline.hardware.ledger import Entry, Ledger, Shelf, map_bits, psum_bits
from pipeline.hardware.placement import place
from pipeline.hardware.workload import LayerLoad

Part = Literal["dram", "buffer", "pads", "arithmetic", "metadata", "leakage"]
PARTS: tuple[Part, ...] = ("dram", "buffer", "pads", "arithmetic", "metadata", "leakage")
Busy = Literal["compute", "buffer", "dram"]
BUSY: tuple[Busy, ...] = ("compute", "buffer", "dram")
Holding = Literal["weights", "metadata", "parameters", "state", "buffers"]
HOLDINGS: tuple[Holding, ...] = ("weights", "metadata", "parameters", "state", "buffers")


@dataclass(frozen=True)
class LayerCost:
    """One layer of a priced network."""

    name: str
    memory: Mapping[Holding, float]
    """Bits held: weights, metadata (indices), parameters (biases, decays, thresholds), state, buffers (input map)."""
    energy: Mapping[Entry, float]
    """(where, what) -> pJ for one inference; `parts` sums them up."""
    busy_us: Mapping[Busy, float]
    """How long the lanes compute and each shared memory moves data; they work at once, so the longest decides."""
    off_chip: float
    """Share of weights and state (by bits) that live in the DRAM, in [0, 1]."""
    overflow: str = ""
    """Says so when something that should live on the chip does not fit there."""
    encoding: str = "dense"
    """The format of its weights."""

    @property
    def bound_by(self) -> Busy:
        """What the layer waits for."""
        return max(self.busy_us, key=lambda part: self.busy_us[part])

    @property
    def latency_us(self) -> float:
        return self.busy_us[self.bound_by]

    @property
    def memory_bits(self) -> float:
        return sum(self.memory.values())

    @property
    def energy_pj(self) -> float:
        return sum(self.energy.values())

    @property
    def parts(self) -> dict[Part, float]:
        """pJ by part; all movement of metadata, wherever, is the part `metadata`."""
        found: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        for (where, what), energy_pj in self.energy.items():
            found["metadata" if what == "metadata" else where] += energy_pj  # type: ignore[index]
        return found


@dataclass(frozen=True)
class Cost:
    """One inference of a network on a machine; sums over its layers."""

    layers: tuple[LayerCost, ...]
    fits: bool
    """False when the machine has no DRAM and something does not fit on the chip."""
    sparsity: float
    """Share of stored weights that are zero, in [0, 1]."""
    firing_rate: float
    """Spikes per neuron and time step, over all neurons, in [0, 1]."""
    worst_energy_pj: float
    """With the worst case of each layer's activity; an upper bound over the samples measured."""
    worst_latency_us: float
    area_mm2: float | None = None
    """Memories at the size that the network needs and arithmetic lanes; None where the machine has no sources."""

    @property
    def memory_bits(self) -> float:
        return sum(layer.memory_bits for layer in self.layers)

    @property
    def energy_pj(self) -> float:
        return sum(layer.energy_pj for layer in self.layers)

    @property
    def latency_us(self) -> float:
        return sum(layer.latency_us for layer in self.layers)

    @property
    def busy_us(self) -> dict[Busy, float]:
        """How long each part works, over all layers."""
        return {part: sum(layer.busy_us.get(part, 0.0) for layer in self.layers) for part in BUSY}

    @property
    def waited_us(self) -> dict[Busy, float]:
        """The latency by what it was spent waiting for; sums to `latency_us`."""
        return {part: sum(e.latency_us for e in self.layers if e.bound_by == part) for part in BUSY}

    @property
    def parts(self) -> dict[Part, float]:
        """pJ by part, over all layers."""
        return {part: sum(layer.parts[part] for layer in self.layers) for part in PARTS}

    @property
    def memory(self) -> dict[Holding, float]:
        """Bits by what they hold, over all layers."""
        found: dict[Holding, float] = {}
        for layer in self.layers:
            for what, bits in layer.memory.items():
                found[what] = found.get(what, 0.0) + bits
        return found

    def share(self, where: str) -> float:
        """Share of the energy spent at one place (``dram`` with the metadata that moves there), in [0, 1]."""
        spent = sum(
            pj for layer in self.layers for (place_, _), pj in layer.energy.items() if place_ == where
        )
        return spent / self.energy_pj if self.energy_pj else 0.0

    def metrics(self) -> dict[str, float]:
        """The numbers a study and a tracker read."""
        return {
            "memory_bits": self.memory_bits,
            "energy_pj": self.energy_pj,
            "latency_us": self.latency_us,
            "worst_energy_pj": self.worst_energy_pj,
            "worst_latency_us": self.worst_latency_us,
            "sparsity": self.sparsity,
            "firing_rate": self.firing_rate,
        }

    def layers_json(self, loads: Sequence[LayerLoad]) -> list[dict[str, object]]:
        """One plain record per layer, for reports: name, bits, sparsity, memory_bits, energy_pj, latency_us, parts."""
        return [
            {
                "name": layer.name,
                "bits": load.weight_bits,
                "encoding": layer.encoding,
                "sparsity": 1.0 - load.density if load.synapses else 0.0,
                "firing_rate": load.firing_rate,
                "synops": load.synops,
                "memory_bits": layer.memory_bits,
                "memory": dict(layer.memory),
                "energy_pj": layer.energy_pj,
                "latency_us": layer.latency_us,
                "bound_by": layer.bound_by,
                "busy_us": dict(layer.busy_us),
                "overflow": layer.overflow,
                "parts": layer.parts,
            }
            for layer, load in zip(self.layers, loads, strict=True)
        ]


Pricing = Callable[[LayerLoad, Accelerator, Stored, Shelf], Ledger]
PRICING: Mapping[str, Pricing] = {"event": event.price, "frame": frame.price, "measured": chip.price}


def cost(loads: Sequence[LayerLoad], accelerator: Accelerator) -> Cost:
    """Price one inference, at the mean activity and at the worst."""
    stored = [stored_weights(load, accelerator) for load in loads]
    layers = _layers(loads, stored, accelerator)
    worst = _layers([load.at_worst() for load in loads], stored, accelerator)
    synapses = sum(load.synapses for load in loads)
    updates = sum(load.mean.updates for load in loads)
    return Cost(
        layers=layers,
        fits=accelerator.dram is not None or not any(layer.overflow for layer in layers),
        sparsity=1.0 - sum(load.nonzero for load in loads) / synapses if synapses else 0.0,
        firing_rate=sum(load.mean.spikes_out for load in loads) / updates if updates else 0.0,
        worst_energy_pj=sum(layer.energy_pj for layer in worst),
        worst_latency_us=sum(layer.latency_us for layer in worst),
        area_mm2=_area_mm2(loads, layers, accelerator),
    )


def _layers(
    loads: Sequence[LayerLoad], stored: Sequence[Stored], machine: Accelerator
) -> tuple[LayerCost, ...]:
    shelves = place(loads, stored, machine)
    parts = zip(loads, stored, shelves, strict=True)
    return tuple(_layer(load, machine, weights, shelf) for load, weights, shelf in parts)


def _area_mm2(loads: Sequence[LayerLoad], layers: Sequence[LayerCost], machine: Accelerator) -> float | None:
    """SRAM as large as what lives on the chip (at most the buffer), the pads, and the widest lane that is needed."""
    if machine.area is None:
        return None
    on_chip = sum(layer.memory_bits * (1.0 - layer.off_chip) for layer in layers)
    pads = (machine.weight_pad, machine.input_pad, machine.psum_pad)
    bits = min(on_chip, machine.buffer.capacity_bits)
    bits += machine.lanes * sum((pad.capacity_kib or 0.0) * 8192 for pad in pads if pad is not None)
    lane = max(
        machine.area.lane_um2(psum_bits(load, machine), load.weight_bits, load.input_bits, load.multiplies)
        for load in loads
    )
    return (bits * machine.area.sram_um2_per_bit + machine.lanes * lane) * 1e-6


def stored_weights(load: LayerLoad, accelerator: Accelerator) -> Stored:
    """The layer's weights in the machine's encoding, one row per filter (one row, where all share one weight)."""
    rows = max(min(load.geometry.out_channels, load.synapses), 1)
    return store(
        accelerator.weight_encoding,
        load.synapses,
        float(load.nonzero),
        rows,
        load.weight_bits,
        accelerator.run_bits,
        load.runs,
    )


def _homeless(
    machine: Accelerator, shelf: Shelf, weights_bits: float, held: Mapping[Holding, float]
) -> float:
    """Bits of those tensors whose home is the buffer that found no room there; parameters lie with the weights."""
    return sum(
        (1.0 - spot.on_chip) * bits
        for home, spot, bits in (
            (machine.weights_home, shelf.weights, weights_bits),
            (machine.state_home, shelf.state, held["state"]),
            (machine.maps_home, shelf.maps, held["buffers"]),
        )
        if home == "buffer"
    )


def _layer(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> LayerCost:
    ledger = PRICING[machine.processing](load, machine, weights, shelf)
    cycles: dict[Busy, float] = {
        "compute": ledger.cycles,
        "buffer": ledger.traffic_bits["buffer"] / machine.buffer.bits_per_cycle,
    }
    leakage_uw = machine.buffer.leakage_uw
    if machine.dram is not None:
        cycles["dram"] = ledger.traffic_bits["dram"] / machine.dram.bits_per_cycle
        leakage_uw += machine.dram.leakage_uw
    busy_us = {part: count / machine.clock_mhz for part, count in cycles.items()}
    ledger.charge("leakage", "idle", leakage_uw * max(busy_us.values()))  # uW x us = pJ
    held: dict[Holding, float] = {
        "weights": weights.value_bits,
        "metadata": weights.metadata_bits,
        "parameters": float(load.parameter_bits),
        "state": float(load.neurons * load.state_bits + load.traces * load.trace_bits),
        "buffers": float(load.geometry.inputs * map_bits(load, machine)),
    }
    off = (1.0 - shelf.weights.on_chip) * weights.bits + (1.0 - shelf.state.on_chip) * held["state"]
    wanted = _homeless(machine, shelf, weights.bits + held["parameters"], held)
    where = "lives off-chip" if machine.dram is not None else "does not fit"
    return LayerCost(
        name=load.name,
        memory=held,
        energy=dict(ledger.energy_pj),
        busy_us=busy_us,
        off_chip=off / (weights.bits + held["state"]) if weights.bits + held["state"] else 0.0,
        encoding=weights.encoding,
        overflow=f"{wanted / 8192:.1f} KiB {where}" if wanted >= 1.0 else "",
    )
