"""The loop over Optuna: one study in one database, any number of workers, exactly the budget.

Optuna's own multi-objective loop neither stops a trial early, nor counts exactly, nor remembers; here a trial is
claimed first and counted after, its record (state, reason, metrics, history) lives in the storage where every
worker sees it, and a trial whose worker died is not counted: its suggestion is given to another worker.
"""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import HISTORY, backend, counted, give_back, reap, verdict
from pipeline.study.ledger import FINGERPRINT, Ledger
from pipeline.study.results import row
from pipeline.study.rivals import Rivals
from pipeline.study.spec import Study
from pipeline.study.stopping import Never, Stopper
from pipeline.study.storage import HEARTBEAT_S, RECORD, WORKER
from pipeline.types import Dominated, Metrics, Report, Row, TrialEnded

log = logging.getLogger(__name__)

WAIT_S = (0.1, 5.0)
"""Shortest and longest pause of a worker that waits for others."""
TELL_S = 1.0
"""Metrics of a running trial are written at every rung, and otherwise so often."""
REPEATABLE = ("stopped:silent", "stopped:saturated", "stopped:dominated", "stopped:bound", "failed:nan")
"""Ends that the same configuration meets again: a repeat costs nothing. Crashes and time-outs may be bad luck."""
BOUND_SCALE = 1 - 1e-9
"""Bounds are sums of floats in another order than the final figures: equal is not beyond."""


class Samplers(Protocol):
    """A config of an Optuna sampler; one whose search ends by itself also has ``ended(study)``, as `ended` says."""

    def build(self, seed: int) -> optuna.samplers.BaseSampler: ...


def ended(sampler: object, study: optuna.Study) -> str | None:
    """How a search that ends by itself (the ordered one) has ended, in words; None: it goes on, or never ends."""
    ask = getattr(sampler, "ended", None)
    said: str | None = None if ask is None else ask(study)
    return said


@dataclass(frozen=True)
class Outcome:
    """What evaluating one suggestion gives back to the study."""

    metrics: Metrics
    detail: Mapping[str, object] = field(default_factory=dict)


Evaluate = Callable[[Mapping[str, object], Report, int], Outcome]
"""``evaluate(params, report, number)``; raises `TrialEnded` for a trial that ends early."""
Bound = Callable[[Mapping[str, object]], Metrics]
"""``bound(params)``: what metrics of this suggestion cannot fall below, known before it is trained."""


class Bounded(TrialEnded):
    """Already what is known before training is beaten by a finished trial, or beyond a constraint."""

    state = "stopped:bound"


class TimedOut(TrialEnded):
    """Longer than `trial_timeout_s`."""

    state = "stopped:timeout"


