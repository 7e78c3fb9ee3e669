"""Plotly's side of a figure, as the plain data that plotly.js reads: no plotly objects, so a page is quick to
write.

Colours are roles (``"@front"``) that the page's script replaces by those of the reader's theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log, log10

from pipeline.report.front import Panel, hover, panels, papers
from pipeline.report.points import Kinds, marks, value
from pipeline.report.published import Published
from pipeline.report.units import Axis, label, show
from pipeline.types import Row

Trace = dict[str, object]


@dataclass(frozen=True)
class Chart:
    """One interactive figure of a page."""

    name: str
    """Id on the page, and the name of the file its camera button saves."""
    data: list[Trace]
    layout: dict[str, object]
    height: int = 420
    wide: bool = False
    """Takes the whole width of the page instead of a column."""
    words: str = ""
    """Read by a screen reader in place of the figure."""


def layout(x: Axis | str = "", y: Axis | str = "", **more: object) -> dict[str, object]:
    """Axes with titles, log where the axis says so, in the theme's colours; `more` is plotly's own layout."""

    def one(given: Axis | str) -> dict[str, object]:
        title = given.title if isinstance(given, Axis) else given
        drawn: dict[str, object] = {
            "title": {"text": title, "standoff": 8},
            "gridcolor": "@grid",
            "zeroline": False,
            "automargin": True,
            "linecolor": "@faint",
            "tickcolor": "@faint",
        }
        if isinstance(given, Axis) and given.log:
            drawn |= {"type": "log"}
            if given.span:
                ticks = round_ticks(*given.span, margin=1)
                drawn |= {"tickvals": ticks, "ticktext": [f"{tick:,g}" for tick in ticks]}
        return drawn

    return {
        "xaxis": one(x),
        "yaxis": one(y),
        "font": {"color": "@ink", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hoverlabel": {
            "align": "left",
            "bgcolor": "@surface",
            "bordercolor": "@muted",
            "font": {"color": "@ink"},
        },
        "hovermode": "closest",
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "@faint", "activecolor": "@ink"},
    } | more


def front_charts(
    objectives: Sequence[str], kinds: Kinds, picks: Mapping[str, int], published: Published | None = None
) -> list[Chart]:
    """One chart per cost; with three objectives or more, parallel coordinates over all of them as well."""
    shown = panels(objectives, kinds, published)
    charts = (
        [_front_chart(panel, kinds, marks(picks), published) for panel in shown] if kinds.drawable else []
    )
    if kinds.drawable and len(objectives) > 2:
        charts.append(_parallel_chart(shown, kinds, marks(picks)))
    return charts


def _dots(panel: Panel, rows: Sequence[Row], chosen: Mapping[int, str], name: str, marker: object) -> Trace:
    xs, ys = panel.spots(rows)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": xs,
        "y": ys,
        "marker": marker,
        "customdata": [row.number for row in rows],
        "meta": {"kind": name},
        "hovertext": [hover(row, chosen) for row in rows],
        "hoverinfo": "text",
    }


def _front_chart(panel: Panel, kinds: Kinds, chosen: Mapping[int, str], published: Published | None) -> Chart:
    grey = {"color": "@faint", "size": 7, "opacity": 0.65}
    data = [_dots(panel, kinds.dominated, chosen, "dominated", grey)]
    if kinds.infeasible:
        data.append(
            _dots(panel, kinds.infeasible, chosen, "outside a constraint", grey | {"symbol": "x-thin-open"})
        )
    points, xs, ys = papers(panel, published)
    if points and published:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "published",
                "x": xs,
                "y": ys,
                "meta": {"kind": "published"},
                "hovertext": [
                    f"<b>{escape(published.title)}</b><br>{escape(point.name)}"
                    + "".join(
                        f"<br>{escape(label(name))}: {show(name, at)}" for name, at in point.metrics.items()
                    )
                    for point in points
                ],
                "hoverinfo": "text",
                "marker": {"symbol": "diamond-open", "size": 8, "color": "@published"},
            }
        )
    steps, heights = panel.stairs(kinds.front)
    data.append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": steps,
            "y": heights,
            "hoverinfo": "skip",
            "showlegend": False,
            "line": {"color": "@front", "width": 1.5},
            "opacity": 0.7,
            "meta": {"kind": "stairs"},
        }
    )
    dots: dict[str, object] = {"color": "@front", "size": 11, "line": {"color": "@ink", "width": 1}}
    if panel.colour and kinds.front:
        dots |= _shaded(panel, kinds.front)
    data.append(_dots(panel, kinds.front, chosen, "front", dots))
    picked = sorted((row for row in kinds.drawable if row.number in chosen), key=lambda row: row.number)
    ring = {"symbol": "circle-open", "size": 19, "color": "@pick", "line": {"width": 2.5}}
    words = [f"{chosen[row.number]} #{row.number}" for row in picked]
    data.append(
        _dots(panel, picked, chosen, "picks", ring)
        | {
            "mode": "markers+text",
            "text": words,
            "textfont": {"color": "@pick", "size": 12},
            "textposition": ["bottom right" if i % 2 else "top left" for i in range(len(picked))],
        }
    )
    name = f"front-{panel.x.metric}"
    words_for_reader = f"{panel.y.title} against {panel.x.title}: {len(kinds.front)} trials on the front"
    return Chart(name, data, layout(panel.x, panel.y), words=words_for_reader)


def _shaded(panel: Panel, rows: Sequence[Row]) -> dict[str, object]:
    """The third objective as colour; on a log scale the colours follow the logarithm and the ticks say the
    number."""
    assert panel.colour is not None
    shades = panel.shades(rows)
    bar: dict[str, object] = {
        "title": {"text": panel.colour.title, "side": "right"},
        "thickness": 12,
        "outlinewidth": 0,
    }
    if panel.colour.log and min(shades) > 0:
        ticks = round_ticks(min(shades), max(shades))
        bar |= {"tickvals": [log10(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}
        shades = [log10(shade) for shade in shades]
    return {"color": shades, "colorscale": "Cividis", "colorbar": bar}


def round_ticks(low: float, high: float, margin: int = 0) -> list[float]:
    """Round numbers within [low, high] for a log axis, denser when it spans little; `margin` more decades
    each way."""
    decades = log10(high / low)
    steps = (1, 2, 3, 5, 7) if decades < 1.3 else (1, 2, 5) if decades < 3.5 else (1,)
    exponents = range(floor(log10(low)) - margin, floor(log10(high)) + margin + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    within = [tick for tick in ticks if low / 10**margin <= tick <= high * 10**margin]
    return within or [low, high]


def _parallel_chart(shown: Sequence[Panel], kinds: Kinds, chosen: Mapping[int, str]) -> Chart:
    """Every objective as a vertical line, up is better; one line across per trial, each clickable."""
    axes = [(shown[0].y, shown[0].upward), *((panel.x, False) for panel in shown)]
    places = [_Place.of(one, kinds, upward) for one, upward in axes]
    names = [f"{place.axis.title}" for place in places]

    def lines(rows: Sequence[Row], kind: str, look: Mapping[str, object], opacity: float) -> Trace:
        """Lines of many trials in one trace, kept apart by a gap (None) after each."""
        across = [*range(len(places)), None]
        return {
            "type": "scatter",
            "mode": "lines+markers",
            "x": across * len(rows),
            "y": [height for row in rows for height in (*(p.of_row(row) for p in places), None)],
            "customdata": [row.number for row in rows for _ in across],
            "hovertext": [hover(row, chosen) for row in rows for _ in across],
            "hoverinfo": "text",
            "line": look,
            "opacity": opacity,
            "marker": {"size": 5, "color": look["color"]},
            "showlegend": False,
            "meta": {"kind": kind, "line": True},
        }

    picked = [row for row in kinds.drawable if row.number in chosen]
    rest = [row for row in kinds.front if row.number not in chosen]
    data = [
        lines(kinds.dominated + kinds.infeasible, "dominated", {"color": "@faint", "width": 0.8}, 0.4),
        lines(rest, "front", {"color": "@front", "width": 1.6}, 0.85),
        lines(picked, "picks", {"color": "@pick", "width": 3}, 1.0),
    ]
    drawn = layout()
    ticks = list(range(len(places)))
    notes = [
        {
            "x": i,
            "y": end,
            "yshift": 12 if end else -12,
            "showarrow": False,
            "font": {"size": 11, "color": "@muted"},
            "text": place.word(end),
        }
        for i, place in enumerate(places)
        for end in (0, 1)
    ]
    drawn |= {
        "xaxis": {
            "tickvals": ticks,
            "ticktext": names,
            "range": [-0.25, len(places) - 0.75],
            "gridcolor": "@muted",
            "zeroline": False,
            "gridwidth": 1.5,
        },
        "yaxis": {"visible": False, "range": [-0.12, 1.12]},
        "annotations": notes,
    }
    return Chart(
        "front-parallel", data, drawn, wide=True, words="Parallel coordinates of the objectives; up is better"
    )


@dataclass(frozen=True)
class _Place:
    """Where a number stands on one of the parallel lines: 0 is the worst drawn, 1 the best."""

    axis: Axis
    low: float
    high: float
    upward: bool

    @staticmethod
    def of(shown: Axis, kinds: Kinds, upward: bool) -> _Place:
        numbers = shown.scaled(value(row, shown.metric) for row in kinds.drawable)
        return _Place(shown, min(numbers), max(numbers), upward)

    def of_row(self, row: Row) -> float:
        at = self.axis.scaled([value(row, self.axis.metric)])[0]
        low, high = self.low, self.high
        if self.axis.log:
            at, low, high = log(at), log(low), log(high)
        share = (at - low) / (high - low) if high > low else 0.5
        return share if self.upward else 1 - share

    def word(self, end: int) -> str:
        return f"{self.high if (end == 1) == self.upward else self.low:.3g}"
