"""Where a word beside a point covers least: inside the panel, off the points, off the other words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

_PANEL_POINTS = (330.0, 260.0)
"""About the width and height of a panel in printer's points; only the choice of the place depends on it."""
_LETTER_POINTS, _LINE_POINTS = 6.0, 13.0
_ASIDE, _ABOVE = (14.0, 40.0), (10.0, 26.0, 44.0, 64.0, 90.0)
Box = tuple[float, float, float, float]
"""left, bottom, right, top."""


def place_words(
    ax: Axes, anchors: Sequence[tuple[float, float]], words: Sequence[str], points: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Offset in printer's points of each word's left end from its anchor, chosen one after the other.

    `anchors` and `points` [n, 2] are in data coordinates; the limits of `ax` must already be set. Of 40 places around
    an anchor the one that leaves the panel, meets words, and covers points least is taken, the nearest first.
    """
    occupied = _in_points(ax, points)
    taken: list[Box] = []
    chosen = []
    for anchor, word in zip(anchors, words, strict=True):
        (x, y) = _in_points(ax, np.array([anchor], dtype=float))[0]
        width = _LETTER_POINTS * len(word)
        options = []
        for aside, above, side, end in product(_ASIDE, _ABOVE, (1, -1), (1, -1)):
            dx = aside if side > 0 else -aside - width
            dy = above if end > 0 else -above - _LINE_POINTS
            box = (x + dx, y + dy, x + dx + width, y + dy + _LINE_POINTS)
            options.append((_cost(box, occupied, taken), aside + above, (dx, dy), box))
        _, _, offset, box = min(options, key=lambda option: option[:2])
        taken.append(box)
        chosen.append(offset)
    return chosen


def _in_points(ax: Axes, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Data coordinates [n, 2] to printer's points from the panel's lower left corner."""
    if not len(at):
        return np.zeros((0, 2))
    shares = ax.transAxes.inverted().transform(ax.transData.transform(at))
    return np.asarray(shares) * _PANEL_POINTS


def _cost(box: Box, points: NDArray[np.float64], words: Sequence[Box]) -> float:
    left, bottom, right, top = box
    outside = left < 0 or bottom < 0 or right > _PANEL_POINTS[0] or top > _PANEL_POINTS[1]
    meets = sum(left < w[2] and w[0] < right and bottom < w[3] and w[1] < top for w in words)
    near = 4.0
    inside = (points[:, 0] > left - near) & (points[:, 0] < right + near)
    inside &= (points[:, 1] > bottom - near) & (points[:, 1] < top + near)
    return 100.0 * outside + 20.0 * meets + float(inside.sum())
