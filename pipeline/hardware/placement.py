"""Which tensors live on the chip: those that are used most per bit, as far as the buffer reaches."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.encoding import Stored
from pipeline.hardware.ledger import Shelf, Spot, map_bits
from pipeline.hardware.workload import LayerLoad


def place(loads: Sequence[LayerLoad], stored: Sequence[Stored], machine: Accelerator) -> tuple[Shelf, ...]:
    """The share of each layer's weights, state and input map that lives in the buffer.

    Tensors whose home is the buffer are placed in order of accesses per bit; the one at the edge is split, as a
    compiler would split it, so that a smaller network is never dearer. In a machine that works in frames with its
    homes in the DRAM nothing lives in the buffer: it holds tiles.
    """
    wanted: list[tuple[float, float, int, str]] = []
    for index, (load, weights) in enumerate(zip(loads, stored, strict=True)):
        work = load.mean
        state = float(load.neurons * load.state_bits + load.traces * load.trace_bits)
        held = float(load.geometry.inputs * map_bits(load, machine))
        once = load.steps if machine.processing == "frame" else work.synops / max(load.nonzero, 1)
        uses = {
            "weights": (machine.weights_home, weights.bits + load.parameter_bits, once),
            "state": (machine.state_home, state, 2.0 * (work.updates + work.synops) / max(load.neurons, 1)),
            "maps": (machine.maps_home, held, 2.0 * load.steps),
        }
        wanted += [(rate, bits, index, what) for what, (home, bits, rate) in uses.items() if home == "buffer"]
    on_chip = {(index, what): 0.0 for index in range(len(loads)) for what in ("weights", "state", "maps")}
    room = machine.buffer.capacity_bits
    for _, bits, index, what in sorted(wanted, key=lambda item: (-item[0], item[2], item[3])):
        taken = min(bits, room)
        on_chip[index, what] = taken / bits if bits else 1.0
        room -= taken
    sizes = {(index, what): bits for _, bits, index, what in wanted}

    def spot(index: int, what: str) -> Spot:
        return Spot(on_chip[index, what], machine.buffer.scale(sizes.get((index, what), 0.0)))

    return tuple(
        Shelf(spot(i, "weights"), spot(i, "state"), spot(i, "maps"), room) for i in range(len(loads))
    )
