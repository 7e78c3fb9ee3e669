"""Which member of the front to build: each selector names one trial, or says why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pipeline.study import pareto
from pipeline.types import Row, require

ACCURACY = "validation_accuracy"


@dataclass(frozen=True)
class Pick:
    """What a selector answers: a trial's number, or None with the reason."""

    number: int | None
    why: str


@runtime_checkable
class Selector(Protocol):
    """Chooses among the members of a front; sees validation metrics only, never the test split."""

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick: ...


def _cheapest(rows: Sequence[Row], price: str) -> Row:
    return min(rows, key=lambda row: (row.metrics[price], -row.metrics[ACCURACY], row.number))


def _most_accurate(rows: Sequence[Row], price: str) -> Row:
    return max(rows, key=lambda row: (row.metrics[ACCURACY], -row.metrics[price], -row.number))


@dataclass(frozen=True)
class Knee:
    """The best balance of all objectives (`pareto.knee`)."""

    objectives: tuple[str, ...] = ("validation_error", "memory_bits", "energy_pj")

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick:  # noqa: ARG002
        index = pareto.knee([[row.metrics[name] for name in self.objectives] for row in front])
        if index is None:
            return Pick(None, "the front is empty")
        return Pick(front[index].number, "best balance of " + ", ".join(self.objectives))


@dataclass(frozen=True)
class Within:
    """The cheapest member at most `points` percentage points below the float model's validation accuracy."""

    points: float = 1.0
    price: str = "energy_pj"

    def __post_init__(self) -> None:
        require(self.points >= 0, "points", "be >= 0 percentage points", self.points)

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick:
        if reference is None:
            return Pick(None, "there is no float model to compare with")
        if not front:
            return Pick(None, "the front is empty")
        floor = reference.metrics[ACCURACY] - self.points / 100
        good = [row for row in front if row.metrics[ACCURACY] >= floor - 1e-12]
        if not good:
            best = _most_accurate(front, self.price)
            return Pick(
                None,
                f"no candidate reaches {floor:.1%} (float {reference.metrics[ACCURACY]:.1%} less {self.points:g} "
                f"points): best is {best.metrics[ACCURACY]:.1%} in trial {best.number}",
            )
        return Pick(_cheapest(good, self.price).number, f"cheapest {self.price} with at least {floor:.1%}")


@dataclass(frozen=True)
class Budget:
    """The most accurate member inside every bound, e.g. ``{"memory_bits": 524288, "energy_pj": 2e8}``."""

    bounds: Mapping[str, float]

    def __post_init__(self) -> None:
        require(bool(self.bounds), "bounds", "name at least one metric", self.bounds)
        for name, bound in self.bounds.items():
            require(bound > 0, f"bounds.{name}", "be > 0", bound)

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick:  # noqa: ARG002
        fits = [row for row in front if all(row.metrics[k] <= bound for k, bound in self.bounds.items())]
        said = ", ".join(f"{name} <= {bound:g}" for name, bound in self.bounds.items())
        if not fits:
            least = {k: min((r.metrics[k] for r in front), default=float("nan")) for k in self.bounds}
            return Pick(None, f"no member has {said}; the least are {least}")
        return Pick(_most_accurate(fits, next(iter(self.bounds))).number, f"most accurate with {said}")


@dataclass(frozen=True)
class Reward:
    """R = accuracy - mu * memory / memory_0 - eps * energy / energy_0 (Q-SpiNN, tinySNN).

    memory_0 and energy_0 are the float model's, else the largest on the front. With mu = eps = 0 the most accurate
    member wins; with mu large the smallest.
    """

    mu: float = 0.3
    eps: float = 0.0

    def __post_init__(self) -> None:
        require(self.mu >= 0, "mu", "be >= 0", self.mu)
        require(self.eps >= 0, "eps", "be >= 0", self.eps)

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick:
        if not front:
            return Pick(None, "the front is empty")

        def base(name: str) -> float:
            given = reference.metrics.get(name) if reference else None
            return given or max(row.metrics.get(name, 0.0) for row in front) or 1.0

        memory, energy = base("memory_bits"), base("energy_pj")

        def reward(row: Row) -> float:
            metrics = row.metrics
            return (
                metrics[ACCURACY]
                - self.mu * metrics["memory_bits"] / memory
                - self.eps * metrics.get("energy_pj", 0.0) / energy
            )

        best = max(front, key=lambda row: (reward(row), -row.metrics["memory_bits"], -row.number))
        return Pick(best.number, f"largest reward {reward(best):.4f} at mu={self.mu:g}, eps={self.eps:g}")


@dataclass(frozen=True)
class OneStandardError:
    """The cheapest member within one standard error of the most accurate (Breiman et al. 1984, section 3.4.3).

    The error is the member's own `validation_standard_error` over seeds where finalists were re-run, else the
    binomial sqrt(p (1 - p) / samples) of one run.
    """

    price: str = "energy_pj"

    def pick(self, front: Sequence[Row], reference: Row | None) -> Pick:  # noqa: ARG002
        if not front:
            return Pick(None, "the front is empty")
        best = _most_accurate(front, self.price)
        p = best.metrics[ACCURACY]
        samples = best.metrics.get("validation_samples", 0.0)
        error = best.metrics.get("validation_standard_error")
        if error is None:
            if not samples:
                return Pick(None, "neither seeds nor the number of validation samples are known")
            error = (p * (1 - p) / samples) ** 0.5
        good = [row for row in front if row.metrics[ACCURACY] >= p - error - 1e-12]
        chosen = _cheapest(good, self.price)
        return Pick(
            chosen.number, f"cheapest {self.price} within one standard error ({error:.2%}) of {p:.1%}"
        )


def picks(front: Sequence[Row], reference: Row | None, selectors: Mapping[str, Selector]) -> dict[str, Pick]:
    """Every selector's answer on the same front."""
    return {name: selector.pick(front, reference) for name, selector in selectors.items()}
