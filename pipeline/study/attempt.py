"""One trial from its suggestion to its record: repeated, beaten before training, stopped, failed or complete."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.database import HISTORY, reap
from pipeline.study.ledger import FINGERPRINT
from pipeline.study.results import SAME, row
from pipeline.study.storage import RECORD, WORKER
from pipeline.types import Metrics, TrialEnded

if TYPE_CHECKING:
    from pipeline.study.search import Worker

log = logging.getLogger(__name__)

WAIT_S = (0.1, 5.0)
"""Shortest and longest pause of a worker that waits for others."""
TELL_S = 1.0
"""Metrics of a running trial are written at every rung, and otherwise so often."""
REPEATABLE = ("stopped:silent", "stopped:saturated", "stopped:dominated", "stopped:bound", "failed:nan")
"""Ends that the same configuration meets again: a repeat costs nothing. Crashes and time-outs may be bad luck."""
WAITS = "waits"
"""User attribute of a running trial: true while it waits for the result of an equal one."""
FULL, REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS), (errno.EACCES, errno.EPERM)
BOUND_SCALE = 1 - 1e-9
"""Bounds are sums of floats in another order than the final figures: equal is not beyond."""


@dataclass(frozen=True)
class Outcome:
    """What evaluating one suggestion gives back to the study."""

    metrics: Metrics
    detail: Mapping[str, object] = field(default_factory=dict)


class Bounded(TrialEnded):
    """Already what is known before training is beaten by a finished trial, or beyond a constraint."""

    state = "stopped:bound"


class NoRoom(OSError):
    """The study's folder takes nothing: not the trial's fault, which is given back."""


class TimedOut(TrialEnded):
    """Longer than `trial_timeout_s`."""

    state = "stopped:timeout"


class Attempt:
    """One suggestion, from asking for it to its record."""

    def __init__(self, worker: Worker, trial: optuna.Trial) -> None:
        self.worker, self.trial, self.spec = worker, trial, worker.spec
        self.begin = self._at_work = self._told = time.monotonic()
        self.history: list[tuple[int, dict[str, float]]] = []
        self.constraints: dict[str, float] = {}
        self._heard = 0
        self._known: Metrics = {}

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
            if no_room(error, self.worker.folder):  # nor this: it would meet the next trial as well
                number = getattr(error, "errno", None) or errno.ENOSPC
                raise NoRoom(number, f"trial {self.trial.number} was given back: {error}") from error
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
        self._at_work = time.monotonic()
        priced = worker.rivals.priced(self.spec.objectives)
        if priced or self._bounded():
            bound = worker.bound(params)
            self._check_bound(bound)
            self._known = {n: v for n, v in bound.items() if n in self.spec.objectives} if priced else {}
        begin = time.monotonic()
        outcome = worker.evaluate(params, self._report, trial.number)
        took = round(time.monotonic() - begin, 4)
        result: dict[str, object] = {"metrics": _finite(outcome.metrics), "detail": outcome.detail}
        self._check_objectives(outcome.metrics)
        self._constrain(outcome.metrics)
        return {**result, "evaluated_s": took}

    def _same(self, key: str) -> dict[str, object] | None:
        """The result of the same configuration, waiting for it where another worker has it at hand.

        What waits is not at work: its time runs neither here nor for whoever watches it (`WAITS`).
        """
        waits = False
        for before in self._looked_for(key):
            if before is not None:
                return before
            if not waits:
                waits = True
                self.worker.fuse(lit=False)
                self.trial.set_user_attr(WAITS, True)
        if waits:
            self.worker.fuse(lit=True)
            self.trial.set_user_attr(WAITS, False)
        return None

    def _looked_for(self, key: str) -> Iterator[dict[str, object] | None]:
        """The result of the same configuration, or None as often as there is one at work that may give it."""
        pause = WAIT_S[0]
        while True:
            running = False
            for other in self.worker.ledger.equal(key, self.trial.number):
                if other.state == TrialState.RUNNING:
                    running = running or other.user_attrs.get(WORKER) != self.worker.storage.worker
                elif repeatable(other):
                    yield self._repeat(other)
                    return
            if not running:
                return
            yield None
            time.sleep(pause)
            pause = min(2 * pause, WAIT_S[1])
            reap(self.worker.study, self.spec.retries)
            self.worker.ledger.look()

    def _repeat(self, other: FrozenTrial) -> dict[str, object]:
        before: dict[str, object] = json.loads(other.user_attrs[RECORD])
        if before["state"] == "complete":
            before["state"] = "cached"
            self._constrain(before["metrics"])  # type: ignore[arg-type]
        return {**before, "reason": f"{SAME} {other.number}", "evaluated_s": 0.0}

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
        elapsed = time.monotonic() - self._at_work
        if elapsed > self._timeout:
            raise TimedOut(f"{elapsed:.0f} s at step {step}, more than trial_timeout_s = {self._timeout:g}")
        now = {**self._known, **_finite(metrics)}
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


def repeatable(trial: FrozenTrial) -> bool:
    """Whether a trial's end would be met again by the same configuration."""
    if trial.state == TrialState.COMPLETE:
        return True
    record = json.loads(trial.user_attrs.get(RECORD, '{"state": ""}'))
    return trial.state.is_finished() and record["state"] in REPEATABLE


def no_room(error: BaseException, folder: Path | None = None) -> bool:
    """A full disk, a used-up quota or a file system that has become read-only, as Python or safetensors say it; or a
    place below `folder`, the study's own, that may not be written."""
    code, text = getattr(error, "errno", None), str(error)
    if isinstance(error, NoRoom) or code in FULL or any(words in text for words in map(os.strerror, FULL)):
        return True
    refused = code in REFUSED or any(words in text for words in map(os.strerror, REFUSED))
    return refused and folder is not None and str(folder) in text


def out_of_memory(error: BaseException) -> bool:
    """MemoryError, or what torch says on a CPU or a GPU."""
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "out of memory" in text or "can't allocate memory" in text


def _finite(metrics: Metrics) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
