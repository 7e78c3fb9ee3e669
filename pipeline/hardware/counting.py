"""On which samples a network's events, spikes and operations are counted: what energy and latency are prices of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from pipeline.types import Dataset, Split, require

Where = Literal["validation", "train"]
_SEED = 0
"""Draws the samples: the same ones for every trial of a study, so that prices differ by the network alone."""


@dataclass(frozen=True)
class Counting:
    """The data set that densities are measured on, mean and worst sample.

    split      validation, cut from the training split, or train, each sample as stored: augmentation, which a device
               never sees, is left out
    samples    at most so many, drawn once; None: all
    """

    split: Where = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        require(self.split in get_args(Where), "split", f"be one of {', '.join(get_args(Where))}", self.split)
        require(
            self.samples is None or self.samples >= 1,
            "samples",
            "be at least 1, or null for all",
            self.samples,
        )

    def every(self, name: str) -> bool:
        """Whether a pass over all of the split `name` has counted what this counts."""
        return self.split == name and self.samples is None

    def of(self, data: Dataset) -> Dataset:
        """`data` with nothing but the samples to count in its split, and no augmentation."""
        split = data.split(self.split)
        if self.samples is not None and self.samples < len(split):
            drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(_SEED))
            split = split.chosen(drawn[: self.samples].sort().values)
        only: dict[str, Split] = {self.split: split}
        return replace(data, augment=None, **only)  # type: ignore[arg-type]
