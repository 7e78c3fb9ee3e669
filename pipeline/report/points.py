"""What the rows of a study are to a reader: on the front, dominated, infeasible, or ended early. Reads, never
ranks.

Who is on the front and who is feasible was decided by the study and stands in the rows; here it is only
sorted out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.types import Row

FINISHED = ("complete", "cached")


@dataclass(frozen=True)
class Kinds:
    """Rows by what can be drawn of them; every row is in exactly one."""

    front: tuple[Row, ...]
    dominated: tuple[Row, ...]
    infeasible: tuple[Row, ...]
    ended: tuple[Row, ...]
    """Stopped, failed, still running, or finished with an objective that is not a finite number."""

    @property
    def drawable(self) -> tuple[Row, ...]:
        return self.front + self.dominated + self.infeasible


def value(row: Row, metric: str) -> float:
    """The row's number, NaN when it has none. An error and its accuracy stand for each other (they sum to
    1)."""
    if metric in row.metrics:
        return float(row.metrics[metric])
    for one, other in (("_error", "_accuracy"), ("_accuracy", "_error")):
        if metric.endswith(one) and metric.removesuffix(one) + other in row.metrics:
            return 1.0 - float(row.metrics[metric.removesuffix(one) + other])
    return math.nan


def shown_metric(objective: str) -> str:
    """An error is minimised by the search and read as an accuracy by a person."""
    return objective.removesuffix("_error") + "_accuracy" if objective.endswith("_error") else objective


def sort_out(rows: Iterable[Row], objectives: Sequence[str]) -> Kinds:
    """Each row to its kind; a row with a missing, NaN or infinite objective cannot be drawn and counts as
    ended."""
    kinds: dict[str, list[Row]] = {"front": [], "dominated": [], "infeasible": [], "ended": []}
    for row in rows:
        if row.state not in FINISHED or not all(math.isfinite(value(row, name)) for name in objectives):
            kinds["ended"].append(row)
        elif not row.feasible:
            kinds["infeasible"].append(row)
        else:
            kinds["front" if row.on_front else "dominated"].append(row)
    return Kinds(**{name: tuple(chosen) for name, chosen in kinds.items()})


def marks(picks: Mapping[str, int]) -> dict[int, str]:
    """Trial number -> the selectors that chose it, in their order: ``{17: "knee, cheapest"}``."""
    chosen: dict[int, list[str]] = {}
    for selector, number in picks.items():
        chosen.setdefault(number, []).append(selector)
    return {number: ", ".join(selectors) for number, selectors in chosen.items()}


def tally(rows: Iterable[Row]) -> dict[str, int]:
    """How many trials ended in each state, the finished first, then by name."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (item[0] not in FINISHED, item[0])))


def staircase(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Corner points of the best y (larger is better) that can be had for at most x (smaller is better).

    ``staircase([1, 2, 3], [5, 4, 6]) == ([1, 3, 3], [5, 5, 6])``: the second point is beaten by the first.
    """
    xs: list[float] = []
    ys: list[float] = []
    for at, height in sorted(zip(x, y, strict=True), key=lambda point: (point[0], -point[1])):
        if not ys or height > ys[-1]:
            if ys:
                xs.append(at)
                ys.append(ys[-1])
            xs.append(at)
            ys.append(height)
    return xs, ys


@dataclass(frozen=True)
class Model:
    """A row that figures show in full, with the name they give it."""

    name: str
    """``#17 knee``."""
    row: Row


def models(rows: Sequence[Row], picks: Mapping[str, int], most: int = 4) -> list[Model]:
    """The rows worth a figure of their own: the picks, then members spread over the front, at most `most`."""
    by_number = {row.number: row for row in rows}
    chosen = marks({name: number for name, number in picks.items() if number in by_number})
    found = [Model(f"#{number} {names}", by_number[number]) for number, names in chosen.items()]
    members = sorted(
        (row for row in rows if row.on_front and row.number not in chosen),
        key=lambda row: (-value(row, "validation_accuracy"), row.number),
    )
    room = max(0, min(most, 3) - len(found))
    spots = {round(i * (len(members) - 1) / max(1, room - 1)) for i in range(room)} if members else set()
    found += [Model(f"#{members[spot].number}", members[spot]) for spot in sorted(spots)]
    return found[:most]
