"""What matters: how much each parameter explains of each objective, and what each layer loses under
compression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from pipeline.report.charts import Chart, Trace, layout
from pipeline.report.figures import canvas
from pipeline.report.front import short
from pipeline.report.palette import LIGHT
from pipeline.report.units import label

Table = Mapping[str, Mapping[str, float]]
"""row -> column -> number."""
MOST = 12


def ranked(importance: Table) -> tuple[list[str], list[str]]:
    """(objectives, parameters), the parameter with the largest share of any objective first, at most
    `MOST`."""
    top: dict[str, float] = {}
    for shares in importance.values():
        for parameter, share in shares.items():
            top[parameter] = max(top.get(parameter, 0.0), share)
    return list(importance), sorted(top, key=lambda name: (-top[name], name))[:MOST]


def draw_importance(importance: Table) -> Figure | None:
    """Bars per parameter, a panel per objective; None when nothing was passed."""
    objectives, parameters = ranked(importance)
    if not parameters:
        return None
    size = (4.6, 1.4 + 0.28 * len(parameters))
    figure, axes = canvas(columns=len(objectives), size=size, caption=importance_words(importance))
    for i, (objective, ax) in enumerate(zip(objectives, axes, strict=True)):
        shares = [100 * importance[objective].get(name, 0.0) for name in parameters]
        ax.barh(range(len(parameters)), shares, color=LIGHT["front"], height=0.7)
        ax.set_yticks(
            range(len(parameters)), [short(name) for name in parameters] if i == 0 else [""] * len(shares)
        )
        ax.invert_yaxis()
        ax.set_xlabel("share (%)")
        ax.set_title(label(objective), fontsize=10)
        ax.grid(False, axis="y")
    return figure


def importance_words(importance: Table) -> str:
    """What the bars are; empty without any."""
    words = (
        "Importance: the share of an objective's variance over the finished trials that a parameter explains."
    )
    return words if ranked(importance)[1] else ""


def importance_charts(importance: Table) -> list[Chart]:
    """The same for the page."""
    objectives, parameters = ranked(importance)
    charts = []
    for objective in objectives if parameters else ():
        bars: Trace = {
            "type": "bar",
            "orientation": "h",
            "x": [100 * importance[objective].get(name, 0.0) for name in parameters],
            "y": [short(name) for name in parameters],
            "customdata": parameters,
            "hovertemplate": "%{customdata}: %{x:.1f}%<extra></extra>",
            "marker": {"color": "@front"},
            "showlegend": False,
            "meta": {"still": True},
        }
        drawn = layout("share of the variance (%)", "")
        drawn["yaxis"] = {"autorange": "reversed", "automargin": True, "showgrid": False}
        height = 150 + 26 * len(parameters)
        title = f"Importance for {label(objective)}"
        charts.append(Chart(f"importance-{objective}", [bars], drawn, height, words=title, title=title))
    return charts


def _grid(sensitivity: Table) -> tuple[list[str], list[str], list[list[float]]]:
    """Layers, what was done to them, and the points of accuracy lost (NaN where it was not tried)."""
    layers = list(sensitivity)
    done = list(dict.fromkeys(what for losses in sensitivity.values() for what in losses))
    return layers, done, [[100 * sensitivity[layer].get(what, np.nan) for what in done] for layer in layers]


def sensitivity_words(samples: int) -> str:
    """What the table of colours shows."""
    on = f", on {samples:,} validation samples" if samples else ""
    return f"Points of validation accuracy that the float model loses when one layer alone is compressed{on}."


def draw_sensitivity(sensitivity: Table, samples: int = 0) -> Figure | None:
    """Accuracy lost when one layer alone is compressed, as a table of colours with the numbers in it."""
    layers, done, losses = _grid(sensitivity)
    if not done:
        return None
    words = sensitivity_words(samples)
    figure, (ax,) = canvas(size=(2.2 + 0.8 * len(done), 1.5 + 0.34 * len(layers)), caption=words)
    numbers = np.asarray(losses)
    worst = max(1.0, float(np.nanmax(numbers)))
    ax.imshow(numbers, cmap="Blues", vmin=0, vmax=worst, aspect="auto")
    ax.grid(False)
    for (i, j), lost in np.ndenumerate(numbers):
        if np.isfinite(lost):
            tint = "white" if lost > 0.55 * worst else LIGHT["ink"]
            ax.text(j, i, f"{lost:.1f}", ha="center", va="center", fontsize=8, color=tint)
    ax.set_xticks(range(len(done)), done)
    ax.set_yticks(range(len(layers)), layers)
    return figure


def sensitivity_charts(sensitivity: Table) -> list[Chart]:
    """The same for the page."""
    layers, done, losses = _grid(sensitivity)
    if not done:
        return []
    known: list[list[float | None]] = [
        [lost if np.isfinite(lost) else None for lost in line] for line in losses
    ]
    cells: Trace = {
        "type": "heatmap",
        "z": known,
        "x": done,
        "y": layers,
        "zmin": 0,
        "colorscale": "Cividis",
        "texttemplate": "%{z:.1f}",
        "hovertemplate": "%{y}, %{x}: %{z:.2f} points lost<extra></extra>",
        "colorbar": {"thickness": 12, "title": {"text": "points lost", "side": "right"}},
        "meta": {"still": True},
    }
    drawn = layout("", "")
    drawn["xaxis"] = {"type": "category", "automargin": True}
    drawn["yaxis"] = {"type": "category", "autorange": "reversed", "automargin": True}
    return [Chart("sensitivity", [cells], drawn, 170 + 30 * len(layers), words="Accuracy lost per layer")]
