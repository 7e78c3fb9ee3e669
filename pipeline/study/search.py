"""The loop over Optuna: one study in one database, any number of workers, exactly the budget.

Optuna's own multi-objective loop neither stops a trial early, nor counts exactly, nor remembers; here a trial is
claimed first and counted after, its record (state, reason, metrics, history) lives in the storage where every
worker sees it, and a trial whose worker died is simply not counted, so that another takes its place.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from pipeline.study import pareto
from pipeline.study.space import Space, parse
from pipeline.study.stopping import Never, Stopper
from pipeline.types import Metrics, Report, Row, TrialEnded, require

RECORD = "record"
HISTORY = "history"
WORKER = "worker"
log = logging.getLogger(__name__)


class Samplers(Protocol):
    """A config of an Optuna sampler."""

    def build(self, seed: int) -> optuna.samplers.BaseSampler: ...


@dataclass(frozen=True)
class Outcome:
    """What evaluating one suggestion gives back to the study."""

    metrics: Metrics
    detail: Mapping[str, object] = field(default_factory=dict)


Evaluate = Callable[[Mapping[str, object], Report, int], Outcome]
"""``evaluate(params, report, number)``; raises `TrialEnded` for a trial that ends early."""


@dataclass(frozen=True)
class Study:
    """What is searched, for what, and how long.

    `objectives` are metric names, all minimised. `constraints` bound metrics from above, or from below when the
    bound is written ``{min: 0.9}``. `baseline` is the float model's overrides, evaluated once beside the budget.
    `warm_start` lists points that are tried first. `reference` is the hypervolume's reference point.
    """

    trials: int
    objectives: tuple[str, ...]
    space: Mapping[str, Mapping[str, object]]
    constraints: Mapping[str, object] = field(default_factory=dict)
    baseline: Mapping[str, object] = field(default_factory=dict)
    warm_start: tuple[Mapping[str, object], ...] = ()
    reference: tuple[float, ...] = ()
    finalists: int = 1
    selectors: Mapping[str, object] = field(default_factory=dict)
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        require(self.trials >= 1, "trials", "be >= 1", self.trials)
        require(len(self.objectives) >= 1, "objectives", "name at least one metric", self.objectives)
        require(
            len(set(self.objectives)) == len(self.objectives), "objectives", "not repeat", self.objectives
        )
        require(self.finalists >= 0, "finalists", "be >= 0 seeds", self.finalists)
        right = len(self.reference) in (0, len(self.objectives))
        require(right, "reference", "have one value per objective", self.reference)
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


class Refused(Exception):
    """A claimed trial beyond the budget: given back, never run."""


def open_storage(url: str, heartbeat_s: int = 15) -> BaseStorage:
    """An RDB storage that survives several writers and killed workers.

    SQLite runs in write-ahead mode with a long busy time-out: readers never block the writer, and a commit costs
    one append instead of two syncs. A crash of the machine can lose the last commits, never the database.
    """
    sqlite = url.startswith("sqlite")
    kwargs: dict[str, object] = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", optuna.exceptions.ExperimentalWarning
        )  # heartbeat is marked so since 2.0
        storage = optuna.storages.RDBStorage(
            url, engine_kwargs=kwargs, heartbeat_interval=heartbeat_s, grace_period=heartbeat_s * 4
        )
    if sqlite:
        event.listen(storage.engine, "connect", _write_ahead)
        storage.engine.dispose()
    return storage


def _write_ahead(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def create(storage: BaseStorage, name: str, study: Study, config: Mapping[str, object]) -> optuna.Study:
    """Make (or open) the study, before any worker starts; a new one remembers its config and its warm starts."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    made = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize"] * len(study.objectives), load_if_exists=True
    )
    if "config" not in made.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # marked so since 3.2
            made.set_metric_names(list(study.objectives))
        for point in study.warm_start:
            made.enqueue_trial(study.axes.restrict(point), skip_if_exists=True)
        made.set_user_attr("config", json.dumps(config, sort_keys=True))
    return made


def stored_config(storage: BaseStorage, name: str) -> dict[str, object] | None:
    """The config under which a study was made, or None where there is none yet."""
    if name not in optuna.get_all_study_names(storage):
        return None
    text = optuna.load_study(storage=storage, study_name=name).user_attrs.get("config")
    return json.loads(text) if text else None


def identity() -> str:
    """host:pid:start, so that a reused process number is not mistaken for the worker that had it."""
    return f"{socket.gethostname()}:{os.getpid()}:{int(psutil.Process().create_time())}"


def reap(study: optuna.Study) -> int:
    """Give up the RUNNING trials whose worker on this machine is gone; how many there were.

    Workers on other machines are left to the storage's heartbeat.
    """
    lost = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        host, _, rest = str(trial.user_attrs.get(WORKER, "")).partition(":")
        if host != socket.gethostname():
            continue
        pid, _, started = rest.partition(":")
        try:
            alive = int(psutil.Process(int(pid)).create_time()) == int(started)
        except (psutil.NoSuchProcess, ValueError):
            alive = False
        if not alive:
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            lost += 1
    return lost