class Worker:
    """Runs trials of one study until the budget is met: claim, ask, evaluate, tell.

    A worker that finds every place of the budget taken waits for the others: if one of them dies, its trial is
    done here. `limit`: the most trials this worker runs (the budget is the study's).
    """

    def __init__(
        self,
        spec: Study,
        study: optuna.Study,
        evaluate: Evaluate,
        fingerprint: Callable[[Mapping[str, object]], str],
        stopper: Stopper | None = None,
        after_trial: Callable[[Row], None] | None = None,
        bound: Bound = lambda params: {},
    ) -> None:
        self.spec, self.study, self.evaluate, self.fingerprint = spec, study, evaluate, fingerprint
        self.stopper: Stopper = stopper or Never()
        self.after_trial, self.bound = after_trial, bound
        self.space = spec.axes
        self.storage = backend(study)
        self._size = self.space.size()
        self.rivals = Rivals(study, self.stopper)
        self.ledger = Ledger(study)
        self._current: int | None = None
        self._swept, self._doubt = time.monotonic(), True

    def run(self, limit: int | None = None) -> None:
        """Trials until the budget is met by this and all other workers."""
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        self.study._thread_local.in_optimize_loop = (
            True  # `ask` warns otherwise of heartbeats: they are kept here
        )
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), name="heartbeat", daemon=True)
        beat.start()
        begun, pause = 0, WAIT_S[0]
        self._swept, self._doubt = time.monotonic(), True
        try:
            while limit is None or begun < limit:
                ledger = self.ledger
                if self._doubt or ledger.held + 2 * ledger.running + 2 > self.spec.trials:
                    ledger.look()
                held = ledger.held
                if self._exhausted() or (held >= self.spec.trials and not ledger.running):
                    return
                if ended(self.study.sampler, self.study) is not None:
                    return
                self._sweep(at_once=held >= self.spec.trials)
                if held >= self.spec.trials:
                    self._doubt = True
                    time.sleep(pause)
                    pause = min(2 * pause, WAIT_S[1])
                    continue
                pause = WAIT_S[0]
                begun += self._one()
        finally:
            stop.set()
            beat.join()
            self.storage.remove_session()

    def _sweep(self, at_once: bool) -> None:
        """Give back what dead workers left, and claims of this one whose answer was lost with the connection."""
        if not at_once and time.monotonic() - self._swept < HEARTBEAT_S:
            return
        reap(self.study, self.spec.retries)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(WORKER) == self.storage.worker:
                give_back(self.study, trial, self.spec.retries, blame=False)
        self._swept, self._doubt = time.monotonic(), True

    def _beat(self, stop: threading.Event) -> None:
        """Say that the current trial is alive, for as long as this worker is."""
        while not stop.wait(HEARTBEAT_S):
            current = self._current
            if current is not None:
                try:
                    self.storage.record_heartbeat(current)
                except Exception as error:
                    log.debug("no heartbeat: %s", error)  # the next one may come through

    def _exhausted(self) -> bool:
        return self._size is not None and self.ledger.tried >= self._size

    def _one(self) -> bool:
        """One claimed trial; whether it held a place in the budget.

        The study is looked at once, after the claim: for what waits to be taken, the look before serves.
        """
        with self.storage.still():
            trial = self.study.ask()
        self._current = trial._trial_id
        try:
            self.ledger.look()
            # By number, so that of two workers at the door the earlier one enters.
            admitted = self.ledger.held_before(trial.number) < self.spec.trials
            self._doubt = not admitted
            if not admitted:
                self._end(trial, {"state": "refused"})
                return False
            attempt = _Attempt(self, trial)
            self._end(trial, attempt.record(), attempt)
        except (KeyboardInterrupt, SystemExit):
            signal.setitimer(signal.ITIMER_REAL, 0)  # heard: whoever insists on it may stop
            frozen = self.storage.get_trial(trial._trial_id)
            give_back(self.study, frozen, self.spec.retries, blame=False)
            raise
        finally:
            self._current = None
            self.storage.forget(trial._trial_id)
        if self.after_trial is not None:
            ended = self.storage.get_trial(trial._trial_id)
            if counted(ended):
                self.after_trial(row(ended, self.spec))
        return True

    def _end(
        self, trial: optuna.Trial, record: Mapping[str, object], attempt: _Attempt | None = None
    ) -> None:
        """The record and Optuna's verdict at once: a worker killed before has lost the trial, after it has not."""
        trial_id = trial._trial_id
        try:
            with self.storage.still(), self.storage.gather(trial_id):
                if attempt is not None:
                    for name, excess in attempt.constraints.items():
                        trial.set_constraint(name, excess)
                    if attempt.unheard:
                        trial.set_user_attr(HISTORY, json.dumps(attempt.history))
                trial.set_user_attr(RECORD, json.dumps(record))
                state, values = verdict(record, self.spec.objectives)
                frozen = self.storage.get_trial(trial_id)
                self.study.sampler.after_trial(self.study, frozen, state, values)
                self.storage.set_trial_state_values(trial_id, state, values)
        except optuna.exceptions.UpdateFinishedTrialError:
            # Given up by others (a stopped heartbeat, a clock that jumped): they have given it to someone else.
            log.warning("trial %d was given up by another worker; this result is left out", trial.number)


