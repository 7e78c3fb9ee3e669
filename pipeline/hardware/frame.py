"""Frame-driven processing: every time step is a dense pass, cut into tiles that fit the on-chip memories.

The tensors' way is DRAM -> buffer -> scratch pads -> arithmetic. How often each tensor makes the outer way is the
dataflow's doing (Chen et al., Eyeriss, ISCA 2016, section V; Sze et al., Proc. IEEE 2017, section V): the tensor that
is stationary is fetched once, the others once per tile of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from pipeline.hardware import event
from pipeline.hardware.accelerator import Accelerator, Dataflow
from pipeline.hardware.encoding import Stored, skips
from pipeline.hardware.ledger import Ledger, Shelf, map_bits, psum_bits, spike_bits
from pipeline.hardware.workload import Geometry, LayerLoad


@dataclass(frozen=True)
class Tiling:
    """How often each tensor passes between DRAM and buffer in one group of time steps."""

    weights: float
    """Times that all weights are fetched."""
    inputs: float
    """Times that the input map is fetched, halo rows of neighbouring tiles included."""
    psums: float
    """Times that the partial sums are spilled and fetched back (0: they stay until they are done)."""


@dataclass(frozen=True)
class Passes:
    """How a tile is cut to the processing elements' scratch pads."""

    filters: int
    """Rounds over the filters: how often an input is read from the buffer."""
    channels: int
    """Rounds over the input channels: how often a partial sum goes back to the buffer."""
    columns: int
    """Processing elements that each weight is copied to."""


def halves(size: int) -> list[int]:
    """size, size / 2, size / 4, ..., 1, rounded up."""
    sizes = [size]
    while sizes[-1] > 1:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


@lru_cache(maxsize=65536)
def tile(
    geometry: Geometry,
    dataflow: Dataflow,
    capacity_bits: float,
    weight_bits: float,
    input_bits: float,
    sum_bits: float,
) -> Tiling:
    """The tiling with the least DRAM traffic, among rows x filters x channels in halves.

    capacity_bits: of the buffer that inputs and sums share; weight_bits: of all weights as stored; input_bits and
    sum_bits: of one entry of the input map and of the sums (times the time steps that a tile serves).
    """
    best: tuple[float, Tiling] | None = None
    inputs, sums = geometry.inputs * input_bits, geometry.outputs * sum_bits
    for filters in halves(geometry.out_channels):
        for channels in halves(geometry.in_channels):
            made = _tiling(geometry, dataflow, capacity_bits, input_bits, sum_bits, filters, channels)
            if made is None:
                continue
            traffic = made.weights * weight_bits + made.inputs * inputs + 2 * made.psums * sums
            if best is None or traffic < best[0]:
                best = (traffic, made)
    if best is not None:
        return best[1]
    # Not even one row of one channel fits: everything passes for every output row.
    return Tiling(geometry.out_size[0], geometry.out_size[0], 1.0)


def _tiling(
    geometry: Geometry,
    dataflow: Dataflow,
    capacity_bits: float,
    input_bits: float,
    sum_bits: float,
    filters: int,
    channels: int,
) -> Tiling | None:
    """One candidate: as many output rows as fit; None when not even one does."""
    rows_all, stride, kernel = geometry.out_size[0], geometry.stride[0], geometry.kernel[0]
    sum_row = geometry.out_size[1] * filters * sum_bits
    input_row = geometry.in_size[1] * channels * input_bits
    overlap = max(kernel - stride, 0)
    rows = int(min(rows_all, (capacity_bits - overlap * input_row) / (sum_row + stride * input_row)))
    if rows < 1:
        return None
    stripes = math.ceil(rows_all / rows)
    filter_tiles = math.ceil(geometry.out_channels / filters)
    channel_tiles = math.ceil(geometry.in_channels / channels)
    halo = 1.0 + (stripes - 1) * overlap / geometry.in_size[0]
    if dataflow == "weight_stationary":  # filters, channels outside; rows inside
        return Tiling(1.0, halo * filter_tiles, float(channel_tiles - 1))
    if dataflow == "input_stationary":  # rows, channels outside; filters inside
        return Tiling(float(stripes), halo, float(channel_tiles - 1))
    if dataflow == "row_stationary" and channel_tiles > 1:
        return None if channels > 1 or filters > 1 else Tiling(float(stripes), halo * filter_tiles, 0.0)
    # rows, filters outside; channels inside: sums stay; inputs stay too when all their channels fit
    return Tiling(float(stripes), halo * (filter_tiles if channel_tiles > 1 else 1), 0.0)


