"""The loop over Optuna: one study in one database, any number of workers, exactly the budget.

Optuna's own multi-objective loop neither stops a trial early, nor counts exactly, nor remembers; here a trial is
claimed first and counted after, its record (state, reason, metrics, history) lives in the storage where every
worker sees it, and a trial whose worker died is simply not counted, so that another takes its place.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import HISTORY, RECORD, WORKER, counted, identity
from pipeline.study.results import row
from pipeline.study.spec import Study
from pipeline.study.stopping import Never, Stopper
from pipeline.types import Metrics, Report, Row, TrialEnded

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


class Refused(Exception):
    """A claimed trial beyond the budget: given back, never run."""


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
