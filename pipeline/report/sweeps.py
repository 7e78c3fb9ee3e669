"""Accuracy over bits, accuracy over sparsity, and a front for each method: what a study of compression is read for.

A method is how a trial got its compression: post-training, or isolated, cumulative, joint fine-tuning. Each line
joins, per width (or sparsity), the method's most accurate trial; every trial is a dot. Published points of the same
series lie beside them, grey and hollow. A method has one colour, symbol and dash in all of these pictures, whichever
others a study tried. A study that searched neither has none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.charts import Chart, Trace, layout, published_words
from pipeline.report.detail import left_out
from pipeline.report.figures import LINES, SYMBOLS, canvas, colour
from pipeline.report.front import Panel, Scene, draw_scale, hover, panels, paper_value, papers
from pipeline.report.palette import DASHES, LIGHT, MARKERS, role
from pipeline.report.points import tally, value
from pipeline.report.published import Published
from pipeline.types import Row

METHODS = ("post-training", "isolated", "cumulative", "joint", "in training", "fine-tuned")
"""In the order of the palette; a paper's other ways share the place after them."""
NAMELESS = "trials"
"""The one method of a study that searched none."""
KNOBS = {"bits": ("width of the weights (bits)", 1.0), "sparsity": ("zeros asked for (%)", 0.01)}
"""Last part of a parameter's name -> title of its axis, and what its values are divided by."""


