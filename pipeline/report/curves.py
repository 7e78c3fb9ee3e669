"""What happened while the study ran: learning curves, hypervolume, and what was stopped and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.charts import Chart, Trace, layout, whole_ticks
from pipeline.report.context import Context
from pipeline.report.figures import canvas, colour
from pipeline.report.palette import HATCHES, LIGHT, role
from pipeline.report.points import FINISHED, marks, tally
from pipeline.report.units import axis, label, show
from pipeline.types import STORED, Row

WATCHED = ("validation_accuracy", "validation_error", "train_accuracy", "loss")
"""What a learning curve shows, the first that any trial reported."""
MEANING = {
    "complete": "trained, compressed and priced",
    "cached": "asked for again: the result of the same earlier point, at no cost",
    "running": "not ended when this was written",
    "lost": "its worker died",
    "stopped:dominated": "others were better in every objective at this step",
    "stopped:bound": "its cost alone was beaten, or beyond a constraint, before it was trained",
    "stopped:silent": "some layer never fires",
    "stopped:saturated": "some layer fires at almost every step",
    "failed:nan": "the loss or a weight became NaN or infinite",
    "stopped:timeout": "took longer than one trial may",
    "failed:memory": "more memory than there is",
    "failed:killed": "its workers died in it, one after the other",
    "refused:inexact": "has no exact integer form, which this study asks for",
}


def meaning(state: str) -> str:
    """What a trial's state says; any error's name may stand behind ``failed:``."""
    unforeseen = "an error of this name; the trial's reason says which" if state.startswith("failed:") else ""
    return MEANING.get(state, unforeseen)


@dataclass(frozen=True)
class Curve:
    """One trial's learning curve."""

    row: Row
    kind: str
    """picks | front | finished | ended."""
    steps: tuple[int, ...]
    heights: tuple[float, ...]
    float_epochs: int = 0
    """Up to here the curve is that of a stored float model, which many trials share; 0: all is the trial's own."""


def watched(rows: Sequence[Row]) -> str:
    """The metric that learning curves are drawn of; empty when no trial reported any."""
    reported = {name for row in rows for _, metrics in row.history for name in metrics}
    return next((name for name in WATCHED if name in reported), "")


def curves(rows: Sequence[Row], picks: Mapping[str, int]) -> list[Curve]:
    """One curve per trial that reported something finite, in the axis's unit (percent for shares)."""
    metric, chosen = watched(rows), set(picks.values())
    factor = axis(metric, []).factor if metric else 1.0
    found = []
    for row in rows:
        seen = [(step, float(m[metric]) / factor) for step, m in row.history if metric in m]
        seen = [(step, height) for step, height in seen if math.isfinite(height)]
        if not seen:
            continue
        kind = "finished" if row.state in FINISHED else "ended"
        kind = "picks" if row.number in chosen else "front" if row.on_front else kind
        shared = max((step for step, m in row.history if STORED in m), default=0)
        steps, heights = zip(*seen, strict=True)
        found.append(Curve(row, kind, steps, heights, shared))
    return found


def _seams(found: Sequence[Curve]) -> list[float]:
    """Where curves pass from their float model to the compressed network: between two epochs, once for each."""
    return sorted({0.5 + c.float_epochs for c in found if 0 < c.float_epochs < c.steps[-1]})


def _learning_words(found: Sequence[Curve]) -> str:
    seam = (
        " Dotted: left of it the float model, which trials share, right of it the network under compression."
    )
    return "One line per trial. Orange crosses: trials that were stopped or failed at that epoch." + (
        seam if _seams(found) else ""
    )


_LOOKS = {
    "finished": ("faint", 0.8, 0.45),
    "ended": ("c1", 0.9, 0.7),
    "front": ("front", 1.3, 0.8),
    "picks": ("pick", 2.4, 1),
}
_NAMES = {"finished": "dominated", "ended": "ended early (x)", "front": "front", "picks": "picks"}


