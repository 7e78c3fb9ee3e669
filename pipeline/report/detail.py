"""Reads `Row.detail` with care: every key may be missing, from an older version, or only half there.

Legend of ``detail`` as the report understands it
    layers            [{"name", "bits", "sparsity", "energy_pj", "parts": {part: pJ}}, ...], in network order
    confusion         [[count, ...], ...], row = true class, column = predicted class
    rasters           [{"layer", "steps", "neurons", "spikes": [[step, neuron], ...], "label"}, ...]
    receptive_fields  [{"layer", "fields": [n][H][W]}, ...]
    command           what reproduces this row, when it is not the study's pattern
    dominated_by      number of a trial that is better in every objective
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from pipeline.report.points import value
from pipeline.types import FLOAT_BITS, Row


@dataclass(frozen=True)
class Layer:
    """One synaptic layer of a priced network."""

    name: str
    bits: float
    sparsity: float
    energy_pj: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """part of the hardware (``dram``, ``arithmetic``, ...) -> pJ."""
    memory: Mapping[str, float] = field(default_factory=dict)
    """what is stored (``weights``, ``indices``, ``state``, ...) -> bits."""


@dataclass(frozen=True)
class Interval:
    """A share with its 95 % interval, and where the interval comes from."""

    middle: float
    low: float
    high: float
    origin: str
    """``3 seeds`` or ``360 samples``."""


def number(given: object) -> float:
    """A float, NaN when it is none."""
    return float(given) if isinstance(given, int | float) and not isinstance(given, bool) else math.nan


def records(row: Row, key: str) -> Iterator[Mapping[str, object]]:
    """The mappings in a list of ``detail``; nothing when there is no such list."""
    given = row.detail.get(key)
    if isinstance(given, Sequence) and not isinstance(given, str):
        yield from (entry for entry in given if isinstance(entry, Mapping))


def layers(row: Row) -> tuple[Layer, ...]:
    """The row's layers in network order; a layer without parts has its whole energy in the part ``total``."""
    found: list[Layer] = []
    for entry in records(row, "layers"):
        energy_pj, memory_bits = number(entry.get("energy_pj")), number(entry.get("memory_bits"))
        parts = _named(entry.get("parts"), energy_pj)
        if not math.isfinite(energy_pj):
            energy_pj = sum(parts.values()) if parts else math.nan
        name = str(entry.get("name", f"layer {len(found)}"))
        bits, zeros = number(entry.get("bits")), number(entry.get("sparsity"))
        found.append(Layer(name, bits, zeros, energy_pj, parts, _named(entry.get("memory"), memory_bits)))
    return tuple(found)


def _named(parts: object, total: float) -> dict[str, float]:
    """The parts of a sum; a sum whose parts are not known is its own part ``total``."""
    if isinstance(parts, Mapping) and parts:
        return {str(name): number(given) for name, given in parts.items() if math.isfinite(number(given))}
    return {"total": total} if math.isfinite(total) else {}


def asked(row: Row, path: str) -> object | None:
    """The parameter that ends in `path`, as ``plan.order``; None where it was not searched."""
    return next((given for name, given in row.params.items() if name.endswith(path)), None)


def left_out(row: Row) -> Literal["", "bits", "sparsity"]:
    """What an isolated trial was suggested and its plan leaves out: the widths beside masks alone, the sparsity beside
    quantizers alone. An order that was not searched shows in the layers as priced."""
    scheme, mode = asked(row, "plan.scheme"), asked(row, "plan.mode")
    if (scheme if mode is None or scheme in ("isolated", "cumulative", "joint") else mode) != "isolated":
        return ""
    order, widths = asked(row, "plan.order"), _widths(row)
    if order is None and not widths:
        return ""
    masks = order == "prune_first" if order is not None else min(widths) >= FLOAT_BITS
    return "bits" if masks else "sparsity"


def _widths(row: Row) -> list[float]:
    return [layer.bits for layer in layers(row) if math.isfinite(layer.bits)]


def weight_bits(row: Row) -> str:
    """``4``, or ``2-8`` when layers differ: read off the layers as priced, else off the parameter, else
    unknown."""
    widths = _widths(row)
    if not widths and left_out(row) == "bits":
        return str(FLOAT_BITS)
    if not widths:
        given = [number(v) for k, v in row.params.items() if k.endswith("quantize_weights.bits")]
        widths = [bits for bits in given if math.isfinite(bits)]
    if not widths:
        return ""
    low, high = (f"{min(width, FLOAT_BITS):g}" for width in (min(widths), max(widths)))
    return low if low == high else f"{low}-{high}"


def sparsity(row: Row) -> float:
    """Share of zero weights: as measured, else as asked for, else NaN."""
    if "sparsity" in row.metrics:
        return value(row, "sparsity")
    return math.nan if left_out(row) == "sparsity" else number(asked(row, "prune_weights.sparsity"))


def interval(row: Row, metric: str, samples: int = 0) -> Interval | None:
    """95 % interval of a share: over seeds where the row was re-run, else Wilson's over the samples, else
    None.

    Over seeds the row brings the mean (``test_accuracy_mean``) and the half-width
    (``test_accuracy_interval``). Wilson (1927), score interval of a binomial share: (p + z²/2n ±
    z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    half = value(row, f"{metric}_interval")
    if math.isfinite(half):
        middle, seeds = value(row, f"{metric}_mean"), value(row, "finalist_seeds")
        origin = f"{seeds:.0f} seeds" if math.isfinite(seeds) else "seeds"
        return Interval(middle, max(0.0, middle - half), min(1.0, middle + half), origin)
    share = value(row, metric)
    if samples <= 0 or not 0 <= share <= 1:
        return None
    z = NormalDist().inv_cdf(0.975)
    centre = (share + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples**2)) / (1 + z * z / samples)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), f"{samples:,} samples")
