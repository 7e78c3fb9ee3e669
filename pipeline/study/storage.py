"""Optuna's RDB storage made safe for many writers, dying workers and a database that goes away for a while.

What plain `RDBStorage` leaves open and this closes (Optuna 5.0):

- A trial is created, then says whose it is, then beats: a worker killed in between leaves a trial RUNNING for
  ever. Here number, worker and first heartbeat are one transaction.
- On SQLite a claim reads and then writes without a lock, so that two workers can take one waiting trial. Here
  every writing call is one ``BEGIN IMMEDIATE`` transaction.
- A lost connection or a lock ends the worker. Here every call is tried again for `patience_s` seconds.
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

log = logging.getLogger(__name__)

WORKER = "worker"
HEARTBEAT_S, GRACE_S = 15, 90
PATIENCE_S = 120.0
SQLITE_BUSY_S = 5.0
LASTING = (
    "disk is full", "readonly", "read-only", "disk i/o", "unable to open", "not a database", "malformed",
    "no such table", "does not exist", "authentication failed",
)  # fmt: skip
"""What waiting does not mend: said at once."""


class Storage(RDBStorage):
    """An RDB storage whose new trials belong to `worker` (see the module's text)."""

    def __init__(self, url: str, worker: str, patience_s: float = PATIENCE_S) -> None:
        self.worker, self.patience_s = worker, patience_s
        self.sqlite = url.startswith("sqlite")
        self._mode = threading.local()
        kwargs: dict[str, Any] = {"pool_pre_ping": True}
        if self.sqlite:
            kwargs = {"connect_args": {"timeout": SQLITE_BUSY_S}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # so marked since 2.0
            super().__init__(url, engine_kwargs=kwargs, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        if self.sqlite:
            event.listen(self.engine, "connect", _write_ahead)
            event.listen(self.engine, "begin", self._begin)
            self.engine.dispose()

    def _begin(self, connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if getattr(self._mode, "reading", False) else "BEGIN IMMEDIATE")

    def get_heartbeat_interval(self) -> int | None:
        """None: Optuna neither beats nor looks for stale trials on its own, once per trial; the worker does."""
        return None

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> models.TrialModel:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        return trial

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        own = create_trial(state=TrialState.RUNNING, user_attrs={WORKER: self.worker})
        return super()._create_new_trial(study_id, template_trial or own)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)  # first, so that a claim that dies half way goes stale
            won = super().set_trial_state_values(trial_id, state, values)
            if won:
                self.set_trial_user_attr(trial_id, WORKER, self.worker)
            return won
        return super().set_trial_state_values(trial_id, state, values)

    def stale(self, study_id: int) -> list[int]:
        """Trials that run but have not beaten for `GRACE_S`, by the database's clock."""
        return self._get_stale_trial_ids(study_id)


def _write_ahead(connection: Any, _record: object) -> None:
    """Readers never block the writer, and a commit is one append; only a crash of the machine can lose the last."""
    connection.isolation_level = None  # BEGIN is said by `Storage._begin`
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def away(error: BaseException) -> bool:
    """Whether this is a database that may be back soon, rather than one that is broken or full."""
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
    wrong = isinstance(cause, IntegrityError | DataError | ProgrammingError)
    if wrong or not isinstance(cause, SQLAlchemyError):
        return False
    # A dying server shows as an operational error, or as whatever the half-closed session makes of it.
    return not any(word in str(cause).lower() for word in LASTING)


def _guarded(method: Callable[..., Any], reading: bool) -> Callable[..., Any]:
    """`method` inside the right kind of transaction, again and again while the database is away."""

    @functools.wraps(method)
    def call(self: Storage, *args: Any, **kwargs: Any) -> Any:
        outer = getattr(self._mode, "reading", None)
        deadline, pause = time.monotonic() + self.patience_s, 0.05
        while True:
            self._mode.reading = reading
            try:
                return method(self, *args, **kwargs)
            except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
                if outer is not None or not away(error) or time.monotonic() > deadline:
                    raise
                if pause > 1.0:
                    log.warning("the study database is away (%s); trying again", _reason(error))
            finally:
                self._mode.reading = outer
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 5.0)

    return call


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().splitlines()[0]


READING = (
    "get_trial", "get_all_trials", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id",
    "get_study_directions", "get_study_user_attrs", "get_study_system_attrs", "get_trial_user_attrs",
    "get_trial_system_attrs", "get_trial_id_from_study_id_trial_number", "get_trial_param", "_get_trials", "stale",
)  # fmt: skip
WRITING = (
    "create_new_study", "delete_study", "set_study_user_attr", "set_study_system_attr", "create_new_trial",
    "_create_new_trial", "set_trial_param", "_set_trial_param", "set_trial_state_values", "set_trial_user_attr",
    "set_trial_system_attr", "record_heartbeat",
)  # fmt: skip
for _names, _reading in ((READING, True), (WRITING, False)):
    for _name in _names:
        setattr(Storage, _name, _guarded(getattr(Storage, _name), _reading))
