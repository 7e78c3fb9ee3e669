"""Re-runs of the front where several drivers share one study."""

import json
import os

import pytest

from pipeline import config, finalists, job
from pipeline.study import database
from pipeline.types import Row

OTHER = database.identity(os.getppid())
"""A process of this machine that lives."""


@pytest.fixture
def opened(tmp_path):
    given = ["+experiment=quickstart", f"out={tmp_path}", "study.finalists=1"]
    here = job.build(config.plain(config.compose_job(given)))
    return here, database.create(database.connect(here.storage), here.name, here.study, here.config)


def test_what_another_driver_is_at_comes_last_and_is_not_done_again(opened, monkeypatch):
    here, study = opened
    rows = [
        Row(n, "complete", {"net.hidden": 16 + n}, {"validation_accuracy": 0.9}, on_front=True)
        for n in range(3)
    ]
    trained = []

    def retrain(_job, row):
        trained.append(row.number)
        raise RuntimeError("no luck")  # what fails is free for others

    monkeypatch.setattr(finalists, "reload", retrain)
    study.set_user_attr(finalists._by(0, here.seed), OTHER)

    def wait(_seconds):
        study.set_user_attr(
            finalists._key(0, here.seed), json.dumps({"test_accuracy": 0.8, "test_samples": 9.0})
        )

    monkeypatch.setattr(finalists.time, "sleep", wait)
    found = finalists.confirm(here, study, rows, lambda done, of: None)
    assert trained == [1, 2]
    assert [row.metrics.get("test_accuracy") for row in found] == [0.8, None, None]
    assert not study.user_attrs[finalists._by(1, here.seed)]


def test_nobody_waits_for_the_dead_or_for_whom_only_another_machine_can_see(opened):
    _, study = opened
    machine = database.identity().partition(":")[0]
    for by in ("", f"{machine}:{os.getpid()}:1", "elsewhere/7:1:1", database.identity()):
        study.set_user_attr(finalists._by(0, 0), by)
        assert finalists._taken(study, 0, 0) is None
        finalists._take(study, 0, 0)
        assert study.user_attrs[finalists._by(0, 0)] == database.identity()
    storage, key = database.backend(study), finalists._by(0, 0)
    assert not storage.swap(study._study_id, key, OTHER, "late")
    assert storage.swap(study._study_id, key, OTHER, database.identity()), "a lost answer is asked for again"
