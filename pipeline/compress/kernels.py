"""Fake quantization and masking of a weight in one pass over memory, forward and backward (CPU, float32).

A training step of a small spiking net takes a millisecond; a dozen tensor operations per weight would be a
third of it. The plain form of the same arithmetic is `pipeline.compress.rounding.fake_quantize`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

Kernel = Callable[..., None]
TRUNCATION, NEAREST, STOCHASTIC = 0, 1, 2
CODES = {"truncation": TRUNCATION, "nearest": NEAREST, "stochastic": STOCHASTIC}
_SNAP = np.float32(1e-4)
_HALF = np.float32(0.5)
_TO_UNIT = np.float32(2.0**-24)


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


@cache
def quantize_kernel(rounding: int, snap: bool, masked: bool) -> Kernel:
    """(x [C, n], step [1] or [C], low, high, key, keep, out, inside): fills out and inside.

    ``inside`` is 1 where the gradient passes: not saturated and, with `masked`, kept; else `keep` is ignored.
    `snap` pulls values within 1e-4 of a step onto it before a floor, for steps that are no powers of two.
    """

    @njit(cache=True, nogil=True, error_model="numpy")
    def quantize(x, step, low, high, key, keep, out, inside):  # type: ignore[no-untyped-def]
        n = x.shape[1]
        for c in range(x.shape[0]):
            eps = step[c if step.shape[0] > 1 else 0]
            first = np.uint32(c * n)
            for i in range(n):
                s = x[c, i] / eps
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
                inside[c, i] = held == q
                out[c, i] = held * eps
            if (
                masked
            ):  # a second loop over a row in the cache: in one, the mixed types keep it from vectorising
                for i in range(n):
                    inside[c, i] &= keep[c, i]
                for i in range(n):
                    out[c, i] *= np.float32(keep[c, i])

    return quantize


@njit(cache=True, nogil=True)
def gate(x, keep, out):  # type: ignore[no-untyped-def]
    """out [n] = x where keep is 1, else 0; out may be x."""
    for i in range(x.shape[0]):
        out[i] = x[i] * np.float32(keep[i])


def fits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


def rows(x: Tensor) -> np.ndarray:
    """Dense x [C, ...] -> numpy [C, n] on the same memory, in its order (channels-last too)."""
    values = x.detach().numpy()
    if values.ndim == 4 and not values.flags.c_contiguous:
        values = values.transpose(0, 2, 3, 1)
    return values.reshape(values.shape[0] if values.ndim else 1, -1)


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        step: Tensor,
        low: int,
        high: int,
        rounding: int,
        key: int,
        snap: bool,
        keep: Tensor | None,
    ) -> Tensor:
        x = _dense(x)
        out, inside = _like(x), _like(x, torch.uint8)
        values, passes = rows(out), rows(inside)
        mask = passes if keep is None else rows(_as(keep, x)).view(np.uint8)
        kernel = quantize_kernel(rounding, snap and rounding != NEAREST, keep is not None)
        bounds = np.float32(low), np.float32(high)
        kernel(rows(x), step.detach().numpy().reshape(-1), *bounds, np.uint32(key), mask, values, passes)
        ctx.save_for_backward(inside)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (inside,) = ctx.saved_tensors
        return _gated(g, inside), *(None,) * 7


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(keep)
        return _gated(x, keep)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _gated(g, ctx.saved_tensors[0]), None


def quantize_masked(
    x: Tensor, step: Tensor, low: int, high: int, rounding: int, key: int, snap: bool, keep: Tensor | None
) -> Tensor:
    """``keep * fake_quantize(x, ...)``, with the same gradient. x float32 on the CPU; keep bool or None."""
    out: Tensor = _Quantize.apply(x, step, low, high, rounding, key, snap, keep)  # type: ignore[no-untyped-call]
    return out


def masked(x: Tensor, keep: Tensor) -> Tensor:
    """``x * keep``, gradient included, in the memory layout of x."""
    if not fits(x):
        return x * keep
    out: Tensor = _Gate.apply(x, keep)  # type: ignore[no-untyped-call]
    return out


def _gated(x: Tensor, keep: Tensor) -> Tensor:
    x = _dense(x)
    out = _like(x)
    gate(rows(x).reshape(-1), rows(_as(keep, x)).view(np.uint8).reshape(-1), rows(out).reshape(-1))
    return out


def _dense(x: Tensor) -> Tensor:
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last or x.is_contiguous() else x.contiguous()


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    # empty_like may choose other strides for sizes of one, and convolutions are slower with those.
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype)


def _as(mask: Tensor, x: Tensor) -> Tensor:
    """`mask` in the memory order of x; a copy only when it lies otherwise."""
    return mask.contiguous() if x.is_contiguous() else mask.contiguous(memory_format=torch.channels_last)
