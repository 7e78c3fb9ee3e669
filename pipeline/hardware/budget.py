"""Does it fit, and what can it not undercut: answers before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from pipeline.hardware.accelerator import Accelerator
from pipeline.hardware.cost import Busy, Cost, LayerCost, cost
from pipeline.hardware.ledger import Entry
from pipeline.hardware.load import measure
from pipeline.hardware.workload import Activity, LayerLoad
from pipeline.types import Batch, Widths, require


@dataclass(frozen=True)
class Budget:
    """What a network may cost; None: no limit."""

    memory_bytes: float | None = None
    energy_mj: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "energy_mj", "latency_ms"):
            value = getattr(self, name)
            require(value is None or value > 0, name, "be > 0", value)


@dataclass(frozen=True)
class Fit:
    """The answer to a budget: true when nothing is exceeded."""

    exceeded: tuple[str, ...]
    """One sentence per limit: ``memory 61.2 KiB exceeds 32.0 KiB``."""

    def __bool__(self) -> bool:
        return not self.exceeded


def fits(price: Cost, budget: Budget) -> Fit:
    """Whether a priced network stays inside `budget` and inside the machine's own memory."""
    found = []
    wanted: tuple[tuple[str, float, float | None, str], ...] = (
        (
            "memory",
            price.memory_bits / 8192,
            None if budget.memory_bytes is None else budget.memory_bytes / 1024,
            "KiB",
        ),
        ("energy", price.energy_pj * 1e-9, budget.energy_mj, "mJ"),
        ("latency", price.latency_us * 1e-3, budget.latency_ms, "ms"),
    )
    for name, value, limit, unit in wanted:
        if limit is not None and value > limit:
            found.append(f"{name} {value:.4g} {unit} exceeds {limit:.4g} {unit}")
    if not price.fits:
        found += [f"{layer.name}: {layer.overflow}" for layer in price.layers if layer.overflow]
    return Fit(tuple(found))


def silenced(load: LayerLoad, nonzero: int = 0) -> LayerLoad:
    """The same layer when nothing fires and only `nonzero` of its weights are left, packed as well as can be."""
    work = Activity(synops_dense=load.mean.synops_dense, updates=load.mean.updates)
    return replace(
        load,
        nonzero=nonzero,
        runs=((0, nonzero),) if nonzero else (),
        input_bits=1,
        mean=work,
        worst=work,
    )


def lowest(loads: Sequence[LayerLoad], accelerator: Accelerator) -> Cost:
    """What these layers cost at least, whatever they will learn: nothing fires, and no weight is left.

    A measured machine spreads a layer over the cores that its weights need, and more cores are faster: there a layer
    takes at least the time that it takes with all of them. Where a DRAM holds what finds no room in the buffer, what
    that is changes with weights and spikes: there each tensor lies where it is cheaper, and both memories move data
    until the end.
    """
    price = cost([silenced(load) for load in loads], accelerator)
    if accelerator.processing == "measured":
        spread = cost([silenced(load, load.synapses) for load in loads], accelerator)
        layers = [
            replace(few, energy=many.energy, busy_us=many.busy_us)
            for few, many in zip(price.layers, spread.layers, strict=True)
        ]
    elif accelerator.dram is not None and "buffer" in (
        accelerator.weights_home, accelerator.maps_home, accelerator.state_home,
    ):  # fmt: skip
        inside = replace(accelerator, buffer=replace(accelerator.buffer, capacity_kib=None))
        outside = replace(inside, weights_home="dram", maps_home="dram", state_home="dram")
        two = (cost([silenced(load) for load in loads], machine).layers for machine in (inside, outside))
        layers = [_cheaper(near, far, accelerator) for near, far in zip(*two, strict=True)]
    else:
        return price
    return replace(
        price,
        layers=tuple(layers),
        worst_energy_pj=sum(layer.energy_pj for layer in layers),
        worst_latency_us=sum(layer.latency_us for layer in layers),
    )


def _cheaper(near: LayerCost, far: LayerCost, machine: Accelerator) -> LayerCost:
    """The layer with each tensor in the buffer (`near`) or in the DRAM (`far`), both of which work until the end."""
    assert machine.dram is not None
    widths: dict[Busy, float] = {
        "buffer": machine.buffer.bits_per_cycle,
        "dram": machine.dram.bits_per_cycle,
    }
    moved = min(sum(one.busy_us[part] * width for part, width in widths.items()) for one in (near, far))
    moving_us = moved / sum(widths.values())
    busy_us: dict[Busy, float] = {
        "compute": near.busy_us["compute"],
        "buffer": moving_us,
        "dram": moving_us,
    }
    energy: dict[Entry, float] = {}
    for what in dict.fromkeys(what for _, what in (*near.energy, *far.energy)):
        here, there = ({key: pj for key, pj in one.energy.items() if key[1] == what} for one in (near, far))
        energy |= here if sum(here.values()) <= sum(there.values()) else there
    leakage_uw = machine.buffer.leakage_uw + machine.dram.leakage_uw
    energy["leakage", "idle"] = leakage_uw * max(busy_us.values())
    return replace(near, energy=energy, busy_us=busy_us)


def floor(net: nn.Module, shape: Sequence[int], steps: int, widths: Widths, accelerator: Accelerator) -> Cost:
    """What `net` costs at least, whatever it will learn: known before training, so a hopeless trial is free.

    One silent sample [steps, 1, *shape] shows the shapes; then nothing fires, and no weight is left (a pruning plan may
    leave few, and quantization sets more to zero). Memory is exact for dense weights where spikes come in, and a lower
    bound for other encodings and for inputs that are counts. Energy, latency: what the machine spends without a spike.
    """
    silence = torch.zeros(steps, 1, *shape)
    loads = measure(net, [Batch(silence, torch.zeros(1, dtype=torch.int64))], widths)
    return lowest(loads, accelerator)
