"""Plotly's side of a figure, as the plain data that plotly.js reads: no plotly objects, so a page is quick to
write.

Colours are roles (``"@front"``) that the page's script replaces by those of the reader's theme.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import cast

from pipeline.report.front import Panel, Scene, blank, hover, panels, papers, single, words_of_picks
from pipeline.report.labels import size_points
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
    title: str = ""
    """Written above the figure, where it wraps on narrow screens."""


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


def whole_ticks(drawn: dict[str, object], which: str, most: float, few: int = 8) -> None:
    """No ticks between the whole numbers of what is counted: where there are few, plotly would set some at 0.5."""
    if most <= few:
        drawn[which] = {**cast(Trace, drawn[which]), "dtick": 1}


def front_charts(scene: Scene) -> list[Chart]:
    """One chart per cost; none while there is nothing to draw."""
    if not scene.kinds.drawable:
        return []
    if len(scene.objectives) == 1:
        return [_single_chart(scene)]
    return [_front_chart(panel, scene) for panel in panels(scene)]


def _single_chart(scene: Scene) -> Chart:
    """One objective has no front: its value over the trials, and the best so far."""
    shown, numbers, heights, best = single(scene.objectives[0], scene.kinds)
    rows = sorted(scene.kinds.drawable, key=lambda row: row.number)
    dots: Trace = {"type": "scatter", "mode": "markers", "name": "trial", "x": numbers, "y": heights}
    dots |= {
        "customdata": numbers,
        "hovertext": [hover(row, scene.chosen) for row in rows],
        "hoverinfo": "text",
    }
    dots |= {"marker": {"color": "@faint", "size": 8}, "meta": {"kind": "trial"}}
    line: Trace = {"type": "scatter", "mode": "lines", "name": "best so far", "x": numbers, "y": best}
    line |= {
        "line": {"color": "@front", "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
        "meta": {"still": True},
    }
    return Chart(
        "front-single", [line, dots], layout("trial", shown), wide=True, words="The objective over trials"
    )


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


def _front_chart(panel: Panel, scene: Scene) -> Chart:
    kinds, chosen = scene.kinds, scene.chosen
    grey = {"color": "@faint", "size": 7, "opacity": 0.65}
    cross = grey | {"symbol": "x-thin-open"}
    data = [_dots(panel, kinds.dominated, chosen, "dominated", grey)]
    if kinds.infeasible:
        data.append(_dots(panel, kinds.infeasible, chosen, "outside a constraint", cross))
    data += [
        *published_dots(panel, scene.priced),
        *_baseline(panel, scene.baseline),
        _stairs(panel, kinds.front),
    ]
    dots: dict[str, object] = {"color": "@front", "size": 11, "line": {"color": "@ink", "width": 1}}
    if panel.colour and kinds.front:
        dots |= _shaded(panel, kinds.front)
    data.append(_dots(panel, kinds.front, chosen, "front", dots))
    ring = {"symbol": "circle-open", "size": 19, "color": "@pick", "line": {"width": 2.5}}
    data.append(_dots(panel, scene.picked, chosen, "picks", ring))
    drawn, lowest = layout(panel.x, panel.y), scene.lowest(panel)
    drawn["annotations"] = _words(panel, scene)
    if lowest is not None:  # a double click shows all
        drawn["yaxis"] = {**cast(Trace, drawn["yaxis"]), "range": [lowest, _top(panel, scene)]}
    words = f"{panel.y.title} against {panel.x.title}: {len(kinds.front)} trials on the front"
    return Chart(f"front-{panel.x.metric}", data, drawn, words=words)


def _words(panel: Panel, scene: Scene) -> list[Trace]:
    """The picks' words beside their points, on lines, where they cover least."""

    def at(axis: Axis, where: float) -> float:
        return log10(where) if axis.log else where  # plotly places annotations by the exponent

    def note(word: str, x: float, y: float, dx: float, dy: float) -> Trace:
        """The line ends at the end of the word that is next to the point."""
        right, (width, height) = dx > 0, size_points(word)
        return {
            "x": at(panel.x, x),
            "y": at(panel.y, y),
            "ax": dx if right else dx + width,
            "ay": -dy - height / 2,
            "xanchor": "left" if right else "right",
            "text": escape(word).replace("\n", "<br>"),
            "align": "left",
            "showarrow": True,
            "arrowhead": 0,
            "arrowwidth": 1,
            "arrowcolor": "@pick",
            "standoff": 9,
            "font": {"size": 12, "color": "@pick"},
        }

    placed = words_of_picks(blank(panel, scene), panel, scene)
    return [note(word, x, y, dx, dy) for word, (x, y), (dx, dy) in placed]


def _top(panel: Panel, scene: Scene) -> float:
    """Just above the best of everything drawn."""
    _, heights = panel.spots([*scene.kinds.drawable, *([scene.baseline] if scene.baseline else [])])
    _, _, published = papers(panel, scene.priced)
    best = max([*heights, *published])
    return best + 0.06 * max(best - (scene.lowest(panel) or 0.0), 1.0)


def _stairs(panel: Panel, front: Sequence[Row]) -> Trace:
    steps, heights = panel.stairs(front)
    return {
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


def published_words(panel: Panel, published: Published | None) -> list[str]:
    """What is said beside the pointer of each of the papers' points that a panel shows."""
    if published is None:
        return []
    return [
        f"<b>{escape(published.title)}</b><br>{escape(point.name)}"
        + "".join(f"<br>{escape(label(name))}: {show(name, at)}" for name, at in point.metrics.items())
        for point in papers(panel, published)[0]
    ]


def published_dots(panel: Panel, published: Published | None) -> list[Trace]:
    """The papers' own points; nothing without a paper."""
    _, xs, ys = papers(panel, published)
    if not xs:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "published",
            "x": xs,
            "y": ys,
            "meta": {"kind": "published"},
            "hovertext": published_words(panel, published),
            "hoverinfo": "text",
            "marker": {"symbol": "diamond-open", "size": 8, "color": "@published"},
        }
    ]


def _baseline(panel: Panel, row: Row | None) -> list[Trace]:
    if row is None:
        return []
    xs, ys = panel.spots([row])
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "float model",
            "x": xs,
            "y": ys,
            "meta": {"kind": "baseline"},
            "hovertext": [hover(row, {}).replace(f"trial {row.number}", "float model", 1)],
            "hoverinfo": "text",
            "marker": {"symbol": "star", "size": 14, "color": "@c3", "line": {"color": "@ink", "width": 1}},
        }
    ]


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
