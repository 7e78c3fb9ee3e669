"""docs/gestures-layers.png: where the energy of the networks goes, and the zeros of each layer; measures nothing.

Drawn by benchmarks/gesture_docs.py from docs/results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from gesture_records import FULL, SEEDS, STEEP, TERNARY, Book
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.hardware.cost import PARTS
from pipeline.report.figures import canvas, colour
from pipeline.report.palette import HATCHES

ENERGY = Path("docs/results/benchmarks/gesture_energy.json")
PICTURE = Path("docs/gestures-layers.png")
UJ = 1e-6  # of a pJ
SHOWN = (
    (f"{100 * STEEP:g} % pruned, {FULL} bit", ("joint", FULL, STEEP)),
    ("ternary, none pruned", ("isolated", TERNARY)),
)
"""Networks whose zeros are shown layer by layer: of the masks alone, and of ternary weights alone."""
BARS = {
    f"{FULL} bit": ("isolated", FULL),
    f"{FULL} bit, 80 % pruned": ("joint", FULL, 0.8),
    "ternary": ("isolated", TERNARY),
    "ternary, 80 % pruned": ("joint", TERNARY, 0.8),
}
"""Networks whose energy is shown part by part."""
Parts = dict[str, dict[str, float]]
"""Network -> part of the machine -> uJ of an inference, all layers together."""


def densities() -> Any:
    """What benchmarks/gesture_energy.py wrote: a row per seed."""
    return json.loads(ENERGY.read_text(encoding="utf-8"))["densities"]


def parts(book: Book, data: str) -> Parts:
    """By network, mean over the seeds whose cells keep parts; every part of the machine, in one order everywhere."""
    sums: Parts = {}
    for name, cell in BARS.items():
        by_seed: list[Any] = [*book.values(lambda result: result["parts"], data, *cell).values()]
        if by_seed:
            sums[name] = {
                part: UJ
                * mean(sum(pieces.get(part, 0.0) for pieces in layers.values()) for layers in by_seed)
                for part in PARTS
            }
    return sums


def shares(book: Book, titles: Mapping[str, str]) -> str:
    """That claim H10 counts DRAM otherwise than the bars, in one sentence: with the first bar there is, both ways."""
    words = "Metadata of sparse weights is a part of its own here, and in claim H10 what of it moves in DRAM is DRAM's"
    for data, title in titles.items():
        found, (name, cell) = parts(book, data), next(iter(BARS.items()))
        counted = book.values(lambda result: 100 * float(result["dram_share"]), data, *cell)
        if name in found and counted:
            bar = 100 * found[name]["dram"] / sum(found[name].values())
            return f"{words}: of {title}, {name}, it takes {bar:.0f} % here, {mean(counted.values()):.0f} % there. "
    return f"{words}. "


def zeros(book: Book, data: str) -> dict[str, dict[str, float]]:
    """Network of `SHOWN` -> layer -> share of its weights that are 0, mean over seeds; what was not run is left out."""
    shown = {}
    for title, cell in SHOWN:
        found = book.values(lambda result: result["zeros"], data, *cell)
        by_seed: list[Any] = [found[seed] for seed in SEEDS if seed in found]
        if by_seed:
            names = sorted(by_seed[0], key=depth)
            shown[title] = {name: mean(each[name] for each in by_seed) for name in names}
    return shown


def depth(layer: str) -> tuple[bool, str, bool, str]:
    """Orders layers by their place in the network: the book keeps them by name."""
    return layer.startswith("fc"), "".join(filter(str.isdigit, layer)), not layer.startswith("conv"), layer


def draw(book: Book, titles: dict[str, str]) -> Figure:
    """A row per data set: bars of energy by part, then of zeros by layer."""
    words = (
        "Left: energy of an inference on eyeriss_45nm, all layers together; a part that is too small to be seen, as "
        f"leakage is everywhere, stands in the legend all the same. {shares(book, titles)}Right: share of zero "
        "weights in each layer. Means over the seeds that were run."
    )
    figure, axes = canvas(2, len(titles), (5.6, 4.0), words)
    for row, (data, title) in enumerate(titles.items()):
        _energy(axes[2 * row], parts(book, data), title)
        _zeros(axes[2 * row + 1], zeros(book, data), title)
    return figure


def _energy(ax: Axes, found: Parts, title: str) -> None:
    names, bottom = list(found), [0.0] * len(found)
    for at, part in enumerate(next(iter(found.values()), {})):
        heights = [found[name][part] for name in names]
        ax.bar(
            range(len(names)), heights, 0.7, bottom=bottom, label=part, color=colour(at), edgecolor="white",
            hatch=HATCHES[at % len(HATCHES)] * 2, linewidth=0.5,
        )  # fmt: skip
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ax.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
    ax.set_ylabel(f"{title}: energy of an inference (µJ)")
    ax.set_ylim(0, 1.45 * max(bottom, default=1.0))
    ax.grid(visible=False, axis="x")
    if found:
        ax.legend(fontsize=7.5, frameon=False, loc="upper right", ncols=2)


def _zeros(ax: Axes, found: dict[str, dict[str, float]], title: str) -> None:
    width = 0.8 / max(len(found), 1)
    for at, (name, shares) in enumerate(found.items()):
        places = [place + width * (at - (len(found) - 1) / 2) for place in range(len(shares))]
        ax.bar(
            places, [100 * share for share in shares.values()], width, label=name, color=colour(at),
            edgecolor="white", hatch=HATCHES[at] * 2, linewidth=0.5,
        )  # fmt: skip
        ax.set_xticks(
            range(len(shares)), [layer.replace(".", "\n") for layer in shares], fontsize=8, rotation=60
        )
    ax.set_ylabel(f"{title}: zeros (%)")
    ax.set_ylim(0, 122)
    ax.set_yticks(range(0, 101, 20))
    ax.grid(visible=False, axis="x")
    ax.legend(fontsize=7.5, frameon=False, loc="upper right")
