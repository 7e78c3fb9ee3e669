"""Cutting samples into splits, and the fingerprint of what was cut."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.types import Split, require


def count_of(amount: int | float, total: int, field_name: str) -> int:
    """A count as it is, or a fraction of `total`, rounded; ValueError unless 1 <= count < total."""
    count = amount if isinstance(amount, int) else round(amount * total)
    require(0 < count < total, field_name, f"be a fraction in (0, 1) or a count in [1, {total - 1}]", amount)
    return count


def stratified(y: Tensor, sizes: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Disjoint index sets of the given sizes, drawn by `seed`, each with the classes in the shares they have.

    y: [N] labels. Returns one int64 tensor per size; a class's count is within one (two for later sets) of
    its exact share. How: shuffle, give the k-th sample of a class with n samples the place (k + 0.5) / n,
    sort all samples by place; any run of that order has the classes evenly mixed.
    Raises ValueError when the sizes exceed N.
    """
    require(sum(sizes) <= len(y), "sizes", f"sum to at most {len(y)} samples", tuple(sizes))
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(y), generator=generator)
    place = torch.empty(len(y), dtype=torch.float64)
    for label in y.unique():
        members = (y[shuffled] == label).nonzero().squeeze(1)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    order = shuffled[place.argsort(stable=True)]
    return tuple(order[: sum(sizes)].split(list(sizes)))


def digest_of(splits: Sequence[Split]) -> str:
    """sha256 (64 hex digits) over shapes, samples and labels of the splits in the given order."""
    sha = hashlib.sha256()
    for split in splits:
        sha.update(f"{tuple(split.x.shape)}{split.x.dtype}".encode())
        for part in (split.x, split.y):
            sha.update(part.contiguous().numpy().data)
    return sha.hexdigest()
