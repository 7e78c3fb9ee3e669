"""Learned ranges (DuQ, LSQ) in one pass over a weight forward and one backward (CPU, float32).

The plain form of the same arithmetic is `pipeline.compress.learned._Learned`; its dozen tensor operations per weight
were half of a small net's training step. Codes are computed again on the way back: reading the weight twice costs less
than keeping them.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, types  # type: ignore[attr-defined]
from torch import Tensor

from pipeline.compress.kernels import Kernel, as_laid, callable_by_address, dense, like

_HALF, _ONE = np.float32(0.5), np.float32(1)
_AT, _SIZE, _FLOAT = types.voidptr, types.int64, types.float32
_BLOCK = 4096
"""Values that are summed in single precision before they join the sum in double."""


class Ranges(NamedTuple):
    """What becomes of one weight: ``round(clip(x / reach * unit, low, high)) * step``, then 0 where `keep` is False."""

    a: Tensor
    """The parameter behind the reach, [1] or one per output channel."""
    c: Tensor
    """The parameter behind the step, of the same shape; may be the same as `a`."""
    reach: Tensor
    """|a|, kept from 0 (or rounded to a power of two, where it is also the step)."""
    step: Tensor
    """|c| / parts, kept from 0, or rounded to a power of two."""
    low: int
    high: int
    unit: float
    parts: float = 1.0
    share: float = 1.0
    """Factor on the gradients of a and c."""
    smallest: float = 0.0
    """Parameters whose magnitude is below are held there, without a gradient."""
    nearest: bool = True
    """Else truncation."""
    keep: Tensor | None = None


@cache
def forward_kernel(nearest: bool, masked: bool) -> Kernel:
    """(x, keep, out, reach, step, scale, channels, size, ranges, low, high, unit), the first six addresses.

    x, keep, out are [channels, size]; reach and step are [ranges], 1 or one per channel. Fills out and scale [ranges],
    unit / reach, for the way back: computed there, it would be rounded otherwise.
    """
    signature = types.void(_AT, _AT, _AT, _AT, _AT, _AT, _SIZE, _SIZE, _SIZE, _FLOAT, _FLOAT, _FLOAT)

    @cfunc(signature, cache=True, error_model="numpy")
    def quantize(x_at, keep_at, out_at, reach_at, step_at, scale_at, channels, size, ranges, low, high, unit):  # type: ignore[no-untyped-def]
        x, out = carray(x_at, (channels, size), np.float32), carray(out_at, (channels, size), np.float32)
        keep = carray(keep_at, (channels, size), np.uint8)
        reach, step = carray(reach_at, (ranges,), np.float32), carray(step_at, (ranges,), np.float32)
        scale = carray(scale_at, (ranges,), np.float32)
        for channel in range(channels):
            at = channel if ranges > 1 else 0
            per, eps = unit * (_ONE / reach[at]), step[at]  # as torch divides a number by a tensor
            scale[at] = per
            of, to, kept = x[channel], out[channel], keep[channel]
            for i in range(size):
                held = min(max(of[i] * per, low), high)
                code = min(max(np.floor(held + _HALF if nearest else held), low), high)
                to[i] = code * eps * np.float32(kept[i]) if masked else code * eps

    return callable_by_address(quantize)


@cache
def backward_kernel(nearest: bool, masked: bool) -> Kernel:
    """(g, x, keep, out, a, c, reach, step, scale, of_a, of_c, channels, size, ranges, low, high, unit, parts, share,
    smallest), the first eleven addresses; those from a to of_c are [ranges].

    Fills out, the gradient of x: g times step * unit / reach where x is in range and kept; and of_a, of_c, those of the
    parameters: straight through roundings and through ``|a|``, and zero where that is held at `smallest`. Sums are
    vectorised, so their last digits depend on the processor's width.
    """
    signature = types.void(*[_AT] * 11, *[_SIZE] * 3, *[_FLOAT] * 6)

    @cfunc(signature, cache=True, fastmath={"reassoc"}, error_model="numpy")
    def spread(  # type: ignore[no-untyped-def]
        g_at, x_at, keep_at, out_at, a_at, c_at, reach_at, step_at, scale_at, of_a_at, of_c_at,
        channels, size, ranges, low, high, unit, parts, share, smallest,
    ):  # fmt: skip
        g, x = carray(g_at, (channels, size), np.float32), carray(x_at, (channels, size), np.float32)
        out, keep = carray(out_at, (channels, size), np.float32), carray(keep_at, (channels, size), np.uint8)
        a, c = carray(a_at, (ranges,), np.float32), carray(c_at, (ranges,), np.float32)
        reach, step = carray(reach_at, (ranges,), np.float32), carray(step_at, (ranges,), np.float32)
        of_a, of_c = carray(of_a_at, (ranges,), np.float32), carray(of_c_at, (ranges,), np.float32)
        scale = carray(scale_at, (ranges,), np.float32)
        to_reach, to_step = np.float64(0), np.float64(0)
        for channel in range(channels):
            at = channel if ranges > 1 else 0
            per, rise = scale[at], step[at] * unit / reach[at]
            for start in range(0, size, _BLOCK):
                end = min(start + _BLOCK, size)
                # slices, because an index that may be negative keeps a loop from being vectorised
                of, push, to = x[channel, start:end], g[channel, start:end], out[channel, start:end]
                kept = keep[channel, start:end]
                of_reach, of_step = np.float32(0), np.float32(0)
                for i in range(end - start):
                    force = push[i] * np.float32(kept[i]) if masked else push[i]
                    scaled = of[i] * per
                    held = min(max(scaled, low), high)
                    code = min(max(np.floor(held + _HALF if nearest else held), low), high)
                    passed = force * np.float32(held == scaled)
                    to[i] = passed * rise
                    of_reach += passed * scaled
                    of_step += force * code
                to_reach += of_reach
                to_step += of_step
            if ranges > 1 or channel == channels - 1:
                slope = -to_reach * step[at] / reach[at]  # d code / d reach = -scaled / reach
                of_a[at] = slope * share * np.sign(a[at]) if abs(a[at]) >= smallest else np.float32(0)
                of_c[at] = (
                    to_step / parts * share * np.sign(c[at]) if abs(c[at]) >= smallest else np.float32(0)
                )
                to_reach, to_step = np.float64(0), np.float64(0)

    return callable_by_address(spread)


def onto(x: Tensor, job: Ranges) -> tuple[Tensor, Tensor]:
    """x [C, ...] on the grid, in its memory layout; and the factor, or factors, that its codes were found with."""
    x = dense(x)
    out, channels = like(x), x.shape[0] if x.dim() else 1
    scale = torch.empty_like(job.reach)
    keep = None if job.keep is None else as_laid(job.keep, x)
    forward_kernel(job.nearest, keep is not None)(
        x.data_ptr(), 0 if keep is None else keep.data_ptr(), out.data_ptr(), job.reach.data_ptr(),
        job.step.data_ptr(), scale.data_ptr(), channels, x.numel() // channels, job.reach.numel(), job.low, job.high,
        job.unit,
    )  # fmt: skip
    return out, scale


def gradients(g: Tensor, x: Tensor, scale: Tensor, job: Ranges) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, a and c, for the gradient `g` of what `onto` made of x, and the `scale` that it gave."""
    x = dense(x)
    g = as_laid(g, x)
    out, channels = like(x), x.shape[0] if x.dim() else 1
    of_a, of_c = torch.empty_like(job.a), torch.empty_like(job.c)
    keep = None if job.keep is None else as_laid(job.keep, x)
    backward_kernel(job.nearest, keep is not None)(
        g.data_ptr(), x.data_ptr(), 0 if keep is None else keep.data_ptr(), out.data_ptr(), job.a.data_ptr(),
        job.c.data_ptr(), job.reach.data_ptr(), job.step.data_ptr(), scale.data_ptr(), of_a.data_ptr(), of_c.data_ptr(),
        channels, x.numel() // channels, job.reach.numel(), job.low, job.high, job.unit, job.parts, job.share,
        job.smallest,
    )  # fmt: skip
    return out, of_a, of_c
