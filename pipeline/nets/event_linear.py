"""A fully connected layer fed with spikes: rows of weights are added where a spike is, and nothing is multiplied.

    y[r] = b + sum of W[:, i] over the inputs i with x[r, i] = 1          forward
    dW[:, i] = sum of dy[r] over the rows r with x[r, i] = 1              weight gradient

Both are one loop, `pipeline.nets.event_kernels`: to each target add some rows of a source.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.nets.event_kernels import (
    BLOCK,
    ROWS,
    WIDE,
    add_gradients,
    add_weights,
    list_events,
    pack_weights,
)

_LEAST_WORK = 1 << 26
"""Multiplications of the dense product below which it is over before the events are listed."""
_MOST_DENSE = 1 / 3
"""Share of ones up to which events are faster; at 0.4 both take the same time."""


class _Part(NamedTuple):
    """Some rows and their events, see `list_events`."""

    number: int
    first: int
    stop: int
    places: np.ndarray
    ends: np.ndarray


class _EventLinear(torch.autograd.Function):
    """x [R, K] is seen through its events alone; its own gradient, where one is wanted, is a dense product."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, parts: list[_Part]
    ) -> Tensor:
        n, inputs = weight.shape
        tiles = -(-n // WIDE)
        packed = torch.empty(-(-inputs // BLOCK), tiles, BLOCK + 1, WIDE).numpy()
        pack_weights(weight.detach().contiguous().numpy(), packed)
        start = np.zeros(tiles * WIDE, np.float32)
        if bias is not None:
            start[:n] = bias.detach().numpy()
        out = torch.empty(len(x), tiles * WIDE)
        sums = out.numpy()

        def run(part: _Part) -> None:
            add_weights(part.places, part.ends, packed, start, sums[part.first : part.stop])

        _at_once(run, parts)
        ctx.save_for_backward(weight)
        ctx.parts = parts
        return out if n == out.shape[1] else out[:, :n].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,) = ctx.saved_tensors
        wanted_x, wanted_w, wanted_b, _ = ctx.needs_input_grad
        g_x = g @ weight if wanted_x else None
        g_w = _weight_gradient(g, weight, ctx.parts) if wanted_w else None
        return g_x, g_w, g.sum(0) if wanted_b else None, None


def _weight_gradient(g: Tensor, weight: Tensor, parts: list[_Part]) -> Tensor:
    n, inputs = weight.shape
    rows = g.detach().contiguous().numpy()
    sums = torch.zeros(len(parts), inputs, -(-n // WIDE) * WIDE)

    def run(part: _Part) -> None:
        into = sums[part.number].numpy()
        scratch = torch.empty(BLOCK + 1, WIDE).numpy()
        seats, counts = np.empty((inputs, BLOCK + 2), np.uint8), np.empty(inputs, np.int64)
        add_gradients(part.places, part.ends, rows[part.first : part.stop], scratch, seats, counts, into)

    _at_once(run, parts)
    whole = sums[0] if len(parts) == 1 else sums.sum(0)
    return whole[:, :n].t().contiguous()


def _at_once(call: Callable[[_Part], object], parts: Sequence[_Part]) -> None:
    """The kernels hold no lock, so plain threads do; started anew, they survive a fork."""
    others = [threading.Thread(target=call, args=(part,)) for part in parts[1:]]
    for thread in others:
        thread.start()
    call(parts[0])
    for thread in others:
        thread.join()


def events_of(x: Tensor, shares: int) -> list[_Part] | None:
    """The ones of x [R, K], its rows in so many shares; None where a number is neither 0 nor 1."""
    rows, inputs = x.shape
    blocks = -(-inputs // BLOCK)
    edges = [rows * at // shares for at in range(shares + 1)]
    values = x.detach().numpy()
    parts, binary = [], []
    for number, (first, stop) in enumerate(pairwise(edges)):
        places = np.empty((stop - first) * (inputs + blocks) + 8, np.uint8)
        parts.append(_Part(number, first, stop, places, np.empty((stop - first) * blocks + 1, np.int64)))

    def run(part: _Part) -> None:
        binary.append(list_events(values[part.first : part.stop], part.places, part.ends))

    _at_once(run, parts)
    return parts if all(binary) else None


def event_linear(x: Tensor, weight: Tensor, bias: Tensor | None, shares: int = 1) -> Tensor | None:
    """``functional.linear`` of x [R, K] of zeros and ones, within rounding, gradients too; None for another x.

    float32 on the CPU. `shares`: threads.
    """
    parts = events_of(x.contiguous(), shares)
    if parts is None:
        return None
    out: Tensor = _EventLinear.apply(x, weight, bias, parts)  # type: ignore[no-untyped-call]
    return out


def spiking(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x), by events where `layer` is fully connected, in training, and x [R, K] is large and sparse enough.

    In evaluation a layer is called as it is: whoever counts operations or compares with another machine sees torch's.
    """
    if not isinstance(layer, nn.Linear) or not _suits(layer, x):
        out: Tensor = layer(x)
        return out
    found = event_linear(x, layer.weight, layer.bias, max(1, min(torch.get_num_threads(), len(x) // ROWS)))
    return functional.linear(x, layer.weight, layer.bias) if found is None else found


def _suits(layer: nn.Linear, x: Tensor) -> bool:
    plain = type(layer).forward is nn.Linear.forward and not (
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    )
    ours = x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 2
    if not (plain and ours and layer.training and torch.is_grad_enabled()) or torch.is_autocast_enabled(
        "cpu"
    ):
        return False
    if layer.out_features < WIDE or x.numel() * layer.out_features < _LEAST_WORK:
        return False
    some = x.detach()[:: max(1, len(x) // 32)]
    return int(some.count_nonzero()) <= _MOST_DENSE * some.numel()
