"""Several machines: a real PostgreSQL on loopback, and a real Ray cluster of two nodes."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from pipeline.nursery import Nursery
from pipeline.study import database, results
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.types import DataError

ROOT = Path(__file__).parent.parent.parent
SPEC = Study(trials=30, objectives=("error", "price"), space={"x": {"low": 0.0, "high": 1.0}})


def beside(name):
    """A script of the benchmarks folder as a module."""
    given = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(given)
    given.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def postgres():
    found = beside("postgres")
    if found.program("initdb") is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL (apt install postgresql) or psycopg (the extra 'cluster') is not installed")
    server = found.Server()
    yield server
    server.remove()


def key(params):
    return json.dumps(params)


def priced(params, report, number):
    time.sleep(0.05)
    return Outcome({"error": 1 - params["x"], "price": params["x"] ** 2})


def serve(url, name, index):
    study = optuna.load_study(storage=database.connect(url, made=True), study_name=name)  # as workers do
    study.sampler = optuna.samplers.RandomSampler(seed=index)
    Worker(SPEC, study, priced, key).run()


@pytest.mark.timeout(120)
def test_a_worker_that_joins_while_the_server_restarts_waits_for_it(postgres):
    """Whoever makes a study hears at once that nobody listens there; who joins one waits."""
    study = database.create(database.connect(postgres.url), "joined", SPEC, {"config": 1})
    postgres.stop()
    with Nursery() as nursery:
        try:
            with pytest.raises(DataError, match="cannot be opened"):
                database.connect(postgres.url)
            worker = nursery.start(serve, postgres.url, "joined", 0)
            time.sleep(3)
            assert nursery.ended() == []
        finally:
            postgres.start()
        while not (ended := nursery.ended()):
            time.sleep(0.1)
    assert ended == [(worker, 0)]
    assert database.finished(study) == SPEC.trials


@pytest.mark.timeout(300)
@pytest.mark.parametrize("away_s", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_workers_share_postgres_through_its_restart(postgres, away_s):
    name = f"away-{away_s}"
    study = database.create(database.connect(postgres.url), name, SPEC, {"config": 1})
    with Nursery() as nursery:
        team = {nursery.start(serve, postgres.url, name, i) for i in range(3)}
        while database.finished(study) < 5:
            time.sleep(0.1)
        postgres.stop()
        time.sleep(away_s)
        postgres.start()
        while team:
            team -= {
                pid for pid, code in nursery.ended() if not (code and pytest.fail(f"worker ended: {code}"))
            }
            time.sleep(0.1)
    rows = results.rows(study, SPEC)
    assert len(rows) == 30
    assert {r.state for r in rows} == {"complete"}
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_postgres_trials_read_as_optuna_reads_them(postgres):
    spec = Study(**{**vars(SPEC), "trials": 6, "constraints": {"price": 0.5}})
    study = database.create(database.connect(postgres.url), "read", spec, {"config": 1})
    study.sampler = optuna.samplers.NSGAIISampler(seed=0, population_size=3)
    Worker(spec, study, priced, key).run()
    study.enqueue_trial({"x": 0.5})
    plain = optuna.storages.RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    assert database.connect(postgres.url).get_all_trials(study._study_id) == plain.get_all_trials(
        study._study_id
    )
    plain.engine.dispose()


@pytest.mark.timeout(300)
def test_a_server_without_a_free_connection_is_waited_for(postgres):
    """With fewer connections than workers each waits for its turn; nobody dies of it."""
    postgres.stop()
    few, postgres.options = postgres.options, f"{postgres.options} -c max_connections=7"
    postgres.start()
    try:
        study = database.create(database.connect(postgres.url), "few", SPEC, {"config": 1})
        study._storage.remove_session()
        database.backend(study).engine.dispose()
        with Nursery() as nursery:
            team = {nursery.start(serve, postgres.url, "few", i) for i in range(8)}
            codes = []
            while len(codes) < len(team):
                codes += [code for _, code in nursery.ended()]
                time.sleep(0.1)
        assert codes == [0] * 8
        assert database.finished(study) == 30
    finally:
        database.backend(study).engine.dispose()
        postgres.stop()
        postgres.options = few
        postgres.start()


def test_a_wrong_address_is_said_at_once_without_the_password(postgres):
    with pytest.raises(Exception, match=r"snn:\*\*\*@127\.0\.0\.1.*cannot be opened") as caught:
        database.connect(f"postgresql://snn:secret@127.0.0.1:{postgres.port}/nowhere")
    assert "secret" not in str(caught.value)


CLUSTER = """
import sys, threading, time
from ray.cluster_utils import Cluster
from pipeline import run
from pipeline.study import database
import optuna

def main():
    url, out = sys.argv[1:]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    def lose_a_node():
        storage = database.connect(url)
        while True:
            try:
                if database.finished(optuna.load_study(storage=storage, study_name="quickstart")) >= 1:
                    break
            except KeyError:
                pass
            time.sleep(0.2)
        cluster.remove_node(second, allow_graceful=False)
        print("node lost", flush=True)

    threading.Thread(target=lose_a_node, daemon=True).start()
    code = run.main(["+experiment=quickstart", "study.trials=6", "workers=2", "learner.epochs=1", f"storage={url}",
        f"out={out}", "tracking=silent", "launcher=ray", f"launcher.address={cluster.address}",
        "launcher.trials_a_task=2", "study.selectors={}", "study.baseline={}", "study.finalists=0"])
    cluster.shutdown()
    return code

sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_study_on_two_ray_nodes_survives_the_loss_of_one(postgres, tmp_path):
    pytest.importorskip("ray", reason="Ray (the extra 'cluster') is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, postgres.url, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "node lost" in done.stdout
    study = optuna.load_study(storage=database.connect(postgres.url), study_name="quickstart")
    assert database.finished(study) == 6
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    assert (tmp_path / "quickstart" / "front.csv").exists()


LEARNER = """
import time
from dataclasses import dataclass

from pipeline.learn.surrogate import Surrogate


@dataclass(frozen=True)
class Hanging(Surrogate):
    def fit(self, net, data, after_epoch, seed, epochs=None, span=None):
        if self.learning_rate > 0.0055:
            time.sleep(3600)
        return super().fit(net, data, after_epoch, seed, epochs, span)
"""
HANGING = """
import sys
import ray
from pipeline import run

url, out = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
sys.exit(run.main(["+experiment=quickstart", "study.trials=4", "workers=2", "learner.epochs=1", f"storage={url}",
    f"out={out}", "tracking=silent", "launcher=ray", "name=hanging", "study.selectors={}", "study.baseline={}",
    "learner._target_=hanging.Hanging", "study.trial_timeout_s=15", "study.warm_start=[]",
    "~study.space", "+study.space={learner.learning_rate: {choices: [0.003, 0.004, 0.005, 0.006]}}"]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hanging_trial_under_ray_is_ended_by_name_and_its_worker_replaced(postgres, tmp_path):
    pytest.importorskip("ray", reason="Ray (the extra 'cluster') is not installed")
    (tmp_path / "hanging.py").write_text(LEARNER)
    path = os.pathsep.join(filter(None, [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", HANGING, postgres.url, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=580,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    study = optuna.load_study(storage=database.connect(postgres.url), study_name="hanging")
    records = [json.loads(t.user_attrs["record"])["state"] for t in study.get_trials() if database.counted(t)]
    assert len(records) == 4
    assert "stopped:timeout" in records, "the hanging one, by name"
    assert set(records) <= {"stopped:timeout", "complete", "cached"}
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
