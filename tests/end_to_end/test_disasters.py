"""The whole command while something around it goes wrong: a server dies, a disk is full, a folder is locked."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BARE = ["study.baseline={}", "study.selectors={}"]


def states(folder):
    with sqlite3.connect(folder / "quickstart" / "study.db") as connection:
        return dict(connection.execute("select state, count(*) from trials group by state").fetchall())


def wait_for(condition, seconds=180):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.3)


class Tracking:
    """`mlflow server` on the loopback address, with its store in a folder."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        store = f"sqlite:///{self.folder}/server.db"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--host", "127.0.0.1",
             "--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port), "--workers", "1"],
            cwd=self.folder, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}, start_new_session=True,
            stdout=(self.folder / "server.log").open("a"), stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_for(self.answers)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()

    def trials(self):
        with sqlite3.connect(self.folder / "server.db") as connection:
            asked = "select count(distinct t.value) from tags t join tags k using (run_uuid) where "
            asked += "t.key = 'trial' and k.key = 'kind' and k.value = 'trial'"
            return connection.execute(asked).fetchone()[0]


def test_a_tracking_server_that_dies_midway_gets_the_rest_later(tmp_path, start, run):
    server = Tracking(tmp_path)
    server.start()
    given = [f"tracking.uri={server.url}", "tracking.artifacts=null", "study.trials=30", *BARE]
    try:
        study = start(tmp_path, *given)
        wait_for(lambda: server.trials() >= 3)
        server.kill()
        _, error = study.communicate(timeout=600)
        assert study.returncode == 0, error
        assert "the same command sends the rest" in error
        assert states(tmp_path)["COMPLETE"] + states(tmp_path).get("PRUNED", 0) == 30
        assert (tmp_path / "quickstart" / "front.csv").exists()
        there = server.trials()
        assert there < 30
        server.start()
        again = run(tmp_path, *given)
        assert again.returncode == 0, again.stderr
        assert "all 30 trials are done" in again.stdout
        assert "sends the rest" not in again.stderr
        assert server.trials() == 30
    finally:
        server.kill()


def test_a_second_command_joins_and_the_budget_is_met_exactly(tmp_path, start):
    """As `srun -n 2` or two ssh logins do it: the same line, no launcher between them."""
    given = ["tracking=silent", "study.trials=40", "learner.epochs=4", *BARE]
    first = start(tmp_path, *given)
    wait_for(lambda: (tmp_path / "quickstart" / "study.db").exists())
    second = start(tmp_path, *given)
    for process in (first, second):
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
    with sqlite3.connect(tmp_path / "quickstart" / "study.db") as connection:
        asked = (
            "select value_json, key, trial_id from trial_user_attributes where key in ('worker', 'record')"
        )
        found = connection.execute(asked).fetchall()
    owner = {trial: json.loads(value) for value, key, trial in found if key == "worker"}
    record = {trial: json.loads(json.loads(value)) for value, key, trial in found if key == "record"}
    counted = [trial for trial, r in record.items() if r["state"] != "refused"]
    assert len(counted) == 40
    assert len({owner[trial] for trial in counted}) == 2, "both worked"
    assert "RUNNING" not in states(tmp_path)


def without_privileges():
    """Before a command: even root is bound by permissions."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv: permissions bind nobody")
    caps = "-dac_override,-dac_read_search"
    return ["setpriv", "--bounding-set", caps, "--inh-caps", caps]


def command(folder, *overrides):
    return [
        *without_privileges(), sys.executable, "-m", "pipeline.run", "+experiment=quickstart", "learner.epochs=2",
        "study.trials=4", "workers=1", "tracking=silent", f"out={folder}", *BARE, *overrides,
    ]  # fmt: skip


def test_outputs_that_may_only_be_read_are_said_at_once(tmp_path):
    tmp_path.chmod(0o555)
    try:
        done = subprocess.run(command(tmp_path), capture_output=True, text=True)
    finally:
        tmp_path.chmod(0o755)
    assert done.returncode == 5, done.stderr
    assert "cannot write below" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_outputs_that_become_read_only_keep_the_study_and_a_resume_finishes(tmp_path, run):
    assert run(tmp_path, "tracking=silent", *BARE).returncode == 0
    models = tmp_path / "quickstart" / "models"
    for path in (models, tmp_path / "quickstart", tmp_path / "quickstart" / "study.db"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(command(tmp_path, "study.trials=6"), capture_output=True, text=True)
    finally:
        for path in (tmp_path / "quickstart", models):
            path.chmod(0o755)
        (tmp_path / "quickstart" / "study.db").chmod(0o644)
    assert done.returncode in (3, 5), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    resumed = run(tmp_path, "tracking=silent", "study.trials=6", *BARE)
    assert resumed.returncode == 0, resumed.stderr
    assert sum(states(tmp_path).values()) == 6


def test_a_disk_that_is_full_is_said_and_with_room_the_same_command_finishes(tmp_path, run):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    try:
        given = ["tracking=silent", "study.trials=60", "learner.epochs=1", *BARE]
        done = run(disk, *given)
        assert done.returncode in (3, 5), (done.returncode, done.stdout[-500:], done.stderr[-2000:])
        assert "full" in done.stderr + done.stdout or "No space" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        before = states(disk).get("COMPLETE", 0)
        assert before >= 1, "something had been finished"
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        resumed = run(disk, *given)
        assert resumed.returncode == 0, resumed.stderr
        assert f"resuming after {before}" in resumed.stdout
        assert states(disk)["COMPLETE"] + states(disk).get("PRUNED", 0) == 60
    finally:
        subprocess.run(["umount", "-l", disk], check=False)
