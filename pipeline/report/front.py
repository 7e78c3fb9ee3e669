"""The front: accuracy against each cost, as matplotlib draws it and as the page's plotly does; one data step
for both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.report.context import Context
from pipeline.report.figures import canvas, say
from pipeline.report.labels import broken, place_words
from pipeline.report.palette import LIGHT
from pipeline.report.points import Kinds, marks, shown_metric, sort_out, staircase, tally, value
from pipeline.report.published import Point, Published, load
from pipeline.report.units import Axis, axis, label, show
from pipeline.types import Row

NO_FRONT = "No trial is on the front yet:\nnone finished within the constraints."


@dataclass(frozen=True)
class Scene:
    """All that a picture of the front shows."""

    objectives: tuple[str, ...]
    kinds: Kinds
    chosen: Mapping[int, str]
    """Trial -> the selectors that picked it."""
    published: Published | None = None
    """A paper's points."""
    alike: bool = True
    """Whether they are of this study's data and kind of network."""
    baseline: Row | None = None
    """The float model, when its objectives are finite."""

    @staticmethod
    def of(
        rows: Sequence[Row], objectives: Sequence[str], picks: Mapping[str, int], context: Context
    ) -> Scene:
        float_model = context.baseline
        if float_model and not all(math.isfinite(value(float_model, name)) for name in objectives):
            float_model = None
        kinds = sort_out(rows, objectives)
        table, alike = load(context.published), context.published_alike
        return Scene(tuple(objectives), kinds, marks(picks), table, alike, float_model)

    @property
    def priced(self) -> Published | None:
        """The paper whose points may lie in pictures of costs: one of the same data and kind of network."""
        return self.published if self.alike else None

    def lowest(self, panel: Panel) -> float | None:
        """Where an accuracy axis may end: a little below the front, when trials far below would squeeze it."""
        shown = [*self.kinds.front, *self.picked]
        if not panel.upward or not shown:
            return None
        _, heights = panel.spots(shown)
        _, all_heights = panel.spots(self.kinds.drawable)
        end = min(heights) - 0.12 * max(max(all_heights) - min(heights), 2.0)
        return end if min(all_heights) < end else None

    @property
    def picked(self) -> list[Row]:
        """The picks that can be drawn, by number."""
        drawable = (row for row in self.kinds.drawable if row.number in self.chosen)
        return sorted(drawable, key=lambda row: row.number)


