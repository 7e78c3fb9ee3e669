"""When a trial is not worth finishing: rules over several objectives, which Optuna does not have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Protocol, runtime_checkable

from pipeline.study import pareto
from pipeline.types import Dominated, Metrics, TrialEnded, require


@runtime_checkable
class Stopper(Protocol):
    """Looks at one trial's metrics at a rung and at its rivals' metrics at the same rung."""

    @property
    def by(self) -> str:
        """What places a report: ``step`` (an epoch), or a reported metric that grows, such as ``images``."""
        ...

    def mark(self, before: float, now: float) -> float | None:
        """The rung that lies in (before, now], the last one of several; None where there is none."""
        ...

    def hopeless(self, now: Metrics, rivals: Sequence[Metrics]) -> bool: ...

    def ended(self, mark: float) -> TrialEnded:
        """What is raised to end a hopeless trial."""
        ...


@dataclass(frozen=True)
class Never:
    """Every trial runs to its end."""

    by: str = "step"

    def mark(self, before: float, now: float) -> float | None:  # noqa: ARG002
        return None

    def hopeless(self, now: Metrics, rivals: Sequence[Metrics]) -> bool:  # noqa: ARG002
        return False

    def ended(self, mark: float) -> TrialEnded:
        return Dominated(f"stopped at {mark:g}")


@dataclass(frozen=True)
class NonDominatedRank:
    """MO-ASHA's rung rule (Schmucker et al. 2021, algorithm 1): at each rung the best 1/eta go on.

    Rungs stand at `first`, `first` * eta, `first` * eta^2, ... epochs (`by` = step) or images (`by` = images, for
    learners that report them). Trials at a rung are ordered by non-dominated rank, ties inside a rank by the
    epsilon-net order: the next member is the one farthest from those chosen. `objectives` are intermediate
    metrics, all minimised; for prices, which no epoch reports, the bounds known before training stand in. As in
    ASHA, the first `eta` - 1 at a rung always go on. `last`: beyond it no trial is stopped (it has cost most of its
    price); None for no end.

    `spare` (ours): a trial that no rival dominates goes on even where the front fills more than its 1/eta of a rung.
    With three objectives it soon does, and the paper's rule then ends members of the final front.
    """

    objectives: tuple[str, ...] = ("validation_error",)
    eta: int = 3
    first: int = 1
    by: str = "step"
    last: float | None = None
    spare: bool = True

    def __post_init__(self) -> None:
        require(self.eta >= 2, "eta", "be >= 2", self.eta)
        require(self.first >= 1, "first", "be >= 1", self.first)
        require(len(self.objectives) >= 1, "objectives", "name at least one metric", self.objectives)
        require(self.last is None or self.last >= self.first, "last", "be >= first", self.last)

    def mark(self, before: float, now: float) -> float | None:
        rung, found = float(self.first), None
        while rung <= now and (self.last is None or rung <= self.last):
            if rung > before:
                found = rung
            rung *= self.eta
        return found

    def hopeless(self, now: Metrics, rivals: Sequence[Metrics]) -> bool:
        if len(rivals) + 1 < self.eta:
            return False
        names = self.objectives
        points = [[_or_worst(m.get(name)) for name in names] for m in (now, *rivals)]
        if self.spare and not any(pareto.dominates(rival, points[0]) for rival in points[1:]):
            return False
        places = max(1, len(points) // self.eta)
        return 0 not in epsilon_net_order(points)[:places]

    def ended(self, mark: float) -> TrialEnded:
        return Dominated(f"outside the best 1/{self.eta} by non-dominated rank at {self.by} {mark:g}")


@dataclass(frozen=True)
class Median:
    """Stop a trial that is worse than the median of its rivals in every objective (Vizier's rule, per objective).

    Asked at every report from `first` on, or once per `every` images where `by` is images.
    """

    objectives: tuple[str, ...] = ("validation_error",)
    first: int = 1
    least_rivals: int = 5
    by: str = "step"
    every: int = 1

    def __post_init__(self) -> None:
        require(self.first >= 1, "first", "be >= 1", self.first)
        require(self.every >= 1, "every", "be >= 1", self.every)
        require(self.least_rivals >= 1, "least_rivals", "be >= 1", self.least_rivals)
        require(len(self.objectives) >= 1, "objectives", "name at least one metric", self.objectives)

    def mark(self, before: float, now: float) -> float | None:
        if now < self.first:
            return None
        rung = self.first + (now - self.first) // self.every * self.every
        return rung if rung > before else None

    def hopeless(self, now: Metrics, rivals: Sequence[Metrics]) -> bool:
        if len(rivals) < self.least_rivals:
            return False
        for name in self.objectives:
            others = sorted(m.get(name, float("inf")) for m in rivals)
            middle = len(others) // 2
            median = others[middle] if len(others) % 2 else (others[middle - 1] + others[middle]) / 2
            if now.get(name, float("inf")) <= median:
                return False
        return True

    def ended(self, mark: float) -> TrialEnded:
        return Dominated(f"worse than the median in {', '.join(self.objectives)} at {self.by} {mark:g}")


def epsilon_net_order(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices from best to worst: by non-dominated rank, inside a rank by farthest-point (epsilon-net) order.

    The first of a rank is its best in the first objective; distances are Euclidean over objectives scaled to [0, 1].
    """
    levels = pareto.ranks(points)
    known = [v for p in points for v in p if isfinite(v)]
    worst = max(known, default=1.0) + 1.0  # a missing value is worse than every known one
    points = [[v if isfinite(v) else worst for v in p] for p in points]
    columns = list(zip(*points, strict=True))
    low = [min(c) for c in columns]
    span = [max(c) - lo or 1.0 for c, lo in zip(columns, low, strict=True)]
    scaled = [[(v - lo) / s for v, lo, s in zip(p, low, span, strict=True)] for p in points]
    order: list[int] = []
    for level in range(max(levels) + 1):
        left = [i for i, rank in enumerate(levels) if rank == level]
        chosen = [min(left, key=lambda i: (scaled[i], i))]
        left.remove(chosen[0])
        while left:
            # A trial in doubt keeps its place by index, so that the order is the same on every worker.
            far = max(left, key=lambda i: (min(_distance(scaled[i], scaled[c]) for c in chosen), -i))
            chosen.append(far)
            left.remove(far)
        order += chosen
    return order


def _or_worst(value: float | None) -> float:
    return float("inf") if value is None or isnan(value) else value


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5