def draw_curves(rows: Sequence[Row], picks: Mapping[str, int]) -> Figure | None:
    """Every trial's curve, the picks on top; a cross where a trial was ended. None when nothing was
    reported."""
    found = curves(rows, picks)
    if not found:
        return None
    figure, (ax,) = canvas(size=(7.6, 4.4), caption=_learning_words(found))
    for at, seam in enumerate(_seams(found)):
        named = "compression begins" if at == 0 else None
        ax.axvline(seam, color=LIGHT["muted"], linestyle=":", linewidth=1.4, zorder=1, label=named)
    for order, (kind, (tint, width, opacity)) in enumerate(_LOOKS.items()):
        for i, curve in enumerate(curve for curve in found if curve.kind == kind):
            named = _NAMES[kind] if i == 0 else None
            ax.plot(curve.steps, curve.heights, color=LIGHT[tint], linewidth=width, alpha=opacity, zorder=2 + order,
                    label=named)  # fmt: skip
            if kind == "ended":
                ax.plot(
                    curve.steps[-1:], curve.heights[-1:], "x", color=LIGHT["pick"], markersize=6, zorder=5
                )
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel(axis(watched(rows), []).title)
    ax.legend(fontsize=8, frameon=False, loc="best")
    return figure


def curve_charts(rows: Sequence[Row], picks: Mapping[str, int]) -> list[Chart]:
    """The same for the page: a click on a curve opens its trial."""
    found = curves(rows, picks)
    if not found:
        return []
    chosen = marks(picks)
    data: list[Trace] = []
    for kind, (tint, width, opacity) in _LOOKS.items():
        these = [curve for curve in found if curve.kind == kind]
        if not these:
            continue
        trace: Trace = {"type": "scatter", "mode": "lines", "name": _NAMES[kind], "hoverinfo": "text"}
        trace |= {"line": {"color": f"@{tint}", "width": width}, "opacity": opacity}
        trace["meta"] = {"kind": "dominated" if kind == "finished" else kind, "line": True}
        trace["x"] = [step for curve in these for step in (*curve.steps, None)]
        trace["y"] = [height for curve in these for height in (*curve.heights, None)]
        trace["customdata"] = [curve.row.number for curve in these for _ in (*curve.steps, None)]
        trace["hovertext"] = [
            f"trial {curve.row.number} {escape(chosen.get(curve.row.number, ''))}<br>epoch {step}: {height:.4g}"
            + ("" if curve.row.state in FINISHED else f"<br>{escape(curve.row.state)}")
            for curve in these
            for step, height in [*zip(curve.steps, curve.heights, strict=True), (0, 0.0)]
        ]
        data.append(trace)
        if kind == "ended":
            last = {"x": [curve.steps[-1] for curve in these], "y": [curve.heights[-1] for curve in these]}
            data.append(
                {
                    "type": "scatter", "mode": "markers", "showlegend": False, "hoverinfo": "text",
                    "customdata": [curve.row.number for curve in these], "meta": {"kind": "ended", "still": True},
                    "hovertext": [f"trial {c.row.number}: {escape(c.row.state)}" for c in these],
                    "marker": {"symbol": "x", "size": 7, "color": "@pick"},
                }
                | last
            )  # fmt: skip
    drawn = layout("epoch", axis(watched(rows), []))
    whole_ticks(drawn, "xaxis", max(curve.steps[-1] for curve in found))
    line = {"color": "@muted", "width": 1.4, "dash": "dot"}
    drawn["shapes"] = [
        {"type": "line", "x0": seam, "x1": seam, "yref": "paper", "y0": 0, "y1": 1, "line": line}
        for seam in _seams(found)
    ]
    words = f"Learning curves. {_learning_words(found)}"
    return [Chart("learning", data, drawn, wide=True, words=words)]


def learning_words(rows: Sequence[Row]) -> str:
    """The same for the head of the page's section."""
    return f"{_learning_words(curves(rows, {}))} Click a line to open its trial."


def draw_hypervolume(context: Context, objectives: Sequence[str]) -> Figure | None:
    """Hypervolume over trials and over time; None when the study measured none."""
    if not context.hypervolume:
        return None
    trials, seconds, volumes = (list(column) for column in zip(*context.hypervolume, strict=True))
    clock = axis("elapsed_s", [max(seconds)])
    figure, axes = canvas(columns=2, size=(5.0, 3.4), caption=volume_words(context, objectives))
    for ax, xs, title in zip(
        axes, (trials, clock.scaled(seconds)), ("trials finished", clock.title), strict=True
    ):
        ax.step(xs, volumes, where="post", color=LIGHT["front"], linewidth=1.6)
        ax.set_xlabel(title)
        ax.set_ylabel("hypervolume")
    return figure