@dataclass(frozen=True)
class Panel:
    """One picture of the front: two objectives as axes, a third (if there is one) as colour."""

    x: Axis
    y: Axis
    colour: Axis | None
    upward: bool
    """Larger y is better (an accuracy)."""

    def spots(self, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        """Coordinates of the rows in the axes' units."""
        xs = self.x.scaled(value(row, self.x.metric) for row in rows)
        return xs, self.y.scaled(value(row, self.y.metric) for row in rows)

    def shades(self, rows: Sequence[Row]) -> list[float]:
        assert self.colour is not None
        return self.colour.scaled(value(row, self.colour.metric) for row in rows)

    def stairs(self, rows: Sequence[Row]) -> tuple[list[float], list[float]]:
        """The best that can be had in these two objectives alone."""
        xs, ys = self.spots(rows)
        sign = 1 if self.upward else -1
        steps, heights = staircase(xs, [sign * y for y in ys])
        return steps, [sign * height for height in heights]


def panels(scene: Scene) -> tuple[Panel, ...]:
    """One panel per cost, all against the first error (else against the first objective)."""
    first = next((name for name in scene.objectives if name.endswith("_error")), scene.objectives[0])
    costs = [name for name in scene.objectives if name != first]
    shown = shown_metric(first)
    papers = scene.priced.points if scene.priced else ()
    rows = (*scene.kinds.drawable, *([scene.baseline] if scene.baseline else []))

    def of(metric: str) -> Axis:
        own = [value(row, metric) for row in rows]
        return axis(metric, [*own, *(paper_value(point, metric) for point in papers)], log_above=8)

    found = []
    for cost in costs:
        others = [name for name in costs if name != cost]
        colour = of(shown_metric(others[0])) if others else None
        found.append(Panel(of(shown_metric(cost)), of(shown), colour, upward=shown != first))
    return tuple(found)


def paper_value(point: Point, metric: str) -> float:
    """A paper's number; papers publish test accuracies, which stand where the study's validation accuracy
    does."""
    named = "test_accuracy" if metric.endswith("_accuracy") else metric
    return point.metrics.get(named, math.nan)


def papers(panel: Panel, published: Published | None) -> tuple[list[Point], list[float], list[float]]:
    """The published points that have both coordinates of the panel, and where they stand."""
    every = published.points if published else ()
    at = [(point, paper_value(point, panel.x.metric), paper_value(point, panel.y.metric)) for point in every]
    known = [(point, x, y) for point, x, y in at if math.isfinite(x) and math.isfinite(y)]
    points = [point for point, _, _ in known]
    return points, panel.x.scaled(x for _, x, _ in known), panel.y.scaled(y for _, _, y in known)


def caption(
    rows: Sequence[Row], objectives: Sequence[str], picks: Mapping[str, int], context: Context
) -> str:
    """What is drawn, in words, under the figure."""
    states = ", ".join(f"{count} {state}" for state, count in tally(rows).items())
    on_front = sum(row.on_front for row in rows)
    counts = (
        {"accuracy": f"{context.validation_samples:,} validation samples"}
        if context.validation_samples
        else {}
    )
    counts |= {"energy and latency": context.counted} if context.counted else {}
    sizes = f" ({'; '.join(f'{what} on {samples}' for what, samples in counts.items())})" if counts else ""
    searched = ", ".join(label(name) for name in objectives)
    scene = Scene.of(rows, objectives, picks, context)
    paper = scene.priced
    squeezed = any(scene.lowest(panel) is not None for panel in panels(scene))
    left = " (those far below the front are out of the picture)" if squeezed else ""
    chosen = "; ".join(f"{name}: #{number}" for name, number in picks.items())
    return (
        f"{context.experiment}: {len(rows)} trials ({states or 'none yet'}), {on_front} on the front of "
        f"{searched}{sizes}. Grey: dominated{left}; crosses: outside a constraint; "
        "line: the best for two of the "
        "objectives alone."
        + (f" Marked: {chosen}." if chosen else "")
        + (" Star: the float model." if context.baseline else "")
        + (f" Green diamonds: {paper.title} (test accuracy as published)." if paper else "")
    )


def draw(
    rows: Sequence[Row], objectives: Sequence[str], picks: Mapping[str, int], context: Context
) -> Figure:
    """The front as a matplotlib figure; says so in words when there is nothing to draw."""
    scene = Scene.of(rows, objectives, picks, context)
    shown = panels(scene)
    words = caption(rows, objectives, picks, context)
    figure, axes = canvas(columns=max(1, len(shown)), caption=words)
    if not shown:
        _draw_single(axes[0], objectives[0], scene.kinds)
    for panel, ax in zip(shown, axes, strict=False):
        if not scene.kinds.drawable:
            say(ax, NO_FRONT)
            continue
        _draw_others(panel, ax, scene)
        _draw_panel(panel, ax, scene.kinds)
        _draw_marks(panel, ax, scene)
    if shown and scene.kinds.drawable:
        _draw_legend(axes)
    return figure


def _draw_legend(axes: Sequence[Axes]) -> None:
    """In the first panel, for all: what only another has (a paper that published one cost) would have no name."""
    handles = {
        name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    axes[0].legend(
        handles.values(), handles.keys(), loc="lower right", fontsize=8, frameon=True, framealpha=0.85,
        edgecolor=LIGHT["grid"],
    )  # fmt: skip


def _draw_others(panel: Panel, ax: Axes, scene: Scene) -> None:
    """What is not of the study's own trials: the papers' points and the float model."""
    draw_published(panel, ax, scene.priced)
    if scene.baseline:
        ax.scatter(*panel.spots([scene.baseline]), s=130, marker="*", color=LIGHT["c3"], zorder=3, label="float model",
                   edgecolors=LIGHT["ink"], linewidths=0.6)  # fmt: skip


def draw_published(panel: Panel, ax: Axes, published: Published | None) -> None:
    """The papers' own points, for paper."""
    _, xs, ys = papers(panel, published)
    if xs:
        ax.scatter(
            xs, ys, s=26, marker="D", facecolors="none", edgecolors=LIGHT["published"], label="published"
        )


def _draw_panel(panel: Panel, ax: Axes, kinds: Kinds) -> None:
    ax.scatter(*panel.spots(kinds.dominated), s=16, color=LIGHT["faint"], alpha=0.6, linewidths=0,
               label="dominated")  # fmt: skip
    if kinds.infeasible:
        ax.scatter(*panel.spots(kinds.infeasible), s=22, marker="x", color=LIGHT["faint"], linewidths=1,
                   label="outside a constraint")  # fmt: skip
    if kinds.front:
        ax.plot(*panel.stairs(kinds.front), color=LIGHT["front"], linewidth=1.2, alpha=0.7, zorder=2)
        shades = panel.shades(kinds.front) if panel.colour else None
        drawn = ax.scatter(*panel.spots(kinds.front), s=46, c=shades, cmap="cividis" if shades else None,
                           norm="log" if panel.colour and panel.colour.log else None, zorder=3,
                           color=None if shades else LIGHT["front"], edgecolors=LIGHT["ink"], linewidths=0.7,
                           label="front")  # fmt: skip
        if panel.colour:
            bar = ax.get_figure().colorbar(drawn, ax=ax, pad=0.02, aspect=30)  # type: ignore[union-attr]
            bar.set_label(panel.colour.title, fontsize=9)
            bar.ax.tick_params(labelsize=8, colors=LIGHT["muted"])
            _quiet_log(bar.ax.yaxis, panel.colour)
            bar.outline.set_visible(False)  # type: ignore[operator]
    ax.set_xlabel(panel.x.title)
    ax.set_ylabel(panel.y.title)
    draw_scale(panel, ax)


def draw_scale(panel: Panel, ax: Axes) -> None:
    """Log axes where the panel has them."""
    if panel.x.log:
        ax.set_xscale("log")
    if panel.y.log:
        ax.set_yscale("log")
    _quiet_log(ax.xaxis, panel.x)
    _quiet_log(ax.yaxis, panel.y)


def _quiet_log(one: object, shown: Axis) -> None:
    """Plain numbers (1, 2, 5, 10) on a log axis; powers of ten are read slowly."""
    if shown.log:
        one.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))  # type: ignore[attr-defined]
        one.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))  # type: ignore[attr-defined]
        one.set_minor_formatter(NullFormatter())  # type: ignore[attr-defined]


