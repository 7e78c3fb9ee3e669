"""The generated parts of docs/exploration.md, from the cells of benchmarks/tinysnn_claims.py; measures nothing.

    python benchmarks/tinysnn_docs.py

Writes the tables between the page's markers and docs/significance.png.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from docs_block import lined, put
from tinysnn_records import Searched, searches, spread

from pipeline.report.figures import DPI
from pipeline.report.files import write_whole
from pipeline.report.significance import Lost, draw_panels

COMMAND = "python benchmarks/tinysnn_docs.py"
RESULTS, PAGE, PICTURE = (
    Path("docs/results/tinysnn_claims.json"), Path("docs/exploration.md"), Path("docs/significance.png"),
)  # fmt: skip
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
Cells = Mapping[str, Mapping[str, Any]]


def network(key: str) -> str:
    """``stdp/mnist/400/...`` -> ``MNIST, STDP n = 400``."""
    family, which, neurons, *_ = key.split("/")
    return f"{TITLES[which]}, " + (f"STDP n = {neurons}" if family == "stdp" else "convolutional")


def lost(cells: Cells) -> dict[str, tuple[Lost, int]]:
    """Network -> (means over its seeds of what each group loses over bits, number of seeds)."""
    found: dict[str, list[Mapping[str, Mapping[str, float]]]] = {}
    for key, cell in cells.items():
        if key.endswith("/significance"):
            found.setdefault(network(key), []).append(cell["lost"])
    return {
        name: (
            {
                group: {
                    int(bits): float(np.mean([seed[group][bits] for seed in seeds]))
                    for bits in seeds[0][group]
                }
                for group in seeds[0]
            },
            len(seeds),
        )
        for name, seeds in found.items()
    }


def significance_lines(cells: Cells) -> list[str]:
    """A table per network: points lost, a line per group."""
    lines: list[str] = []
    for name, (table, seeds) in lost(cells).items():
        bits = sorted({b for line in table.values() for b in line})
        lines += [f"{name}, mean over {seeds} seed{'s' if seeds > 1 else ''}:", ""]
        rows = [
            [group, *(f"{100 * line[b]:.2f}" if b in line else "" for b in bits)]
            for group, line in table.items()
        ]
        lines += lined(["points lost at", *(f"{b} bit" for b in bits)], rows)
        lines.append("")
    return lines[:-1]


def search_lines(cells: Cells) -> list[str]:
    """What the two searches found on each network where both were run: means over seeds, 95 % intervals."""
    heads = ["network", "search", "seeds", "evaluations", "minutes", "smallest over the floor", "hypervolume"]
    rows = []
    groups: dict[tuple[str, str], list[Searched]] = {}
    for found in searches(cells):
        groups.setdefault((network(found.network), found.name), []).append(found)
    for (title, name), seeds in groups.items():
        evaluations, minutes = (
            float(np.mean([getattr(s, k) for s in seeds])) for k in ("evaluations", "minutes")
        )
        size, volume = spread([s.times for s in seeds]), spread([s.hypervolume for s in seeds], 100)
        rows.append(
            [
                title,
                name,
                f"{len(seeds)}",
                f"{evaluations:.0f}",
                f"{minutes:.1f}",
                f"{size}x below float",
                f"{volume} %",
            ]
        )
    return lined(heads, rows)


def main() -> None:
    cells = json.loads(RESULTS.read_text())["cells"]
    figure = draw_panels({name: table for name, (table, _) in lost(cells).items()})
    figure.savefig(PICTURE, dpi=DPI, metadata={"Software": None})
    page = put(PAGE.read_text(), "searches", COMMAND, search_lines(cells))
    write_whole(PAGE, put(page, "significance", COMMAND, significance_lines(cells)))
    print("\n".join([*search_lines(cells), "", *significance_lines(cells)]))


if __name__ == "__main__":
    main()