class _Attempt:
    """One suggestion, from asking for it to its record."""

    def __init__(self, worker: Worker, trial: optuna.Trial) -> None:
        self.worker, self.trial, self.spec = worker, trial, worker.spec
        self.begin = self._told = time.monotonic()
        self.history: list[tuple[int, dict[str, float]]] = []
        self.constraints: dict[str, float] = {}
        self._heard = 0

    def record(self) -> dict[str, object]:
        """What happened, by name; never raises but for an interrupt."""
        record: dict[str, object] = {"state": "complete", "reason": ""}
        try:
            record |= self._result()
        except TrialEnded as ended:
            record |= {"state": ended.state, "reason": str(ended)}
        except optuna.exceptions.StorageInternalError:
            raise  # not the trial's fault: the worker ends, and the trial is done again
        except Exception as error:
            name = "memory" if out_of_memory(error) else type(error).__name__
            record |= {"state": f"failed:{name}", "reason": str(error)}
            log.warning("trial %d failed: %s: %s", self.trial.number, type(error).__name__, error)
        record["duration_s"] = round(time.monotonic() - self.begin, 3)
        return record

    @property
    def unheard(self) -> bool:
        """Whether there are reports that are not in the storage yet."""
        return len(self.history) > self._heard

    def _result(self) -> dict[str, object]:
        worker, trial = self.worker, self.trial
        with worker.storage.still(), worker.storage.gather(trial._trial_id):
            params = worker.space.suggest(trial)
            key = worker.fingerprint(params)
            trial.set_user_attr(FINGERPRINT, key)
        before = self._same(key)
        if before is not None:
            return before
        if self._bounded():
            self._check_bound(worker.bound(params))
        begin = time.monotonic()
        outcome = worker.evaluate(params, self._report, trial.number)
        took = round(time.monotonic() - begin, 4)
        result: dict[str, object] = {"metrics": _finite(outcome.metrics), "detail": outcome.detail}
        self._check_objectives(outcome.metrics)
        self._constrain(outcome.metrics)
        return {**result, "evaluated_s": took}

    def _same(self, key: str) -> dict[str, object] | None:
        """The result of the same configuration, waiting for it where another worker has it at hand."""
        pause = WAIT_S[0]
        while True:
            running = False
            for other in self.worker.ledger.equal(key, self.trial.number):
                if other.state == TrialState.RUNNING:
                    running = running or other.user_attrs.get(WORKER) != self.worker.storage.worker
                elif repeatable(other):
                    return self._repeat(other)
            if not running:
                return None
            time.sleep(pause)
            pause = min(2 * pause, WAIT_S[1])
            reap(self.worker.study, self.spec.retries)
            self.worker.ledger.look()

    def _repeat(self, other: FrozenTrial) -> dict[str, object]:
        before: dict[str, object] = json.loads(other.user_attrs[RECORD])
        if before["state"] == "complete":
            before["state"] = "cached"
            self._constrain(before["metrics"])  # type: ignore[arg-type]
        return {**before, "reason": f"same configuration as trial {other.number}", "evaluated_s": 0.0}

    def _bounded(self) -> bool:
        """Whether a bound can decide anything: something has a limit, or a trial is as good as any can be."""
        errors = [i for i, name in enumerate(self.spec.objectives) if name.endswith("_error")]
        floors = [self.spec.floors.get(self.spec.objectives[i], 0.0) for i in errors]
        if any(self.spec.bound(name)[0] > 0 for name in self.spec.constraints):
            return True
        done = self.worker.ledger.complete
        return any(all(t.values[i] <= f for i, f in zip(errors, floors, strict=True)) for t in done)

    def _check_bound(self, bound: Metrics) -> None:
        """End a trial that is beaten, or beyond a constraint, whatever training would make of it."""
        floor = {**dict.fromkeys(self.spec.objectives, 0.0), **self.spec.floors, **bound}
        for name in self.spec.constraints:
            sign, limit = self.spec.bound(name)
            if sign > 0 and floor.get(name, 0.0) * BOUND_SCALE > limit:
                self.constraints[name] = floor[name] - limit
                raise Bounded(f"{name} is at least {floor[name]:.4g}, beyond the constraint {limit:.4g}")
        here = [floor[name] * (BOUND_SCALE if name in bound else 1.0) for name in self.spec.objectives]
        for other in self.worker.ledger.complete:
            beaten = all(v <= h for v, h in zip(other.values, here, strict=True))
            if beaten and row(other, self.spec).feasible:
                said = ", ".join(f"{name} >= {floor[name]:.4g}" for name in self.spec.objectives)
                raise Bounded(f"trial {other.number} is better than what is possible here: {said}")

    def _check_objectives(self, metrics: Metrics) -> None:
        missing = [name for name in self.spec.objectives if name not in metrics]
        if missing:
            raise KeyError(f"study.objectives must be among {sorted(metrics)}, but got {missing}")
        values = {name: float(metrics[name]) for name in self.spec.objectives}
        if not all(math.isfinite(v) for v in values.values()):
            raise ArithmeticError(f"objectives are not finite: {values}")

    def _constrain(self, metrics: Metrics) -> None:
        self.constraints |= self.spec.violations(metrics)

    @cached_property
    def _timeout(self) -> float:
        return self.spec.trial_timeout_s or math.inf

    def _report(self, step: int, metrics: Metrics) -> None:
        """From the learner, after each epoch: keep it where all see it, and end what is not worth finishing."""
        elapsed = time.monotonic() - self.begin
        if elapsed > self._timeout:
            raise TimedOut(f"{elapsed:.0f} s at step {step}, more than trial_timeout_s = {self._timeout:g}")
        now = _finite(metrics)
        if "validation_accuracy" in now:
            now.setdefault("validation_error", 1.0 - now["validation_accuracy"])  # rules minimise
        self.history.append((step, now))
        mark = self.worker.rivals.mark(self.history)
        if mark is not None or time.monotonic() - self._told > TELL_S:
            self._tell()
        if mark is not None:
            self.worker.rivals.face(self.trial.number, self.history[-1][1], mark)

    def _tell(self) -> None:
        """Where all workers see it; not at every epoch of a fast trial, whose writing would cost more than it."""
        self.trial.set_user_attr(HISTORY, json.dumps(self.history))
        self._told, self._heard = time.monotonic(), len(self.history)


