"""Changes of stored frames that leave the meaning: flip, shift, rotate, drop events. Training batches only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.types import require


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
    """Largest share of events dropped, in [0, 1); each sample draws its own share from [0, drop]."""

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
    source = (row * width + column).masked_fill(~inside, 0)
    out = torch.empty_like(x)
    for sample in range(
        len(x)
    ):  # a gather per sample copies bytes; one gather for all needs an index per byte
        frames = x[sample].flatten(-2).index_select(-1, source[sample].flatten())
        out[sample] = frames.view(x.shape[1:]) * inside[sample]
    return out


def _thinned(x: Tensor, share: Tensor, generator: torch.Generator) -> Tensor:
    """Every event of sample b vanishes with probability share[b], whatever others do: a binomial count is left."""
    out = x.flatten().clone()
    where = out.nonzero().squeeze(1)
    count = out[where]
    keep = (1 - share)[where // x[0].numel()]
    left = (torch.rand(len(where), generator=generator) < keep).to(torch.uint8)  # exact where the count is 1
    many = (count > 1).nonzero().squeeze(1)
    left[many] = torch.binomial(count[many].to(torch.float32), keep[many], generator=generator).to(
        torch.uint8
    )
    out[where] = left
    return out.view(x.shape)
