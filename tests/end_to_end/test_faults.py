"""What can go wrong while a study runs, made to go wrong: real processes, real signals, real locks."""

import json
import os
import random
import signal
import sqlite3
import threading
import time

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState

from pipeline import launch
from pipeline.nursery import Nursery
from pipeline.study import database, results, search
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.study.storage import WORKER

SPACE = {"x": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b"]}}


def spec(**changes):
    return Study(**{"trials": 60, "objectives": ("error", "price"), "space": SPACE, "retries": 30, **changes})


def key(params):
    return json.dumps(params, sort_keys=True)


def priced(params, report, number):
    time.sleep(0.03)
    report(1, {"validation_error": 1 - params["x"]})
    return Outcome({"error": 1 - params["x"], "price": params["x"] ** 2 + (params["kind"] == "b")})


def serve(url, index, trials):
    study = optuna.load_study(storage=database.connect(url), study_name="s")
    study.sampler = optuna.samplers.RandomSampler(seed=index)
    Worker(spec(trials=trials), study, priced, key).run()


def opened(tmp_path, given):
    url = f"sqlite:///{tmp_path}/study.db"
    return url, database.create(database.connect(url), "s", given, {"config": 1})


def test_twenty_killed_workers_lose_nothing_and_count_nothing_twice(tmp_path):
    url, study = opened(tmp_path, spec())
    dice = random.Random(1)
    seen: dict[int, tuple] = {}
    shot: set[int] = set()
    index = 0
    with Nursery() as nursery:
        team = {nursery.start(serve, url, index := index + 1, 60) for _ in range(2)}
        while team:
            time.sleep(dice.uniform(0.0, 0.15))
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                seen.setdefault(trial.number, (trial.values, trial.params))
            alive = sorted(pid for pid in team - shot if database._start(pid))
            if len(shot) < 20 and alive:
                target = dice.choice(alive)
                os.kill(target, signal.SIGKILL)
                shot.add(target)
            for pid, code in nursery.ended():
                team.discard(pid)
                if code != 0:  # as the driver does
                    database.reap(study, retries=30)
                    team.add(nursery.start(serve, url, index := index + 1, 60))
    assert len(shot) == 20
    trials = study.get_trials(deepcopy=False)
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    counted = [t for t in trials if database.counted(t)]
    assert len(counted) == 60, "exactly the budget"
    for number, (values, params) in seen.items():
        assert trials[number].state == TrialState.COMPLETE, "a finished trial stays finished"
        assert (trials[number].values, trials[number].params) == (values, params)
    rows = results.rows(study, spec())
    assert len({r.number for r in rows}) == 60
    mine = sorted(r.number for r in rows if r.on_front)
    assert mine == sorted(t.number for t in study.best_trials), "the front is that of the storage"


def test_a_locked_database_is_waited_for(tmp_path):
    url, study = opened(tmp_path, spec(trials=8))
    locker = sqlite3.connect(tmp_path / "study.db", isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(7.0, lambda: locker.execute("ROLLBACK"))  # longer than SQLite's own patience
    release.start()
    begin = time.monotonic()
    serve(url, 0, 8)
    assert time.monotonic() - begin > 6
    assert [r.state for r in results.rows(study, spec(trials=8))] == ["complete"] * 8
    release.join()
    locker.close()


def test_a_full_disk_ends_the_worker_at_once_and_a_resume_finishes(tmp_path):
    url, study = opened(tmp_path, spec(trials=40))
    storage = database.connect(url)
    full = optuna.load_study(storage=storage, study_name="s")
    with storage.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def _limit(connection, record):
        connection.execute(f"PRAGMA max_page_count={pages + 4}")

    storage.engine.dispose()
    begin = time.monotonic()
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        Worker(spec(trials=40), full, priced, key).run()
    assert "full" in str(caught.value.__cause__)
    assert time.monotonic() - begin < 30, "a full disk is not waited for"
    before = database.finished(study)
    # The process is alive, so its last trial is given up by hand, as a driver does for a worker that has ended.
    database.reap(study, only=[storage.worker])
    serve(url, 1, 40)
    assert len(results.rows(study, spec(trials=40))) == 40
    assert database.finished(study) == 40 > before


def test_a_folder_that_cannot_be_made_is_said_and_not_waited_for(tmp_path):
    folder = tmp_path / "gone"
    folder.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="File exists"):
        database.connect(f"sqlite:///{folder}/study.db")


def hang(url):
    def forever(params, report, number):
        while True:
            time.sleep(0.05)

    study = optuna.load_study(storage=database.connect(url), study_name="s")
    Worker(spec(), study, forever, key).run()


def test_a_hanging_trial_is_killed_named_and_counted(tmp_path):
    url, study = opened(tmp_path, spec())
    with Nursery() as nursery:
        pid = nursery.start(hang, url)
        watch = launch.Watch(study, timeout_s=0.5)
        deadline = time.monotonic() + 30
        while not watch.killed and time.monotonic() < deadline:
            watch.look({pid: 0})
            time.sleep(0.1)
        assert watch.killed == {pid}
        while not (ended := nursery.ended()):
            time.sleep(0.05)
        assert ended == [(pid, -signal.SIGKILL)]
    (row,) = results.rows(study, spec())
    assert row.state == "stopped:timeout"
    assert "trial_timeout_s" in row.reason


def test_a_slow_trial_ends_itself_at_its_next_report(tmp_path):
    _, study = opened(tmp_path, spec(trials=1))

    def slow(params, report, number):
        time.sleep(0.3)
        report(1, {"validation_error": 0.5})
        raise AssertionError("not reached")

    Worker(spec(trials=1, trial_timeout_s=0.2), study, slow, key).run()
    assert results.rows(study, spec())[0].state == "stopped:timeout"


def test_out_of_memory_has_its_name_and_the_study_goes_on(tmp_path):
    _, study = opened(tmp_path, spec(trials=3))

    def hungry(params, report, number):
        if number == 0:
            np.ones((1 << 24, 1 << 24))
        if number == 1:
            torch.ones(1 << 58)
        return priced(params, report, number)

    Worker(spec(trials=3), study, hungry, key).run()
    assert [r.state for r in results.rows(study, spec())] == ["failed:memory", "failed:memory", "complete"]


def test_a_suggestion_that_kills_every_worker_is_given_up_by_name(tmp_path):
    _, study = opened(tmp_path, spec(trials=2, retries=2))
    storage = database.backend(study)
    for _ in range(2):
        study._thread_local.in_optimize_loop = True
        trial = study.ask()
        spec().axes.suggest(trial)
        trial.set_user_attr(WORKER, "elsewhere:1:1")
        assert database.reap(study, retries=2, only=["elsewhere:1:1"]) == 1
    (row,) = results.rows(study, spec())
    assert row.state == "failed:killed"
    assert "died 2 times" in row.reason
    assert storage.worker


def test_a_stopped_heartbeat_gives_the_trial_to_another_worker_and_a_late_result_is_left_out(tmp_path):
    """As after a clock that jumped: the database believes that a living worker elsewhere is gone."""
    _, study = opened(tmp_path, spec(trials=3))

    def jumped(params, report, number):
        if number == 0:
            with sqlite3.connect(tmp_path / "study.db") as connection:
                connection.execute("update trial_heartbeats set heartbeat = '2000-01-01 00:00:00'")
                connection.execute(
                    "update trial_user_attributes set value_json = '\"elsewhere:1:1\"' where key = 'worker'"
                )
            assert database.reap(study) == 1
        return priced(params, report, number)

    Worker(spec(trials=3), study, jumped, key).run()
    trials = study.get_trials(deepcopy=False)
    assert trials[0].state == TrialState.FAIL
    assert trials[1].params == trials[0].params, "the same suggestion again"
    assert [r.number for r in results.rows(study, spec(trials=3))] == [1, 2, 3]


def test_a_record_without_a_verdict_is_finished_by_the_reaper(tmp_path):
    """Killed between writing the result and telling Optuna."""
    _, study = opened(tmp_path, spec(trials=1))
    study._thread_local.in_optimize_loop = True
    trial = study.ask()
    record = {"state": "complete", "metrics": {"error": 0.25, "price": 2.0}}
    trial.set_user_attr("record", json.dumps(record))
    trial.set_user_attr(WORKER, "elsewhere:1:1")
    database.reap(study, only=["elsewhere:1:1"])
    (done,) = study.get_trials(deepcopy=False)
    assert done.state == TrialState.COMPLETE
    assert done.values == [0.25, 2.0]


def test_workers_end_when_their_driver_is_killed(tmp_path):
    url, study = opened(tmp_path, spec())
    read, write = os.pipe()
    driver = os.fork()
    if driver == 0:
        nursery = Nursery()
        pid = nursery.start(hang, url)
        os.write(write, str(pid).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(read, 32))
    deadline = time.monotonic() + 20
    while not study.get_trials(deepcopy=False) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(driver, signal.SIGKILL)
    os.waitpid(driver, 0)
    while database._start(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert database._start(worker) == 0, "the worker has ended itself"
    database.reap(study)
    assert not study.get_trials(states=(TrialState.RUNNING,))


def test_a_process_that_ends_while_it_is_looked_at_is_gone(monkeypatch):
    """The kernel opens the file of a living process and refuses to read that of a dead one."""
    assert database._start(os.getpid()) > 0

    def gone(_path, *_args, **_kwargs):
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(database.Path, "read_text", gone)
    assert database._start(os.getpid()) == 0


def test_bounds_end_hopeless_trials_before_training(tmp_path):
    given = spec(trials=30, constraints={"price": 1.5}, floors={"error": 0.2}, objectives=("error", "price"))
    _, study = opened(tmp_path, given)
    trained = []

    def evaluate(params, report, number):
        trained.append(params)
        return Outcome({"error": 0.2, "price": 1.0 + params["x"]})

    Worker(given, study, evaluate, key, bound=lambda params: {"price": 1.0 + params["x"]}).run()
    rows = results.rows(study, given)
    ended = [r for r in rows if r.state == search.Bounded.state]
    assert len(trained) + len(ended) == 30
    assert any("beyond the constraint 1.5" in r.reason for r in ended)
    assert all(params["x"] <= 0.5 for params in trained), "nothing beyond the constraint was trained"
    asked = [params["x"] for params in trained]
    assert asked == sorted(asked, reverse=True), "only what may still be cheaper is trained"
