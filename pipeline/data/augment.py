"""Changes of stored frames that leave the meaning: flip, shift, rotate, drop events. Training batches only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.compiled import STRIDE, mixed, njit
from pipeline.types import require

_RUN = 1024  # places listed at once: they stay in the first cache


@dataclass(frozen=True)
class Augment:
    """Each sample of a batch gets its own flip, rotation, shift and share of dropped events.

    A geometric change is the same for all T frames of a sample; pixels that come from outside are empty.
    Works on whole events: counts move and vanish, they are never interpolated.
    """

    flip: float = 0.0
    """Probability of a left-right flip, in [0, 1]."""
    flip_labels: tuple[int, ...] | None = None
    """Label of the mirrored sample for each label (a left hand becomes a right hand); None: they stay."""
    shift: int = 0
    """Largest shift in frame pixels, both ways along both axes."""
    rotate: float = 0.0
    """Largest rotation in degrees, both ways, in [0, 180]."""
    drop: float = 0.0
    """Largest share s of events that vanish, in [0, 1); each sample draws its own from [0, drop].

    Every event vanishes with probability s, whatever others do. Frames are stored as counts and become roots or binary
    values after it (`encode.Frames`), so that a pixel that saw n events stays on with probability 1 - s^n.
    """

    def __post_init__(self) -> None:
        require(0 <= self.flip <= 1, "flip", "be in [0, 1]", self.flip)
        require(self.shift >= 0, "shift", "be at least 0", self.shift)
        require(0 <= self.rotate <= 180, "rotate", "be in [0, 180] degrees", self.rotate)
        require(0 <= self.drop < 1, "drop", "be in [0, 1)", self.drop)
        if self.flip_labels is not None:
            there_and_back = len(self.flip_labels) > 0 and all(
                0 <= to < len(self.flip_labels) and self.flip_labels[to] == label
                for label, to in enumerate(self.flip_labels)
            )
            rule = "pair labels so that two flips give the label back"
            require(there_and_back, "flip_labels", rule, self.flip_labels)

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """([B, T, C, H, W] uint8, [B] int64) -> new tensors of the same shapes; the input is left as it is."""
        batch = len(x)
        flipped = torch.rand(batch, generator=generator) < self.flip
        angle = (torch.rand(batch, generator=generator) * 2 - 1) * math.radians(self.rotate)
        shift = torch.randint(-self.shift, self.shift + 1, (batch, 2), generator=generator)
        if self.flip > 0 or self.rotate > 0 or self.shift > 0:
            x = _moved(x, flipped, angle, shift)
        if self.flip_labels is not None:
            y = torch.where(flipped, torch.tensor(self.flip_labels)[y], y)
        if self.drop > 0:
            x = _thinned(x, torch.rand(batch, generator=generator) * self.drop, generator)
        return x, y


def _moved(x: Tensor, flipped: Tensor, angle: Tensor, shift: Tensor) -> Tensor:
    """Each target pixel takes the source pixel it comes from: undo the shift, the rotation, then the flip.

    flipped [B] bool, angle [B] radians (counter-clockwise as seen), shift [B, 2] rows and columns.
    """
    height, width = x.shape[-2:]
    middle = torch.tensor([(height - 1) / 2, (width - 1) / 2])
    rows = torch.arange(height).view(1, -1, 1) - shift[:, 0].view(-1, 1, 1) - middle[0]
    columns = torch.arange(width).view(1, 1, -1) - shift[:, 1].view(-1, 1, 1) - middle[1]
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    row = (cos * rows + sin * columns + middle[0]).round().to(torch.int64)
    column = (cos * columns - sin * rows + middle[1]).round().to(torch.int64)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    column = torch.where(flipped.view(-1, 1, 1), width - 1 - column, column)
    source = torch.where(inside, row * width + column, -1).flatten(1)
    frames, out = x.contiguous(), torch.empty(x.shape, dtype=torch.uint8)
    _gather(frames.flatten(-2).flatten(1, -2).numpy(), source.numpy(), out.flatten(-2).flatten(1, -2).numpy())
    return out


def _thinned(x: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """Every event counted in sample b vanishes with probability share[b], whatever others do."""
    out = x.clone(memory_format=torch.contiguous_format)
    bars = ((1 - share.to(torch.float64)) * 2.0**53).to(torch.int64).numpy().astype(np.uint64)
    seed = torch.randint(2**62, (1,), generator=generator).numpy().astype(np.uint64)
    _thin(out.view(len(out), -1).numpy(), bars, seed)
    return out


@njit(cache=True, nogil=True)
def _gather(x, source, out):  # type: ignore[no-untyped-def]
    """out [B, F, P] = x [B, F, source [B, P]], 0 where the source is -1."""
    for b in range(x.shape[0]):
        for f in range(x.shape[1]):
            for p in range(x.shape[2]):
                at = source[b, p]
                out[b, f, p] = x[b, f, at] if at >= 0 else 0


@njit(cache=True, nogil=True)
def _thin(x, bars, rng):  # type: ignore[no-untyped-def]
    """Each of the x [B, N] events stays where its 53 random bits are below bars [B].

    Places that hold events are listed first, without a branch: a processor guesses wrong at every second event, and
    that took three times as long as the random numbers.
    """
    places, state = np.empty(_RUN, np.int32), rng[0]
    for b in range(x.shape[0]):
        for start in range(0, x.shape[1], _RUN):
            row, found = x[b, start : start + _RUN], np.uint64(0)
            for i in range(len(row)):
                places[found] = i
                found += np.uint64(row[i] != 0)
            for i in places[:found]:
                left = 0
                for _ in range(row[i]):
                    state += STRIDE
                    left += mixed(state) >> np.uint64(11) < bars[b]
                row[i] = left
    rng[0] = state
