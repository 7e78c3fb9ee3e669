"""Per layer: where the energy and the memory go, part by part, and the bits and zeros each layer was
given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.charts import Chart, Trace, layout, whole_ticks
from pipeline.report.detail import Layer, layers
from pipeline.report.figures import SYMBOLS, canvas, colour
from pipeline.report.palette import HATCHES, LIGHT, MARKERS, role
from pipeline.report.points import Model
from pipeline.report.units import Axis, axis, label, show

Quantity = Literal["energy_pj", "memory_bits"]
PARTS: Mapping[Quantity, tuple[str, ...]] = {
    "energy_pj": ("dram", "buffer", "pads", "arithmetic", "metadata", "leakage"),
    "memory_bits": ("weights", "metadata", "parameters", "state", "buffers"),
}
"""Parts in the order of the palette, so that one has the same colour in every picture; unknown ones follow."""


@dataclass(frozen=True)
class Stack:
    """One model's stacked bars: a bar per layer, a piece per part."""

    name: str
    number: int
    layers: tuple[str, ...]
    pieces: Mapping[str, tuple[float, ...]]
    """part -> its amount in each layer, in the axis's unit."""

    @property
    def total(self) -> float:
        return math.fsum(amount for piece in self.pieces.values() for amount in piece)


def stacks(models: Sequence[Model], quantity: Quantity) -> tuple[Axis, list[Stack]]:
    """The models that say where `quantity` goes, on one axis; the parts in the order of `PARTS`."""
    known = [(model, layers(model.row)) for model in models]
    known = [(model, found) for model, found in known if any(_parts(layer, quantity) for layer in found)]
    amounts: dict[str, float] = {}
    for _, found in known:
        for layer in found:
            for part, amount in _parts(layer, quantity).items():
                amounts[part] = amounts.get(part, 0.0) + amount
    parts = sorted((part for part in amounts if amounts[part] > 0), key=lambda part: _place(part, quantity))
    highest = [math.fsum(_parts(layer, quantity).values()) for _, found in known for layer in found]
    shown = axis(quantity, [max(highest)] if highest else [])
    return shown, [
        Stack(
            model.name,
            model.row.number,
            tuple(layer.name for layer in found),
            {
                part: tuple(shown.scaled(_parts(layer, quantity).get(part, 0.0) for layer in found))
                for part in parts
            },
        )
        for model, found in known
    ]


def _parts(layer: Layer, quantity: Quantity) -> Mapping[str, float]:
    return layer.parts if quantity == "energy_pj" else layer.memory


def _place(part: str, quantity: Quantity) -> tuple[int, str]:
    known = PARTS[quantity]
    return known.index(part) if part in known else len(known), part


def _tints(pieces: Iterable[str], quantity: Quantity) -> dict[str, int]:
    """Part -> its place in the palette, whichever others a model has; unknown parts have the places after."""
    known = PARTS[quantity]
    others = [part for part in pieces if part not in known]
    return {part: _place(part, quantity)[0] for part in pieces if part in known} | {
        part: len(known) + at for at, part in enumerate(others)
    }


def _height(count: int) -> float:
    """Inches that so many horizontal bars need."""
    return 1.6 + 0.3 * max(3, count)


def draw_stacks(models: Sequence[Model], quantity: Quantity) -> Figure | None:
    """Stacked bars per layer and part, one panel per model on one scale; None when no model tells."""
    shown, found = stacks(models, quantity)
    if not found:
        return None
    tallest = max(len(stack.layers) for stack in found)
    words = (
        f"{label(quantity).capitalize()} of each layer by part of the hardware; "
        + _totals(found, shown)
        + " Parts too small to be seen stand in the legend all the same."
    )
    figure, axes = canvas(columns=len(found), size=(4.6, _height(tallest)), caption=words)
    widest = max(sum(column) for stack in found for column in zip(*stack.pieces.values(), strict=True))
    for stack, ax in zip(found, axes, strict=True):
        left = [0.0] * len(stack.layers)
        tints = _tints(stack.pieces, quantity)
        for part, amounts in stack.pieces.items():
            i = tints[part]
            ax.barh(
                range(len(stack.layers)),
                amounts,
                left=left,
                height=0.7,
                label=part.replace("_", " "),
                color=colour(i),
                hatch=HATCHES[i % len(HATCHES)] * 2,
                edgecolor=LIGHT["surface"],
                linewidth=0.6,
            )
            left = [a + b for a, b in zip(left, amounts, strict=True)]
        ax.set_yticks(range(len(stack.layers)), stack.layers)
        ax.invert_yaxis()
        ax.set_xlim(0, widest * 1.03 or 1)
        ax.set_title(stack.name, fontsize=10, color=LIGHT["ink"])
        ax.set_xlabel(shown.title)
        ax.grid(False, axis="y")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper left", ncols=min(6, len(names)), fontsize=8, frameon=False
    )
    return figure


def _totals(found: Sequence[Stack], shown: Axis) -> str:
    sums = (f"{stack.name}: {show(shown.metric, stack.total * shown.factor)}" for stack in found)
    return "in all " + ", ".join(sums) + "."


