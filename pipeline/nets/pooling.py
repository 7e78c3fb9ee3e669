"""Max pooling of maps stored channels-last, which remembers a byte per output and no input.

PyTorch keeps the input and an index of eight bytes, and goes back by filling the input's gradient with zeros and
scattering into it. Spikes of a step are needed no longer once they are pooled: their memory is the next chunk's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.compiled import njit
from pipeline.nets.normalisation import flat_maps, reachable

_LARGEST = 15  # side of a window whose places, and one number more, fit into a byte


class MaxPool(nn.MaxPool2d):
    """`nn.MaxPool2d(side)` of windows that do not overlap: [N, C, H, W] -> [N, C, H // side, W // side].

    Values and gradients are PyTorch's to the last bit: of equal numbers the first in its window is the largest. Of
    other types or layouts, and with more than four threads, it is PyTorch's own.
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side

    def forward(self, input: Tensor) -> Tensor:
        simple = self.side <= _LARGEST and min(input.shape[-2:]) >= self.side
        if not (simple and reachable(input)):
            return super().forward(input)
        if torch.is_grad_enabled() and input.requires_grad:
            return _Pool.apply(input, self.side)  # type: ignore[no-any-return, no-untyped-call]
        return _pooled(input, self.side)[0]


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, side: int) -> Tensor:  # type: ignore[override]
        out, places = _pooled(x, side)
        ctx.shape, ctx.side, ctx.places = x.shape, side, places
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        _, channels, height, width = ctx.shape
        g_x = torch.empty(ctx.shape, dtype=g.dtype, memory_format=torch.channels_last)
        if height % ctx.side or width % ctx.side:
            g_x.zero_()  # no window reaches what is left over at the edges
        rows = flat_maps(g.contiguous(memory_format=torch.channels_last))
        _spread(rows, ctx.places, flat_maps(g_x), height, width, channels, ctx.side)
        return g_x, None


def _pooled(x: Tensor, side: int) -> tuple[Tensor, np.ndarray]:
    """The maxima, and where in its window each was: row * side + column, uint8 in their order in memory."""
    count, channels, height, width = x.shape
    shape = (count, channels, height // side, width // side)
    out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    places = np.empty(out.numel(), np.uint8)
    _largest(flat_maps(x), flat_maps(out), places, height, width, channels, side)
    return out, places


# Both walk over rows of windows: what is done to whole rows of maps are long loops, which fill vector registers, and
# only between one and `side` columns are the loops as short as there are channels.


@njit(nogil=True, cache=True, error_model="numpy")
def _largest(x, out, places, height, width, channels, side):  # type: ignore[no-untyped-def]
    high, wide = height // side, width // side
    line = wide * side * channels
    best, row_of = np.empty(line, x.dtype), np.empty(line, np.uint8)
    for window in range(len(out) // (wide * channels)):
        top = ((window // high) * height + (window % high) * side) * width * channels
        first = x[top : top + line]
        for i in range(line):
            best[i] = first[i]
            row_of[i] = 0
        for dy in range(1, side):
            row = x[top + dy * width * channels : top + dy * width * channels + line]
            for i in range(line):
                v = row[i]
                higher = v > best[i] or v != v
                best[i] = v if higher else best[i]
                row_of[i] = dy if higher else row_of[i]
        for p in range(wide):
            to, at = (window * wide + p) * channels, p * side * channels
            o, place = out[to : to + channels], places[to : to + channels]
            b, d = best[at : at + channels], row_of[at : at + channels]
            for c in range(channels):
                o[c] = b[c]
                place[c] = d[c] * side
            for dx in range(1, side):
                at += channels
                b, d = best[at : at + channels], row_of[at : at + channels]
                for c in range(channels):
                    v, j = b[c], np.uint8(d[c] * side + dx)
                    higher = v > o[c] or v != v or (v == o[c] and j < place[c])
                    o[c] = v if higher else o[c]
                    place[c] = j if higher else place[c]


@njit(nogil=True, cache=True, error_model="numpy")
def _spread(g, places, g_x, height, width, channels, side):  # type: ignore[no-untyped-def]
    high, wide = height // side, width // side
    line = wide * side * channels
    zero = g_x.dtype.type(0)
    value, row_of = np.empty(line, g_x.dtype), np.empty(line, np.uint8)
    for window in range(len(g) // (wide * channels)):
        for p in range(wide):
            to = (window * wide + p) * channels
            o, place = g[to : to + channels], places[to : to + channels]
            for dx in range(side):
                at = (p * side + dx) * channels
                v, d = value[at : at + channels], row_of[at : at + channels]
                for c in range(channels):
                    v[c] = o[c]
                for c in range(channels):  # in this column: the number of its row times `side`
                    d[c] = np.uint8(place[c] - dx)
        top = ((window // high) * height + (window % high) * side) * width * channels
        for dy in range(side):
            into = g_x[top + dy * width * channels : top + dy * width * channels + line]
            here = np.uint8(dy * side)
            for i in range(line):
                into[i] = value[i] if row_of[i] == here else zero
