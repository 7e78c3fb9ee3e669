"""The study database: opened so that it survives writers and deaths, and what its trials are worth to the budget."""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Mapping

import optuna
import psutil
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event

from pipeline.study.spec import Study

RECORD = "record"
HISTORY = "history"
WORKER = "worker"


def connect(url: str, heartbeat_s: int = 15) -> BaseStorage:
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
