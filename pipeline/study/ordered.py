"""The papers' ordered search (Q-SpiNN 2021, tinySNN 2022): weights first, then one neuron parameter after another.

    1  the widest format of everything is the reference; its accuracy less `points` is the floor
    2  for each scheme and rounding, the fewest weight bits that stay above the floor; the best pair is kept
    3  every further width goes to its least alone: what that loses is its significance
    4  from the least to the most significant, the fewest bits above the floor, the others as found so far

Accuracy is taken to rise with bits, so each step is a bisection, and a scheme that cannot beat the best so far costs
two evaluations. The assumption is checked by one more evaluation per width, two bits below what was found: where it
reaches the floor after all, the search goes on from there and says so in `Found.broken`. The strategy is a function
of what has been evaluated, so it resumes like any study. As a sampler: `pipeline.study.ordered_sampler`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.types import require

Point = Mapping[str, object]
Ask = Callable[[Point], float]
"""Point -> accuracy as a fraction."""


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
    evaluations: int = 0
    significance: Mapping[str, float] = field(default_factory=dict)
    """Path -> accuracy lost with its fewest bits alone, at the weights that were found."""


@dataclass(frozen=True)
class Search:
    """The strategy itself, free of Optuna.

    Args:
        bits: path -> (fewest, most), in the order in which they are lowered; the first is the weights'.
        choices: path -> options (scheme, rounding), all combinations tried on the weights.
        points: percentage points below the reference that are allowed.
        floor: accuracy in (0, 1) instead of a distance from the reference.
        check: spend one evaluation per width on the assumption that accuracy rises with bits.
        together: how many of the first paths are weights: lowered as one, and each on its own after that.
        later: path -> options that do not touch the weights, settled one after the other at the end.
        by_significance: order the further widths by what their fewest bits lose; else as given. One evaluation
            more per width, and two less for each that bears its fewest bits.
    """

    bits: Mapping[str, tuple[int, int]]
    choices: Mapping[str, Sequence[object]]
    points: float = 1.0
    floor: float | None = None
    check: bool = True
    together: int = 1
    later: Mapping[str, Sequence[object]] = field(default_factory=dict)
    by_significance: bool = True

    def __post_init__(self) -> None:
        require(bool(self.bits), "bits", "name at least one width", dict(self.bits))
        for path, (low, high) in self.bits.items():
            require(low <= high, f"bits.{path}", "have low <= high", [low, high])
        require(self.points >= 0, "points", "be >= 0 percentage points", self.points)
        require(self.floor is None or 0 < self.floor < 1, "floor", "be in (0, 1)", self.floor)
        inside = 1 <= self.together <= len(self.bits)
        require(inside, "together", f"be in [1, {len(self.bits)}]", self.together)

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
        widest |= {path: options[0] for path, options in self.later.items()}
        reference = told({**widest, **combinations[0]})
        floor = self.floor if self.floor is not None else reference - self.points / 100
        best = self._weights(told, floor, widest, combinations)
        if best is None:
            point, top = max(seen.values(), key=lambda pair: pair[1])
            raise NoCandidate(f"no candidate reaches {floor:.1%}: best is {top:.1%} at {short(point)}")
        if self.together == 1:
            best = self._checked(told, best, next(iter(self.bits)), floor, broken)
        others, lost = list(self.bits)[self.together :], {}
        if self.by_significance:
            lost = {path: told(best) - told({**best, path: self.bits[path][0]}) for path in others}
            others.sort(key=lambda path: lost[path])
        for path in [*others, *(list(self.bits)[: self.together] if self.together > 1 else [])]:
            best = self._checked(told, self._lowered(told, best, path, floor, lost), path, floor, broken)
        for path, options in self.later.items():
            best = max(({**best, path: option} for option in options), key=told)
        return Found(best, told(best), floor, tuple(broken), len(seen), lost)

    def _lowered(
        self, told: Ask, best: dict[str, object], path: str, floor: float, lost: Mapping[str, float]
    ) -> dict[str, object]:
        """`best` with the fewest bits of one width; what lost too little alone to matter may go there at once."""
        low, high = self.bits[path][0], int(best[path])  # type: ignore[call-overload]

        def at(bits: int) -> float:
            return told({**best, path: bits})

        bears = path in lost and told(best) - lost[path] >= floor
        if low < high and bears and at(low) >= floor:
            return {**best, path: low}
        return {**best, path: fewest(at, low + (bears and low < high), high, floor)}

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
        self, told: Ask, floor: float, widest: Point, combinations: Sequence[Point]
    ) -> dict[str, object] | None:
        """The combination with the fewest bits above the floor; of equals the most accurate."""
        weights = list(self.bits)[: self.together]
        low = min(self.bits[path][0] for path in weights)
        high = max(self.bits[path][1] for path in weights)
        best: dict[str, object] | None = None
        least = high
        for chosen in combinations:

            def with_(bits: int, base: Point = {**widest, **chosen}) -> dict[str, object]:  # noqa: B006
                return {**base, **{p: min(max(bits, self.bits[p][0]), self.bits[p][1]) for p in weights}}

            def at(bits: int, with_: Callable[[int], dict[str, object]] = with_) -> float:
                return told(with_(bits))

            if best is None:
                if at(high) >= floor:
                    least = fewest(at, low, high, floor)
                    best = with_(least)
                continue
            if least > low and at(least - 1) >= floor:
                least = fewest(at, low, least - 1, floor)
                best = with_(least)
            elif at(least) > told(best):
                best = with_(least)
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