Word = tuple[str, tuple[float, float], tuple[float, float]]
"""A pick's word, the point it belongs to, and the offset of its lower left corner from there in printer's points."""


def words_of_picks(ax: Axes, panel: Panel, scene: Scene) -> list[Word]:
    """Where the picks' words stand; the limits and scales of `ax` must be those of the picture."""
    rows = sorted(scene.picked, key=lambda row: value(row, panel.x.metric))
    anchors = list(zip(*panel.spots(rows), strict=True))
    words = [broken(f"{scene.chosen[row.number]} #{row.number}") for row in rows]
    drawn = [*scene.kinds.drawable, *([scene.baseline] if scene.baseline else [])]
    spots = np.array(list(zip(*panel.spots(drawn), strict=True)))
    return list(zip(words, anchors, place_words(ax, anchors, words, spots), strict=True))


def blank(panel: Panel, scene: Scene) -> Axes:
    """An empty picture with the panel's limits and scales, for placing words on."""
    ax = Figure().add_subplot()
    rows = [*scene.kinds.drawable, *([scene.baseline] if scene.baseline else [])]
    ax.scatter(*panel.spots(rows))
    if panel.x.log:
        ax.set_xscale("log")
    if panel.y.log:
        ax.set_yscale("log")
    if scene.lowest(panel) is not None:
        ax.set_ylim(bottom=scene.lowest(panel))
    return ax


