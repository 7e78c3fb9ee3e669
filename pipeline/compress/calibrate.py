"""Choosing a quantizer's step from values: by their maximum, a percentile, or the least squared error."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pipeline.types import require

Calibrate = Literal["max", "percentile", "mse"]
CALIBRATIONS: tuple[str, ...] = get_args(Calibrate)
_TINY = 2.0**-40
_NOTHING = 2.0**-24
"""Beside the largest channel of its tensor: a float32 sum of both would not see it."""
_OCTAVES = 8
"""How many powers of two below the maximum `mse` tries."""
_FINE = 6
"""Candidates per octave where the step is free."""


HEADROOM = 4.0
"""Range of a membrane that nobody has seen move, in thresholds (ours; most of what batches show lies within)."""


class Grid(NamedTuple):
    """Where a quantized tensor lives: ``value = code * step``, codes in [low, high], `bits` stored bits."""

    bits: int
    step: Tensor
    """Scalar, or [C, 1, ...] for one step per output channel."""
    low: int
    high: int


def channels(x: Tensor) -> Tensor:
    """[C, ...] -> [C, everything else]."""
    return x.reshape(x.shape[0], -1) if x.dim() else x.reshape(1, 1)


def sized(top: Tensor) -> Tensor:
    """Ranges [...] as they are, but where there is nothing to cover the largest of them, and 1 where all are 0.

    A pruned channel, or a layer of zeros, has no size of its own. A step as small as its values would keep integers of
    more bits than any machine has, and say nothing.
    """
    if not top.numel():
        return top
    largest = top.max()
    if not largest > 0:
        return torch.ones_like(top)
    return torch.where(top > _NOTHING * largest, top, largest).clamp_min(_TINY)


def magnitude(x: Tensor, how: Calibrate, percentile: float, per_channel: bool, kept: Tensor | None) -> Tensor:
    """The range to cover: scalar, or [C, 1, ...]; of what has no magnitude, that of `sized`.

    `kept` (bool, shape of x) leaves pruned entries out: their zeros would pull a percentile down.
    """
    if how != "percentile" and not per_channel and x.numel():
        low, high = torch.aminmax(x.detach())  # one pass, and nothing to allocate
        return sized(torch.maximum(high, -low))
    size = x.detach().abs()
    rows = channels(size) if per_channel else size.reshape(1, -1)
    if how == "percentile":
        top = torch.stack(
            [_percentile(row, percentile, k) for row, k in zip(rows, _rows(kept, rows), strict=True)]
        )
    else:
        top = rows.amax(dim=1) if rows.shape[1] else rows.new_zeros(rows.shape[0])
    top = sized(top)
    return top.reshape([-1] + [1] * (x.dim() - 1)) if per_channel else top.reshape(())


def _rows(kept: Tensor | None, rows: Tensor) -> list[Tensor | None]:
    if kept is None:
        return [None] * rows.shape[0]
    return list(kept.reshape(rows.shape))


def _percentile(row: Tensor, percentile: float, kept: Tensor | None) -> Tensor:
    values = row if kept is None else row[kept]
    if values.numel() == 0:
        return row.new_zeros(())
    k = max(1, min(values.numel(), round(percentile / 100 * values.numel())))
    return values.kthvalue(k).values


def cover(top: Tensor, high: int, power_of_two: bool) -> Tensor:
    """The smallest step (a power of two if asked) with which `high` steps reach `top`."""
    step = top / high
    # exp2 of a whole number may be off by an ulp; ldexp is exact.
    return torch.ldexp(torch.ones_like(step), torch.ceil(torch.log2(step) - 1e-6)) if power_of_two else step


def fit_step(
    x: Tensor,
    low: int,
    high: int,
    how: Calibrate = "max",
    percentile: float = 99.9,
    power_of_two: bool = True,
    per_channel: bool = False,
    kept: Tensor | None = None,
) -> Tensor:
    """Step that suits the values x [C, ...]: scalar, or [C, 1, ...] per channel.

    max covers all values, percentile the given share of magnitudes, mse minimises the squared rounding error
    over steps from the maximum's downwards (powers of two, or six per octave where the step is free).
    """
    require(how in CALIBRATIONS, "calibrate", f"be one of {CALIBRATIONS}", how)
    step = cover(magnitude(x, how, percentile, per_channel, kept), high, power_of_two)
    if how != "mse":
        return step
    candidates = _OCTAVES if power_of_two else _OCTAVES * _FINE // 2
    best, least = step, torch.full_like(step, torch.inf)
    for i in range(candidates):
        trial = step * 2.0 ** (-i if power_of_two else -i / _FINE)
        error = (torch.floor(x / trial + 0.5).clamp_(low, high) * trial - x).square_()
        if kept is not None:
            error = error * kept
        loss = error.sum(dim=tuple(range(1, x.dim())), keepdim=True) if per_channel else error.sum()
        better = loss < least
        best, least = torch.where(better, trial, best), torch.where(better, loss, least)
    return best
