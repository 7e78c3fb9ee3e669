"""``--multirun`` as it is typed: each job its own study, folder and MLflow parent; a resume; the worst exit code."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TINY = [
    "+experiment=diehl_cook_mnist", "data=digits", "data/encoding=poisson", "data.timesteps=20",
    "net.neurons=10", "net.w_input_mv=8", "learner.label_samples=60", "learner.check_samples=20",
]  # fmt: skip


def typed(where, *words, module="pipeline.run"):
    variables = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=where, env=variables, capture_output=True, text=True,
        timeout=600, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_each_job_is_a_study_of_its_own_and_the_same_command_resumes(tmp_path):
    given = [*TINY, "--multirun", "net.inhibition=layer,direct"]
    names = [f"diehl_cook_mnist--inhibition-{value}" for value in ("direct", "layer")]
    done = typed(tmp_path, *given)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in names:
        assert (tmp_path / "outputs" / name / "report.html").exists()
    with sqlite3.connect(tmp_path / "outputs" / "mlflow.db") as store:
        asked = "select value from params where key = 'net.inhibition' order by value"
        assert {value for (value,) in store.execute(asked)} == {"direct", "layer"}
        assert {n for (n,) in store.execute("select name from experiments")} >= set(names)
    last = next(line for line in done.stdout.splitlines() if line.startswith("Compare them:"))
    words = last.removeprefix("Compare them: python -m pipeline.compare ").split()
    assert typed(tmp_path, *words, module="pipeline.compare").returncode == 0
    again = typed(tmp_path, *given)
    assert again.returncode == 0
    assert again.stdout.count("all 1 trials are done; only reporting") == 2


def test_the_exit_code_is_the_worst_jobs(tmp_path):
    done = typed(tmp_path, *TINY, "tracking=silent", "-m", "+study.constraints.memory_bits=1,1e9")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "no trial is feasible" in done.stdout
    assert "there is a front" in done.stdout
    wrong = typed(tmp_path, *TINY, "tracking=silent", "-m", "net.neurons=10,0")
    assert wrong.returncode == 2
    assert "net.neurons must" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_job_cleanly_and_begins_no_other(number, tmp_path):
    words = ["+experiment=quickstart", "-m", "seed=0,1", "tracking=silent", "workers=1", "study.baseline={}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", *words, f"out={tmp_path}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until = time.monotonic() + 200
    while not list(tmp_path.glob("*/models/*")):
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(number)
    out, error = process.communicate(timeout=200)
    assert process.returncode == 130, out + error
    assert "Interrupted; finished trials are kept" in out
    assert "Go on with: python -m pipeline.run +experiment=quickstart -m seed=0,1" in out
    assert "not begun" in out
    assert [p.name for p in tmp_path.iterdir()] == ["quickstart--seed-0"]
