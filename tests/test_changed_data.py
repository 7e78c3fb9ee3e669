"""A study whose files became others: its results, result cache and float models are found by the config alone."""

import json
from dataclasses import replace

import pytest

from pipeline import config, experiment, job, run, stages
from pipeline.types import DataError


@pytest.fixture
def here(tmp_path):
    overrides = ["+experiment=quickstart", f"out={tmp_path}", "tracking=silent", "workers=1"]
    return job.build(config.plain(config.compose_job(overrides)))


@pytest.fixture
def data(here):
    return experiment.check(here.experiment({}))


def test_a_study_goes_on_with_its_own_data_and_refuses_other_data(here, data):
    here.folder.mkdir(parents=True)
    assert run._open_study(here, data).user_attrs["data"] == data.digest
    run._open_study(here, data)
    with pytest.raises(
        DataError, match=rf"other data: sha256 {data.digest[:16]}, but digits has ff+ here.*quickstart-2"
    ):
        run._open_study(here, replace(data, digest="f" * 64))
    assert run._open_study(here, data).user_attrs["data"] == data.digest, "what was there stays"


def test_a_study_from_before_data_were_remembered_goes_on_and_remembers_them(here, data):
    from pipeline.study import database

    here.folder.mkdir(parents=True)
    storage = database.connect(here.storage)
    database.create(storage, here.name, here.study, here.config)
    assert database.stored_data(storage, here.name) is None
    assert run._open_study(here, data).user_attrs["data"] == data.digest


def test_a_stage_puts_a_study_of_other_data_aside(here, data, capsys):
    assert stages.data(here) == 0
    assert stages.opened(here).user_attrs["data"] == data.digest
    told = stages._folder(here) / "data.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"sha256": "f" * 64}))
    assert stages.opened(here).user_attrs["data"] == "f" * 64
    assert here.folder.with_name("quickstart.1").is_dir()
    assert f"data: sha256 {data.digest[:16]} -> {'f' * 16}" in capsys.readouterr().out