def counted(trial: FrozenTrial) -> bool:
    """Whether a trial holds a place in the budget: refused and lost ones do not."""
    if trial.state == TrialState.FAIL:
        record = trial.user_attrs.get(RECORD)
        return record is not None and json.loads(record)["state"] != "refused"
    return trial.state != TrialState.WAITING


def finished(study: optuna.Study) -> int:
    """Trials that hold a place in the budget and have ended."""
    trials = study.get_trials(deepcopy=False)
    return sum(counted(t) for t in trials if t.state != TrialState.RUNNING)


class Worker:
    """Runs trials of one study until the budget is met: claim, ask, evaluate, tell."""

    def __init__(
        self,
        spec: Study,
        study: optuna.Study,
        evaluate: Evaluate,
        fingerprint: Callable[[Mapping[str, object]], str],
        stopper: Stopper | None = None,
        after_trial: Callable[[Row], None] = lambda row: None,
    ) -> None:
        self.spec, self.study, self.evaluate, self.fingerprint = spec, study, evaluate, fingerprint
        self.stopper = stopper or Never()
        self.after_trial = after_trial
        self.space = spec.axes
        self.identity = identity()
        self._number = 0

    def run(self) -> None:
        """Trials until the budget is met by this and all other workers."""
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        while self._open():
            self.study.optimize(self._objective, n_trials=1, catch=(Exception,))
            trial = self.study.get_trials(deepcopy=False)[self._number]
            if counted(trial):
                self.after_trial(row(trial, self.spec))

    def _open(self) -> bool:
        trials = self.study.get_trials(deepcopy=False)
        return sum(counted(t) for t in trials) < self.spec.trials and not self._exhausted(trials)

    def _exhausted(self, trials: Sequence[FrozenTrial]) -> bool:
        size = self.space.size()
        if size is None:
            return False
        seen = {t.user_attrs["fingerprint"] for t in trials if "fingerprint" in t.user_attrs and counted(t)}
        return len(seen) >= size

    def _objective(self, trial: optuna.Trial) -> tuple[float, ...]:
        """One claimed trial. The record is written before Optuna is told, so that both are there or neither."""
        self._number = trial.number
        trial.set_user_attr(WORKER, self.identity)
        earlier = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
        if sum(counted(t) for t in earlier) >= self.spec.trials:
            trial.set_user_attr(RECORD, json.dumps({"state": "refused"}))
            raise Refused
        begin = time.monotonic()
        record: dict[str, object] = {"state": "complete", "reason": ""}
        try:
            params = self.space.suggest(trial)
            key = self.fingerprint(params)
            trial.set_user_attr("fingerprint", key)
            known = next((t for t in earlier if _reusable(t, key)), None)
            if known is not None:
                before = json.loads(known.user_attrs[RECORD])
                record |= {
                    **before,
                    "state": "cached",
                    "reason": f"same configuration as trial {known.number}",
                }
            else:
                outcome = self.evaluate(params, self._report(trial), trial.number)
                record |= {"metrics": _finite(outcome.metrics), "detail": outcome.detail}
            values = self._values(record)
            for name, excess in self.spec.violations(record["metrics"]).items():  # type: ignore[arg-type]
                trial.set_constraint(name, excess)
            return values
        except TrialEnded as ended:
            record |= {"state": ended.state, "reason": str(ended)}
            if ended.state.startswith("failed"):
                raise
            raise optuna.TrialPruned(str(ended)) from ended
        except Exception as error:
            record |= {"state": f"failed:{type(error).__name__}", "reason": str(error)}
            log.warning("trial %d failed: %s: %s", trial.number, type(error).__name__, error)
            raise
        finally:
            record["duration_s"] = round(time.monotonic() - begin, 3)
            trial.set_user_attr(RECORD, json.dumps(record))

    def _values(self, record: Mapping[str, object]) -> tuple[float, ...]:
        metrics = record["metrics"]
        assert isinstance(metrics, Mapping)
        missing = [name for name in self.spec.objectives if name not in metrics]
        if missing:
            raise KeyError(f"study.objectives must be among {sorted(metrics)}, but got {missing}")
        values = tuple(float(metrics[name]) for name in self.spec.objectives)
        if not all(math.isfinite(v) for v in values):
            raise ArithmeticError(
                f"objectives are not finite: {dict(zip(self.spec.objectives, values, strict=True))}"
            )
        return values

    def _report(self, trial: optuna.Trial) -> Report:
        history: list[tuple[int, dict[str, float]]] = []

        def report(step: int, metrics: Metrics) -> None:
            history.append((step, _finite(metrics)))
            trial.set_user_attr(HISTORY, json.dumps(history))
            if isinstance(self.stopper, Never):
                return
            rivals = []
            for other in self.study.get_trials(deepcopy=False):
                if other.number != trial.number and HISTORY in other.user_attrs:
                    past = dict(json.loads(other.user_attrs[HISTORY]))
                    if step in past:
                        rivals.append(past[step])
            if self.stopper.hopeless(step, metrics, rivals):
                raise self.stopper.ended(step)

        return report


def _reusable(trial: FrozenTrial, key: str) -> bool:
    return trial.state == TrialState.COMPLETE and trial.user_attrs.get("fingerprint") == key


def _finite(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


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
