"""The loop over Optuna: one study in one database, any number of workers, exactly the budget.

Optuna's own multi-objective loop neither stops a trial early, nor counts exactly, nor remembers; here a trial is
claimed first and counted after, its record (state, reason, metrics, history) lives in the storage where every
worker sees it, and a trial whose worker died is not counted: its suggestion is given to another worker.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.attempt import WAIT_S, Attempt, Bounded, Outcome, TimedOut
from pipeline.study.database import HISTORY, backend, counted, give_back, reap, verdict
from pipeline.study.ledger import Ledger
from pipeline.study.results import row
from pipeline.study.rivals import Rivals
from pipeline.study.spec import Study
from pipeline.study.stopping import Never, Stopper
from pipeline.study.storage import HEARTBEAT_S, RECORD, WORKER
from pipeline.types import Dominated, Metrics, Report, Row, TrialEnded

log = logging.getLogger(__name__)


@runtime_checkable
class Samplers(Protocol):
    """A config of an Optuna sampler; one whose search ends by itself also has ``ended(study)``, as `ended` says."""

    def build(self, seed: int) -> optuna.samplers.BaseSampler: ...


def ended(sampler: object, study: optuna.Study) -> str | None:
    """How a search that ends by itself (the ordered one) has ended, in words; None: it goes on, or never ends."""
    ask = getattr(sampler, "ended", None)
    said: str | None = None if ask is None else ask(study)
    return said


Evaluate = Callable[[Mapping[str, object], Report, int], Outcome]
"""``evaluate(params, report, number)``; raises `TrialEnded` for a trial that ends early."""
Bound = Callable[[Mapping[str, object]], Metrics]
"""``bound(params)``: what metrics of this suggestion cannot fall below, known before it is trained."""


class Worker:
    """Runs trials of one study until the budget is met: claim, ask, evaluate, tell.

    A worker that finds every place of the budget taken waits for the others: if one of them dies, its trial is
    done here. `limit`: the most trials this worker runs (the budget is the study's). `folder`: what it keeps of a
    trial lies below it; where the system refuses that, no trial is at fault.
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
        folder: Path | None = None,
    ) -> None:
        self.spec, self.study, self.evaluate, self.fingerprint = spec, study, evaluate, fingerprint
        self.stopper: Stopper = stopper or Never()
        self.after_trial, self.bound, self.folder = after_trial, bound, folder
        self.space = spec.axes
        self.storage = backend(study)
        self._size = self.space.size()
        self.rivals = Rivals(study, self.stopper)
        self.ledger = Ledger(study)
        self._current: int | None = None
        self._swept, self._doubt = time.monotonic(), True
        self._fuse_s: float | None = None

    def run(self, limit: int | None = None, fuse_s: float | None = None) -> None:
        """Trials until the budget is met by this and all other workers.

        `fuse_s`: a trial that takes longer ends this process, for workers whom nobody can kill from outside. It needs
        no cooperation of the trial: Python's fault handler waits in a thread of its own without the interpreter lock.
        """
        self._fuse_s = fuse_s
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
                near = ledger.held + 2 * ledger.running + 2 > self.spec.trials or self._size is not None
                if self._doubt or near:  # far from the end, the look after the claim is enough
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
            attempt = Attempt(self, trial)
            self.fuse(lit=True)
            self._end(trial, attempt.record(), attempt)
        except (KeyboardInterrupt, SystemExit):
            signal.setitimer(signal.ITIMER_REAL, 0)  # heard: whoever insists on it may stop
            self._give_up(trial)
            raise
        except OSError:
            with suppress(optuna.exceptions.StorageInternalError):  # the same disk may be the study's
                self._give_up(trial)
            raise
        finally:
            self.fuse(lit=False)
            self._current = None
            self.storage.forget(trial._trial_id)
        if self.after_trial is not None:
            ended = self.storage.get_trial(trial._trial_id)
            if counted(ended):
                self.after_trial(row(ended, self.spec))
        return True

    def fuse(self, lit: bool) -> None:
        """Light the fuse of this process anew, or put it out; see `run`."""
        if self._fuse_s is not None and lit:
            faulthandler.dump_traceback_later(self._fuse_s, exit=True)
        elif self._fuse_s is not None:
            faulthandler.cancel_dump_traceback_later()

    def _give_up(self, trial: optuna.Trial) -> None:
        frozen = self.storage.get_trial(trial._trial_id)
        give_back(self.study, frozen, self.spec.retries, blame=False)

    def _end(self, trial: optuna.Trial, record: Mapping[str, object], attempt: Attempt | None = None) -> None:
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


__all__ = ["Bounded", "Dominated", "Evaluate", "Outcome", "Samplers", "TimedOut", "Worker"]
