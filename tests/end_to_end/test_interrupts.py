"""Ctrl-C, SIGTERM and SIGKILL in the middle of a study: nothing that was finished is lost."""

import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(400)  # each runs the whole command several times


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_ends_cleanly_says_how_to_resume_and_loses_nothing(tmp_path, how, start, run):
    process = start(tmp_path, "tracking=silent", "study.trials=400")
    database = tmp_path / "quickstart" / "study.db"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and finished(database) < 2:
        time.sleep(0.2)
    os.kill(process.pid, how)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "Resume with: python -m pipeline.run" in out
    done = finished(database)
    assert done >= 2
    resumed = run(tmp_path, "tracking=silent", f"study.trials={done + 1}")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming after {done}, 1 trials" in resumed.stdout


@pytest.mark.slow
def test_two_workers_finish_exactly_the_budget_after_a_killed_driver(tmp_path, start, run):
    process = start(tmp_path, "tracking=silent", "study.trials=8", "workers=2")
    database = tmp_path / "quickstart" / "study.db"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and finished(database) < 2:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    resumed = run(tmp_path, "tracking=silent", "study.trials=8", "workers=2")
    assert resumed.returncode == 0, resumed.stderr
    assert finished(database) == 8
    with sqlite3.connect(database) as connection:
        assert connection.execute("select count(*) from trials where state = 'RUNNING'").fetchone() == (0,)


def finished(database: Path) -> int:
    if not database.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            return connection.execute(
                "select count(*) from trials where state in ('COMPLETE', 'PRUNED')"
            ).fetchone()[0]
    except sqlite3.OperationalError:
        return 0
