"""Two figures of a price: where it goes, layer by layer, and which constants it hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.hardware.cost import HOLDINGS, PARTS, Cost
from pipeline.hardware.sensitivity import Elasticity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind people; hatches say the same without colour.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
HATCHES = ("", "//", "\\\\", "xx", "--", "..")
INK, MUTED, GRID = "#1b1f24", "#59636e", "#d9dee3"


def _figure(width: float, height: float, columns: int) -> tuple[Figure, Any]:
    """A figure with its own canvas: no pyplot state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=MUTED, labelcolor=INK)
        axis.grid(axis="x", color=GRID, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def _stacked(
    axis: Axes, names: Sequence[str], parts: Mapping[str, Sequence[float]], worst: Sequence[float]
) -> None:
    """Horizontal bars, the first layer on top; parts that are nowhere are left out of the legend."""
    left = [0.0] * len(names)
    for index, (part, values) in enumerate(parts.items()):
        if not any(values):
            continue
        colour, hatch = COLOURS[index % len(COLOURS)], HATCHES[index % len(HATCHES)]
        axis.barh(
            names,
            values,
            left=left,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
            label=part,
            height=0.7,
        )
        left = [a + b for a, b in zip(left, values, strict=True)]
    if any(worst):
        axis.plot(
            worst, range(len(names)), "|", color=INK, markersize=11, markeredgewidth=1.6, label="worst case"
        )
    axis.invert_yaxis()
    axis.legend(
        frameon=False,
        fontsize=8,
        ncols=7,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        columnspacing=0.8,
        handlelength=1.3,
    )


def scaled(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """(divisor, unit) that brings the largest value to at least 1; the smallest unit when nothing does."""
    top = max(values, default=0.0)
    return next(((size, unit) for size, unit in units if top >= size), units[-1])


ENERGY_UNITS = ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ"))
MEMORY_UNITS = ((8 * 1024**2, "MiB"), (8 * 1024, "KiB"), (8.0, "byte"))


def draw_layers(price: Cost, worst_pj: Sequence[float], title: str, path: Path) -> Path:
    """Energy and memory of each layer, by part; `worst_pj` marks each layer's energy in its worst case."""
    names = [layer.name for layer in price.layers]
    figure, (left, right) = _figure(12.0, 1.9 + 0.42 * len(names), 2)
    size, unit = scaled([layer.energy_pj for layer in price.layers], ENERGY_UNITS)
    energy: dict[str, list[float]] = {
        part: [layer.parts[part] / size for layer in price.layers] for part in PARTS
    }
    _stacked(left, names, energy, [value / size for value in worst_pj])
    left.set_xlabel(f"energy per inference, {unit}", color=INK)
    size, unit = scaled([layer.memory_bits for layer in price.layers], MEMORY_UNITS)
    memory: dict[str, list[float]] = {
        what: [layer.memory.get(what, 0.0) / size for layer in price.layers] for what in HOLDINGS
    }
    _stacked(right, names, memory, [])
    right.set_xlabel(f"memory, {unit}", color=INK)
    right.set_yticklabels([])
    figure.suptitle(title, color=INK, fontsize=11)
    return _save(figure, path)


def draw_sensitivity(
    report: Sequence[Elasticity], change: float, title: str, path: Path, most: int = 16
) -> Path:
    """A tornado: what each constant, `change` lower and higher, does to the energy."""
    shown = [entry for entry in report if abs(entry.elasticity.get("energy_pj", 0.0)) >= 2e-3][:most]
    names = [entry.name for entry in shown]
    figure, (axis,) = _figure(8.0, 1.6 + 0.34 * max(len(names), 1), 1)
    for label, side, colour, hatch in (
        (f"−{change:.0%}", "low", COLOURS[0], ""),
        (f"+{change:.0%}", "high", COLOURS[4], "//"),
    ):
        values = [(getattr(entry, side)["energy_pj"] - 1) * 100 for entry in shown]
        axis.barh(
            names,
            values,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.4,
            height=0.7,
            label=label,
        )
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("change of the energy per inference, %", color=INK)
    axis.legend(frameon=False, fontsize=8, title="constant", title_fontsize=8, loc="lower right")
    axis.set_title(title, color=INK, fontsize=11)
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
