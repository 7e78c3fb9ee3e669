"""Significance: what each group of parameters loses over its bits, as lines, a table and a CSV file.

A curve is a set of trials that differ in one width alone; what is lost is counted from the widest of them. The ordered
search leaves such sets (each bisection is one), and so does a grid; a sampler that moves all widths at once leaves
none, and then there is no picture.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.charts import Chart, Trace, layout
from pipeline.report.detail import left_out
from pipeline.report.figures import LINES, SYMBOLS, canvas, colour
from pipeline.report.files import write_whole
from pipeline.report.palette import DASHES, LIGHT, role
from pipeline.report.points import value
from pipeline.types import FLOAT_BITS, Row

Lost = Mapping[str, Mapping[int, float]]
"""group of parameters -> bits -> accuracy lost (a fraction; below 0: gained)."""
GROUPS = "compression."
LEAST = 3
"""Widths that make a curve."""
LIMIT = 1.0
"""Points that the papers allow."""
ACROSS = 3
"""Panels in a row; more would be too small to read on a page."""
WORDS = (
    "Points of validation accuracy lost when one group of parameters alone has fewer bits, counted from its widest "
    "format in the same set of trials. Dotted: one point."
)
ACCURACY = "validation_accuracy"
_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")


def significance(rows: Sequence[Row]) -> dict[str, dict[int, float]]:
    """Per searched width the longest set of finished trials that differ in it alone, as accuracy lost over bits."""
    done = [row for row in rows if math.isfinite(value(row, ACCURACY)) and left_out(row) != "bits"]
    paths = dict.fromkeys(path for row in done for path, bits in row.params.items() if _width(path, bits))
    found = {}
    for path in paths:
        sets: dict[str, dict[int, float]] = {}
        for row in done:
            if _width(path, row.params.get(path)):
                rest = repr(sorted((key, repr(given)) for key, given in row.params.items() if key != path))
                sets.setdefault(rest, {})[int(row.params[path])] = value(row, ACCURACY)  # type: ignore[call-overload]
        longest = max(sets.values(), key=len)
        if len(longest) >= LEAST:
            top = longest[max(longest)]
            found[path] = {bits: top - longest[bits] for bits in sorted(longest)}
    return {_name(path): lost for path, lost in found.items()}


def _width(path: str, bits: object) -> bool:
    return path.startswith(GROUPS) and type(bits) is int and 1 <= bits < FLOAT_BITS


def _name(path: str) -> str:
    """``compression.quantize_weights.bits.conv1`` -> ``weights conv1``, ``...quantize_neurons.theta`` -> ``theta``."""
    _, step, *rest = path.split(".")
    if rest[:1] == ["bits"]:
        return " ".join([step.removeprefix("quantize_"), *rest[1:]])
    return ".".join(rest)


def draw_significance(lost: Lost) -> Figure | None:
    """Points lost over bits, a line per group; None when no set of trials is long enough."""
    return draw_panels({"": lost}) if lost else None


def draw_panels(panels: Mapping[str, Lost]) -> Figure:
    """The same for several networks, title -> what was lost; a group has one colour in all of them."""
    columns = min(len(panels), ACROSS)
    rows = -(-len(panels) // ACROSS)
    figure, axes = canvas(columns, rows, size=(5.4, 4.2), caption=WORDS)
    names = list(dict.fromkeys(name for lost in panels.values() for name in lost))
    for ax, (title, lost) in zip(axes, panels.items(), strict=False):
        _draw(ax, lost, names)
        ax.set_title(title, fontsize=10, color=LIGHT["ink"])
    for ax in axes[::columns]:
        ax.set_ylabel("accuracy lost (points)")
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def _draw(ax: Axes, lost: Lost, names: Sequence[str]) -> None:
    ax.axhline(LIMIT, color=LIGHT["muted"], linewidth=1, linestyle=":")
    for name, line in lost.items():
        i = names.index(name)
        ax.plot(
            list(line), [100 * each for each in line.values()], label=name, color=colour(i), markersize=5,
            linestyle=LINES[i % len(LINES)], marker=SYMBOLS[i % len(SYMBOLS)], linewidth=1.6,
        )  # fmt: skip
    # Linear up to two points, logarithmic above: a collapse costs 80 and what decides is below one.
    ax.set_yscale("symlog", linthresh=2, linscale=1.5)
    low, high = ax.get_ylim()
    ticks = [tick for tick in (-20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50, 90) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick}" for tick in ticks])
    ax.minorticks_off()
    bits = sorted({b for line in lost.values() for b in line})
    ax.set_xticks(bits if len(bits) <= 16 else bits[::2])
    ax.set_xlabel("bits")
    ax.legend(fontsize=8, frameon=False, loc="upper right")


def significance_charts(lost: Lost) -> list[Chart]:
    """The same for the page."""
    if not lost:
        return []
    lines: list[Trace] = [
        {
            "type": "scatter", "mode": "lines+markers", "name": name, "x": list(line),
            "y": [100 * each for each in line.values()],
            "line": {"color": role(i), "dash": DASHES[i % len(DASHES)], "width": 2},
            "marker": {"symbol": _MARKERS[i % len(_MARKERS)], "size": 8},
            "hovertemplate": f"{escape(name)} at %{{x}} bits: %{{y:.2f}} points lost<extra></extra>",
            "meta": {"still": True},
        }
        for i, (name, line) in enumerate(lost.items())
    ]  # fmt: skip
    drawn = layout("bits", "accuracy lost (points)")
    points = [100 * each for line in lost.values() for each in line.values()]
    limit = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": LIMIT, "y1": LIMIT}
    drawn["shapes"] = [limit | {"line": {"color": "@muted", "dash": "dot", "width": 1}}]
    drawn["yaxis"] = {**drawn["yaxis"], "range": [min(points) - 0.5, min(max(points), 12) + 0.5]}  # type: ignore[dict-item]
    return [Chart("significance", lines, drawn, 420, wide=True, words="Accuracy lost over bits, per group")]


def significance_table(lost: Lost) -> str:
    """Points lost as an HTML table: a line per group, a column per width."""
    if not lost:
        return ""
    bits = sorted({b for line in lost.values() for b in line})
    heads = "".join(f"<th>{b} bit</th>" for b in bits)
    body = "".join(
        f'<tr><td class="text">{escape(name)}</td>'
        + "".join(f"<td>{100 * line[b]:.2f}</td>" if b in line else "<td></td>" for b in bits)
        + "</tr>"
        for name, line in lost.items()
    )
    head = f'<thead><tr><th class="text">points lost</th>{heads}</tr></thead>'
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def write_significance_csv(lost: Lost, path: Path) -> list[Path]:
    """``group,bits,points_lost``; nothing is written (and an older file removed) where there is nothing."""
    if not lost:
        path.unlink(missing_ok=True)
        return []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["group", "bits", "points_lost"])
    for name, line in lost.items():
        writer.writerows([name, bits, f"{100 * each:.4f}"] for bits, each in line.items())
    return [write_whole(path, stream.getvalue())]
