"""Where a word beside a point covers least: inside the panel, off the points, off the other words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

_PANEL_POINTS = (330.0, 260.0)
"""About the width and height of a panel in printer's points; only the choice of the place depends on it."""
LETTER_POINTS, _LINE_POINTS = 6.0, 13.0
_LINE_LETTERS = 26
"""Longer words would not fit into half a panel."""
_ASIDE, _ABOVE = (4.0, 14.0, 40.0), (10.0, 26.0, 44.0, 64.0, 90.0)
_ORDERS = 4
"""Up to so many words every order is tried."""
Box = tuple[float, float, float, float]
"""left, bottom, right, top."""
Offset = tuple[float, float]
Line = tuple[tuple[float, float], tuple[float, float]]
"""From a point to its word."""


def place_words(
    ax: Axes, anchors: Sequence[tuple[float, float]], words: Sequence[str], points: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """Offset in printer's points of each word's lower left corner from its anchor; a word may have several lines.

    `anchors` and `points` [n, 2] are in data coordinates; the limits of `ax` must already be set. The words are placed
    one after the other, each at the one of 60 places around its anchor that least leaves the panel, meets words or
    their lines, and covers points, the nearest first; of all orders (of up to `_ORDERS` words) the best is taken.
    """
    occupied = _in_points(ax, points)
    spots = [(float(x), float(y)) for x, y in _in_points(ax, np.array(anchors, dtype=float).reshape(-1, 2))]
    count = len(words)
    orders = permutations(range(count)) if count <= _ORDERS else [tuple(range(count))]
    best: tuple[float, dict[int, Offset]] = (math.inf, {})
    for order in orders:
        cost, found = _in_order(order, spots, words, occupied)
        if cost < best[0]:
            best = cost, found
    return [best[1][i] for i in range(count)]


def size_points(word: str) -> tuple[float, float]:
    """Width and height of a word of one or more lines."""
    lines = word.split("\n")
    return LETTER_POINTS * max(map(len, lines)), _LINE_POINTS * len(lines)


def broken(word: str) -> str:
    """The word in as few lines as are no longer than `_LINE_LETTERS`, broken only where a comma stands."""
    first, *others = word.split(", ")
    lines = [first]
    for part in others:
        longer = f"{lines[-1]}, {part}"
        if len(longer) <= _LINE_LETTERS:
            lines[-1] = longer
        else:
            lines[-1] += ","
            lines.append(part)
    return "\n".join(lines)


def _in_order(
    order: Sequence[int],
    spots: Sequence[tuple[float, float]],
    words: Sequence[str],
    occupied: NDArray[np.float64],
) -> tuple[float, dict[int, Offset]]:
    """Total cost and offsets when the words are placed in this order."""
    taken: list[Box] = []
    lines: list[Line] = []
    chosen: dict[int, Offset] = {}
    total = 0.0
    for i in order:
        (x, y), (width, height) = spots[i], size_points(words[i])
        options = []
        for aside, above, side, end in product(_ASIDE, _ABOVE, (1, -1), (1, -1)):
            dx = aside if side > 0 else -aside - width
            dy = above if end > 0 else -above - height
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            line = ((x, y), (x + dx + (0 if side > 0 else width), y + dy + height / 2))
            crossed = sum(_through(other, box) for other in lines) + sum(_through(line, b) for b in taken)
            crossed += sum(_crosses(line, other) for other in lines)
            cost = _cost(box, occupied, taken) + 12.0 * crossed
            options.append((cost + 0.02 * (aside + above), (dx, dy), box, line))
        cost, offset, box, line = min(options, key=lambda option: option[0])
        total += cost
        taken.append(box)
        lines.append(line)
        chosen[i] = offset
    return total, chosen


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
    return 100.0 * outside + 20.0 * meets + 3.0 * float(inside.sum())


def _crosses(one: Line, other: Line) -> bool:
    """Whether two segments cross (touching ends do not count)."""

    def side(line: Line, point: tuple[float, float]) -> float:
        (ax, ay), (bx, by) = line
        return (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax)

    return side(one, other[0]) * side(one, other[1]) < 0 and side(other, one[0]) * side(other, one[1]) < 0


def _through(line: Line, box: Box) -> bool:
    """Whether a segment runs through a box: across one of its diagonals, as good as that."""
    left, bottom, right, top = box
    return _crosses(line, ((left, bottom), (right, top))) or _crosses(line, ((left, top), (right, bottom)))
