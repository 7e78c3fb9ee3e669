"""What a study searches for: the config of everything but the sampler and the stopper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.study.space import Space, parse
from pipeline.types import Metrics, require


@dataclass(frozen=True)
class Study:
    """What is searched, for what, and how long.

    `objectives` are metric names, all minimised. `constraints` bound metrics from above, or from below when the
    bound is written ``{min: 0.9}``. `baseline` is the float model's overrides, evaluated once beside the budget.
    `warm_start` lists points that are tried first; `warm_start_from` names other studies whose fronts are, too.
    `reference` is the hypervolume's reference point. A trial that takes longer than `trial_timeout_s` is ended; a
    suggestion whose worker died is done again, until it has taken `retries` workers with it. `floors` are values
    that no network of this study can beat (a least validation error, say): with the memory and the energy floor
    of a suggestion, which are known before training, they end what a finished trial beats already.
    `compare` trains, once the search is over, three baselines of the knee's size (`pipeline.baselines`).
    """

    trials: int
    objectives: tuple[str, ...]
    space: Mapping[str, object]
    constraints: Mapping[str, object] = field(default_factory=dict)
    baseline: Mapping[str, object] = field(default_factory=dict)
    warm_start: tuple[Mapping[str, object], ...] = ()
    reference: tuple[float, ...] = ()
    finalists: int = 1
    selectors: Mapping[str, object] = field(default_factory=dict)
    trial_timeout_s: float | None = None
    retries: int = 3
    floors: Mapping[str, float] = field(default_factory=dict)
    warm_start_from: tuple[str, ...] = ()
    compare: bool = False

    def __post_init__(self) -> None:
        require(self.trials >= 1, "trials", "be >= 1", self.trials)
        require(len(self.objectives) >= 1, "objectives", "name at least one metric", self.objectives)
        require(
            len(set(self.objectives)) == len(self.objectives), "objectives", "not repeat", self.objectives
        )
        require(self.finalists >= 0, "finalists", "be >= 0 seeds", self.finalists)
        require(self.retries >= 1, "retries", "be >= 1", self.retries)
        timeout = self.trial_timeout_s
        require(timeout is None or timeout > 0, "trial_timeout_s", "be > 0 s, or null for none", timeout)
        right = len(self.reference) in (0, len(self.objectives))
        require(right, "reference", "have one value per objective", self.reference)
        require(all(v > 0 for v in self.reference), "reference", "be > 0 in every objective", self.reference)
        for name in self.constraints:
            self.bound(name)
        _ = self.axes

    @property
    def axes(self) -> Space:
        try:
            return parse(self.space)
        except ValueError as error:
            raise ValueError(f"space.{error}") from error

    def bound(self, name: str) -> tuple[float, float]:
        """(sign, bound): feasible where sign * metric <= sign * bound."""
        given = self.constraints[name]
        if isinstance(given, Mapping):
            known = len(given) == 1 and next(iter(given)) in ("min", "max")
            require(known, f"constraints.{name}", "be a number, {max: x} or {min: x}", dict(given))
            (word, value), *_ = given.items()
            return (-1.0 if word == "min" else 1.0), float(value)
        require(
            isinstance(given, int | float), f"constraints.{name}", "be a number, {max: x} or {min: x}", given
        )
        return 1.0, float(given)  # type: ignore[arg-type]

    def violations(self, metrics: Metrics) -> dict[str, float]:
        """Constraint -> how far beyond its bound (<= 0 is feasible)."""
        result = {}
        for name in self.constraints:
            sign, bound = self.bound(name)
            result[name] = sign * (metrics[name] - bound)
        return result
