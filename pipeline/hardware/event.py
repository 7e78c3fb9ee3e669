"""Event-driven processing: a spike arrives, its synapses are read one by one, and each adds to a neuron's state.

Nothing is reused between events, so every operation pays for its weight and for reading and writing the state. Work is
proportional to spikes: a silent input costs nothing.
"""

from __future__ import annotations

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.encoding import FORMATS, EncodingName, Stored, drops_zeros, store
from pipeline.hardware.ledger import Ledger, Shelf, Spot, What, map_bits, psum_bits, spike_bits
from pipeline.hardware.workload import LayerLoad


def price(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> Ledger:
    """Energy, traffic and cycles of one layer for one sample."""
    ledger, work = Ledger(), load.mean
    executed = work.synops  # a zero weight may be read, but is not added
    _weights(ledger, load, machine, weights, shelf)
    width = psum_bits(load, machine)
    shared(ledger, machine, shelf.state, "psums", executed * width, executed * width, width)
    _state(ledger, load, machine, shelf)
    _maps(ledger, load, machine, shelf)
    learning(ledger, load, machine, shelf)
    arithmetic(ledger, load, machine, executed)
    one = machine.arithmetic
    addresses = executed * machine.address_adds * one.add_int32_pj
    if load.geometry.in_size != (1, 1):
        found = one.multiply_int32_pj + one.add_int32_pj
        addresses += work.events_in * machine.address_multiplies * found
    ledger.charge("arithmetic", "addresses", addresses)
    visited = work.synops if machine.skips_weights else work.synops_event
    ledger.cycles = (visited + work.updates + work.weight_updates + work.trace_updates) / machine.lanes
    return ledger


def shared(
    ledger: Ledger,
    machine: Accelerator,
    spot: Spot,
    what: What,
    read_bits: float,
    write_bits: float,
    entry_bits: float,
) -> None:
    """The share that lives on the chip moves through the buffer, the rest through the DRAM.

    Without a DRAM all is priced as if the chip had more of the same memory; the cost says that it has not.
    """
    near = spot.on_chip if machine.dram is not None else 1.0
    ledger.move(machine.buffer, "buffer", what, read_bits * near, write_bits * near, entry_bits, spot.scale)
    ledger.move(machine.dram, "dram", what, read_bits * (1 - near), write_bits * (1 - near), entry_bits)


def _weights(ledger: Ledger, load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> None:
    """Values and metadata of the synapses that events reach.

    One event reads a stored weight once at most, however many neurons it acts on (inhibition by one shared number).
    """
    work, most = load.mean, load.mean.events_in * load.synapses
    if not drops_zeros(weights.encoding):
        reads = min(work.synops_event, most) * load.weight_bits
        shared(ledger, machine, shelf.weights, "weights", reads, 0.0, weights.entry_bits)
        return
    visits = min(work.synops / max(load.nonzero, 1), work.events_in)
    beside, apart = visits * weights.beside_bits, visits * weights.apart_bits
    if weights.encoding == "bitmask":
        apart = min(work.synops_event, most)
    shared(ledger, machine, shelf.weights, "weights", visits * weights.value_bits, 0.0, weights.entry_bits)
    shared(ledger, machine, shelf.weights, "metadata", beside, 0.0, weights.entry_bits)
    shared(ledger, machine, shelf.weights, "metadata", apart, 0.0, 0.0)


def _state(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Every neuron is updated at every step: state read and written, decays and thresholds read."""
    moved = load.mean.updates * load.state_bits
    shared(ledger, machine, shelf.state, "state", moved, moved, load.state_bits)
    constants = float(load.parameter_bits * load.steps)
    shared(ledger, machine, shelf.weights, "parameters", constants, 0.0, 0.0)


def stored_map(machine: Accelerator, entries: float, events: float, steps: int, bits: int) -> Stored:
    """A map of `entries` per step over `steps` steps in the machine's encoding; the value of a spike is implied."""
    size = round(entries * steps)

    def as_format(encoding: EncodingName) -> Stored:
        value = 0 if bits == 1 and drops_zeros(encoding) else bits
        return store(encoding, size, min(events, size), max(steps, 1), value)

    if machine.map_encoding == "smallest":  # a dense one has to store its spikes
        return min(map(as_format, FORMATS), key=lambda stored: stored.bits)
    return as_format(machine.map_encoding)


def maps(load: LayerLoad, machine: Accelerator, outputs: int) -> tuple[Stored, Stored]:
    """The layer's input and output over all steps, as stored between layers."""
    work = load.mean
    return (
        stored_map(machine, load.geometry.inputs, work.events_in, load.steps, map_bits(load, machine)),
        stored_map(machine, outputs, work.spikes_out, load.steps, spike_bits(load, machine)),
    )


def _maps(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Inputs read once, spikes written once."""
    read, written = maps(load, machine, load.neurons or load.geometry.outputs)
    shared(ledger, machine, shelf.maps, "inputs", read.bits, 0.0, read.entry_bits)
    shared(ledger, machine, shelf.maps, "outputs", 0.0, written.bits, written.entry_bits)


def learning(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf) -> None:
    """Each weight update reads and writes the weight and adds a product; each trace update does so for a trace."""
    work, one = load.mean, machine.arithmetic
    for updates, bits, home in (
        (work.weight_updates, load.weight_bits, shelf.weights),
        (work.trace_updates, load.trace_bits, shelf.state),
    ):
        shared(ledger, machine, home, "learning", updates * bits, updates * bits, bits)
        ledger.charge("arithmetic", "learning", updates * (one.add_pj(bits) + one.multiply_pj(bits, bits)))


WIDEST_SUM = 31
"""Bits of a sum of spikes at most: a count is never a float."""


def operation_pj(load: LayerLoad, machine: Accelerator) -> float:
    """One synaptic operation: an addition as wide as the sum or the weight; a product before it if inputs count."""
    energy = machine.arithmetic.add_pj(max(psum_bits(load, machine), load.weight_bits))
    if load.multiplies:
        energy += machine.arithmetic.multiply_pj(load.weight_bits, load.input_bits)
    return energy


def arithmetic(ledger: Ledger, load: LayerLoad, machine: Accelerator, executed: float) -> None:
    """Synaptic operations, gates and means of attention, average pooling, and neuron updates."""
    one, bits = machine.arithmetic, max(load.state_bits, 1)
    ledger.charge("arithmetic", "synapses", executed * operation_pj(load, machine))
    apart = load.mean.gates * one.multiply_pj(load.input_bits, load.input_bits)
    apart += load.mean.additions * one.add_pj(min(psum_bits(load, machine), WIDEST_SUM))
    ledger.charge("arithmetic", "apart", apart)
    update = machine.update_adds * one.add_pj(bits) + machine.update_multiplies * one.multiply_pj(bits, bits)
    ledger.charge("arithmetic", "neurons", load.mean.updates * update)
