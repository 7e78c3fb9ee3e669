"""The fronts of the whole studies on N-MNIST and simulated gestures, as docs/gestures.md shows them; measures nothing.

docs/results/studies has the front.csv of a finished study under the experiment's name. Float models may be taken from
benchmarks/floats (copied to OUT/NAME/float) instead of trained.
"""

from __future__ import annotations

import csv
from pathlib import Path

from docs_block import lined

STUDIES = Path("docs/results/studies")
HEADS = (
    "trial", "scheme", "bits", "zeros", "memory, KiB", "energy, µJ", "validation, %", "test, %", "seeds", "in integers",
    "picked as",
)  # fmt: skip


def front(name: str) -> list[str]:
    """A line per member, the most accurate first: means over seeds with 95 % intervals, prices of the first seed."""
    path = STUDIES / f"{name}.csv"
    if not path.exists():
        return ["Not measured here yet."]
    with path.open(encoding="utf-8", newline="") as file:
        members = list(csv.DictReader(file))
    members.sort(key=lambda row: -float(row["validation_accuracy_mean"]))
    return lined(HEADS, [_line(row) for row in members])


def _line(row: dict[str, str]) -> list[str]:
    def share(metric: str) -> str:
        interval = row[f"{metric}_interval"]
        spread = f" ± {100 * float(interval):.1f}" if interval else ""
        return f"{100 * float(row[f'{metric}_mean']):.1f}{spread}"

    def last(path: str) -> str:
        return next(value for key, value in row.items() if key.endswith(path))

    return [
        f"#{row['trial']}", last("plan.scheme"), last("quantize_weights.bits"), f"{100 * float(row['sparsity']):.0f} %",
        f"{float(row['memory_bits']) / 8192:.1f}", f"{float(row['energy_pj']) * 1e-6:.1f}",
        share("validation_accuracy"), share("test_accuracy"), f"{float(row['finalist_seeds']):.0f}",
        "proven" if float(row["integer_exact"] or 0) == 1 else "not proven", row["picks"],
    ]  # fmt: skip
