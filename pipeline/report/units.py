"""How a metric is shown to a person: its label, its unit, its axis. Numbers inside keep the unit of their
name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Scale = tuple[float, str]
"""(how many of the metric's own unit make one, the unit's sign)."""

_MEMORY: tuple[Scale, ...] = (
    (1, "bit"),
    (8, "B"),
    (8 * 2**10, "KiB"),
    (8 * 2**20, "MiB"),
    (8 * 2**30, "GiB"),
)
_ENERGY: tuple[Scale, ...] = ((1, "pJ"), (1e3, "nJ"), (1e6, "µJ"), (1e9, "mJ"), (1e12, "J"))
_LATENCY: tuple[Scale, ...] = ((1e-3, "ns"), (1, "µs"), (1e3, "ms"), (1e6, "s"))
_DURATION: tuple[Scale, ...] = ((1, "s"), (60, "min"), (3600, "h"))
_SHARE: tuple[Scale, ...] = ((0.01, "%"),)
_PLAIN: tuple[Scale, ...] = ((1, ""),)

_LABELS = {
    "memory_bits": "memory",
    "energy_pj": "energy per inference",
    "energy_training_pj": "energy per training sample",
    "dense_energy_training_pj": "energy per training sample, whole rows and columns",
    "dense_memory_bits": "memory as dense matrices",
    "latency_us": "latency per inference",
    "sparsity": "zero weights",
    "duration_s": "duration",
}
_SHARES = ("accuracy", "error", "sparsity", "rate", "density", "share", "probability")
NOTHING = "–"
"""Stands where there is no number: not measured, NaN, or infinite."""


def scales(metric: str) -> tuple[Scale, ...]:
    """The units a metric may be shown in, read off its name: ``_bits`` of memory, ``_pj``, ``_us``, ``_s``,
    shares."""
    metric = _bare(metric)
    if metric.endswith("memory_bits"):
        return _MEMORY
    if metric.endswith("_pj"):
        return _ENERGY
    if metric.endswith("_us"):
        return _LATENCY
    if metric.endswith("_s"):
        return _DURATION
    return _SHARE if metric.endswith(_SHARES) else _PLAIN


def _bare(metric: str) -> str:
    """A mean over seeds and its interval have the unit of what they are of."""
    return metric.removesuffix("_mean").removesuffix("_interval")


def label(metric: str) -> str:
    """``energy_pj`` -> ``energy per inference``; an unknown name loses its unit and its underscores."""
    bare = _bare(metric)
    if bare != metric:
        return (
            label(bare) + {"_mean": ", mean over seeds", "_interval": ", ± over seeds"}[metric[len(bare) :]]
        )
    if metric in _LABELS:
        return _LABELS[metric]
    for suffix in ("_bits", "_pj", "_us", "_s"):
        metric = metric.removesuffix(suffix)
    return metric.replace("_", " ")


def show(metric: str, value: float | None) -> str:
    """A number with a fitting unit: ``show("memory_bits", 98304) == "12 KiB"``; `NOTHING` when not
    finite."""
    if value is None or not math.isfinite(value):
        return NOTHING
    factor, unit = _suited(scales(metric), abs(value))
    if unit == "%":
        return f"{value / factor:.1f}%"
    return f"{digits(value / factor)} {unit}".rstrip()


def _suited(choices: Sequence[Scale], size: float) -> Scale:
    """The largest unit of which there is at least one; the smallest unit when there is none."""
    fitting = [scale for scale in choices if size >= scale[0]]
    return fitting[-1] if fitting and size > 0 else choices[0]


def digits(value: float) -> str:
    """Three significant digits without an exponent as long as a person can read it so."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.3g}"


@dataclass(frozen=True)
class Axis:
    """One axis of a figure: what the numbers of `metric` are divided by, what is written, and whether it is
    log."""

    metric: str
    factor: float
    title: str
    log: bool
    span: tuple[float, float] | None = None
    """Smallest and largest positive number, in the axis's unit."""

    def scaled(self, values: Iterable[float]) -> list[float]:
        return [value / self.factor for value in values]


def duration(seconds: float) -> str:
    """``40 seconds``, ``12 minutes``, ``3.5 hours``: a forecast, so no finer than that."""
    for unit, size in (("second", 1), ("minute", 60)):
        count = max(1, round(seconds / size))
        if count < 100 - 10 * (unit == "second"):
            return f"{count} {unit}{'s' * (count != 1)}"
    return f"{seconds / 3600:.2g} hours"


def axis(metric: str, values: Iterable[float], log_above: float = 20.0) -> Axis:
    """The axis for these numbers: one unit for all (that of the geometric middle), log when they span much.

    Log when all are positive and the largest is over `log_above` times the smallest; shares (percent) stay
    linear, because the difference of two accuracies is what is read off them.
    """
    finite = [value for value in values if math.isfinite(value)]
    positive = [value for value in finite if value > 0]
    middle = math.exp(sum(map(math.log, positive)) / len(positive)) if positive else 0.0
    choices = scales(metric)
    factor, unit = _suited(choices, middle)
    wide = len(positive) == len(finite) > 1 and max(positive) > log_above * min(positive)
    title = f"{label(metric)} ({unit})" if unit else label(metric)
    span = (min(positive) / factor, max(positive) / factor) if positive else None
    return Axis(metric, factor, title, wide and choices is not _SHARE, span)
