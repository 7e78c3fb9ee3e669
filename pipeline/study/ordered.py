"""The papers' ordered search (Q-SpiNN 2021, tinySNN 2022): weights first, then one neuron parameter after another.

    1  the widest format of everything is the reference; its accuracy less `points` is the floor
    2  for each scheme and rounding, the fewest weight bits that stay above the floor; the best pair is kept
    3  for each further width in the given order, the fewest bits above the floor, the others as found so far

Accuracy is taken to rise with bits, so each step is a bisection, and a scheme that cannot beat the best so far costs
two evaluations. The assumption is checked by one more evaluation per width, two bits below what was found: where it
reaches the floor after all, the search goes on from there and says so in `Found.broken`. The strategy is a function
of what has been evaluated, so it resumes like any study.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import RECORD
from pipeline.types import require

Point = Mapping[str, object]
Ask = Callable[[Point], float]
"""Point -> accuracy as a fraction."""
ACCURACY = "validation_accuracy"


class NoCandidate(Exception):
    """Nothing reaches the floor."""


@dataclass(frozen=True)
class Found:
    """What the search ended with."""

    params: Point
    accuracy: float
    floor: float
    broken: tuple[str, ...]
    """Widths at which fewer bits reached the floor although more did not."""


@dataclass(frozen=True)
class Search:
    """The strategy itself, free of Optuna.

    Args:
        bits: path -> (fewest, most), in the order in which they are lowered; the first is the weights'.
        choices: path -> options (scheme, rounding), all combinations tried on the weights.
        points: percentage points below the reference that are allowed.
        floor: accuracy in (0, 1) instead of a distance from the reference.
        check: spend one evaluation per width on the assumption that accuracy rises with bits.
    """

    bits: Mapping[str, tuple[int, int]]
    choices: Mapping[str, Sequence[object]]
    points: float = 1.0
    floor: float | None = None
    check: bool = True

    def __post_init__(self) -> None:
        require(bool(self.bits), "bits", "name at least one width", dict(self.bits))
        for path, (low, high) in self.bits.items():
            require(low <= high, f"bits.{path}", "have low <= high", [low, high])
        require(self.points >= 0, "points", "be >= 0 percentage points", self.points)
        require(self.floor is None or 0 < self.floor < 1, "floor", "be in (0, 1)", self.floor)

    def run(self, ask: Ask) -> Found:
        """The whole search; `ask` is called again for a point it has answered, so it should remember.

        Raises:
            NoCandidate: the reference is below the floor; the message says what the best one reaches.
        """
        seen: dict[str, tuple[dict[str, object], float]] = {}

        def told(point: Point) -> float:
            key = key_of(point)
            if key not in seen:
                seen[key] = (dict(point), ask(point))
            return seen[key][1]

        combinations = list(_combinations(self.choices))
        broken: list[str] = []
        widest: dict[str, object] = {path: high for path, (_, high) in self.bits.items()}
        reference = told({**widest, **combinations[0]})
        floor = self.floor if self.floor is not None else reference - self.points / 100
        weights, *others = self.bits
        best = self._weights(told, floor, weights, widest, combinations)
        if best is None:
            point, top = max(seen.values(), key=lambda pair: pair[1])
            raise NoCandidate(f"no candidate reaches {floor:.1%}: best is {top:.1%} at {short(point)}")
        best = self._checked(told, best, weights, floor, broken)
        for path in others:
            low, high = self.bits[path]
            least = fewest(lambda b, p=path, x=best: told({**x, p: b}), low, high, floor)  # type: ignore[misc]
            best = self._checked(told, {**best, path: least}, path, floor, broken)
        return Found(best, told(best), floor, tuple(broken))

    def _checked(
        self, told: Ask, best: dict[str, object], path: str, floor: float, broken: list[str]
    ) -> dict[str, object]:
        """`best`, or something with fewer bits where two bits fewer reach the floor although one does not."""
        low, least = self.bits[path][0], int(best[path])  # type: ignore[call-overload]
        if not self.check or least - 2 < low or told({**best, path: least - 2}) < floor:
            return best
        broken.append(f"{path}: {least - 2} bits reach the floor, {least - 1} do not")
        return {**best, path: fewest(lambda b: told({**best, path: b}), low, least - 2, floor)}

    def _weights(
        self, told: Ask, floor: float, path: str, widest: Point, combinations: Sequence[Point]
    ) -> dict[str, object] | None:
        """The combination with the fewest bits above the floor; of equals the most accurate."""
        low, high = self.bits[path]
        best: dict[str, object] | None = None
        for chosen in combinations:
            base = {**widest, **chosen}

            def at(bits: int, base: Point = base) -> float:
                return told({**base, path: bits})

            if best is None:
                if at(high) >= floor:
                    best = {**base, path: fewest(at, low, high, floor)}
                continue
            least = int(best[path])  # type: ignore[call-overload]
            if least > low and at(least - 1) >= floor:
                best = {**base, path: fewest(at, low, least - 1, floor)}
            elif at(least) > told(best):
                best = {**base, path: least}
        return best


def fewest(at: Callable[[int], float], low: int, high: int, floor: float) -> int:
    """Least bits in [low, high] with at(bits) >= floor, by bisection; `high` is known to reach it."""
    while low < high:
        middle = (low + high) // 2
        if at(middle) >= floor:
            high = middle
        else:
            low = middle + 1
    return high


def significance(
    ask: Ask, reference: Point, widths: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, float]]:
    """Path -> bits -> accuracy lost against `reference` when that width alone is changed."""
    top = ask(reference)
    return {
        path: {bits: top - ask({**reference, path: bits}) for bits in each} for path, each in widths.items()
    }


def key_of(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def short(point: Point) -> str:
    """``bits=4, rounding=nearest``: last parts of the paths."""
    return ", ".join(f"{path.rpartition('.')[2]}={value}" for path, value in point.items())


def _combinations(choices: Mapping[str, Sequence[object]]) -> Iterator[dict[str, object]]:
    for values in itertools.product(*choices.values()):
        yield dict(zip(choices, values, strict=True))


@dataclass(frozen=True)
class Ordered:
    """The ordered search as a sampler config; the study's space must search the same paths.

    Once it has found its point it suggests that point again, which the study answers from its memory. Run it
    with one worker: each suggestion depends on the answer before.
    """

    bits: Mapping[str, tuple[int, int]]
    choices: Mapping[str, Sequence[object]]
    points: float = 1.0
    floor: float | None = None
    check: bool = True

    def __post_init__(self) -> None:
        _ = self.search

    @property
    def search(self) -> Search:
        ranges = {path: (int(ends[0]), int(ends[1])) for path, ends in self.bits.items()}
        return Search(ranges, self.choices, self.points, self.floor, self.check)

    def build(self, seed: int) -> optuna.samplers.BaseSampler:  # noqa: ARG002
        return OrderedSampler(self.search)


class _Open(Exception):
    """Raised through a replayed search by the first point that nobody has evaluated."""

    def __init__(self, point: Point) -> None:
        super().__init__()
        self.point = point


class OrderedSampler(optuna.samplers.BaseSampler):
    """Replays the search over the finished trials and suggests the first point that is missing."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._point: tuple[int, Point] | None = None

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        if self._point is None or self._point[0] != trial.number:
            self._point = trial.number, self.propose(study)
        point = self._point[1]
        if param_name in point:
            value = point[param_name]
            if not param_distribution._contains(param_distribution.to_internal_repr(value)):
                raise ValueError(
                    f"sampler.bits.{param_name} must lie in the study's range, but got {value!r}."
                )
            return value
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[0]
        return param_distribution.low  # type: ignore[attr-defined]

    def propose(self, study: optuna.Study) -> Point:
        """The next point, or the found one; where nothing reaches the floor, the most accurate."""
        known = answers(study, {*self.search.bits, *self.search.choices})

        def ask(point: Point) -> float:
            if key_of(point) not in known:
                raise _Open(point)
            return known[key_of(point)][1]

        try:
            return self.search.run(ask).params
        except _Open as missing:
            return missing.point
        except NoCandidate:
            return max(known.values(), key=lambda pair: pair[1])[0]


def answers(study: optuna.Study, paths: set[str]) -> dict[str, tuple[Point, float]]:
    """Finished trials by their point; one that ended early or failed has accuracy 0."""
    out: dict[str, tuple[Point, float]] = {}
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished() or RECORD not in trial.user_attrs:
            continue
        record = json.loads(trial.user_attrs[RECORD])
        if record.get("state") == "refused":
            continue
        point = {path: value for path, value in trial.params.items() if path in paths}
        done = trial.state == TrialState.COMPLETE
        out[key_of(point)] = (point, float(record["metrics"][ACCURACY]) if done else 0.0)
    return out