def passes(geometry: Geometry, machine: Accelerator) -> Passes:
    """Row-stationary mapping of a tile on the array: kernel rows down, output rows across, channels and filters in
    the pads. Without pads every operation reads the buffer."""
    channels, filters = geometry.in_channels // geometry.groups, geometry.out_channels
    if machine.weight_pad is None or machine.input_pad is None or machine.psum_pad is None:
        return Passes(math.ceil(filters / machine.lanes), 1, 1)
    kernel_rows, kernel_columns = geometry.kernel
    weights, inputs, sums = (
        int((pad.capacity_kib or 1.0) * 8192 / pad.word_bits)
        for pad in (machine.weight_pad, machine.input_pad, machine.psum_pad)
    )
    in_pad = max(1, min(filters, sums))
    deep = max(1, min(channels, weights // (in_pad * kernel_columns), inputs // kernel_columns))
    sets = max(1, machine.pe_rows // kernel_rows)
    columns = min(geometry.out_size[0], machine.pe_columns)
    beside = max(1, machine.pe_columns // columns)
    spare = max(1, sets // math.ceil(channels / deep))
    return Passes(
        filters=math.ceil(filters / (in_pad * beside * spare)),
        channels=math.ceil(channels / (deep * min(sets, math.ceil(channels / deep)))),
        columns=columns,
    )


def price(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> Ledger:
    """Energy, traffic and cycles of one layer for one sample."""
    ledger = Ledger()
    geometry = load.geometry
    batch = min(machine.time_batch, load.steps)
    groups = math.ceil(load.steps / batch)
    usable = shelf.room_bits / (2 if machine.double_buffered else 1)
    entry, total = map_bits(load, machine), psum_bits(load, machine)
    tiling = tile(
        geometry, machine.dataflow, usable, weights.bits, float(entry * batch), float(total * batch)
    )
    cut = passes(geometry, machine)
    _weights(ledger, load, machine, weights, shelf, tiling.weights * groups, cut)
    _maps(ledger, load, machine, shelf, tiling, cut)
    _state(ledger, load, machine, shelf, groups)
    sums = float(geometry.outputs * load.steps * total)
    if machine.dram is not None and tiling.psums:
        ledger.move(machine.dram, "dram", "psums", tiling.psums * sums, tiling.psums * sums)
    ledger.move(
        machine.buffer, "buffer", "psums", (cut.channels - 1) * sums, cut.channels * sums, shelf.scale
    )
    _array(ledger, load, machine)
    event.learning(ledger, load, machine, shelf)
    return ledger


def _weights(
    ledger: Ledger,
    load: LayerLoad,
    machine: Accelerator,
    weights: Stored,
    shelf: Shelf,
    fetches: float,
    cut: Passes,
) -> None:
    """Weights and their metadata from their home to the pads."""
    away = 1.0 - shelf.weights if machine.dram is not None else 0.0
    for what, bits in (("weights", weights.value_bits), ("metadata", weights.metadata_bits)):
        label = "weights" if what == "weights" else "metadata"
        moved = bits * fetches
        if machine.dram is not None and away:
            ledger.move(machine.dram, "dram", label, moved * away)  # type: ignore[arg-type]
            if not machine.weights_pass_buffer:
                ledger.move(machine.buffer, "buffer", label, moved * away, moved * away, shelf.scale)  # type: ignore[arg-type]
        ledger.move(machine.buffer, "buffer", label, moved * (1.0 - away), 0.0, shelf.scale)  # type: ignore[arg-type]
    if machine.weight_pad is not None:
        words = weights.entries * math.ceil(load.weight_bits / machine.weight_pad.word_bits)
        ledger.charge("pads", "weights", words * fetches * cut.columns * machine.weight_pad.write_pj)
    home = machine.dram if machine.dram is not None and away else machine.buffer
    where = "dram" if home is machine.dram else "buffer"
    ledger.move(home, where, "parameters", float(load.parameter_bits * load.steps))  # type: ignore[arg-type]


def _maps(
    ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf, tiling: Tiling, cut: Passes
) -> None:
    """Inputs from their home to the pads, outputs back to theirs."""
    outputs = load.geometry.outputs
    away = 1.0 - shelf.maps if machine.dram is not None else 0.0
    read = event.stored_map(
        machine, load.geometry.inputs, load.mean.events_in, load.steps, map_bits(load, machine)
    ).bits
    written = event.stored_map(
        machine, outputs, load.mean.spikes_out, load.steps, spike_bits(load, machine)
    ).bits
    if machine.dram is not None and away:
        ledger.move(machine.dram, "dram", "inputs", read * tiling.inputs * away)
        ledger.move(machine.dram, "dram", "outputs", 0.0, written * away)
        ledger.move(machine.buffer, "buffer", "inputs", 0.0, read * tiling.inputs * away, shelf.scale)
    ledger.move(machine.buffer, "buffer", "inputs", read * tiling.inputs * cut.filters, 0.0, shelf.scale)
    ledger.move(machine.buffer, "buffer", "outputs", written * away, written, shelf.scale)


def _state(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf, groups: int) -> None:
    """Membranes come in and go out once for each group of time steps, and are updated at every step."""
    event.neuron_arithmetic(ledger, load, machine)
    moved = float(load.neurons * load.state_bits * groups)
    if machine.dram is not None and shelf.state < 1.0:
        ledger.move(machine.dram, "dram", "state", moved * (1.0 - shelf.state), moved * (1.0 - shelf.state))
    stepped = load.mean.updates * load.state_bits
    ledger.move(machine.buffer, "buffer", "state", stepped, stepped, shelf.scale)


def _array(ledger: Ledger, load: LayerLoad, machine: Accelerator) -> None:
    """Operations and pad accesses: carried out, gated or skipped."""
    work = load.mean
    skipping = machine.skips_zero_weights and skips(machine.weight_encoding)
    scanned = work.synops_dense * (load.density if skipping else 1.0)
    executed = work.synops if machine.gates_zero_inputs else scanned
    executed = max(executed, work.synops)
    event.synapse_arithmetic(ledger, load, machine, executed)
    idle = max(scanned - executed, 0.0) * machine.arithmetic.gated_share
    ledger.charge("arithmetic", "idle", idle * event.operation_pj(load, machine))
    for what, pad, accesses in (
        ("weights", machine.weight_pad, 1.0),
        ("inputs", machine.input_pad, 1.0),
        ("psums", machine.psum_pad, 1.0),
    ):
        if pad is None:
            continue
        width = {"weights": load.weight_bits, "inputs": load.input_bits, "psums": psum_bits(load, machine)}[
            what
        ]
        words = math.ceil(width / pad.word_bits) * accesses
        energy = pad.read_pj + (pad.write_pj if what == "psums" else 0.0)
        ledger.charge("pads", what, executed * words * energy)  # type: ignore[arg-type]
    ledger.cycles = scanned / machine.lanes + (work.updates + work.weight_updates) / machine.lanes
