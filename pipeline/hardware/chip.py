"""A chip whose whole operations were measured: work times the published energy of each kind of operation."""

from __future__ import annotations

import math

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.encoding import Stored, drops_zeros
from pipeline.hardware.ledger import Ledger, Shelf
from pipeline.hardware.workload import LayerLoad


def price(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> Ledger:  # noqa: ARG001
    """Energy and cycles of one layer for one sample; a layer is spread over the cores that its tensors need."""
    assert machine.operations is not None
    one, work, ledger = machine.operations, load.mean, Ledger()
    synops = work.synops if drops_zeros(weights.encoding) else work.synops_event
    ledger.charge("arithmetic", "synapses", synops * one.synop_pj)
    ledger.charge("arithmetic", "neurons", work.updates * one.update_pj)
    ledger.charge("arithmetic", "outputs", work.spikes_out * one.spike_pj)
    ledger.charge("arithmetic", "learning", (work.weight_updates + work.trace_updates) * one.learn_pj)
    per_core = min(machine.buffer.capacity_bits / machine.buffer.instances, one.synapse_kib_per_core * 8192)
    cores = max(1, math.ceil(load.neurons / one.neurons_per_core), math.ceil(weights.bits / per_core))
    busy_ns = synops * one.synop_ns + work.updates * one.update_ns
    busy_ns += (work.weight_updates + work.trace_updates) * one.learn_ns
    elapsed_ns = busy_ns / min(cores, machine.buffer.instances) + load.steps * one.step_ns
    ledger.cycles = elapsed_ns * machine.clock_mhz / 1000
    return ledger
