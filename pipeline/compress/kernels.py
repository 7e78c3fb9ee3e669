"""Fake quantization and masking of weights in one pass over memory, forward and backward (CPU, float32).

A training step of a small spiking net takes a few milliseconds; a dozen tensor operations per weight would be a third
of it. Most of what is left is not arithmetic but calls from Python whose code has left the caches since the last
step: so all weights of a net go through one autograd node (`at_once.together`), and kernels take plain addresses.
The plain form of the same arithmetic is `pipeline.compress.rounding.fake_quantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import frexp
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, types  # type: ignore[attr-defined]
from torch import Tensor

from pipeline.compiled import njit

Kernel = Callable[..., None]
TRUNCATION, NEAREST, STOCHASTIC = 0, 1, 2
CODES = {"truncation": TRUNCATION, "nearest": NEAREST, "stochastic": STOCHASTIC}
_SNAP = np.float32(1e-4)
_HALF = np.float32(0.5)
_TO_UNIT = np.float32(2.0**-24)
_MOST = 100  # powers of two up to here have a reciprocal that is no subnormal
_AT, _SIZE = types.voidptr, types.int64


@njit(cache=True, nogil=True, inline="always")
def hashed(i):  # type: ignore[no-untyped-def]
    """uint32 -> uint32, each bit depending on all (lowbias32, Wellons 2018); 32-bit, so loops vectorise."""
    i = np.uint32(i ^ (i >> np.uint32(16)))  # numba widens without the casts
    i = np.uint32(i * np.uint32(0x7FEB352D))
    i = np.uint32(i ^ (i >> np.uint32(15)))
    i = np.uint32(i * np.uint32(0x846CA68B))
    return np.uint32(i ^ (i >> np.uint32(16)))


@njit(cache=True, nogil=True)
def fill_uniform(out, key):  # type: ignore[no-untyped-def]
    """out [n] float32: uniform in [0, 1), number i from (key, i)."""
    for i in range(out.shape[0]):
        at = hashed(np.uint32(hashed(np.uint32(i)) ^ key))
        out[i] = np.float32(at >> np.uint32(8)) * _TO_UNIT


class Job(NamedTuple):
    """What becomes of one weight: onto a grid unless `step` is None, then to zero where `keep` is False."""

    step: Tensor | None = None
    """One number, or one per output channel."""
    low: int = 0
    high: int = 0
    rounding: int = NEAREST
    key: int = 0
    """Of stochastic rounding: number i is drawn from (key, i)."""
    snap: bool = False
    """The steps are no powers of two: values within 1e-4 of a step are pulled onto it before a floor."""
    keep: Tensor | None = None


@cache
def quantize_kernel(rounding: int, snap: bool, masked: bool) -> Kernel:
    """(x, keep, out, inside, step, channels, size, steps, low, high, key), the first five addresses.

    x, keep, out, inside are [channels, size]; step is [steps], 1 or one per channel. Fills out and inside, which is 1
    where the gradient passes: not saturated and, with `masked`, kept; else `keep` is not read.
    """
    signature = types.void(
        _AT, _AT, _AT, _AT, _AT, _SIZE, _SIZE, _SIZE, types.float32, types.float32, types.uint32
    )

    @cfunc(signature, cache=True, error_model="numpy")
    def quantize(x_at, keep_at, out_at, inside_at, step_at, channels, size, steps, low, high, key):  # type: ignore[no-untyped-def]
        x, out = (
            carray(x_at, (channels, size), np.float32),
            carray(out_at, (channels, size), np.float32),
        )
        inside = carray(inside_at, (channels, size), np.uint8)
        keep = carray(keep_at, (channels, size), np.uint8)
        step = carray(step_at, (steps,), np.float32)
        for c in range(channels):
            eps = step[c if steps > 1 else 0]
            of, to, passes, kept = x[c], out[c], inside[c], keep[c]
            part, power = frexp(eps)
            if (
                part == 0.5 and abs(power) < _MOST
            ):  # a division costs more than all the rest, this is as exact
                per = np.float32(1) / eps
                for i in range(size):
                    to[i] = of[i] * per
            else:
                for i in range(size):
                    to[i] = of[i] / eps
            first = np.uint32(c * size)
            for i in range(size):
                s = to[i]
                if rounding == NEAREST:
                    q = np.floor(s + _HALF)
                else:
                    if snap:
                        whole = np.floor(s + _HALF)
                        s = whole if abs(s - whole) < _SNAP else s
                    if rounding == STOCHASTIC:
                        at = hashed(np.uint32(hashed(np.uint32(first + np.uint32(i))) ^ key))
                        s += np.float32(at >> np.uint32(8)) * _TO_UNIT
                    q = np.floor(s)
                held = min(max(q, low), high)
                if masked:
                    stays = np.int32(kept[i])
                    passes[i] = np.uint8(np.int32(held == q) & stays)
                    to[i] = held * eps * np.float32(stays)
                else:
                    passes[i] = held == q
                    to[i] = held * eps

    return callable_by_address(quantize)


@cache
def gate_kernel() -> Kernel:
    """(x, keep, out, size), the first three addresses: out [size] = x where keep is 1, else 0."""

    @cfunc(types.void(_AT, _AT, _AT, _SIZE), cache=True)
    def gate(x_at, keep_at, out_at, size):  # type: ignore[no-untyped-def]
        x, out = carray(x_at, (size,), np.float32), carray(out_at, (size,), np.float32)
        keep = carray(keep_at, (size,), np.uint8)
        for i in range(size):
            out[i] = x[i] * np.float32(keep[i])

    return callable_by_address(gate)


def callable_by_address(compiled: Any) -> Kernel:
    """Called through ctypes with integers, a kernel needs no look at its arguments' types."""
    call: Any = compiled.ctypes
    call.compiled = compiled  # whoever calls it keeps it
    made: Kernel = call
    return made


def done(x: Tensor, job: Job) -> tuple[Tensor, Tensor]:
    """The outcome, and uint8 or bool of its layout: where the gradient passes."""
    if job.step is None:
        assert job.keep is not None, "a job without a grid is a mask"
        return gated(x, job.keep), job.keep
    x = dense(x)
    out, inside = like(x), like(x, torch.uint8)
    keep = None if job.keep is None else as_laid(job.keep, x)
    channels = x.shape[0] if x.dim() else 1
    step = job.step if job.step.is_contiguous() else job.step.contiguous()
    quantize_kernel(job.rounding, job.snap and job.rounding != NEAREST, keep is not None)(
        x.data_ptr(),
        0 if keep is None else keep.data_ptr(),
        out.data_ptr(),
        inside.data_ptr(),
        step.data_ptr(),
        channels,
        x.numel() // channels,
        step.numel(),
        job.low,
        job.high,
        job.key,
    )
    return out, inside


def gated(x: Tensor, keep: Tensor) -> Tensor:
    """x where `keep` is, else 0, in the memory layout of x."""
    x = dense(x)
    out, keep = like(x), as_laid(keep, x)
    gate_kernel()(x.data_ptr(), keep.data_ptr(), out.data_ptr(), x.numel())
    return out


def dense(x: Tensor) -> Tensor:
    """x, or a copy of it, without gaps: as it is or channels last."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last or x.is_contiguous() else x.contiguous()


def like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory of the size and layout of a dense x."""
    # empty_like may choose other strides for sizes of one, and convolutions are slower with those.
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype)


def as_laid(other: Tensor, x: Tensor) -> Tensor:
    """`other` in the memory order of a dense x of its shape; a copy only when it lies otherwise."""
    return other.contiguous() if x.is_contiguous() else other.contiguous(memory_format=torch.channels_last)