@dataclass(frozen=True)
class Line:
    """One method: all its trials and the best at each value, in the axes' units."""

    name: str
    index: int
    """Which colour, symbol and dash: the place of its method in `METHODS`."""
    rows: tuple[Row, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    published: bool = False

    @property
    def best(self) -> tuple[list[float], list[float]]:
        """The highest y at each x, by x."""
        top: dict[float, float] = {}
        for at, height in zip(self.x, self.y, strict=True):
            top[at] = max(height, top.get(at, -math.inf))
        return sorted(top), [top[at] for at in sorted(top)]


@dataclass(frozen=True)
class Sweep:
    """One picture: accuracy over one knob."""

    knob: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    ended: tuple[Row, ...] = ()
    """Trials of these methods that have no accuracy to draw."""
    source: str = ""
    """Whose the published points are."""


def method_of(row: Row) -> str:
    """How this trial was compressed, by the parameters of its plan; empty where the study did not search it."""
    scheme, mode = row.params.get("plan.scheme"), row.params.get("plan.mode")
    if scheme == "ptq":
        return "post-training"
    if scheme == "in_training":
        return "in training"
    return str(mode or ("fine-tuned" if scheme == "qat" else scheme or ""))


def knob_of(rows: Sequence[Row], knob: str) -> str:
    """The searched parameter that turns this knob (of several, that of the weights); empty: none."""
    names = {key for row in rows for key in row.params if key.rsplit(".", 1)[-1] == knob}
    return min(names, key=lambda key: ("weights" not in key, key), default="")


def sweep(scene: Scene, knob: str) -> Sweep | None:
    """Accuracy over this knob, one line per method; None where fewer than two values were tried."""
    rows, shown = scene.kinds.drawable, panels(scene)
    key = knob_of(rows, knob)
    if not key or not shown or not shown[0].upward:
        return None
    accuracy = shown[0].y
    title, unit = KNOBS[knob]
    found: dict[str, list[tuple[Row, float, float]]] = {}
    for row in rows:
        if (at := _turned(row, knob, key)) is not None:
            (height,) = accuracy.scaled([value(row, accuracy.metric)])
            found.setdefault(method_of(row), []).append((row, at / unit, height))
    lines = [
        Line(
            method or NAMELESS,
            _place(method),
            tuple(row for row, _, _ in found[method]),
            tuple(at for _, at, _ in found[method]),
            tuple(height for _, _, height in found[method]),
        )
        for method in sorted(found, key=_order)
    ]
    if len({at for line in lines for at in line.x}) < 2:
        return None
    papers = _published(scene.published, knob, accuracy.metric, unit, accuracy.factor)
    ended = tuple(row for row in scene.kinds.ended if _turned(row, knob, key) is not None)
    return Sweep(knob, title, accuracy.title, (*lines, *papers), ended, _source(scene) if papers else "")


def _source(scene: Scene) -> str:
    """Whose the published points are, and whether they can be compared with the trials."""
    if not scene.published:
        return ""
    other = "" if scene.alike else "; other data or another network than here, a reference and no baseline"
    return f" Published, grey: {scene.published.title}, test accuracy{other}."


def _turned(row: Row, knob: str, key: str) -> float | None:
    """Where a trial has this knob; None where it has none, or its method does not use it."""
    at = row.params.get(key)
    return None if left_out(row) == knob or not isinstance(at, int | float) else float(at)


def _ended_words(rows: Sequence[Row]) -> str:
    """`` Not drawn, without a result: 10 stopped:silent.``: a method must not look better by what it lost."""
    states = ", ".join(f"{count} {state}" for state, count in tally(rows).items())
    return f" Not drawn, without a result: {states}." if states else ""


def _place(method: str) -> int:
    """The method's place in the palette; the nameless one, which is alone, has the first."""
    return METHODS.index(method) if method in METHODS else len(METHODS) if method else 0


def _order(method: str) -> tuple[int, str]:
    return _place(method), method


def _published(
    published: Published | None, knob: str, metric: str, unit: float, factor: float
) -> tuple[Line, ...]:
    """The paper's series, all points: where its own lines would be highest is read off as for ours."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in published.points if published else ():
        height = paper_value(point, metric)
        if math.isfinite(height):
            found.setdefault(point.series, []).append((getattr(point, knob) / unit, height / factor))
    return tuple(
        Line(
            f"published: {name}",
            _place(name),
            (),
            tuple(x for x, _ in found[name]),
            tuple(y for _, y in found[name]),
            True,
        )
        for name in sorted(found, key=_order)
    )


def _words(shown: Sweep) -> str:
    tried = sum(len(line.rows) for line in shown.lines)
    return (
        f"{tried} trials; each line joins the most accurate trial of its method at each value, over all other "
        "settings." + _ended_words(shown.ended) + shown.source
    )


def draw_sweep(scene: Scene, knob: str) -> Figure | None:
    """The picture for paper."""
    shown = sweep(scene, knob)
    if shown is None:
        return None
    figure, (ax,) = canvas(size=(6.4, 4.2), caption=_words(shown))
    for line in shown.lines:
        _draw_line(ax, line)
    if knob == "bits":
        ax.set_xticks(sorted({at for line in shown.lines for at in line.x}))
    ax.set_xlabel(shown.x_title)
    ax.set_ylabel(shown.y_title)
    ax.legend(fontsize=8, frameon=False, loc="best", handlelength=3)  # shorter, a dash looks like a line
    return figure


def _draw_line(ax: Axes, line: Line) -> None:
    x, y = line.best
    symbol = SYMBOLS[line.index % len(SYMBOLS)]
    if line.published:
        ax.plot(x, y, linestyle=LINES[line.index % len(LINES)], color=LIGHT["muted"], marker=symbol,
                markerfacecolor="none", markersize=5, linewidth=1, label=line.name)  # fmt: skip
        return
    ink = colour(line.index)
    ax.plot(line.x, line.y, symbol, color=ink, alpha=0.35, markersize=4)
    ax.plot(x, y, marker=symbol, color=ink, linestyle=LINES[line.index % len(LINES)], linewidth=1.6,
            markersize=5.5, label=line.name)  # fmt: skip


def sweep_charts(scene: Scene) -> list[Chart]:
    """The same for the page: accuracy over bits, accuracy over sparsity, and the fronts of the methods."""
    charts = []
    for knob in KNOBS:
        shown = sweep(scene, knob)
        if shown is not None:
            data = [trace for line in shown.lines for trace in _traces(line, scene.chosen)]
            drawn = layout(shown.x_title, shown.y_title)
            charts.append(
                Chart(
                    f"accuracy-over-{knob}", data, drawn, title=f"Accuracy over {knob}", words=_words(shown)
                )
            )
    return [*charts, *front_by_method(scene)]


def _traces(line: Line, chosen: Mapping[int, str]) -> list[Trace]:
    x, y = line.best
    ink = "@muted" if line.published else role(line.index)
    symbol = MARKERS[line.index % len(MARKERS)] + ("-open" if line.published else "")
    joined: Trace = {
        "type": "scatter", "mode": "lines+markers", "name": line.name, "x": x, "y": y, "hoverinfo": "x+y+name",
        "line": {"color": ink, "width": 2 - line.published, "dash": DASHES[line.index % len(DASHES)]},
        "marker": {"color": ink, "symbol": symbol, "size": 8}, "legendgroup": line.name,
        "meta": {"still": True},
    }  # fmt: skip
    if line.published:
        return [joined]
    return [joined, _dots(line.rows, line.x, line.y, ink, symbol, line.name, chosen)]


def _dots(
    rows: Sequence[Row],
    x: Sequence[float],
    y: Sequence[float],
    ink: str,
    symbol: str,
    name: str,
    chosen: Mapping[int, str],
    opacity: float | list[float] = 0.4,
) -> Trace:
    """Every trial of a method; a click opens it."""
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": list(x), "y": list(y), "showlegend": False,
        "legendgroup": name, "marker": {"color": ink, "symbol": symbol, "size": 7, "opacity": opacity},
        "customdata": [row.number for row in rows], "hovertext": [hover(row, chosen) for row in rows],
        "hoverinfo": "text", "meta": {"kind": "trial"},
    }  # fmt: skip


# --- the front, one line per method --------------------------------------------------------------------------


def _fronts(scene: Scene) -> tuple[Panel, dict[str, list[Row]]] | None:
    """Accuracy against energy (else the first cost), and the trials of each method; None for a single method."""
    shown = [panel for panel in panels(scene) if panel.upward]
    of: dict[str, list[Row]] = {}
    for row in (*scene.kinds.front, *scene.kinds.dominated):
        of.setdefault(method_of(row), []).append(row)
    if not shown or len(of) < 2:
        return None
    panel = next((panel for panel in shown if panel.x.metric == "energy_pj"), shown[0])
    return panel, {method: of[method] for method in sorted(of, key=_order)}


def _members(panel: Panel, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The front of these rows in the panel's two objectives, the cheapest first: the corners that are trials."""
    steps, heights = panel.stairs(rows)
    return steps[::2], heights[::2]


def _front_words(of: Mapping[str, Sequence[Row]], ended: Sequence[Row]) -> str:
    return (
        f"The front of each method alone ({', '.join(method or NAMELESS for method in of)}): its members, joined by a "
        "line that says what can be had for so much; its other trials are fainter." + _ended_words(ended)
    )


def draw_front_by_method(scene: Scene) -> Figure | None:
    """For paper: what each method alone can reach."""
    found = _fronts(scene)
    if found is None:
        return None
    panel, of = found
    figure, (ax,) = canvas(size=(6.4, 4.2), caption=_front_words(of, scene.kinds.ended))
    for method, rows in of.items():
        index = _place(method)
        ink, symbol = colour(index), SYMBOLS[index % len(SYMBOLS)]
        ax.plot(*panel.spots(rows), symbol, color=ink, alpha=0.3, markersize=4, markeredgewidth=0)
        ax.plot(
            *_members(panel, rows), drawstyle="steps-post", color=ink, linestyle=LINES[index % len(LINES)],
            linewidth=1.8, marker=symbol, markersize=5.5, label=method or NAMELESS,
        )  # fmt: skip
    for series, (x, y, _) in _published_by_series(panel, scene).items():
        ax.plot(x, y, SYMBOLS[_place(series) % len(SYMBOLS)], color=LIGHT["muted"], markerfacecolor="none",
                markersize=4.5, label=f"published: {series}")  # fmt: skip
    draw_scale(panel, ax)
    ax.set_xlabel(panel.x.title)
    ax.set_ylabel(panel.y.title)
    ax.legend(fontsize=8, frameon=False, loc="best", handlelength=3)  # shorter, a dash looks like a line
    return figure


def front_by_method(scene: Scene) -> list[Chart]:
    """For the page."""
    found = _fronts(scene)
    if found is None:
        return []
    panel, of = found
    data: list[Trace] = []
    for method, rows in of.items():
        index, name = _place(method), method or NAMELESS
        x, y = _members(panel, rows)
        ink, symbol = role(index), MARKERS[index % len(MARKERS)]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "legendgroup": name,
                "line": {"color": ink, "width": 2, "dash": DASHES[index % len(DASHES)], "shape": "hv"},
                "marker": {"color": ink, "symbol": symbol, "size": 8}, "hoverinfo": "skip", "meta": {"still": True},
            }
        )  # fmt: skip
        members = set(zip(x, y, strict=True))
        x, y = panel.spots(rows)
        faint = [1.0 if spot in members else 0.4 for spot in zip(x, y, strict=True)]
        data.append(_dots(rows, x, y, ink, symbol, name, scene.chosen, faint))
    for series, (x, y, said) in _published_by_series(panel, scene).items():
        symbol = MARKERS[_place(series) % len(MARKERS)] + "-open"
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": f"published: {series}", "x": x, "y": y,
                "hovertext": said, "hoverinfo": "text", "meta": {"kind": "published"},
                "marker": {"color": "@muted", "symbol": symbol, "size": 8},
            }
        )  # fmt: skip
    title = "What each method reaches alone"
    words = _front_words(of, scene.kinds.ended)
    return [Chart("front-methods", data, layout(panel.x, panel.y), title=title, words=words)]


def _published_by_series(panel: Panel, scene: Scene) -> dict[str, tuple[list[float], list[float], list[str]]]:
    """The papers' points with both coordinates, by series: where they stand, and what is said of each."""
    found: dict[str, tuple[list[float], list[float], list[str]]] = {}
    points, x, y = papers(panel, scene.priced)
    for at, (point, words) in enumerate(zip(points, published_words(panel, scene.priced), strict=True)):
        columns = found.setdefault(point.series, ([], [], []))
        columns[0].append(x[at])
        columns[1].append(y[at])
        columns[2].append(words)
    return found


def methods_words(scene: Scene) -> str:
    """What the section shows, in a sentence."""
    made = [shown for knob in KNOBS if (shown := sweep(scene, knob)) is not None]
    papers = _source(scene) if made else ""
    lost = _ended_words(scene.kinds.ended) if made else ""
    return (
        "Lines join each method's most accurate trial at each value, over all other settings." + lost + papers
    )
