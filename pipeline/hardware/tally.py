"""What one layer has seen, and the maps that turn its input into operations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.hardware.kernels import Doubles, Floats, Reach, count_runs
from pipeline.hardware.workload import Geometry, Kind, Runs
from pipeline.types import FLOAT_BITS, require

CONVS = (nn.Conv1d, nn.Conv2d)
COUNTS = 4
"""Columns of a tally: input events, effective operations, operations with all weights, output spikes."""
FIXED_POINT = 2.0**-8
"""The unit to try where the smallest value is none: 8 fraction bits, what an intensity as a current has."""
ON_GRID = 1e-3
"""How far, in steps, a value may be from a whole number of steps and still be one: float32 of counts / 255."""


@dataclass
class Tally:
    """What one layer has seen so far; the last batch is folded in when the next begins."""

    kind: Kind
    module: nn.Module
    geometry: Geometry
    reach: tuple[Tensor, Tensor]
    """Synapses behind each input entry, shaped like one sample's input: those that are not zero, all of them."""
    calls: int = 0
    samples: int = 0
    total: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    worst: Doubles = field(default_factory=lambda: np.zeros(COUNTS))
    batch: Doubles = field(default_factory=lambda: np.zeros((0, COUNTS)))
    unit: float = 1.0
    """The value of one spike, or of one count; a constant scale costs nothing, it is folded into the weights."""
    ends: tuple[float, float] = (0.0, 0.0)
    """Smallest and largest input value so far."""
    input_bits: int = 1
    norm: str = ""
    neuron: str = ""
    neuron_entries: int = 0
    read_on: bool | None = None
    """Whether the next layer reads this one's spikes as they are, and so counts them; None: not seen yet."""
    gated: int = 0
    """Multiplications by an attention's gates."""
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
                np.float32 if float(self.reach[1].double().sum()) < 2**24 else np.float64
            )
            nonzero, every = (r.movedim(0, -1) if last else r for r in self.reach)
            self.layouts[last] = (
                np.ascontiguousarray(nonzero.numpy(), dtype=exact).reshape(-1),
                np.ascontiguousarray(every.numpy(), dtype=exact).reshape(-1),
            )
        return self.layouts[last]

    def see(self, first: Floats, low: float, high: float) -> None:
        """Learn what values the input holds where they are not spikes of one `unit`.

        first: the rows of one time step, in which counts are told from real numbers (an encoding does not change
        with time); low, high: the ends over all rows, which say how wide a count is.
        """
        if self.input_bits == FLOAT_BITS:
            return
        self.ends = min(self.ends[0], low), max(self.ends[1], high)
        if self.calls == 0 or not np.isfinite(self.unit):
            self.unit = float(np.min(np.abs(first), initial=np.inf, where=first != 0))
        if not np.isfinite(self.unit):
            return  # nothing but zeros so far
        for unit in (self.unit, FIXED_POINT):
            steps = first / np.float32(unit)
            if np.abs(steps - np.rint(steps)).max(initial=0.0) <= ON_GRID:
                self.unit = unit
                break
        else:
            self.input_bits = FLOAT_BITS
            return
        bottom, top = round(self.ends[0] / self.unit), round(self.ends[1] / self.unit)
        if bottom < 0 or top > 1:
            self.input_bits = max(self.input_bits, 2, max(top, -bottom).bit_length() + int(bottom < 0))


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


def reach(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """How many synapses lead away from each input entry: (nonzero ones, all), shaped like one sample's input.

    For a convolution it is the gradient of the sum of all outputs, so it is exact at the edges.
    """
    weight = cast(Tensor, module.weight).detach()
    mask = (weight != 0).float().cpu()
    if not isinstance(module, CONVS):
        return mask.sum(0), torch.full((mask.shape[1],), float(mask.shape[0]))
    require(module.padding_mode == "zeros", "padding_mode", "be 'zeros' to be counted", module.padding_mode)
    convolve = nn.functional.conv1d if isinstance(module, nn.Conv1d) else nn.functional.conv2d
    found = []
    for kernel in (mask, torch.ones_like(mask)):
        with torch.enable_grad():
            probe = torch.zeros(1, *x.shape[1:], requires_grad=True)
            out = convolve(probe, kernel, None, module.stride, module.padding, module.dilation, module.groups)
            (gradient,) = torch.autograd.grad(out.sum(), probe)
        found.append(gradient[0])
    return found[0], found[1]


def zero_runs(weight: Tensor) -> Runs:
    """Lengths of the runs of zeros before each nonzero weight, in storage order, with their counts."""
    flat = weight.detach().float().cpu().numpy().reshape(-1)
    counts = np.zeros(flat.size + 1, dtype=np.int64)
    longest = int(count_runs(flat, counts))
    return tuple((int(n), int(counts[n])) for n in np.flatnonzero(counts[: longest + 1]))
