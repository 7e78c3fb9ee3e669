"""The study database: how it is opened, who is alive in it, and what its trials are worth to the budget."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import optuna
import psutil
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from pipeline.study.spec import Study
from pipeline.study.storage import PATIENCE_S, WORKER, Storage, away
from pipeline.study.storage import RECORD as RECORD
from pipeline.types import DataError

HISTORY = "history"
LOST = "lost"
"""How often the same suggestion was lost with its worker before this trial."""
BUSY = ("too many clients", "remaining connection slots", "starting up", "shutting down", "in recovery")
"""What a PostgreSQL says that will soon have time for us; any other refusal at the start is said at once."""
STUDY_LOCK = 0x534E4E  # one advisory lock per PostgreSQL server: only for making tables and studies


def connect(url: str, patience_s: float = PATIENCE_S, made: bool = False) -> Storage:
    """An RDB storage on SQLite or PostgreSQL; the tables are made where there are none, unless they are `made`.

    A server that is starting or has no free connection is waited for, `patience_s` seconds at most; one that refuses
    the connection only by who joins a study (`made`): it was there.

    Raises:
        DataError: the database cannot be opened, or its driver is not installed.
    """
    if url.startswith(("postgresql://", "postgres://")):
        url = "postgresql+psycopg://" + url.partition("://")[2]
    begin, pause = time.monotonic(), 0.1
    while True:
        try:
            with contextlib.nullcontext() if made else alone(url):
                return Storage(url, identity(), patience_s, made)
        except sqlalchemy.exc.ArgumentError as error:  # not shown: it may hold a password
            raise DataError(
                "storage must be a database address, as sqlite:////folder/study.db or postgresql://user@host/name: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except ImportError as error:
            raise DataError(
                f"{shown(url)} needs a driver: pip install 'snn-pipeline[cluster]' ({error})"
            ) from error
        except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
            reason = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
            # A study that is there had a server: who joins it while that restarts waits, as those inside do.
            busy = any(word in reason for word in BUSY) or (made and away(error))
            if not busy or time.monotonic() - begin > patience_s:
                raise DataError(f"the study database {shown(url)} cannot be opened: {reason}") from error
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(2 * pause, 5.0)


def rehearse(sampler: optuna.samplers.BaseSampler) -> None:
    """Ask a database in memory once: what is imported for the first trial is there for the next process."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storage = Storage("sqlite://", identity())
    study = optuna.create_study(storage=storage, sampler=sampler, directions=["minimize"] * 2)
    study._thread_local.in_optimize_loop = True
    for _ in range(2):
        trial = study.ask()
        x = trial.suggest_float("x", 0.0, 1.0)
        study.tell(trial, (x, 1.0 - x))
    storage.remove_session()
    storage.engine.dispose()


def shown(url: str) -> str:
    """A database address without its password."""
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


