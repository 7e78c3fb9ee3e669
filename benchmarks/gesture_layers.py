"""docs/gestures-layers.png: where the energy of N-MNIST networks goes, and the zeros of each layer; measures nothing.

Drawn by benchmarks/gesture_docs.py from docs/results.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

from gesture_records import FULL, SEEDS, STEEP, Book
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures import canvas, colour
from pipeline.report.palette import HATCHES

ENERGY = Path("docs/results/benchmarks/gesture_energy.json")
PICTURE = Path("docs/gestures-layers.png")
UJ = 1e-6  # of a pJ
SHOWN = (
    (f"{100 * STEEP:g} % pruned, {FULL} bit", ("joint", FULL, STEEP)),
    ("ternary, none pruned", ("isolated", 2)),
)
"""Networks whose zeros are shown layer by layer: of the masks alone, and of ternary weights alone."""
Parts = dict[str, dict[str, float]]
"""Network -> part of the machine -> uJ of an inference, all layers together."""


def energy() -> Any:
    """What benchmarks/gesture_energy.py wrote."""
    return json.loads(ENERGY.read_text(encoding="utf-8"))


def parts(found: Any) -> Parts:
    """By network, the parts that take most of all first."""
    sums: Parts = {}
    for name, network in found["networks"].items():
        for pieces in network["parts"].values():
            for part, amount in pieces.items():
                sums.setdefault(name, {}).setdefault(part, 0.0)
                sums[name][part] += UJ * amount
    order = sorted(
        {part for each in sums.values() for part in each},
        key=lambda p: -sum(s.get(p, 0) for s in sums.values()),
    )
    return {name: {part: each.get(part, 0.0) for part in order} for name, each in sums.items()}


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
    """Bars of energy by part, then of zeros by layer for each data set."""
    words = (
        "Left: energy of an inference on eyeriss_45nm, N-MNIST, one seed; the share of the DRAM in the networks on "
        "simulated gestures stands in claim H10. Others: share of zero weights in each layer, mean over seeds."
    )
    figure, axes = canvas(1 + len(titles), 1, (4.6, 4.0), words)
    _energy(axes[0], parts(energy()))
    for ax, (data, title) in zip(axes[1:], titles.items(), strict=True):
        _zeros(ax, zeros(book, data), title)
    return figure


def _energy(ax: Axes, found: Parts) -> None:
    names, bottom = list(found), [0.0] * len(found)
    for at, part in enumerate(next(iter(found.values()))):
        heights = [found[name][part] for name in names]
        ax.bar(
            range(len(names)), heights, 0.7, bottom=bottom, label=part, color=colour(at), edgecolor="white",
            hatch=HATCHES[at % len(HATCHES)] * 2, linewidth=0.5,
        )  # fmt: skip
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    ax.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
    ax.set_ylabel("N-MNIST: energy of an inference (µJ)")
    ax.set_ylim(0, 1.45 * max(bottom))
    ax.grid(visible=False, axis="x")
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
