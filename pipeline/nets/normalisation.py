"""Batch normalisation that learns, in a few passes over maps stored channels-last.

PyTorch's own kernels take the channels of one pixel at a time, and with a few dozen of them their backward pass costs
more than reading and writing the maps. Here a row is as many pixels as fill some vector registers, whatever the
channels (a network with it: benchmarks/bptt.py, "TCJA, batch norm").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.compiled import njit

Kernel = Callable[..., None]
_LANES = 256  # numbers per row, about: eight vectors or more, and all that is summed stays in the first-level cache
_MOST_THREADS = 4
"""PyTorch's kernels use all threads, these one: above this many PyTorch's are sooner done."""


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, faster where it learns its statistics on a CPU: [N, C, H, W] -> the same, channels-last.

    Sums are made in float64; outputs, gradients and running statistics differ from PyTorch's in their last digits, and
    are nearer to those of a network that is float64 throughout.
    In evaluation, of other types or layouts, and with more than four threads it is PyTorch's own.
    Parameters, buffers and their names are those of `nn.BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Raises ValueError for one number per channel, as `nn.BatchNorm2d` does."""
        if not (self.training and reachable(input) and input.numel() > input.shape[1]):
            return super().forward(input)
        output, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None:
            self._remember(mean, variance, input.numel() // input.shape[1])
        return output

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; the variance that is kept is the unbiased one (Ioffe & Szegedy 2015)."""
        tracked = cast(Tensor, self.num_batches_tracked).add_(1)
        share = 1 / tracked.item() if self.momentum is None else self.momentum
        cast(Tensor, self.running_mean).mul_(1 - share).add_(mean, alpha=share)
        cast(Tensor, self.running_var).mul_(1 - share).add_(variance, alpha=share * count / (count - 1))


def reachable(x: Tensor) -> bool:
    """Whether kernels of this project take these maps [N, C, H, W]; else PyTorch's operations do."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.get_num_threads() <= _MOST_THREADS
    )


class _Normalise(torch.autograd.Function):
    """Ioffe & Szegedy 2015, algorithm 1: (x, weight, bias, eps) -> output, mean and biased variance per channel.

    With n numbers per channel, d = x - mean and r = 1 / sqrt(variance + eps), the gradients are
    g_weight = r sum(g d), g_bias = sum(g), g_x = weight r (g - sum(g) / n - d r^2 sum(g d) / n).
    All is reckoned from the first pixel, not from 0: numbers far from 0 would leave few digits of a small spread.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        count = x.numel() // channels
        flat, lanes = flat_maps(x), _lanes(channels)
        first_pixel = flat[:channels]
        first, second = _sums(_moments, channels, flat, _rows(first_pixel, lanes))
        off = first / count
        variance = np.maximum(second / count - off**2, 0)
        scale = 1 / np.sqrt(variance + eps)
        gain = scale if weight is None else scale * _numbers(weight)
        shift = -off * gain if bias is None else _numbers(bias) - off * gain
        output = torch.empty_like(x)
        around, times, plus = (_rows(each.astype(flat.dtype), lanes) for each in (first_pixel, gain, shift))
        _affine(flat, around, times, plus, flat_maps(output))
        ctx.save_for_backward(x)
        ctx.found = _Found(off, scale, gain)
        mean, spread = (torch.from_numpy(each.astype(flat.dtype)) for each in (first_pixel + off, variance))
        ctx.mark_non_differentiable(mean, spread)
        return output, mean, spread

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        off, scale, gain = ctx.found
        channels = x.shape[1]
        count, lanes = x.numel() // channels, _lanes(channels)
        flat, g_flat = flat_maps(x), flat_maps(g.contiguous(memory_format=torch.channels_last))
        first_pixel = _rows(flat[:channels], lanes)
        plain, along = _sums(_projections, channels, g_flat, flat, first_pixel)
        along -= off * plain
        g_x = None
        if ctx.needs_input_grad[0]:
            g_x = torch.empty_like(x)
            slope = -gain * scale**2 * along / count
            parts = gain, slope, -gain * plain / count - slope * off
            of_g, of_x, rest = (_rows(each.astype(flat.dtype), lanes) for each in parts)
            _input_gradient(g_flat, flat, first_pixel, of_g, of_x, rest, flat_maps(g_x))
        g_weight, g_bias = (torch.from_numpy(each.astype(flat.dtype)) for each in (along * scale, plain))
        return (
            g_x,
            g_weight if ctx.needs_input_grad[1] else None,
            g_bias if ctx.needs_input_grad[2] else None,
            None,
        )


class _Found(NamedTuple):
    """Float64, per channel."""

    off: np.ndarray
    """The mean, as seen from the first pixel."""
    scale: np.ndarray
    gain: np.ndarray


def flat_maps(x: Tensor) -> np.ndarray:
    """The numbers of channels-last maps as they lie: the channels of a pixel, then the next pixel."""
    return x.detach().permute(0, 2, 3, 1).reshape(-1).numpy()


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


def _lanes(channels: int) -> int:
    return channels * max(1, _LANES // channels)


def _rows(per_channel: np.ndarray, lanes: int) -> np.ndarray:
    return np.tile(per_channel, lanes // len(per_channel))


def _sums(kernel: Kernel, channels: int, *arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 sums per channel."""
    first, second = np.zeros(_lanes(channels)), np.zeros(_lanes(channels))
    kernel(*arguments, first, second)
    return first.reshape(-1, channels).sum(0), second.reshape(-1, channels).sum(0)


# Every kernel walks over rows of `lanes` numbers, a whole number of pixels, and then over what is left.


@njit(nogil=True, cache=True, error_model="numpy")
def _moments(x, around, first, second):  # type: ignore[no-untyped-def]
    """Adds x - around and its square to `first` and `second`, both [lanes] float64."""
    lanes = len(first)
    for at in range(0, len(x), lanes):
        row = x[at : at + lanes]
        for i in range(len(row)):
            d = row[i] - around[i]
            first[i] += d
            second[i] += d * d


@njit(nogil=True, cache=True, error_model="numpy")
def _affine(x, around, gain, shift, out):  # type: ignore[no-untyped-def]
    lanes = len(gain)
    for at in range(0, len(x), lanes):
        row, into = x[at : at + lanes], out[at : at + lanes]
        for i in range(len(row)):
            into[i] = (row[i] - around[i]) * gain[i] + shift[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _projections(g, x, around, plain, along):  # type: ignore[no-untyped-def]
    """Adds g and g (x - around) to `plain` and `along`, both [lanes] float64."""
    lanes = len(plain)
    for at in range(0, len(x), lanes):
        row, g_row = x[at : at + lanes], g[at : at + lanes]
        for i in range(len(row)):
            each = np.float64(g_row[i])
            plain[i] += each
            along[i] += each * (row[i] - around[i])


@njit(nogil=True, cache=True, error_model="numpy")
def _input_gradient(g, x, around, of_g, of_x, rest, out):  # type: ignore[no-untyped-def]
    lanes = len(around)
    for at in range(0, len(x), lanes):
        row, g_row, into = x[at : at + lanes], g[at : at + lanes], out[at : at + lanes]
        for i in range(len(row)):
            into[i] = of_g[i] * g_row[i] + of_x[i] * (row[i] - around[i]) + rest[i]
