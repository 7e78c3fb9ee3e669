"""Stored trials as rows, the front among them, and the hypervolume over time."""

from __future__ import annotations

import json
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study import pareto
from pipeline.study.database import HISTORY, RECORD, counted
from pipeline.study.spec import Study
from pipeline.types import Row


def row(trial: FrozenTrial, spec: Study) -> Row:
    """One stored trial as the report reads it."""
    record = json.loads(trial.user_attrs.get(RECORD, "{}"))
    state = record.get("state") or ("running" if trial.state == TrialState.RUNNING else "lost")
    metrics = record.get("metrics", {})
    feasible = trial.state == TrialState.COMPLETE and all(v <= 0 for v in spec.violations(metrics).values())
    history = tuple((int(step), values) for step, values in json.loads(trial.user_attrs.get(HISTORY, "[]")))
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


def rows(study: optuna.Study, spec: Study) -> list[Row]:
    """Every trial that holds a place in the budget, the feasible non-dominated ones marked."""
    all_rows = [row(t, spec) for t in study.get_trials(deepcopy=False) if counted(t)]
    good = [r for r in all_rows if r.feasible and r.state in ("complete", "cached")]
    members = pareto.front([[r.metrics[name] for name in spec.objectives] for r in good])
    chosen = {good[i].number for i in members}
    return [Row(**{**vars(r), "on_front": r.number in chosen}) for r in all_rows]


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


def hypervolume_history(
    study: optuna.Study, spec: Study, reference: Sequence[float]
) -> tuple[tuple[int, float, float], ...]:
    """(trials finished, seconds since the first trial began, hypervolume) after each finished trial."""
    trials = [t for t in study.get_trials(deepcopy=False) if counted(t) and t.datetime_complete is not None]
    trials.sort(key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type,return-value]
    if not trials:
        return ()
    start = min(t.datetime_start for t in trials if t.datetime_start is not None)
    points: list[list[float]] = []
    volume, history = 0.0, []
    for done, trial in enumerate(trials, start=1):
        here = row(trial, spec)
        if here.feasible and here.state in ("complete", "cached"):
            point = [here.metrics[name] for name in spec.objectives]
            if not any(pareto.dominates(p, point) or p == point for p in points):
                points = [p for p in points if not pareto.dominates(point, p)] + [point]
                volume = pareto.hypervolume(points, reference)
        assert trial.datetime_complete is not None
        history.append((done, (trial.datetime_complete - start).total_seconds(), volume))
    return tuple(history)