def _draw_marks(panel: Panel, ax: Axes, scene: Scene) -> None:
    """A ring and a word at each pick; neighbours' words stand at different heights, inside the panel."""
    xs, ys = panel.spots(scene.picked)
    ax.scatter(xs, ys, s=150, facecolors="none", edgecolors=LIGHT["pick"], linewidths=1.8, zorder=4)
    if scene.lowest(panel) is not None:
        ax.set_ylim(bottom=scene.lowest(panel))
    for word, anchor, offset in words_of_picks(ax, panel, scene):
        near = (
            0.0 if offset[0] > 0 else 1.0,
            0.5,
        )  # the line ends at the end of the word that is next to the point
        ax.annotate(
            word, anchor, zorder=5, fontsize=8.5, color=LIGHT["pick"], xytext=offset, textcoords="offset points",
            fontweight="bold", va="bottom",
            arrowprops={"arrowstyle": "-", "color": LIGHT["pick"], "linewidth": 0.8, "shrinkB": 6, "relpos": near},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1},
        )  # fmt: skip


def single(objective: str, kinds: Kinds) -> tuple[Axis, list[int], list[float], list[float]]:
    """One objective over the trials: its axis, the trials, their values, and the best so far."""
    rows = sorted(kinds.drawable, key=lambda row: row.number)
    metric = shown_metric(objective)
    shown = axis(metric, (value(row, metric) for row in rows))
    heights = shown.scaled(value(row, metric) for row in rows)
    better = max if metric != objective else min
    best = list(accumulate(heights, better))
    return shown, [row.number for row in rows], heights, best


def _draw_single(ax: Axes, objective: str, kinds: Kinds) -> None:
    """One objective has no front: its value over the trials, and the best so far."""
    shown, numbers, heights, best = single(objective, kinds)
    if not numbers:
        say(ax, NO_FRONT)
        return
    ax.scatter(numbers, heights, s=16, color=LIGHT["faint"], label="trial")
    ax.step(numbers, best, where="post", color=LIGHT["front"], label="best so far")
    ax.set_xlabel("trial")
    ax.set_ylabel(shown.title)
    ax.legend(fontsize=8, frameon=False)


def hover(row: Row, chosen: Mapping[int, str], most: int = 14) -> str:
    """What the page shows beside the pointer; text from outside is escaped, plotly reads it as markup."""
    head = f"<b>trial {row.number}</b>" + (f" ◆ {escape(chosen[row.number])}" if row.number in chosen else "")
    numbers = [
        f"{escape(label(name))}: {show(name, value(row, name))}"
        for name in (
            "validation_accuracy",
            "test_accuracy",
            "memory_bits",
            "energy_pj",
            "latency_us",
            "sparsity",
        )
        if name in row.metrics
    ]
    given = [f"{escape(short(key))} = {escape(plain(v))}" for key, v in list(row.params.items())[:most]]
    more = [f"… and {len(row.params) - most} more"] if len(row.params) > most else []
    return "<br>".join([head, *numbers, *given, *more])


def short(key: str) -> str:
    """``compression.quantize_weights.bits`` -> ``quantize_weights.bits``: what tells parameters apart on a
    screen."""
    return ".".join(key.split(".")[-2:])


def plain(given: object) -> str:
    """A parameter's value for reading: floats with four digits."""
    return f"{given:.4g}" if isinstance(given, float) else str(given)
