"""Which constant of a machine a result hangs on: each one moved up and down, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

from pipeline.hardware.accelerator import Accelerator, Memory
from pipeline.hardware.cost import cost
from pipeline.hardware.workload import LayerLoad
from pipeline.types import require

METRICS = ("memory_bits", "energy_pj", "latency_us")
SUFFIXES = ("_pj", "_ns", "_uw", "_kib", "_mhz", "_share", "_cycle", "_adds", "_multiplies")
"""Endings of the names of physical constants; counts and choices (word widths, encodings) are no constants."""


@dataclass(frozen=True)
class Elasticity:
    """What one constant does to the price."""

    name: str
    """Dotted, as in the YAML: ``dram.read_pj``."""
    value: float
    low: dict[str, float]
    """metric -> its value with the constant at (1 - change), as a share of the unchanged value."""
    high: dict[str, float]
    elasticity: dict[str, float]
    """metric -> d ln metric / d ln constant between the two: 1 means proportional, 0 no influence."""


def constants(node: object, prefix: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, value) of every physical constant that is not zero.

    A memory whose energy follows its size has one constant, ``sizes``: the energy of its largest point.
    """
    sized = isinstance(node, Memory) and bool(node.sizes)
    if isinstance(node, Memory) and node.sizes:
        yield f"{prefix}sizes", node.sizes[-1][1]
    for item in fields(node):  # type: ignore[arg-type]
        value, name = getattr(node, item.name), f"{prefix}{item.name}"
        if sized and item.name in ("read_pj", "write_pj"):
            continue
        if is_dataclass(value):
            yield from constants(value, f"{name}.")
        elif item.name.endswith(SUFFIXES) and isinstance(value, int | float) and value:
            yield name, float(value)


def with_constant(machine: Accelerator, name: str, value: float) -> Accelerator:
    """`machine` with one constant changed."""
    head, _, rest = name.partition(".")
    if not rest:
        return replace(machine, **{head: value})  # type: ignore[arg-type]
    part = getattr(machine, head)
    if rest == "sizes":
        factor = value / part.sizes[-1][1]
        given: object = tuple((size, energy_pj * factor) for size, energy_pj in part.sizes)
    else:
        given = value
    inner = replace(part, **{rest: given})
    return replace(machine, **{head: inner})


def sensitivity(
    loads: Sequence[LayerLoad], machine: Accelerator, change: float = 0.3
) -> tuple[Elasticity, ...]:
    """Every constant at (1 - change) and (1 + change) times its value; those that move the energy most come first.

    A side on which no machine can be (a share above 1, a narrow addition dearer than a wide one) stays in the middle.
    """
    require(0 < change < 1, "change", "be in (0, 1)", change)
    middle = cost(loads, machine).metrics()
    found = []
    for name, value in constants(machine):
        moved = [_moved(machine, name, value, factor) for factor in (1 - change, 1 + change)]
        sides = [_shares(loads, changed, middle) for _, changed in moved]
        span = (
            math.log(moved[1][0] / moved[0][0]) or 1.0
        )  # where neither side could be moved, nothing changes
        slope = {key: math.log(sides[1][key] / sides[0][key]) / span for key in METRICS if sides[0][key] > 0}
        found.append(Elasticity(name, value, sides[0], sides[1], slope))
    return tuple(sorted(found, key=lambda e: (-abs(e.elasticity.get("energy_pj", 0.0)), e.name)))


def _moved(machine: Accelerator, name: str, value: float, factor: float) -> tuple[float, Accelerator]:
    """(factor, machine with the constant that many times as large); (1, `machine`) where there is no such machine."""
    try:
        return factor, with_constant(machine, name, value * factor)
    except ValueError:
        return 1.0, machine


def _shares(loads: Sequence[LayerLoad], machine: Accelerator, middle: dict[str, float]) -> dict[str, float]:
    changed = cost(loads, machine).metrics()
    return {key: changed[key] / middle[key] if middle[key] else 1.0 for key in METRICS}


def as_rows(report: Sequence[Elasticity]) -> list[dict[str, object]]:
    """Plain records for tables and figures."""
    return [
        {
            "constant": e.name,
            "value": e.value,
            **{f"{key}_elasticity": v for key, v in e.elasticity.items()},
            "energy_low": e.low["energy_pj"],
            "energy_high": e.high["energy_pj"],
        }
        for e in report
    ]