@contextlib.contextmanager
def alone(url: str) -> Iterator[None]:
    """One process at a time makes tables and studies: several at once fail, or enqueue the first trials twice.

    Who waits for its turn holds no connection: on a server with few of them, those who wait would otherwise keep the
    one whose turn it is from opening its second.
    """
    address = sqlalchemy.make_url(url)
    if address.drivername.startswith("sqlite"):
        if not address.database or address.database == ":memory:":
            yield
            return
        path = Path(address.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    engine = sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    while True:
        with engine.connect() as connection:
            if connection.scalar(sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": STUDY_LOCK}):
                yield  # closing the connection gives the lock back
                return
        time.sleep(random.uniform(0.02, 0.1))


def backend(study: optuna.Study) -> Storage:
    """The storage below Optuna's cache."""
    inner = getattr(study._storage, "_backend", study._storage)
    assert isinstance(inner, Storage), f"open the study through database.connect, not {type(inner).__name__}"
    return inner


def create(
    storage: Storage,
    name: str,
    study: Study,
    config: Mapping[str, object],
    more: Sequence[Mapping[str, object]] = (),
    data: str | None = None,
) -> optuna.Study:
    """Make (or open) the study, before any worker starts; a new one remembers its config, warm starts and data.

    Warm starts outside the space are left out: a space that was narrowed would be left by its first trials.

    `more`: points tried after `study.warm_start`, from the fronts of other studies. `data`: the data's sha256; that of
    the first who names one stays (`user_attrs["data"]`).
    """
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with alone(storage.url):
        made = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["minimize"] * len(study.objectives),
            load_if_exists=True,
        )
        if "config" not in made.user_attrs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # marked so since 3.2
                made.set_metric_names(list(study.objectives))
            for point in [*(inside for inside in study.warm_start if not study.axes.outside(inside)), *more]:
                made.enqueue_trial(study.axes.restrict(point), skip_if_exists=True)
            made.set_user_attr("config", json.dumps(config))  # in its order: axes may depend on earlier ones
        if data is not None and "data" not in made.user_attrs:
            made.set_user_attr("data", data)
    return made


def stored_config(storage: Storage, name: str) -> dict[str, object] | None:
    """The config under which a study was made, or None where there is none yet."""
    text = _remembered(storage, name).get("config")
    return json.loads(text) if text else None


def stored_data(storage: Storage, name: str) -> str | None:
    """The sha256 of the data with which a study was made, or None where none was named yet."""
    return _remembered(storage, name).get("data")


def _remembered(storage: Storage, name: str) -> Mapping[str, str]:
    if name not in optuna.get_all_study_names(storage):
        return {}
    return optuna.load_study(storage=storage, study_name=name).user_attrs


def identity(pid: int | None = None) -> str:
    """``host/namespace:pid:start``: a reused process number is not mistaken for the worker that had it."""
    pid = os.getpid() if pid is None else pid
    return f"{_machine()}:{pid}:{_start(pid)}"


def _machine() -> str:
    """Host and process namespace: containers of one host may share its name but do not see each other."""
    try:
        return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _start(pid: int) -> int:
    """When a process began, in clock ticks since boot, which no change of the clock moves; 0 where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()
        return 0 if state in "ZX" else int(fields[18])
    except ProcessLookupError:  # it ended between the opening of the file and the reading
        return 0
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return 0
    try:
        return int(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0


def dead(worker: str) -> bool | None:
    """Whether a worker of this machine is gone; None where it runs elsewhere."""
    machine, _, rest = worker.partition(":")
    pid, _, started = rest.partition(":")
    if machine != _machine() or not pid.isdigit():
        return None
    return str(_start(int(pid))) != started


def reap(study: optuna.Study, retries: int = 3, only: Iterable[str] | None = None) -> int:
    """Give up the RUNNING trials whose worker is gone, and put their suggestions back; how many there were.

    A worker of this machine is gone when its process is; one elsewhere when its heartbeat has stopped. `only`:
    these workers, which the caller knows to be dead.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if not running:
        return 0
    known = None if only is None else set(only)
    gone = {t.number: dead(str(t.user_attrs.get(WORKER, ""))) for t in running}
    stale = set(backend(study).stale(study._study_id)) if known is None and None in gone.values() else set()
    lost = 0
    for trial in running:
        worker = trial.user_attrs.get(WORKER, "")
        ended = worker in known if known is not None else gone[trial.number]
        if ended or (ended is None and trial._trial_id in stale):
            lost += give_back(study, trial, retries)
    return lost


def give_back(study: optuna.Study, trial: FrozenTrial, retries: int, blame: bool = True) -> bool:
    """End a RUNNING trial that nobody works on and enqueue its suggestion again; False if it has ended meanwhile.

    A suggestion that took its worker with it `retries` times (`blame`) is at fault itself: it counts as failed.
    """
    storage, trial_id = backend(study), trial._trial_id
    record = json.loads(trial.user_attrs.get(RECORD, "null"))
    losses = int(trial.user_attrs.get(LOST, 0)) + blame
    suggested = dict(trial.system_attrs.get("fixed_params", {})) | dict(trial.params)
    try:
        if record is not None:  # it was through: only Optuna had not been told
            state, values = verdict(record, study.metric_names or ())
            return storage.set_trial_state_values(trial_id, state, values)
        if guilty := blame and losses >= retries:
            reason = f"its worker died {losses} times in this trial: killed, out of memory, or crashed"
            failed = {"state": "failed:killed", "reason": reason}
            storage.set_trial_user_attr(trial_id, RECORD, json.dumps(failed))
        if not storage.set_trial_state_values(trial_id, TrialState.FAIL):
            return False
    except optuna.exceptions.UpdateFinishedTrialError:
        return False
    if suggested and not guilty:
        study.enqueue_trial(suggested, user_attrs={LOST: losses})
    return True


def verdict(record: Mapping[str, object], objectives: Sequence[str]) -> tuple[TrialState, list[float] | None]:
    """What Optuna is told of a record: complete with its values, pruned or failed."""
    state, metrics = str(record["state"]), record.get("metrics")
    if state in ("complete", "cached"):
        assert isinstance(metrics, Mapping)
        return TrialState.COMPLETE, [float(metrics[name]) for name in objectives]
    return (TrialState.PRUNED if state.startswith("stopped") else TrialState.FAIL), None


def counted(trial: FrozenTrial) -> bool:
    """Whether a trial holds a place in the budget: refused, lost and interrupted ones do not."""
    if trial.state == TrialState.FAIL:
        record = trial.user_attrs.get(RECORD)
        return record is not None and json.loads(record)["state"] != "refused"
    return trial.state != TrialState.WAITING


def finished(study: optuna.Study) -> int:
    """Trials that hold a place in the budget and have ended."""
    trials = study.get_trials(deepcopy=False)
    return sum(counted(t) for t in trials if t.state != TrialState.RUNNING)
