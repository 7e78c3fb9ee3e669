"""Optuna's RDB storage made safe for many writers, dying workers and a database that goes away for a while.

What plain `RDBStorage` leaves open and this closes (Optuna 5.0):

- A trial is created, then says whose it is, then beats: a worker killed in between leaves a trial RUNNING for
  ever. Here number, worker and first heartbeat are one transaction.
- On SQLite a claim reads and then writes without a lock, so that two workers can take one waiting trial. Here
  every writing call is one ``BEGIN IMMEDIATE`` transaction.
- A lost connection or a lock ends the worker. Here every call is tried again for `patience_s` seconds, and no call
  does more when it is repeated (a commit may be through although its answer was lost).
- A trial costs some thirty transactions. Here it is four (`gather`, `still`, and `pipeline.study.bulk`).
"""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError, SQLAlchemyError

from pipeline.study import bulk
from pipeline.study.bulk import Gathered

log = logging.getLogger(__name__)

RECORD, WORKER = "record", "worker"
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

    def __init__(self, url: str, worker: str, patience_s: float = PATIENCE_S, made: bool = False) -> None:
        """`made`: the tables are there, and of this version (a worker's driver has seen to it)."""
        self.worker, self.patience_s = worker, patience_s
        self.sqlite = url.startswith("sqlite")
        self._mode = threading.local()
        self._mine: dict[int, FrozenTrial] = {}
        self._gathered: dict[int, Gathered] = {}
        self._still = False
        # One connection is kept; the heartbeat's is opened when it beats, because a server has few of them. A dead
        # one is found by the call that meets it.
        kwargs: dict[str, Any] = {"pool_size": 1, "max_overflow": 3}
        if self.sqlite:
            kwargs = {"connect_args": {"timeout": SQLITE_BUSY_S}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # so marked since 2.0
            super().__init__(
                url,
                engine_kwargs=kwargs,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                skip_compatibility_check=made,
                skip_table_creation=made,
            )
        if self.sqlite:
            event.listen(self.engine, "connect", _write_ahead)
            event.listen(self.engine, "begin", self._begin)
            self.engine.dispose()

    def _begin(self, connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if getattr(self._mode, "reading", False) else "BEGIN IMMEDIATE")

    def get_heartbeat_interval(self) -> int | None:
        """None: Optuna neither beats nor looks for stale trials on its own, once per trial; the worker does."""
        return None

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except SQLAlchemyError as error:
            raise optuna.exceptions.StorageInternalError("the study database did not take this") from error

    @contextmanager
    def still(self) -> Iterator[None]:
        """Inside, all trials are what the last look at them found: one look serves a whole suggestion."""
        before, self._still = self._still, True
        try:
            yield
        finally:
            self._still = before

    @contextmanager
    def gather(self, trial_id: int) -> Iterator[None]:
        """Inside, what is set of this worker's trial is kept, and written at the end (or with its last state)."""
        self._gathered[trial_id] = Gathered()
        try:
            yield
        finally:
            left = self._gathered.pop(trial_id)
            if left:
                self._write(trial_id, left)

    def _write(self, trial_id: int, given: Gathered) -> None:
        with self._transaction() as connection:
            self.check_trial_is_updatable(trial_id, bulk.locked_state(connection, trial_id))
            bulk.write(connection, trial_id, given)

    def _place(self, trial_id: int) -> tuple[Gathered, bool]:
        """Where to put what is set of a trial, and whether it is to be written at once."""
        gathered = self._gathered.get(trial_id)
        return (Gathered(), True) if gathered is None else (gathered, False)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        if self._still:
            return []
        named = {i for i in included_trial_ids if i <= trial_id_greater_than}
        with self._transaction() as connection:
            found = bulk.read(connection, study_id, named, trial_id_greater_than)
        return found if states is None else [t for t in found if t.state in states]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        mine = self._mine.get(trial_id)
        if mine is not None:
            return _copied(mine)
        with self._transaction() as connection:
            return bulk.read_one(connection, trial_id)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return dict(self.get_trial(trial_id).system_attrs)

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> models.TrialModel:
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        session.add(models.TrialHeartbeatModel(trial_id=trial.trial_id))
        return trial

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        if template_trial is not None:
            return super()._create_new_trial(study_id, template_trial)
        with self._transaction() as connection:
            made = bulk.claim(connection, study_id, {WORKER: self.worker})
        self._mine[made._trial_id] = made
        return _copied(made)

    def join(self, study_id: int) -> tuple[int, int]:
        """What tells a worker that begins now from all others of the study: (trials so far, its place among those who
        began when there were as many). A lone worker's place is 0."""
        with self._transaction() as connection:
            return bulk.join(connection, study_id)

    def swap(self, study_id: int, key: str, before: object, after: object) -> bool:
        """Set a study's attribute if it is still `before`; False where another process was faster."""
        with self._transaction() as connection:
            return bulk.swap(connection, study_id, key, before, after)

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is not None:
            check_distribution_compatibility(previous_distribution, distribution)
        if trial_id in self._mine:
            mine = self._mine[trial_id]
            mine.params[param_name] = distribution.to_external_repr(param_value_internal)
            mine.distributions[param_name] = distribution
        place, now = self._place(trial_id)
        place.params[param_name] = (param_value_internal, distribution)
        if now:
            self._write(trial_id, place)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id in self._mine:
            self._mine[trial_id].user_attrs[key] = value
        place, now = self._place(trial_id)
        place.user[key] = value
        if now:
            self._write(trial_id, place)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id in self._mine:
            self._mine[trial_id].system_attrs[key] = value
        place, now = self._place(trial_id)
        place.system[key] = value
        if now:
            self._write(trial_id, place)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As Optuna's; a call that is repeated because its answer was lost finds its own work and is content."""
        if state == TrialState.RUNNING:
            return self._take(trial_id)
        gathered, _ = self._place(trial_id)
        with self._transaction() as connection:
            found = bulk.locked_state(connection, trial_id)
            if not (found == state and trial_id in self._mine and self._told(connection, trial_id)):
                self.check_trial_is_updatable(trial_id, found)
                bulk.write(connection, trial_id, gathered)
                bulk.finish(connection, trial_id, state, values)
        if trial_id in self._gathered:
            self._gathered[trial_id] = Gathered()
        self._mine.pop(trial_id, None)
        return True

    def _told(self, connection: Connection, trial_id: int) -> bool:
        mine = self._mine[trial_id].user_attrs.get(RECORD)
        return mine is not None and bulk.attribute(connection, trial_id, RECORD) == mine

    def _take(self, trial_id: int) -> bool:
        """Claim a waiting trial; False where another worker was faster."""
        owner = {WORKER: self.worker}
        with self._transaction() as connection:
            found = bulk.locked_state(connection, trial_id)
            self.check_trial_is_updatable(trial_id, found)
            if found == TrialState.WAITING:
                bulk.take(connection, trial_id, owner)
            elif bulk.attribute(connection, trial_id, WORKER) != self.worker or trial_id in self._mine:
                return False
            mine = bulk.read_one(connection, trial_id)
        self._mine[trial_id] = mine
        return True

    def record_heartbeat(self, trial_id: int) -> None:
        with self._transaction() as connection:
            bulk.beat(connection, trial_id)

    def forget(self, trial_id: int) -> None:
        """What this worker believed of a trial: it is no longer its own."""
        self._mine.pop(trial_id, None)

    def stale(self, study_id: int) -> list[int]:
        """Trials that run but have not beaten for `GRACE_S`, by the database's clock."""
        return self._get_stale_trial_ids(study_id)


def _copied(trial: FrozenTrial) -> FrozenTrial:
    """A trial whose mappings are its own."""
    return FrozenTrial(
        number=trial.number, state=trial.state, value=None, values=trial._values,
        datetime_start=trial.datetime_start, datetime_complete=trial.datetime_complete,
        params=dict(trial.params), distributions=dict(trial.distributions), user_attrs=dict(trial.user_attrs),
        system_attrs=dict(trial.system_attrs), intermediate_values=dict(trial.intermediate_values),
        trial_id=trial._trial_id,
    )  # fmt: skip


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
    "set_trial_system_attr", "record_heartbeat", "_write", "join", "swap",
)  # fmt: skip
for _names, _reading in ((READING, True), (WRITING, False)):
    for _name in _names:
        setattr(Storage, _name, _guarded(getattr(Storage, _name), _reading))
