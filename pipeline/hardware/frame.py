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
from pipeline.hardware.accelerator import Accelerator, Dataflow, Memory
from pipeline.hardware.encoding import Stored, drops_zeros
from pipeline.hardware.ledger import Ledger, Shelf, What, map_bits, psum_bits
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
    sum_bits: of one entry of the input map and of the sums, over all time steps that a tile serves.
    """
    best: tuple[float, Tiling] | None = None
    inputs, sums = geometry.inputs * input_bits, geometry.outputs * sum_bits
    for filters in halves(max(1, geometry.out_channels)):
        for channels in halves(max(1, geometry.in_channels)):
            made = _tiling(geometry, dataflow, capacity_bits, input_bits, sum_bits, filters, channels)
            if made is None:
                continue
            traffic = made.weights * weight_bits + made.inputs * inputs + 2 * made.psums * sums
            if best is None or traffic < best[0]:
                best = (traffic, made)
    if best is not None:
        return best[1]
    return _passing(geometry, dataflow, 1, 1, 1)  # not even that fits; it passes as often as if it did


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
    per_row = max(sum_row + stride * input_row, 1e-9)
    rows = int(min(rows_all, (capacity_bits - overlap * input_row) / per_row))
    return _passing(geometry, dataflow, rows, filters, channels) if rows >= 1 else None


def _passing(geometry: Geometry, dataflow: Dataflow, rows: int, filters: int, channels: int) -> Tiling:
    """How often all passes in tiles of so many output rows, filters and input channels."""
    stripes = math.ceil(geometry.out_size[0] / rows)
    overlap = max(geometry.kernel[0] - geometry.stride[0], 0)
    filter_tiles = math.ceil(geometry.out_channels / filters)
    channel_tiles = math.ceil(geometry.in_channels / channels)
    halo = 1.0 + (stripes - 1) * overlap / geometry.in_size[0]
    if dataflow == "weight_stationary":  # filters, channels outside; rows inside
        return Tiling(1.0, halo * filter_tiles, float(channel_tiles - 1))
    if dataflow == "input_stationary":  # rows, channels outside; filters inside
        return Tiling(float(stripes), halo, float(channel_tiles - 1))
    # output and row stationary: rows, filters outside; channels inside: sums stay, and inputs where all channels fit
    return Tiling(float(stripes), halo * (filter_tiles if channel_tiles > 1 else 1), 0.0)


def passes(geometry: Geometry, machine: Accelerator, density: float) -> Passes:
    """Row-stationary mapping of a tile on the array: kernel rows down, output rows across, channels and filters in
    the pads. `density` is the share of weights that a pad must hold (encoded zeros take no place there). Output
    stationary: the array works through all channels before a sum leaves it.

    Without pads every operation reads the buffer, and each lane works on a filter of its own.
    """
    channels, filters = max(1, geometry.in_channels // geometry.groups), max(1, geometry.out_channels)
    if machine.weight_pad is None or machine.input_pad is None or machine.psum_pad is None:
        return Passes(math.ceil(filters / machine.lanes), 1, 1)
    kernel_rows, kernel_columns = geometry.kernel
    in_pad = max(1, min(filters, machine.psum_pad.words))
    room = machine.weight_pad.words / (in_pad * kernel_columns * max(density, 1e-9))
    deep = max(1, int(min(channels, room, machine.input_pad.words // kernel_columns)))
    sets = max(1, machine.pe_rows // kernel_rows)
    rounds = math.ceil(channels / deep)
    columns = min(geometry.out_size[0], machine.pe_columns)
    beside = max(1, machine.pe_columns // columns) * max(1, sets // rounds)
    returns = 1 if machine.dataflow == "output_stationary" else math.ceil(rounds / sets)
    return Passes(math.ceil(filters / (in_pad * beside)), returns, columns)


def price(load: LayerLoad, machine: Accelerator, weights: Stored, shelf: Shelf) -> Ledger:
    """Energy, traffic and cycles of one layer for one sample."""
    ledger, geometry = Ledger(), load.geometry
    batch = min(machine.time_batch, load.steps)
    groups = math.ceil(load.steps / batch)
    total = psum_bits(load, machine)
    resident = total * batch + (load.state_bits if load.neurons else 0)  # sums of every step, one membrane
    tiling = tile(
        geometry,
        machine.dataflow,
        shelf.room_bits / (2 if machine.double_buffered else 1),
        weights.bits,
        float(map_bits(load, machine) * batch),
        float(resident),
    )
    cut = passes(geometry, machine, weights.entries / max(load.synapses, 1))
    _weights(ledger, load, machine, weights, shelf, tiling.weights * groups, cut)
    _maps(ledger, load, machine, shelf, tiling, cut)
    _state(ledger, load, machine, shelf, groups)
    sums = float(geometry.outputs * load.steps * total)
    ledger.move(machine.dram, "dram", "psums", tiling.psums * sums, tiling.psums * sums, total)
    rounds = (cut.channels - 1) * sums, cut.channels * sums
    ledger.move(machine.buffer, "buffer", "psums", *rounds, total, shelf.state.scale)
    _array(ledger, load, machine, weights)
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
    away = 1.0 - shelf.weights.on_chip if machine.dram is not None else 0.0
    through = 0.0 if machine.weights_pass_buffer else away
    streams: tuple[tuple[What, float, float], ...] = (
        ("weights", weights.value_bits, weights.entry_bits),
        ("metadata", weights.beside_bits, weights.entry_bits),
        ("metadata", weights.apart_bits, 0.0),
    )
    for what, bits, entry in streams:
        moved = bits * fetches
        ledger.move(machine.dram, "dram", what, moved * away, 0.0, entry)
        on_chip = moved * (1.0 - away + through), moved * through
        ledger.move(machine.buffer, "buffer", what, *on_chip, entry, shelf.weights.scale)
    if machine.weight_pad is not None:
        pad, copies = machine.weight_pad, fetches * cut.columns
        words = weights.entries * pad_words(load.weight_bits, pad)
        ledger.charge("pads", "weights", words * copies * pad.write_pj)
        ledger.charge("pads", "metadata", weights.metadata_bits / pad.word_bits * copies * pad.write_pj)
    constants = float(load.parameter_bits * load.steps)
    event.shared(ledger, machine, shelf.weights, "parameters", constants, 0.0, 0.0)


def pad_words(bits: int, pad: Memory) -> int:
    """Words of a pad that one value takes."""
    return math.ceil(bits / pad.word_bits)


def _maps(
    ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf, tiling: Tiling, cut: Passes
) -> None:
    """Inputs from their home to the pads, outputs back to theirs."""
    away = 1.0 - shelf.maps.on_chip if machine.dram is not None else 0.0
    read, written = event.maps(load, machine, load.geometry.outputs)
    fetched, entry = read.bits * tiling.inputs, read.entry_bits
    ledger.move(machine.dram, "dram", "inputs", fetched * away, 0.0, entry)
    ledger.move(
        machine.buffer, "buffer", "inputs", fetched * cut.filters, fetched * away, entry, shelf.maps.scale
    )
    ledger.move(machine.dram, "dram", "outputs", 0.0, written.bits * away, written.entry_bits)
    drained = written.bits * away, written.bits
    ledger.move(machine.buffer, "buffer", "outputs", *drained, written.entry_bits, shelf.maps.scale)


def _state(ledger: Ledger, load: LayerLoad, machine: Accelerator, shelf: Shelf, groups: int) -> None:
    """Membranes come in and go out once for each group of time steps, and are updated at every step."""
    away = 1.0 - shelf.state.on_chip
    moved, stepped = float(load.neurons * load.state_bits * groups), load.mean.updates * load.state_bits
    ledger.move(machine.dram, "dram", "state", moved * away, moved * away, load.state_bits)
    ledger.move(machine.buffer, "buffer", "state", stepped, stepped, load.state_bits, shelf.state.scale)


def _array(ledger: Ledger, load: LayerLoad, machine: Accelerator, weights: Stored) -> None:
    """Operations and pad accesses: carried out, gated or skipped.

    A zero weight that the encoding leaves out is never an operation; run lengths and coordinates save its cycle
    too. A zero input is gated (its cycle passes, its operation does not happen) where the machine can.
    """
    work, encoding = load.mean, weights.encoding
    stored = weights.entries / max(load.synapses, 1)
    scanned = work.synops_dense * (stored if machine.skips_weights else 1.0)
    met = work.synops if drops_zeros(encoding) else work.synops_event
    executed = met if machine.gates_zero_inputs else max(met, scanned)
    event.arithmetic(ledger, load, machine, executed)
    idle = max(scanned - executed, 0.0) * machine.arithmetic.gated_share
    ledger.charge("arithmetic", "idle", idle * event.operation_pj(load, machine))
    if machine.weight_pad is not None:
        pad = machine.weight_pad
        # of each stored weight that is used; at most all of it at each use of the whole, zeros included
        metadata = executed * weights.metadata_bits / max(weights.entries, 1.0)
        metadata = min(metadata, work.synops_dense * weights.metadata_bits / max(load.synapses, 1))
        ledger.charge("pads", "weights", executed * pad_words(load.weight_bits, pad) * pad.read_pj)
        ledger.charge("pads", "metadata", metadata / pad.word_bits * pad.read_pj)
    if machine.input_pad is not None:
        ledger.charge(
            "pads",
            "inputs",
            executed * pad_words(load.input_bits, machine.input_pad) * machine.input_pad.read_pj,
        )
    if machine.psum_pad is not None:
        words = pad_words(psum_bits(load, machine), machine.psum_pad)
        ledger.charge(
            "pads", "psums", executed * words * (machine.psum_pad.read_pj + machine.psum_pad.write_pj)
        )
    ledger.cycles = (scanned + work.updates + work.weight_updates + work.trace_updates) / machine.lanes