def end(study: optuna.Study, trial: FrozenTrial, ended: TrialEnded) -> bool:
    """End another worker's trial by name; False where it has ended itself meanwhile."""
    storage = backend(study)
    took = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else 0.0
    record = {"state": ended.state, "reason": str(ended), "duration_s": round(max(took, 0.0), 3)}
    try:
        storage.set_trial_user_attr(trial._trial_id, RECORD, json.dumps(record))
        return storage.set_trial_state_values(trial._trial_id, *verdict(record, ()))
    except optuna.exceptions.UpdateFinishedTrialError:
        return False


def repeatable(trial: FrozenTrial) -> bool:
    """Whether a trial's end would be met again by the same configuration."""
    if trial.state == TrialState.COMPLETE:
        return True
    record = json.loads(trial.user_attrs.get(RECORD, '{"state": ""}'))
    return trial.state.is_finished() and record["state"] in REPEATABLE


def out_of_memory(error: BaseException) -> bool:
    """MemoryError, or what torch says on a CPU or a GPU."""
    text = str(error).lower()
    kinds = ("MemoryError", "OutOfMemoryError")
    return type(error).__name__ in kinds or "out of memory" in text or "can't allocate memory" in text


def _finite(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


__all__ = ["Bounded", "Dominated", "Evaluate", "Outcome", "Samplers", "TimedOut", "Worker"]
