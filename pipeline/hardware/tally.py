"""What one layer has seen, and the maps that turn its input into operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.hardware.kernels import Doubles, Floats, Reach, survey
from pipeline.hardware.workload import Geometry, Kind, Runs
from pipeline.types import FLOAT_BITS, require

CONVS = (nn.Conv1d, nn.Conv2d)
SPIKES, GATES, ADDITIONS, COUNTS = 3, 4, 5, 6
"""Columns of a tally: input events, effective operations, operations with all weights, output spikes, and outside the
weights multiplications and additions."""
FIXED_POINT = 2.0**-8
"""The unit to try where the smallest value is none: 8 fraction bits, what an intensity as a current has."""
ON_GRID = 1e-3
"""How far, in steps, a value may be from a whole number of steps and still be one: float32 of counts / 255."""


class Flow(NamedTuple):
    """The values that an average pool may give, whatever it was given: whole numbers of `unit` between the ends."""

    unit: float
    low: float
    high: float

    def holds(self, rows: Floats) -> bool:
        """Whether these are such values; what scales or gates them on their way makes others."""
        near = ON_GRID * self.unit
        inside = rows.min(initial=0.0) >= self.low - near and rows.max(initial=0.0) <= self.high + near
        return bool(inside) and on_grid(rows, self.unit)


def on_grid(rows: Floats, unit: float) -> bool:
    """Whether all entries are whole numbers of `unit`."""
    steps = rows / np.float32(unit)
    return bool(np.abs(steps - np.rint(steps)).max(initial=0.0) <= ON_GRID)


@dataclass
class Values:
    """What values a map holds, and how many bits one of them takes."""

    unit: float = 1.0
    """The value of one spike, or of one count; a constant scale costs nothing, it is folded into the weights."""
    ends: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest value so far."""
    bits: int = 1
    told: bool = False
    """The unit is known from what comes before, and not the smallest value that was seen."""

    def see(self, first: Floats, low: float, high: float, fresh: bool) -> None:
        """Learn what values the map holds where they are not spikes of one `unit`.

        first: the rows of one time step, in which counts are told from real numbers (an encoding does not change
        with time); low, high: the ends over all rows, which say how wide a count is; fresh: no rows came before.
        """
        if self.bits == FLOAT_BITS:
            return
        self.ends = min(self.ends[0], low), max(self.ends[1], high)
        if (fresh and not self.told) or not np.isfinite(self.unit):
            self.unit = float(np.min(np.abs(first), initial=np.inf, where=first != 0))
        if not np.isfinite(self.unit):
            return  # nothing but zeros so far
        for unit in (self.unit, FIXED_POINT):
            if on_grid(first, unit):
                self.unit = unit
                break
        else:
            self.bits = FLOAT_BITS
            return
        self._widen()

    def expect(self, flow: Flow) -> None:
        """Take over a grid and its ends: a few samples need not show the finest value, nor the largest."""
        self.told, self.unit = True, flow.unit
        self.ends = min(self.ends[0], flow.low), max(self.ends[1], flow.high)
        self._widen()

    def _widen(self) -> None:
        bottom, top = round(self.ends[0] / self.unit), round(self.ends[1] / self.unit)
        if bottom < 0 or top > 1:
            self.bits = max(self.bits, 2, max(top, -bottom).bit_length() + int(bottom < 0))

    def averaged(self, module: nn.Module, shape: Sequence[int]) -> Flow | None:
        """What an average pool makes of a map [..., H, W] of them; None of real numbers, or where windows differ."""
        window = window_of(module, shape)
        if window is None or self.bits == FLOAT_BITS:
            return None
        unit, (low, high) = (self.unit, self.ends) if np.isfinite(self.unit) else (1.0, (0.0, 1.0))
        share = 1.0 / (getattr(module, "divisor_override", None) or window)
        return Flow(unit * share, low * window * share, max(high, unit) * window * share)


