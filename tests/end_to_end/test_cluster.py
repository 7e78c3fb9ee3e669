"""Several machines: a real PostgreSQL on loopback, and a real Ray cluster of two nodes."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import pytest

from pipeline.nursery import Nursery
from pipeline.study import database, results
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study

ROOT = Path(__file__).parent.parent.parent
SPEC = Study(trials=30, objectives=("error", "price"), space={"x": {"low": 0.0, "high": 1.0}})


def program(name):
    found = [*Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), *filter(None, [shutil.which(name)])]
    return str(found[-1]) if found else None


class Server:
    """A PostgreSQL of its own in a folder of its own; never as root, which PostgreSQL refuses."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="snn-postgres-"))
        self.user = "nobody" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        data = self.folder / "data"
        self.run("initdb", "-D", data, "-U", "snn", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        self.start()
        self.url = f"postgresql://snn@127.0.0.1:{self.port}/postgres"

    def run(self, name, *arguments):
        command = [program(name), *map(str, arguments)]
        done = subprocess.run(command, user=self.user, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def start(self):
        log = self.folder / "log"
        self.run("pg_ctl", "-D", self.folder / "data", "-l", log, "-w", "-o", self.options, "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def postgres():
    if program("initdb") is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL (apt install postgresql) or psycopg (the extra 'cluster') is not installed")
    server = Server()
    yield server
    server.stop()
    shutil.rmtree(server.folder, ignore_errors=True)


def key(params):
    return json.dumps(params)


def priced(params, report, number):
    time.sleep(0.05)
    return Outcome({"error": 1 - params["x"], "price": params["x"] ** 2})


def serve(url, name, index):
    study = optuna.load_study(storage=database.connect(url), study_name=name)
    study.sampler = optuna.samplers.RandomSampler(seed=index)
    Worker(SPEC, study, priced, key).run()


def test_workers_share_postgres_through_its_restart(postgres):
    study = database.create(database.connect(postgres.url), "shared", SPEC, {"config": 1})
    with Nursery() as nursery:
        team = {nursery.start(serve, postgres.url, "shared", i) for i in range(3)}
        while database.finished(study) < 5:
            time.sleep(0.1)
        postgres.stop()
        time.sleep(2)
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
        "launcher.trials_a_task=2", "study.selectors={}"])
    cluster.shutdown()
    return code

sys.exit(main())
"""


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