def stack_charts(models: Sequence[Model], quantity: Quantity) -> list[Chart]:
    """The same for the page: one chart per model, on one scale."""
    shown, found = stacks(models, quantity)
    charts = []
    widest = max(
        (sum(column) for stack in found for column in zip(*stack.pieces.values(), strict=True)), default=0
    )
    for stack in found:
        total = show(quantity, stack.total * shown.factor)
        tints = _tints(stack.pieces, quantity)
        data: list[Trace] = [
            {
                "type": "bar",
                "orientation": "h",
                "name": part.replace("_", " "),
                "x": list(amounts),
                "y": list(stack.layers),
                "marker": {
                    "color": role(i),
                    "pattern": {
                        "shape": HATCHES[i % len(HATCHES)],
                        "fgcolor": "@surface",
                        "fillmode": "overlay",
                        "size": 6,
                    },
                },
                "hovertext": [
                    f"{layer}: {part.replace('_', ' ')} {show(quantity, amount * shown.factor)}"
                    for layer, amount in zip(stack.layers, amounts, strict=True)
                ],
                "hoverinfo": "text",
            }
            for part, amounts in stack.pieces.items()
            for i in [tints[part]]
        ]
        drawn = layout(shown, "", barmode="stack")
        drawn["xaxis"] = {**_plain(drawn["xaxis"]), "type": "linear", "range": [0, widest * 1.03 or 1]}
        drawn["yaxis"] = {**_plain(drawn["yaxis"]), "autorange": "reversed", "showgrid": False}
        drawn["legend"] = {**_plain(drawn["legend"]), "traceorder": "normal"}
        height = 190 + 28 * max(3, len(stack.layers))
        words = f"{shown.title} per layer of {stack.name}, {total} in all"
        title = f"{label(quantity).capitalize()} of {stack.name}: {total}"
        charts.append(
            Chart(f"{quantity}-layers-{stack.number}", data, drawn, height, words=words, title=title)
        )
    return charts


def _plain(given: object) -> dict[str, object]:
    return dict(given) if isinstance(given, Mapping) else {}


Facet = Literal["bits", "sparsity"]
_FACETS: tuple[tuple[Facet, str, float], ...] = (
    ("bits", "bits per weight", 1),
    ("sparsity", "zero weights (%)", 100),
)


def _series(model: Model, facet: Facet, factor: float) -> tuple[list[str], list[float]]:
    """Layer names and numbers of one model, without those that are not known."""
    found = [(layer.name, getattr(layer, facet) * factor) for layer in layers(model.row)]
    known = [(name, at) for name, at in found if math.isfinite(at)]
    return [name for name, _ in known], [at for _, at in known]


def draw_widths(models: Sequence[Model]) -> Figure | None:
    """Bits and zeros of each layer, a symbol per model; None when no model has layers."""
    models = [model for model in models if layers(model.row)]
    if not models:
        return None
    names = _layer_names(models)
    figure, axes = canvas(
        columns=2,
        size=(5.2, _height(len(names))),
        caption="Bits per weight and share of zero weights per layer.",
    )
    for ax, (facet, title, factor) in zip(axes, _FACETS, strict=True):
        for i, model in enumerate(models):
            of, numbers = _series(model, facet, factor)
            spread = 0.16 * (i - (len(models) - 1) / 2)
            places = [names.index(name) + spread for name in of]
            ax.plot(
                numbers, places, SYMBOLS[i], color=colour(i), label=model.name, markersize=6, clip_on=False
            )
        _layer_axis(ax, names)
        ax.set_xlabel(title)
        ax.set_xlim(0, 1.04 * ax.get_xlim()[1])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    handles, texts = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside upper left", ncols=min(4, len(texts)), fontsize=8, frameon=False
    )
    return figure


def _layer_names(models: Sequence[Model]) -> list[str]:
    return list(dict.fromkeys(layer.name for model in models for layer in layers(model.row)))


def _layer_axis(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def width_charts(models: Sequence[Model]) -> list[Chart]:
    """Bits and zeros of each layer for the page."""
    models = [model for model in models if layers(model.row)]
    charts = []
    for facet, title, factor in _FACETS if models else ():
        data: list[Trace] = []
        for i, model in enumerate(models):
            of, numbers = _series(model, facet, factor)
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": model.name,
                    "x": numbers,
                    "y": of,
                    "marker": {"color": role(i), "symbol": MARKERS[i % len(MARKERS)], "size": 10},
                    "hovertemplate": "%{y}: %{x:.3g}<extra>" + str(model.row.number) + "</extra>",
                }
            )
        drawn = layout(title, "")
        drawn["xaxis"] = {**_plain(drawn["xaxis"]), "rangemode": "tozero"}
        most = max((at for model in models for at in _series(model, facet, factor)[1]), default=0.0)
        whole_ticks(drawn, "xaxis", most)
        drawn["yaxis"] = {**_plain(drawn["yaxis"]), "autorange": "reversed", "type": "category"}
        height = 190 + 28 * max(3, len(_layer_names(models)))
        charts.append(Chart(f"layers-{facet}", data, drawn, height, words=f"{title} of each layer"))
    return charts
