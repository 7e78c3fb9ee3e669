"""How sure the accuracies of the front are: each member with its intervals on validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from pipeline.report.charts import Chart, Trace, layout
from pipeline.report.context import Context
from pipeline.report.detail import Interval, interval
from pipeline.report.figures import canvas, colour
from pipeline.report.palette import role
from pipeline.report.points import marks
from pipeline.report.tables import on_front
from pipeline.types import Row

MOST = 40
SPLITS = (("validation_accuracy", "o", "circle"), ("test_accuracy", "s", "square"))
Known = list[tuple[int, Interval]]
"""(trial, its interval)."""


def spreads(rows: Sequence[Row], context: Context) -> tuple[list[Row], dict[str, Known]]:
    """Members of the front, the most accurate first (at most `MOST`), and what is known of each split."""
    samples = {"validation_accuracy": context.validation_samples, "test_accuracy": context.test_samples}
    members = on_front(rows)[:MOST]
    found: dict[str, Known] = {}
    for metric, _, _ in SPLITS:
        known = [(row.number, interval(row, metric, samples[metric])) for row in members]
        found[metric] = [(number, spread) for number, spread in known if spread is not None]
    return members, {metric: known for metric, known in found.items() if known}


def explain(rows: Sequence[Row], found: Mapping[str, Known]) -> str:
    """Where the intervals come from, in words."""
    origins = dict.fromkeys(spread.origin for known in found.values() for _, spread in known)
    left = sum(row.on_front for row in rows) - MOST
    return (
        "95 % intervals over "
        + " and ".join(origins)
        + " (seeds: Student's t; samples of one run: Wilson's score interval)."
        + (f" The {left} least accurate members are left out." if left > 0 else "")
    )


def draw_accuracy(rows: Sequence[Row], picks: Mapping[str, int], context: Context) -> Figure | None:
    """One line per member, validation above test; None when no interval is known."""
    members, found = spreads(rows, context)
    if not found:
        return None
    chosen = marks(picks)
    figure, (ax,) = canvas(size=(7.2, 1.4 + 0.3 * len(members)), caption=explain(rows, found))
    place = {row.number: i for i, row in enumerate(members)}
    for i, (metric, symbol, _) in enumerate(SPLITS):
        known = found.get(metric, [])
        if not known:
            continue
        middles = [100 * spread.middle for _, spread in known]
        below = [100 * (spread.middle - spread.low) for _, spread in known]
        above = [100 * (spread.high - spread.middle) for _, spread in known]
        heights = [place[number] + 0.22 * (2 * i - 1) for number, _ in known]
        ax.errorbar(middles, heights, xerr=[below, above], fmt=symbol, color=colour(i), markersize=4.5,
                    elinewidth=1.3, capsize=2.5, label=metric.replace("_", " "))  # fmt: skip
    ax.set_yticks(
        range(len(members)), [f"#{row.number} {chosen.get(row.number, '')}".strip() for row in members]
    )
    ax.set_ylim(len(members) - 0.5, -0.5)
    ax.set_xlabel("accuracy (%)")
    ax.legend(fontsize=8, frameon=False, loc="best")
    return figure


def accuracy_charts(rows: Sequence[Row], picks: Mapping[str, int], context: Context) -> list[Chart]:
    """The same for the page."""
    members, found = spreads(rows, context)
    chosen = marks(picks)
    data: list[Trace] = []
    place = {row.number: i for i, row in enumerate(members)}
    for i, (metric, _, symbol) in enumerate(SPLITS):
        known = found.get(metric, [])
        if not known:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": metric.replace("_", " "),
                "x": [100 * spread.middle for _, spread in known],
                "y": [place[number] + 0.2 * (2 * i - 1) for number, _ in known],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (spread.high - spread.middle) for _, spread in known],
                    "arrayminus": [100 * (spread.middle - spread.low) for _, spread in known],
                    "thickness": 1.5,
                    "width": 3,
                    "color": role(i),
                },
                "marker": {"color": role(i), "symbol": symbol, "size": 7},
                "customdata": [number for number, _ in known],
                "hovertext": [
                    f"trial {number}: {100 * s.middle:.2f}% ({100 * s.low:.2f} to {100 * s.high:.2f}), {s.origin}"
                    for number, s in known
                ],
                "hoverinfo": "text",
            }
        )
    if not data:
        return []
    drawn = layout("accuracy (%)", "")
    drawn["yaxis"] = {
        "tickvals": list(range(len(members))),
        "ticktext": [f"#{row.number} {chosen.get(row.number, '')}".strip() for row in members],
        "range": [len(members) - 0.5, -0.5],
        "gridcolor": "@grid",
        "zeroline": False,
        "automargin": True,
    }
    height = 150 + 26 * max(3, len(members))
    return [Chart("accuracy", data, drawn, height, wide=True, words="Accuracy of the front with intervals")]
