"""Loads that are expected rather than measured: from shapes, densities and rates, before anything is trained."""

from __future__ import annotations

import math

from pipeline.hardware.workload import Activity, Geometry, Kind, LayerLoad
from pipeline.types import FLOAT_BITS, require


def taps(outputs: int, inputs: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Pairs (output, kernel position) along one axis that meet the input and not its padding."""
    return sum(
        max(0, min(start + kernel, inputs) - max(start, 0))
        for start in range(-padding, outputs * stride - padding, stride)
    )


def dense_synops(geometry: Geometry, padding: tuple[int, int] = (0, 0)) -> int:
    """Synaptic operations of one time step when nothing is zero; padding is not counted."""
    down, across = (
        taps(*sizes)
        for sizes in zip(
            geometry.out_size, geometry.in_size, geometry.kernel, geometry.stride, padding, strict=True
        )
    )
    return down * across * geometry.out_channels * (geometry.in_channels // geometry.groups)


def expected_load(
    name: str,
    kind: Kind,
    geometry: Geometry,
    steps: int,
    *,
    density: float = 1.0,
    input_density: float = 1.0,
    firing_rate: float = 0.0,
    neurons: bool = True,
    padding: tuple[int, int] = (0, 0),
    weight_bits: int = FLOAT_BITS,
    state_bits: int = FLOAT_BITS,
    parameter_bits: int = 0,
    input_bits: int = 1,
    gates: float = 0.0,
    additions: float = 0.0,
) -> LayerLoad:
    """A `LayerLoad` whose zeros are independent of each other: nonzero = density x synapses, and so on.

    `density`, `input_density` and `firing_rate` are shares in [0, 1]; the worst case is the mean.
    """
    for field_name, share in (
        ("density", density),
        ("input_density", input_density),
        ("firing_rate", firing_rate),
    ):
        require(0 <= share <= 1, field_name, "be in [0, 1]", share)
    synapses = geometry.out_channels * geometry.fan_in
    nonzero = math.ceil(density * synapses)
    dense = float(dense_synops(geometry, padding) * steps)
    count = geometry.outputs if neurons else 0
    work = Activity(
        events_in=geometry.inputs * steps * input_density,
        spikes_out=count * steps * firing_rate,
        synops=dense * input_density * nonzero / max(synapses, 1),
        synops_event=dense * input_density,
        synops_dense=dense,
        updates=float(count * steps),
        gates=gates,
        additions=additions,
    )
    return LayerLoad(
        name,
        kind,
        geometry,
        steps,
        synapses,
        nonzero,
        count,
        weight_bits,
        state_bits if neurons else 0,
        parameter_bits=parameter_bits,
        input_bits=input_bits,
        mean=work,
        worst=work,
    )
