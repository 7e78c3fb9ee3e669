"""Dominance and hypervolume, every objective minimised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from optuna._hypervolume import compute_hypervolume

Points = NDArray[np.float64]


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """a is nowhere worse and somewhere better than b."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the non-dominated points, in the order given; of equal points the first stays.

    A point with a NaN is never on the front.
    """
    values = np.asarray(points, dtype=np.float64)
    if not len(values):
        return []
    kept: list[int] = []
    for i, point in enumerate(values):
        if np.isnan(point).any():
            continue
        others = values[~np.isnan(values).any(axis=1)]
        beaten = ((others <= point).all(axis=1) & (others < point).any(axis=1)).any()
        twin = any((values[j] == point).all() for j in kept)
        if not beaten and not twin:
            kept.append(i)
    return kept


def ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """Non-dominated sorting (Deb et al. 2002): 0 for the front, 1 for the front of the rest, and so on."""
    values = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
    values = np.where(np.isnan(values), np.inf, values)
    result = np.full(len(values), -1)
    level = 0
    while (result < 0).any():
        left = np.flatnonzero(result < 0)
        rest = values[left]
        no_worse = (rest[:, None, :] <= rest[None, :, :]).all(axis=2)
        better = (rest[:, None, :] < rest[None, :, :]).any(axis=2)
        beaten = (no_worse & better).any(axis=0)
        result[left[~beaten]] = level
        level += 1
    return [int(rank) for rank in result]


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between the front and `reference`, each objective divided by the reference's: in [0, 1].

    Points beyond the reference in some objective count nothing. Exact (WFG, While et al. 2012, Optuna's).
    """
    bound = np.asarray(reference, dtype=np.float64)
    if not len(points):
        return 0.0
    values = np.asarray(points, dtype=np.float64) / bound
    inside = values[(np.isfinite(values) & (values <= 1.0)).all(axis=1)]
    if not len(inside):
        return 0.0
    return float(compute_hypervolume(np.maximum(inside, 0.0), np.ones(len(bound))))


def knee(points: Sequence[Sequence[float]]) -> int | None:
    """The member farthest below the line between the ends: the first objective against the mean of the others.

    Every objective is scaled to [0, 1] over the front, and the knee minimises first + mean(others): for two
    objectives this is the point farthest from the line between the ends (Das 1999). The others are averaged (ours)
    because costs go together: two that say the same would otherwise outweigh the first. Costs span decades, so
    that an objective whose values are all positive and spread over more than a decade is taken as its logarithm.
    """
    values = np.asarray(points, dtype=np.float64)
    if not len(values):
        return None
    columns = []
    for column in values.T:
        if (column > 0).all() and column.max() > 10 * column.min():
            column = np.log10(column)
        spread = np.ptp(column)
        columns.append((column - column.min()) / spread if spread > 0 else np.zeros_like(column))
    first, others = columns[0], columns[1:]
    return int(np.argmin(first + np.mean(others, axis=0) if others else first))
