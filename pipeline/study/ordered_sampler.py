"""The ordered search (`pipeline.study.ordered`) as a sampler: it answers what the next trial should be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import RECORD
from pipeline.study.ordered import Found, NoCandidate, Point, Search, key_of, short
from pipeline.study.space import label
from pipeline.types import require

ACCURACY = "validation_accuracy"


@dataclass(frozen=True)
class Ordered:
    """The ordered search as a sampler config.

    With several workers the idle ones go on as if the points at work reached the floor. The study ends when the
    search does, whatever its budget.

    Args:
        space: the study's (``${study.space}``): whole-number ranges are widths, lowered in its order; choices are
            schemes, roundings and the like.
        weights: a path, or the beginning of several (one per layer): the widths that are lowered first.
        crossed: paths of choices of which every combination is tried on the weights; the others are settled last.
        points, floor, check, by_significance: as in `Search`.
    """

    space: Mapping[str, Mapping[str, object]]
    weights: str
    crossed: Sequence[str]
    points: float = 1.0
    floor: float | None = None
    check: bool = True
    by_significance: bool = True

    def __post_init__(self) -> None:
        for path, axis in self.space.items():
            require(
                not axis.get("when"), f"space.{path}", "have no `when` with sampler=ordered", axis.get("when")
            )
            whole = "choices" in axis or all(isinstance(axis.get(end), int) for end in ("low", "high"))
            rule = "be whole numbers or choices with sampler=ordered"
            require(whole and not axis.get("log"), f"space.{path}", rule, dict(axis))
            require(
                axis.get("step") in (None, 1),
                f"space.{path}.step",
                "be 1 with sampler=ordered: it bisects",
                axis.get("step"),
            )
        require(
            not self.space or bool(self._weights),
            "weights",
            "begin a width of the study's space",
            self.weights,
        )
        if self.space:
            _ = self.search

    @property
    def _widths(self) -> dict[str, tuple[int, int]]:
        given = self.space.items()
        return {p: (cast(int, a["low"]), cast(int, a["high"])) for p, a in given if "choices" not in a}

    @property
    def _weights(self) -> list[str]:
        return [p for p in self._widths if p == self.weights or p.startswith(f"{self.weights}.")]

    @property
    def search(self) -> Search:
        """The strategy over this space. Raises ValueError for a space without widths."""
        widths, first = self._widths, self._weights
        given = {p: cast(Sequence[object], a["choices"]) for p, a in self.space.items() if "choices" in a}
        choices = {
            p: [label(option) for option in options] for p, options in given.items()
        }  # as Optuna has them
        return Search(
            {path: widths[path] for path in [*first, *(p for p in widths if p not in first)]},
            {path: options for path, options in choices.items() if path in self.crossed},
            self.points,
            self.floor,
            self.check,
            len(first),
            {path: options for path, options in choices.items() if path not in self.crossed},
            self.by_significance,
        )

    def build(self, seed: int) -> optuna.samplers.BaseSampler:  # noqa: ARG002
        return OrderedSampler(self.search) if self.space else optuna.samplers.RandomSampler()

    def ended(self, study: optuna.Study) -> str | None:
        """What the search ended with, or None while it has questions."""
        return OrderedSampler(self.search).ended(study) if self.space else None


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
                    f"the ordered search's {param_name} must lie in the study's range, but got {value!r}."
                )
            return value
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[0]
        return param_distribution.low  # type: ignore[attr-defined]

    def propose(self, study: optuna.Study) -> Point:
        """The next point that nobody works at, or the found one; where nothing reaches the floor, the most accurate."""
        known, busy = self._answers(study)
        guessed = {**dict.fromkeys(busy, 1.0), **{key: accuracy for key, (_, accuracy) in known.items()}}
        try:
            return self._replay(guessed).params
        except _Open as missing:
            return missing.point
        except NoCandidate:
            return max(known.values(), key=lambda pair: pair[1])[0]

    def ended(self, study: optuna.Study) -> str | None:
        """How the search ended, in words; None while it has questions."""
        known, _ = self._answers(study)
        try:
            found = self._replay({key: accuracy for key, (_, accuracy) in known.items()})
        except _Open:
            return None
        except NoCandidate as none:
            return str(none)
        said = (
            f"ordered search: {found.evaluations} evaluations, {found.accuracy:.1%} at {short(found.params)}"
        )
        said += f" (floor {found.floor:.1%})"
        return said + "".join(f"; {words}" for words in found.broken)

    def _replay(self, known: Mapping[str, float]) -> Found:
        def ask(point: Point) -> float:
            accuracy = known.get(key_of(point), math.nan)
            if math.isnan(accuracy):
                raise _Open(point)
            return accuracy

        return self.search.run(ask)

    def _answers(self, study: optuna.Study) -> tuple[dict[str, tuple[Point, float]], set[str]]:
        search = self.search
        return answers(study, {*search.bits, *search.choices, *search.later})


def answers(study: optuna.Study, paths: set[str]) -> tuple[dict[str, tuple[Point, float]], set[str]]:
    """Finished trials by their point, and the points at work; one that ended early or failed has accuracy 0."""
    out: dict[str, tuple[Point, float]] = {}
    busy = set()
    for trial in study.get_trials(deepcopy=False):
        point = {path: value for path, value in trial.params.items() if path in paths}
        if trial.state == TrialState.RUNNING and len(point) == len(paths):
            busy.add(key_of(point))
        if not trial.state.is_finished() or RECORD not in trial.user_attrs:
            continue
        record = json.loads(trial.user_attrs[RECORD])
        if record.get("state") == "refused":
            continue
        done = trial.state == TrialState.COMPLETE
        out[key_of(point)] = (point, float(record["metrics"][ACCURACY]) if done else 0.0)
    return out, busy
