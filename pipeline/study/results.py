"""Stored trials as rows, the front among them, and the hypervolume over time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study import pareto
from pipeline.study.database import HISTORY, RECORD, counted
from pipeline.study.ledger import FINGERPRINT, point
from pipeline.study.spec import Study
from pipeline.study.storage import WORKER, Storage
from pipeline.types import PART, DataError, Row

LEAST_FOR_FANOVA = 8
SAME = "same configuration as trial"
"""How the reason of a repeat begins: its result is that of an earlier trial, at no cost."""


def row(trial: FrozenTrial, spec: Study) -> Row:
    """One stored trial as the report reads it."""
    record = json.loads(trial.user_attrs.get(RECORD, "{}"))
    # Until Optuna has been told, a trial runs: its record alone could still be given up.
    state = "running" if trial.state == TrialState.RUNNING else record.get("state", "lost")
    metrics = record.get("metrics", {})
    feasible = trial.state == TrialState.COMPLETE and all(v <= 0 for v in spec.violations(metrics).values())
    told = json.loads(trial.user_attrs.get(HISTORY, "[]"))
    not_curves = {*spec.objectives} - {"validation_error"}  # bounds of prices stand in every report
    history = tuple(
        (int(step), {name: value for name, value in values.items() if name not in not_curves})
        for step, values in told
        if PART not in values
    )
    labels = {axis.path: axis for axis in spec.axes.axes}
    params = {path: _value(labels.get(path), value) for path, value in trial.params.items()}
    return Row(
        number=trial.number,
        state=state,
        params=params,
        metrics=metrics,
        history=history,
        detail=record.get("detail", {}),
        feasible=feasible,
        reason=record.get("reason", ""),
        duration_s=float(record.get("duration_s", 0.0)),
    )


def _value(axis: object, value: object) -> object:
    choices = getattr(axis, "choices", ())
    for choice in choices:
        if value == choice or value == json.dumps(choice, sort_keys=True):
            return choice
    return value


def evaluated(row: Row) -> bool:
    """Whether a trial was begun and has ended; a repeat, of an early end too, took its result from another."""
    return row.state not in ("cached", "running") and not row.reason.startswith(SAME)


class Book:
    """The rows of a study, looked at again and again: a trial that has ended is read once."""

    def __init__(self, study: optuna.Study, spec: Study) -> None:
        self.study, self.spec = study, spec
        self._ended: dict[int, Row] = {}
        self._front: tuple[int, set[int]] = (0, set())

    def rows(self) -> list[Row]:
        """Every trial that holds a place in the budget, the feasible non-dominated ones marked."""
        found = []
        for trial in self.study.get_trials(deepcopy=False):
            if not counted(trial):
                continue
            if trial.number not in self._ended:
                here = row(trial, self.spec)
                if not trial.state.is_finished():
                    found.append(here)
                    continue
                self._ended[trial.number] = here
            found.append(self._ended[trial.number])
        members = self._members(found)
        return [replace(r, on_front=True) if r.number in members else r for r in found]

    def _members(self, found: Sequence[Row]) -> set[int]:
        if self._front[0] != len(self._ended):
            good = [r for r in found if r.feasible and r.state in ("complete", "cached")]
            chosen = pareto.front([[r.metrics[name] for name in self.spec.objectives] for r in good])
            self._front = len(self._ended), {good[i].number for i in chosen}
        return self._front[1]


def rows(study: optuna.Study, spec: Study) -> list[Row]:
    """Every trial that holds a place in the budget, the feasible non-dominated ones marked."""
    return Book(study, spec).rows()


def dominators(rows: Sequence[Row], objectives: Sequence[str]) -> dict[int, tuple[int, ...]]:
    """trial -> the members of the front that are nowhere worse and somewhere better; finished trials only."""
    done = [r for r in rows if r.state in ("complete", "cached") and all(o in r.metrics for o in objectives)]
    points = {r.number: [r.metrics[name] for name in objectives] for r in done}
    members = [r.number for r in done if r.on_front]
    found = {
        number: tuple(m for m in members if pareto.dominates(points[m], point))
        for number, point in points.items()
    }
    return {number: rivals for number, rivals in found.items() if rivals}


def front_params(storage: Storage, name: str) -> list[dict[str, object]]:
    """What the members of another study's front are made of, best first objective first.

    Raises:
        DataError: there is no such study.
    """
    try:
        study = optuna.load_study(storage=storage, study_name=name)
    except KeyError as error:
        known = ", ".join(optuna.get_all_study_names(storage)) or "none"
        raise DataError(f"warm_start_from: there is no study {name!r}; there are: {known}") from error
    members = sorted(study.best_trials, key=lambda t: t.values)
    return [dict(t.params) for t in members]


def exhausted(study: optuna.Study, spec: Study) -> int | None:
    """How many different trials the space has, if all of them were tried; else None."""
    size = spec.axes.size()
    return size if size is not None and len(tried(study.get_trials(deepcopy=False))) >= size else None


def early_end(study: optuna.Study, spec: Study) -> str | None:
    """Why a study is over although its budget is not met, in words; None where it is not."""
    size = exhausted(study, spec)
    return None if size is None else f"the space is exhausted, all {size} points were tried"


def tried(trials: Sequence[FrozenTrial]) -> set[str]:
    """The points of the space that have ended and hold a place in the budget."""
    return {
        point(t)
        for t in trials
        if FINGERPRINT in t.user_attrs and t.state != TrialState.RUNNING and counted(t)
    }


def reference_point(rows: Sequence[Row], spec: Study, baseline: Row | None) -> tuple[float, ...]:
    """The hypervolume's reference: as configured, else 1 for an error and twice the float model's cost.

    Without a float model the largest cost seen stands in, so that such a hypervolume is comparable only within
    one finished study.
    """
    if spec.reference:
        return tuple(float(v) for v in spec.reference)

    def bound(name: str) -> float:
        if name.endswith("_error"):
            return 1.0
        if baseline is not None and baseline.metrics.get(name, 0.0) > 0:
            return 2.0 * baseline.metrics[name]
        return max((r.metrics[name] for r in rows if name in r.metrics), default=1.0) or 1.0

    return tuple(bound(name) for name in spec.objectives)


def pauses(trials: Sequence[FrozenTrial]) -> list[tuple[datetime, float]]:
    """(end, seconds) of each time in which no trial ran, and after which only workers came that were not there before.

    Between two sessions of a study, that is: a short wait of workers that go on is a part of the search.
    """
    ordered = sorted((t for t in trials if t.datetime_start and t.datetime_complete), key=_start)
    last = {t.user_attrs.get(WORKER): i for i, t in enumerate(ordered)}
    found, until, through = [], None, -1
    for i, trial in enumerate(ordered):
        start, end = _start(trial), trial.datetime_complete
        assert end is not None
        if until is not None and start > until and through < i:
            found.append((start, (start - until).total_seconds()))
        until = end if until is None else max(until, end)
        through = max(through, last[trial.user_attrs.get(WORKER)])
    return found


def _start(trial: FrozenTrial) -> datetime:
    assert trial.datetime_start is not None
    return trial.datetime_start


def hypervolume_history(
    study: optuna.Study,
    spec: Study,
    reference: Sequence[float],
    rows: Sequence[Row],
    only: Callable[[Row], bool] = lambda row: True,
) -> tuple[tuple[int, float, float], ...]:
    """(trials finished, seconds since the first trial began, hypervolume) after each finished trial of `rows`.

    Seconds without the `pauses`. `only`: what is counted as a trial.
    """
    by_number = {row.number: row for row in rows}
    trials = [t for t in study.get_trials(deepcopy=False) if counted(t) and t.datetime_complete is not None]
    trials.sort(key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type,return-value]
    if not trials:
        return ()
    start = min(t.datetime_start for t in trials if t.datetime_start is not None)
    idle = pauses(trials)
    points: list[list[float]] = []
    volume, history = 0.0, []
    done = 0
    for trial in trials:
        here = by_number.get(trial.number)
        if here is not None and not only(here):
            continue
        done += 1
        if here is not None and here.feasible and here.state in ("complete", "cached"):
            point = [here.metrics[name] for name in spec.objectives]
            if not any(pareto.dominates(p, point) or p == point for p in points):
                points = [p for p in points if not pareto.dominates(point, p)] + [point]
                volume = pareto.hypervolume(points, reference)
        assert trial.datetime_complete is not None
        slept = sum(seconds for until, seconds in idle if until <= trial.datetime_complete)
        history.append((done, (trial.datetime_complete - start).total_seconds() - slept, volume))
    return tuple(history)


def importance(
    study: optuna.Study, spec: Study, seed: int, rows: Sequence[Row]
) -> dict[str, dict[str, float]]:
    """objective -> parameter -> share of the variance over the complete trials (fANOVA, Hutter et al. 2014).

    Parameters that only some trials have are left out, as fANOVA needs one table. Empty below `LEAST_FOR_FANOVA`
    complete trials or where an objective never changes.
    """
    by_number = {row.number: row.metrics for row in rows}
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < LEAST_FOR_FANOVA:
        return {}
    found: dict[str, dict[str, float]] = {}
    for name in spec.objectives:
        values = {t.number: by_number.get(t.number, {}).get(name, math.nan) for t in done}
        if len(set(values.values())) < 2 or not all(map(math.isfinite, values.values())):
            continue
        try:
            found[name] = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed),
                target=lambda trial, values=values: values[trial.number],  # type: ignore[misc]
            )
        except (ValueError, RuntimeError):
            continue  # nothing to explain: no parameter that all trials share, or none that varies
    return found
