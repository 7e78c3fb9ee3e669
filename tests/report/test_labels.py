"""Words beside points stay in the panel and off the points, where there is room."""

import numpy as np
from matplotlib.figure import Figure

from pipeline.report.labels import _PANEL_POINTS, broken, place_words, size_points


def boxes(
    anchors: list[tuple[float, float]], words: list[str], points: list[tuple[float, float]]
) -> list[np.ndarray]:
    """[left, bottom, right, top] of each word in a panel whose data run from 0 to 1."""
    ax = Figure().add_subplot()
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    offsets = place_words(ax, anchors, words, np.array(points))
    size = [np.array(size_points(word)) for word in words]
    lower = [np.array(a) * _PANEL_POINTS + np.array(o) for a, o in zip(anchors, offsets, strict=True)]
    return [np.concatenate([low, low + extent]) for low, extent in zip(lower, size, strict=True)]


def test_words_at_corners_stay_inside_the_panel() -> None:
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    for left, bottom, right, top in boxes(corners, ["one standard error #11"] * 4, corners):
        assert left >= 0
        assert bottom >= 0
        assert right <= _PANEL_POINTS[0]
        assert top <= _PANEL_POINTS[1]


def test_a_long_word_of_two_picks_stands_in_two_lines_inside_the_panel() -> None:
    word = broken("within 1 point, one standard error #0")
    assert word == "within 1 point,\none standard error #0"
    assert broken("knee, cheapest #12") == "knee, cheapest #12"
    anchor = [(0.45, 0.9)]
    ((left, bottom, right, top),) = boxes(anchor, [word], anchor)
    assert (right - left, top - bottom) == (21 * 6, 2 * 13)
    assert left >= 0
    assert bottom >= 0
    assert right <= _PANEL_POINTS[0]
    assert top <= _PANEL_POINTS[1]


def test_words_of_neighbours_do_not_meet() -> None:
    anchors = [(0.5, 0.5), (0.51, 0.5), (0.52, 0.5)]
    placed = boxes(anchors, ["knee #1", "reward #2", "cheapest #3"], anchors)
    for i, one in enumerate(placed):
        for other in placed[i + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart


def test_a_word_goes_where_no_points_are() -> None:
    crowd = [
        (x, y) for x in np.linspace(0.3, 0.9, 30) for y in np.linspace(0.5, 0.95, 20)
    ]  # right of and above it
    ((left, bottom, right, top),) = boxes([(0.4, 0.5)], ["knee #1"], crowd)
    covered = [
        (x, y)
        for x, y in crowd
        if left <= x * _PANEL_POINTS[0] <= right and bottom <= y * _PANEL_POINTS[1] <= top
    ]
    assert not covered
