"""Event-driven processing: a spike arrives, its synapses are read one by one, and each adds to a neuron's state.

Nothing is reused between events, so every operation pays for its weight and for reading and writing the state. Work is
proportional to spikes: a silent input costs nothing.
"""

from __future__ import annotations

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.encoding import Stored, drops_zeros, skips, store
from pipeline.hardware.ledger import Ledger, Shelf, What, map_bits, psum_bits, spike_bits
from pipeline.hardware.workload import LayerLoad


def price(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> Ledger:
    """Energy, traffic and cycles of one layer for one sample."""
    ledger = Ledger()
    work = load.mean
    compressed = drops_zeros(machine.weight_encoding)
    executed = work.synops if compressed else work.synops_event
    _weights(ledger, load, machine, weights, shelf)
    width = psum_bits(load, machine)
    _split(ledger, machine, shelf.state, shelf.scale, "psums", executed * width, executed * width)
    _neurons(ledger, load, machine, shelf)
    maps(ledger, load, machine, shelf)
    learning(ledger, load, machine, shelf)
    synapse_arithmetic(ledger, load, machine, executed)
    visited = work.synops if skips(machine.weight_encoding) else work.synops_event
    ledger.cycles = (visited + work.updates + work.weight_updates + work.trace_updates) / machine.lanes
    return ledger


def _weights(ledger: Ledger, load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> None:
    """Values and metadata of the synapses that events reach."""
    reads, metadata = load.mean.synops_event * load.weight_bits, 0.0
    if drops_zeros(machine.weight_encoding):
        visits = load.mean.synops / max(load.nonzero, 1)
        reads, metadata = visits * weights.value_bits, visits * weights.metadata_bits
    if machine.weight_encoding == "bitmask":
        metadata = load.mean.synops_event
    _split(ledger, machine, shelf.weights, shelf.scale, "weights", reads, 0.0)
    _split(ledger, machine, shelf.weights, shelf.scale, "metadata", metadata, 0.0)


def _neurons(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Every neuron is updated at every step: state read and written, decays and thresholds read."""
    moved = load.mean.updates * load.state_bits
    _split(ledger, machine, shelf.state, shelf.scale, "state", moved, moved)
    _split(
        ledger,
        machine,
        shelf.weights,
        shelf.scale,
        "parameters",
        float(load.parameter_bits * load.steps),
        0.0,
    )
    neuron_arithmetic(ledger, load, machine)


def _split(
    ledger: Ledger,
    machine: Accelerator,
    on_chip: float,
    scale: float,
    what: What,
    read_bits: float,
    write_bits: float,
) -> None:
    """The part that lives on the chip moves through the buffer, the rest through the DRAM.

    Without a DRAM the rest is priced as if the chip had more of the same memory; the cost says that it has not.
    """
    on_chip = on_chip if machine.dram is not None else 1.0
    ledger.move(machine.buffer, "buffer", what, read_bits * on_chip, write_bits * on_chip, scale)
    if machine.dram is not None and on_chip < 1.0:
        ledger.move(machine.dram, "dram", what, read_bits * (1.0 - on_chip), write_bits * (1.0 - on_chip))


def stored_map(machine: Accelerator, entries: float, events: float, steps: int, bits: int) -> Stored:
    """A map of `entries` per step over `steps` steps in the machine's encoding; the value of a spike is implied."""
    size = round(entries * steps)
    value = 0 if bits == 1 and drops_zeros(machine.map_encoding) else bits
    return store(machine.map_encoding, size, min(events, size), max(steps, 1), value)


def maps(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Inputs read once, spikes written once."""
    work, outputs = load.mean, load.neurons or load.geometry.outputs
    read = stored_map(machine, load.geometry.inputs, work.events_in, load.steps, map_bits(load, machine))
    written = stored_map(machine, outputs, work.spikes_out, load.steps, spike_bits(load, machine))
    _split(ledger, machine, shelf.maps, shelf.scale, "inputs", read.bits, 0.0)
    _split(ledger, machine, shelf.maps, shelf.scale, "outputs", 0.0, written.bits)


def learning(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Each weight update reads and writes the weight and adds a product; each trace update is one such for a trace."""
    work, bits = load.mean, load.weight_bits
    weights, traces = work.weight_updates * bits, work.trace_updates * load.trace_bits
    _split(ledger, machine, shelf.weights, shelf.scale, "learning", weights, weights)
    _split(ledger, machine, shelf.state, shelf.scale, "learning", traces, traces)
    one = machine.arithmetic
    ledger.charge(
        "arithmetic", "learning", work.weight_updates * (one.add_pj(bits) + one.multiply_pj(bits, bits))
    )
    trace = one.add_pj(load.trace_bits) + one.multiply_pj(load.trace_bits, load.trace_bits)
    ledger.charge("arithmetic", "learning", work.trace_updates * trace)


def operation_pj(load: LayerLoad, machine: Accelerator) -> float:
    """One synaptic operation: an addition as wide as the sum or the weight; a product before it if inputs count."""
    energy = machine.arithmetic.add_pj(max(psum_bits(load, machine), load.weight_bits))
    if load.multiplies:
        energy += machine.arithmetic.multiply_pj(load.weight_bits, load.input_bits)
    return energy


def synapse_arithmetic(ledger: Ledger, load: LayerLoad, machine: Accelerator, executed: float) -> None:
    ledger.charge("arithmetic", "synapses", executed * operation_pj(load, machine))
    gate = machine.arithmetic.multiply_pj(load.input_bits, load.input_bits)
    ledger.charge("arithmetic", "synapses", load.elementwise * gate)


def neuron_arithmetic(ledger: Ledger, load: LayerLoad, machine: Accelerator) -> None:
    one, bits = machine.arithmetic, max(load.state_bits, 1)
    update = machine.update_adds * one.add_pj(bits) + machine.update_multiplies * one.multiply_pj(bits, bits)
    ledger.charge("arithmetic", "neurons", load.mean.updates * update)
