"""The 1,797 handwritten 8x8 digits that scikit-learn ships (from the UCI repository): no download at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.encode import Encoding, require_timesteps, unrolled
from pipeline.data.split import count_of, digest_of, stratified
from pipeline.types import Dataset, Split, require

SAMPLES = 1797
TEST_SEED = 0
"""The test split never changes: neither `split_seed` nor a trial's seed may move a sample across."""


@dataclass(frozen=True)
class Digits:
    """scikit-learn's digits, [1, 8, 8], intensities 0 to 16 scaled to 0 to 255.

    There is no official split, so ours is stratified and fixed: `test` samples by a constant seed, then
    `validation` of the rest by `split_seed`, the remainder for training.
    """

    timesteps: int
    encoding: Encoding
    test: int | float = 0.2
    """Samples kept for the test: a count, or a fraction of all 1,797."""
    validation: int | float = 0.2
    """Samples cut from the rest: a count, or a fraction of all 1,797."""
    split_seed: int | None = 0
    """Cuts train from validation; None: follow the trial's seed."""

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        held_out = count_of(self.test, SAMPLES, "test")
        count_of(self.validation, SAMPLES, "validation")
        left = SAMPLES - held_out - count_of(self.validation, SAMPLES, "validation")
        require(left > 0, "validation", f"leave training samples beside test={self.test}", self.validation)

    def load(self, seed: int) -> Dataset:
        """[N, 1, 8, 8] uint8 splits; `seed` matters only where `split_seed` is None."""
        x, y = _samples()
        held_out = count_of(self.test, SAMPLES, "test")
        test, rest = stratified(y, (held_out, SAMPLES - held_out), TEST_SEED)
        validation = count_of(self.validation, SAMPLES, "validation")
        cut = stratified(
            y[rest],
            (len(rest) - validation, validation),
            seed if self.split_seed is None else self.split_seed,
        )
        splits = [Split(x[chosen], y[chosen]) for chosen in (rest[cut[0]], rest[cut[1]], test)]
        return Dataset(
            name="digits", classes=10, shape=(1, 8, 8), timesteps=self.timesteps,
            train=splits[0], validation=splits[1], test=splits[2],
            encode=unrolled(self.encoding, self.timesteps), digest=digest_of(splits),
        )  # fmt: skip


@functools.cache
def _samples() -> tuple[Tensor, Tensor]:
    """x [1797, 1, 8, 8] uint8 in 0..255 and y [1797] int64, as scikit-learn orders them."""
    from sklearn.datasets import load_digits  # a second of import that only this data set needs

    bunch = load_digits()
    x = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    return x, torch.from_numpy(bunch.target.astype(np.int64))
