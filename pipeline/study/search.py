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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import HISTORY, RECORD, backend, counted, give_back, reap, verdict
from pipeline.study.results import row, tried
from pipeline.study.rivals import Rivals
from pipeline.study.spec import Study
from pipeline.study.stopping import Never, Stopper
from pipeline.study.storage import HEARTBEAT_S, WORKER
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
        after_trial: Callable[[Row], None] = lambda row: None,
        bound: Bound = lambda params: {},
    ) -> None:
        self.spec, self.study, self.evaluate, self.fingerprint = spec, study, evaluate, fingerprint
        self.stopper: Stopper = stopper or Never()
        self.after_trial, self.bound = after_trial, bound
        self.space = spec.axes
        self.storage = backend(study)
        self._size = self.space.size()
        self.rivals = Rivals(study, self.stopper)
        self._current: int | None = None

    def run(self, limit: int | None = None) -> None:
        """Trials until the budget is met by this and all other workers."""
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        self.study._thread_local.in_optimize_loop = (
            True  # `ask` warns otherwise of heartbeats: they are kept here
        )
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stop,), name="heartbeat", daemon=True)
        beat.start()
        begun, swept, pause = 0, time.monotonic(), WAIT_S[0]
        try:
            while limit is None or begun < limit:
                trials = self.study.get_trials(deepcopy=False)
                held = sum(counted(t) for t in trials)
                running = any(t.state == TrialState.RUNNING for t in trials)
                if self._exhausted(trials) or (held >= self.spec.trials and not running):
                    return
                if ended(self.study.sampler, self.study) is not None:
                    return
                if time.monotonic() - swept > HEARTBEAT_S or held >= self.spec.trials:
                    reap(self.study, self.spec.retries)
                    swept = time.monotonic()
                if held >= self.spec.trials:
                    time.sleep(pause)
                    pause = min(2 * pause, WAIT_S[1])
                    continue
                pause = WAIT_S[0]
                begun += self._one()
        finally:
            stop.set()
            beat.join()
            self.storage.remove_session()

    def _beat(self, stop: threading.Event) -> None:
        """Say that the current trial is alive, for as long as this worker is."""
        while not stop.wait(HEARTBEAT_S):
            current = self._current
            if current is not None:
                try:
                    self.storage.record_heartbeat(current)
                except Exception as error:
                    log.debug("no heartbeat: %s", error)  # the next one may come through

    def _exhausted(self, trials: Sequence[FrozenTrial]) -> bool:
        return self._size is not None and len(tried(trials)) >= self._size

    def _one(self) -> bool:
        """One claimed trial; whether it held a place in the budget."""
        trial = self.study.ask()
        self._current = trial._trial_id
        try:
            earlier = [t for t in self.study.get_trials(deepcopy=False) if t.number < trial.number]
            if not self._admitted(earlier):
                self._end(trial, {"state": "refused"})
                return False
            self._end(trial, _Attempt(self, trial, earlier).record())
        except (KeyboardInterrupt, SystemExit):
            signal.setitimer(signal.ITIMER_REAL, 0)  # heard: whoever insists on it may stop
            frozen = self.storage.get_trial(trial._trial_id)
            give_back(self.study, frozen, self.spec.retries, blame=False)
            raise
        finally:
            self._current = None
        ended = self.storage.get_trial(trial._trial_id)
        if counted(ended):
            self.after_trial(row(ended, self.spec))
        return True

    def _admitted(self, earlier: Sequence[FrozenTrial]) -> bool:
        """Whether there is a place left: by number, so that of two workers at the door the earlier one enters."""
        return sum(counted(t) or t.state == TrialState.WAITING for t in earlier) < self.spec.trials

    def _end(self, trial: optuna.Trial, record: Mapping[str, object]) -> None:
        """The record first and Optuna after it: a worker killed in between has not lost the trial (`reap`)."""
        trial_id = trial._trial_id
        try:
            self.storage.set_trial_user_attr(trial_id, RECORD, json.dumps(record))
            state, values = verdict(record, self.spec.objectives)
            frozen = self.storage.get_trial(trial_id)
            self.study.sampler.after_trial(self.study, frozen, state, values)
            self.storage.set_trial_state_values(trial_id, state, values)
        except optuna.exceptions.UpdateFinishedTrialError:
            # Given up by others (a stopped heartbeat, a clock that jumped): they have given it to someone else.
            log.warning("trial %d was given up by another worker; this result is left out", trial.number)


class _Attempt:
    """One suggestion, from asking for it to its record."""

    def __init__(self, worker: Worker, trial: optuna.Trial, earlier: Sequence[FrozenTrial]) -> None:
        self.worker, self.trial, self.spec, self.earlier = worker, trial, worker.spec, earlier
        self.begin = self._told = time.monotonic()
        self.history: list[tuple[int, dict[str, float]]] = []
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
        if len(self.history) > self._heard:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):  # given up by others: `_end` says so
                self._tell()
        return record

    def _result(self) -> dict[str, object]:
        worker, trial = self.worker, self.trial
        params = worker.space.suggest(trial)
        key = worker.fingerprint(params)
        trial.set_user_attr("fingerprint", key)
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
            for other in self.earlier:
                if other.user_attrs.get("fingerprint") != key:
                    continue
                if (
                    other.state == TrialState.RUNNING
                    and other.user_attrs.get(WORKER) != self.worker.storage.worker
                ):
                    running = True
                elif repeatable(other):
                    return self._repeat(other)
            if not running:
                return None
            time.sleep(pause)
            pause = min(2 * pause, WAIT_S[1])
            reap(self.worker.study, self.spec.retries)
            trials = self.worker.study.get_trials(deepcopy=False)
            self.earlier = [t for t in trials if t.number < self.trial.number]

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
        return any(all(t.values[i] <= f for i, f in zip(errors, floors, strict=True)) for t in self._done())

    def _done(self) -> list[FrozenTrial]:
        return [t for t in self.earlier if t.state == TrialState.COMPLETE]

    def _check_bound(self, bound: Metrics) -> None:
        """End a trial that is beaten, or beyond a constraint, whatever training would make of it."""
        floor = {**dict.fromkeys(self.spec.objectives, 0.0), **self.spec.floors, **bound}
        for name in self.spec.constraints:
            sign, limit = self.spec.bound(name)
            if sign > 0 and floor.get(name, 0.0) * BOUND_SCALE > limit:
                self.trial.set_constraint(name, floor[name] - limit)
                raise Bounded(f"{name} is at least {floor[name]:.4g}, beyond the constraint {limit:.4g}")
        here = [floor[name] * (BOUND_SCALE if name in bound else 1.0) for name in self.spec.objectives]
        for other in self._done():
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
        for name, excess in self.spec.violations(metrics).items():
            self.trial.set_constraint(name, excess)

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
