"""All objectives side by side: one vertical line per objective, up is better, one line across per trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from matplotlib.figure import Figure

from pipeline.report.charts import Chart, Trace, layout
from pipeline.report.figures import canvas
from pipeline.report.front import Scene, hover, panels
from pipeline.report.palette import LIGHT
from pipeline.report.points import Kinds, value
from pipeline.report.units import Axis, digits
from pipeline.types import Row

ENOUGH = 3
"""Fewer objectives than this are told by the front itself."""


@dataclass(frozen=True)
class Place:
    """Where a number stands on one of the vertical lines: 0 is the worst drawn, 1 the best."""

    axis: Axis
    low: float
    high: float
    upward: bool

    @staticmethod
    def of(shown: Axis, kinds: Kinds, upward: bool) -> Place:
        numbers = shown.scaled(value(row, shown.metric) for row in kinds.drawable)
        return Place(shown, min(numbers), max(numbers), upward)

    def of_row(self, row: Row) -> float:
        (at,) = self.axis.scaled([value(row, self.axis.metric)])
        low, high = self.low, self.high
        if self.axis.log and low > 0:
            at, low, high = log(at), log(low), log(high)
        share = (at - low) / (high - low) if high > low else 0.5
        return share if self.upward else 1 - share

    def word(self, end: int) -> str:
        return digits(self.high if (end == 1) == self.upward else self.low)


def places(scene: Scene) -> list[Place]:
    """One place per objective, the accuracy first; none when there is nothing to draw or too few
    objectives."""
    if len(scene.objectives) < ENOUGH or not scene.kinds.drawable:
        return []
    shown = panels(scene)
    axes = [(shown[0].y, shown[0].upward), *((panel.x, False) for panel in shown)]
    return [Place.of(one, scene.kinds, upward) for one, upward in axes]


def draw_parallel(scene: Scene) -> Figure | None:
    """The figure for paper; None when `places` has none."""
    found = places(scene)
    if not found:
        return None
    kinds, chosen = scene.kinds, scene.chosen
    words = "One line across per trial, up is better. Grey: dominated, blue: front, orange: picks."
    figure, (ax,) = canvas(size=(8.4, 4.2), caption=words)
    ax.grid(False)
    across = range(len(found))
    for row in (*kinds.infeasible, *kinds.dominated):
        ax.plot(
            across, [place.of_row(row) for place in found], color=LIGHT["faint"], linewidth=0.6, alpha=0.4
        )
    for row in sorted(kinds.front, key=lambda row: row.number in chosen):
        tint, width = ("pick", 2.6) if row.number in chosen else ("front", 1.2)
        ax.plot(
            across,
            [place.of_row(row) for place in found],
            "o-",
            color=LIGHT[tint],
            linewidth=width,
            markersize=3,
        )
        if row.number in chosen:
            name = f" {chosen[row.number]} #{row.number}"
            ax.text(across[-1], found[-1].of_row(row), name, color=LIGHT["pick"], fontsize=8.5, va="center")
    for at, place in zip(across, found, strict=True):
        ax.axvline(at, color=LIGHT["muted"], linewidth=1.2, zorder=1)
        for end in (0, 1):
            ax.annotate(
                place.word(end), (at, end), xytext=(4, 9 if end else -9), textcoords="offset points",
                ha="left", va="center", fontsize=8.5, color=LIGHT["muted"],
            )  # fmt: skip
    ax.set_xticks(across, [place.axis.title for place in found])
    ax.set_yticks([])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_ylim(-0.12, 1.12)
    return figure


def parallel_charts(scene: Scene) -> list[Chart]:
    """The same for the page: every line is clickable."""
    found = places(scene)
    if not found:
        return []
    kinds, chosen = scene.kinds, scene.chosen
    across = [*range(len(found)), None]

    def lines(rows: Sequence[Row], kind: str, look: Mapping[str, object], opacity: float) -> Trace:
        """Lines of many trials in one trace, kept apart by a gap (None) after each."""
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "x": across * len(rows),
            "y": [height for row in rows for height in (*(place.of_row(row) for place in found), None)],
            "customdata": [row.number for row in rows for _ in across],
            "hovertext": [hover(row, chosen) for row in rows for _ in across],
            "hoverinfo": "text",
            "line": look,
            "opacity": opacity,
            "marker": {"size": 5, "color": look["color"]},
            "showlegend": False,
            "meta": {"kind": kind, "line": True},
        }

    rest = [row for row in kinds.front if row.number not in chosen]
    grey = [row for row in (*kinds.infeasible, *kinds.dominated) if row.number not in chosen]
    data = [
        lines(grey, "dominated", {"color": "@faint", "width": 0.8}, 0.4),
        lines(rest, "front", {"color": "@front", "width": 1.6}, 0.85),
        lines(scene.picked, "picks", {"color": "@pick", "width": 3}, 1.0),
    ]
    drawn = layout()
    drawn |= {
        "xaxis": {
            "tickvals": list(range(len(found))),
            "ticktext": [_two_lines(place.axis.title) for place in found],
            "range": [-0.3, len(found) - 0.7],
            "gridcolor": "@muted",
            "gridwidth": 1.5,
            "zeroline": False,
            "tickangle": 0,
        },
        "yaxis": {"visible": False, "range": [-0.12, 1.12]},
        "annotations": [_end(i, end, place.word(end)) for i, place in enumerate(found) for end in (0, 1)],
        "margin": {"l": 10, "r": 10, "t": 30, "b": 60},
    }
    words = "Parallel coordinates of the objectives; up is better"
    return [Chart("front-parallel", data, drawn, wide=True, words=words)]


def _end(at: int, end: int, word: str) -> dict[str, object]:
    """The number at the upper (1) or lower (0) end of a vertical line."""
    font = {"size": 11, "color": "@muted"}
    return {"x": at, "y": end, "yshift": 11 if end else -11, "xshift": 5, "xanchor": "left", "showarrow": False,
            "font": font, "text": word}  # fmt: skip


def _two_lines(title: str) -> str:
    """``energy per<br>inference (nJ)``: narrow screens have room for two short lines."""
    words = title.split(" ")
    return " ".join(words[: len(words) // 2]) + "<br>" + " ".join(words[len(words) // 2 :])
