"""The papers' own points, as data files with their sources: what is drawn beside a study's front."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.types import require

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Point:
    """One published model."""

    name: str
    """``joint, 2 bit, 80% zeros``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: str = ""
    """``joint``, ``cumulative``: how the paper names its way."""
    bits: float = 32
    sparsity: float = 0.0


@dataclass(frozen=True)
class Published:
    """One paper's table."""

    title: str
    source: str
    note: str
    points: tuple[Point, ...]


def tables() -> tuple[str, ...]:
    """Names of the tables that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.json")))


def load(name: str) -> Published | None:
    """The table of that name; None for the empty name. Raises ValueError for a name that does not exist."""
    if not name:
        return None
    require(name in tables(), "published", f"be one of {', '.join(tables())}", name)
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    points = tuple(
        Point(_name(entry), entry["metrics"], entry["series"], entry["bits"], entry["sparsity"])
        for entry in content["points"]
    )
    return Published(content["title"], content["source"], content["note"], points)


def _name(entry: Mapping[str, object]) -> str:
    neurons = f", {entry['neurons']} neurons" if "neurons" in entry else ""
    return f"{entry['series']}{neurons}, {entry['bits']} bit, {100 * float(str(entry['sparsity'])):g}% zeros"