def window_of(module: nn.Module, shape: Sequence[int]) -> int | None:
    """Entries that each output of an average pool is the mean of; None where they are not as many everywhere."""
    if isinstance(module, (nn.AvgPool1d, nn.AvgPool2d)):
        sides = _sides(module.kernel_size, 1 if isinstance(module, nn.AvgPool1d) else 2)
        even = module.count_include_pad or not any(_sides(module.padding, len(sides)))
        return math.prod(sides) if even and not module.ceil_mode else None
    wanted = _sides(cast(Any, module).output_size, 1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2)
    pairs = [(n, n if out is None else out) for n, out in zip(shape[-len(wanted) :], wanted, strict=True)]
    return None if any(n % out for n, out in pairs) else math.prod(n // out for n, out in pairs)


def _sides(size: Any, count: int) -> tuple[Any, ...]:
    return (size,) * count if isinstance(size, int) else tuple(size)


@dataclass
class Tally:
    """What one layer has seen so far; the last batch is folded in when the next begins."""

    kind: Kind
    module: nn.Module
    geometry: Geometry
    survey: Survey
    calls: int = 0
    samples: int = 0
    total: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    worst: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    batch: Doubles = field(default_factory=lambda: np.zeros((0, COUNTS)))
    values: Values = field(default_factory=Values)
    """Of its input."""
    norm: str = ""
    neuron: str = ""
    neuron_entries: int = 0
    read_on: bool | None = None
    """Whether the next layer reads this one's spikes as they are, and so counts them; None: not seen yet."""
    layouts: dict[bool, tuple[Reach, Reach]] = field(default_factory=dict)

    def fold(self) -> None:
        """Take the finished batch [B, COUNTS] into the totals."""
        if len(self.batch):
            self.total += self.batch.sum(0)
            self.worst = np.maximum(self.worst, self.batch.max(0))
            self.samples += len(self.batch)
            self.batch = self.batch[:0]

    def begin(self, samples: int) -> None:
        self.batch = np.zeros((samples, COUNTS))

    def reach_in(self, last: bool) -> tuple[Reach, Reach]:
        """The reach in the order of memory: channels first, or last; in float32 where that is exact (twice as fast)."""
        if last not in self.layouts:
            exact: type[np.floating] = (
                np.float32 if float(self.survey.reach[1].double().sum()) < 2**24 else np.float64
            )
            nonzero, every = (r.movedim(0, -1) if last else r for r in self.survey.reach)
            self.layouts[last] = (
                np.ascontiguousarray(nonzero.numpy(), dtype=exact).reshape(-1),
                np.ascontiguousarray(every.numpy(), dtype=exact).reshape(-1),
            )
        return self.layouts[last]


def in_memory_order(x: Tensor, inputs: int) -> tuple[Floats, bool]:
    """([rows, inputs] float32 without moving anything where that can be, whether channels come last)."""
    x = x.detach()
    last = x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1) if last else x
    return rows.reshape(-1, inputs).float().cpu().numpy(), last


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one block of memory, differently shaped."""
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.is_contiguous() and b.is_contiguous()


def conv_geometry(module: nn.Conv1d | nn.Conv2d, x: Tensor, y: Tensor) -> Geometry:
    def pair(size: Iterable[int]) -> tuple[int, int]:
        sides = tuple(size)
        return (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1])

    return Geometry(
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        in_size=pair(x.shape[2:]),
        out_size=pair(y.shape[2:]),
        kernel=pair(module.kernel_size),
        stride=pair(module.stride),
        groups=module.groups,
    )


@dataclass(frozen=True)
class Survey:
    """What one pass over a layer's weights tells."""

    synapses: int
    nonzero: int
    runs: Runs
    """Zeros before each nonzero weight, in storage order, with their counts."""
    reach: tuple[Tensor, Tensor]
    """Synapses behind each input entry, shaped like one sample's input: those that are not zero, all of them."""


def look_over(module: nn.Module, x: Tensor) -> Survey:
    """Count a layer's weights and find out where each entry of its input x [rows, ...] leads to."""
    weight = cast(Tensor, module.weight).detach()
    groups = module.groups if isinstance(module, CONVS) else 1
    filters = weight.shape[0] // groups
    alive, found = alive_and_runs(weight, groups)
    taps = torch.from_numpy(alive).float()
    if isinstance(module, CONVS):
        ways = conv_ways(module, taps.reshape(groups, *weight.shape[1:]), filters, x.shape[1:])
    else:
        ways = taps[0], torch.full((len(taps[0]),), float(filters))
    return Survey(weight.numel(), int(alive.sum()), found, ways)


def alive_and_runs(weight: Tensor, groups: int = 1) -> tuple[npt.NDArray[np.int64], Runs]:
    """(nonzero weights at each place of a filter [groups, fan-in], runs of zeros as stored) of [filters, ...]."""
    flat = weight.detach().reshape(groups, len(weight) // groups, -1).float().cpu().numpy()
    if np.count_nonzero(flat) == flat.size:  # a float network: nothing to look for
        return np.full((groups, flat.shape[2]), flat.shape[1], np.int64), ((0, flat.size),)
    alive = np.zeros((groups, flat.shape[2]), np.int64)
    runs = np.zeros(flat.size + 1, np.int64)
    longest = int(survey(flat, alive, runs))
    return alive, tuple((int(n), int(runs[n])) for n in np.flatnonzero(runs[: longest + 1]))


def zero_runs(weight: Tensor) -> Runs:
    """Lengths of the runs of zeros before each nonzero weight, in storage order, with their counts."""
    return alive_and_runs(weight)[1] if weight.numel() else ()


def conv_ways(
    module: nn.Conv1d | nn.Conv2d, taps: Tensor, filters: int, shape: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Fan-out of each input entry [C, ...] of a convolution, exact at the edges: (nonzero synapses, all).

    taps [groups, C / groups, ...]: nonzero weights of all filters at each tap. The gradient of the sum of all outputs
    of a convolution with the taps added up over the filters says how many of them an entry meets.
    """
    require(module.padding_mode == "zeros", "padding_mode", "be 'zeros' to be counted", module.padding_mode)
    convolve = nn.functional.conv1d if isinstance(module, nn.Conv1d) else nn.functional.conv2d

    def met(kernel: Tensor, channels: int, groups: int) -> Tensor:
        with torch.enable_grad():
            probe = torch.zeros(1, channels, *shape[1:], requires_grad=True)
            out = convolve(probe, kernel, None, module.stride, module.padding, module.dilation, groups)
            (gradient,) = torch.autograd.grad(out.sum(), probe)
        return gradient[0]

    every = met(torch.full((1, 1, *taps.shape[2:]), float(filters)), 1, 1)
    return met(taps, shape[0], module.groups), every.expand(*shape)