def volume_words(context: Context, objectives: Sequence[str]) -> str:
    """What the hypervolume is measured against."""
    bounds = zip(objectives, context.reference, strict=False)
    against = ", ".join(f"{label(name)} {show(name, bound)}" for name, bound in bounds)
    known = f", against the reference point {against}" if against else ""
    return f"Hypervolume that the front dominates{known}. It only grows; flat means that nothing better was found."


def hypervolume_charts(context: Context) -> list[Chart]:
    """The same for the page."""
    if not context.hypervolume:
        return []
    trials, seconds, volumes = (list(column) for column in zip(*context.hypervolume, strict=True))
    clock = axis("elapsed_s", [max(seconds)])

    def steps(name: str, xs: list[float], title: str) -> Chart:
        line: Trace = {"type": "scatter", "mode": "lines", "x": xs, "y": volumes, "showlegend": False}
        line |= {"line": {"color": "@front", "width": 2, "shape": "hv"}, "meta": {"still": True}}
        return Chart(
            f"hypervolume-{name}", [line], layout(title, "hypervolume"), 320, words=f"Hypervolume over {name}"
        )

    return [steps("trials", trials, "trials finished"), steps("time", clock.scaled(seconds), clock.title)]


def draw_states(rows: Sequence[Row]) -> Figure | None:
    """How the trials ended, counted; None without trials."""
    counts = tally(rows)
    if not counts:
        return None
    figure, (ax,) = canvas(size=(6.4, 1.3 + 0.34 * len(counts)), caption="How the trials of the study ended.")
    for i, (state, count) in enumerate(counts.items()):
        ax.barh(
            i,
            count,
            color=colour(_tint(state)),
            hatch=HATCHES[_tint(state)] * 2,
            edgecolor="white",
            height=0.7,
        )
        ax.text(count, i, f" {count}", va="center", fontsize=9, color=LIGHT["ink"])
    ax.set_yticks(range(len(counts)), list(counts))
    ax.invert_yaxis()
    ax.set_xlabel("trials")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(False, axis="y")
    return figure


def _tint(state: str) -> int:
    """Finished blue, stopped orange, failed red, the rest grey; each with its own hatch."""
    return {"complete": 0, "cached": 0, "stopped": 1, "failed": 4}.get(state.partition(":")[0], 7)


def states_charts(rows: Sequence[Row]) -> list[Chart]:
    """How the trials ended, for the page."""
    counts = tally(rows)
    if not counts:
        return []
    bars = [_bar(state, count) for state, count in counts.items()]
    drawn = layout("trials", "")
    drawn |= {"barmode": "overlay"}
    whole_ticks(drawn, "xaxis", max(counts.values()))
    drawn["yaxis"] = {"autorange": "reversed", "automargin": True, "showgrid": False}
    return [Chart("states", bars, drawn, 150 + 30 * len(counts), words="How the trials ended")]


def _bar(state: str, count: int) -> Trace:
    """One state's bar, with its number and, beside the pointer, what the state means."""
    tint = _tint(state)
    return {
        "type": "bar",
        "orientation": "h",
        "x": [count],
        "y": [state],
        "showlegend": False,
        "text": [str(count)],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [f"{escape(state)}: {escape(meaning(state))}"],
        "hoverinfo": "text",
        "marker": {
            "color": role(tint),
            "pattern": {"shape": HATCHES[tint], "fgcolor": "@surface", "fillmode": "overlay"},
        },
        "meta": {"still": True},
    }


def ended_table(rows: Sequence[Row]) -> str:
    """Every trial that did not finish: its state, what that means, the reason it gave, when, after how
    long."""
    ended = [row for row in rows if row.state not in FINISHED]
    if not ended:
        return "<p>Every trial finished.</p>"
    body = "".join(
        f'<tr data-trial="{row.number}"><td><button type="button" class="trial" data-trial="{row.number}">'
        f'#{row.number}</button></td><td class="text">{escape(row.state)}</td>'
        f'<td class="text">{escape(row.reason or meaning(row.state))}</td>'
        f"<td>{row.history[-1][0] if row.history else 0}</td><td>{row.duration_s:.1f} s</td></tr>"
        for row in ended
    )
    heads = '<th>trial</th><th class="text">state</th><th class="text">why</th><th>epochs</th><th>spent</th>'
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
