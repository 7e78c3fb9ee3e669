"""The conditional search space: config paths and what they may be.

    net.hidden:            {low: 16, high: 128, log: true}                 integers when both ends are
    learner.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}          floats otherwise
    plan.scheme:           {choices: [ptq, qat]}
    plan.epochs:           {low: 1, high: 4, when: {plan.scheme: qat}}     asked only then
    net.beta:              null                                            not searched after all (`settled`)

A path whose condition fails keeps the value that the config gives it, so that two suggestions that differ
only in an inactive path are one and the same trial.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor

import optuna

from pipeline.types import require

Scalar = bool | int | float | str
LARGEST = 100_000
"""Discrete spaces up to this size are counted; larger ones are not exhausted by any study."""
_KEYS = {"low", "high", "log", "step", "choices", "when"}


@dataclass(frozen=True)
class Axis:
    """One searched config path: a range (`low`, `high`, `log`, `step`) or `choices`, asked `when` others are."""

    path: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[object, ...] = ()
    when: Mapping[str, Sequence[object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranged = self.low is not None and self.high is not None
        require(
            ranged != bool(self.choices), self.path, "give either low and high, or choices", self._given()
        )
        if ranged:
            assert self.low is not None
            assert self.high is not None
            require(self.low <= self.high, self.path, "have low <= high", [self.low, self.high])
            require(not (self.log and self.low <= 0), self.path, "have low > 0 when log", self.low)
            require(not (self.log and self.step), self.path, "not give both log and step", self.step)
            require(self.step is None or self.step > 0, self.path, "have step > 0", self.step)

    def _given(self) -> dict[str, object]:
        return {k: v for k, v in vars(self).items() if k != "path" and v not in (None, (), {}, False)}

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def active(self, params: Mapping[str, object]) -> bool:
        return all(params.get(path) in allowed for path, allowed in self.when.items())

    def values(self) -> tuple[object, ...] | None:
        """Every value, or None where there is a continuum."""
        if self.choices:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            return tuple(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step:
            count = floor((self.high - self.low) / self.step + 1e-9) + 1
            return tuple(self.low + i * self.step for i in range(count))
        return (self.low,) if self.low == self.high else None

    def holds(self, value: object) -> bool:
        """Whether `value` is one that this axis may take."""
        values = self.values()
        if values is not None and not (self.step and not self.integer):
            return value in values or value in [label(v) for v in values]
        return isinstance(value, int | float) and _within(value, self.low, self.high)

    def suggest(self, trial: optuna.Trial) -> object:
        if self.choices:
            chosen = trial.suggest_categorical(self.path, [label(c) for c in self.choices])
            return next(c for c in self.choices if label(c) == chosen)
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            low, high = int(self.low), int(self.high)
            return trial.suggest_int(self.path, low, high, step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.path, float(self.low), float(self.high), step=self.step, log=self.log)


@dataclass(frozen=True)
class Space:
    """All axes, in an order in which every condition speaks of an earlier axis."""

    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, Axis] = {}
        for axis in self.axes:
            for path, allowed in axis.when.items():
                require(path in seen, f"{axis.path}.when", "name a path searched before it", path)
                known = seen[path].values()
                for value in allowed:
                    possible = known is None or value in known
                    require(possible, f"{axis.path}.when.{path}", f"be one of {list(known or ())}", value)
            seen[axis.path] = axis

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(axis.path for axis in self.axes)

    def suggest(self, trial: optuna.Trial) -> dict[str, object]:
        """Ask Optuna for the active axes only."""
        params: dict[str, object] = {}
        for axis in self.axes:
            if axis.active(params):
                params[axis.path] = axis.suggest(trial)
        return params

    def restrict(self, params: Mapping[str, object]) -> dict[str, object]:
        """The part of `params` that this space asks for, as labels that Optuna can be given in advance."""
        kept: dict[str, object] = {}
        for axis in self.axes:
            if axis.path in params and axis.active(kept):
                kept[axis.path] = params[axis.path]
        return {path: label(value) if self._axis(path).choices else value for path, value in kept.items()}

    def holds(self, params: Mapping[str, object]) -> bool:
        """Whether a point of another study gives every active axis a value that this space has."""
        kept: dict[str, object] = {}
        for axis in self.axes:
            if axis.active(kept):
                if axis.path not in params or not axis.holds(params[axis.path]):
                    return False
                kept[axis.path] = params[axis.path]
        return True

    def outside(self, params: Mapping[str, object]) -> list[str]:
        """What of a point this space does not have: ``net.hidden = 128 is not in [16, 32]``."""
        found = []
        for axis in self.axes:
            if axis.path in params and not axis.holds(params[axis.path]):
                known = f"one of {list(axis.choices)}" if axis.choices else f"in [{axis.low}, {axis.high}]"
                found.append(f"{axis.path} = {params[axis.path]} is not {known}")
        return found

    def size(self) -> int | None:
        """How many different trials there are, or None for a continuum (or for more than 100,000)."""
        if any(axis.values() is None for axis in self.axes):
            return None
        count = sum(1 for _ in self.points(limit=LARGEST + 1))
        return count if count <= LARGEST else None

    def points(self, limit: int) -> Iterator[dict[str, object]]:
        """Every point of a discrete space, at most `limit`."""
        count = 0
        stack: list[tuple[int, dict[str, object]]] = [(0, {})]
        while stack and count < limit:
            depth, params = stack.pop()
            if depth == len(self.axes):
                count += 1
                yield params
                continue
            axis = self.axes[depth]
            values = axis.values() if axis.active(params) else None
            if values is None:
                stack.append((depth + 1, params))
            else:
                stack.extend((depth + 1, {**params, axis.path: value}) for value in reversed(values))

    def _axis(self, path: str) -> Axis:
        return next(axis for axis in self.axes if axis.path == path)


def parse(space: Mapping[str, object]) -> Space:
    """A `Space` from its YAML form.

    Raises:
        ValueError: an unknown word, a missing end, or a condition on a path that is not searched before.
    """
    axes = []
    for path, given in _axes(space):
        require(isinstance(given, Mapping), path, "be a mapping such as {low: 2, high: 8}", given)
        assert isinstance(given, Mapping)
        unknown = sorted(set(given) - _KEYS)
        require(not unknown, path, f"use only the words {sorted(_KEYS)}", unknown)
        words = dict(given)
        when = words.pop("when", None) or {}
        assert isinstance(when, Mapping)
        conditions = {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in when.items()}
        choices = words.pop("choices", ())
        require(isinstance(choices, list | tuple), f"{path}.choices", "be a list", choices)
        assert isinstance(choices, list | tuple)
        axes.append(Axis(path=path, choices=tuple(choices), when=conditions, **words))  # type: ignore[arg-type]
    return Space(tuple(axes))


def settled(space: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """The space without the paths that are given as null: they stay at their value in `values` (dotted paths).

    A condition on such a path is decided here: an axis whose condition holds loses it, the others go.
    """
    kept: dict[str, object] = {}
    fixed: set[str] = set()
    for path, given in _axes(space):
        if given is None:
            fixed.add(path)
            continue
        when = given.get("when") if isinstance(given, Mapping) else None
        if not isinstance(given, Mapping) or not isinstance(when, Mapping) or not fixed & set(when):
            kept[path] = given
            continue
        allowed = {k: v if isinstance(v, list | tuple) else (v,) for k, v in when.items()}
        if all(values.get(k) in allowed[k] for k in fixed & set(when)):
            kept[path] = {**given, "when": {k: v for k, v in when.items() if k not in fixed}}
        else:
            fixed.add(path)  # never asked: it, too, stays at its value
    return kept


def paths(space: Mapping[str, object]) -> set[str]:
    """Every path that a space names, those given as null too."""
    return {path for path, _ in _axes(space)}


def _axes(space: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """(path, words); a path may be written dotted or as nested mappings (as the command line does)."""
    for key, given in space.items():
        path = f"{above}{key}"
        if isinstance(given, Mapping) and given and not set(given) & _KEYS:
            yield from _axes(given, f"{path}.")
        else:
            yield path, given


def _within(value: float, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= value <= high


def label(value: object) -> Scalar:
    """Optuna's categories are scalars; lists and mappings become their JSON."""
    if isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)
