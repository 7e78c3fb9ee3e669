"""Crews without processes of their own: whose sampler draws what, who is replaced, and what is said when it ends."""

import errno
import json
import os
import time
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from pipeline import cluster, config, exits, finalists, job, launch, run
from pipeline.nursery import Nursery
from pipeline.study import database, samplers
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.study.storage import WORKER


def quickstart(folder, *words):
    given = ["+experiment=quickstart", f"out={folder}", "tracking=silent", *words]
    here = job.build(config.plain(config.compose_job(given)))
    return here, database.create(database.connect(here.storage), here.name, here.study, here.config)


def test_drivers_that_begin_together_draw_different_points_and_one_alone_what_it_always_drew(
    tmp_path, monkeypatch
):
    here, study = quickstart(tmp_path, "sampler=random", "seed=4294967295")
    seeds = []
    monkeypatch.setattr(samplers.Random, "build", lambda _, seed: seeds.append(seed))
    monkeypatch.setattr(launch.search.Worker, "run", lambda *_: None)
    for _ in range(3):  # as `srun -n 3` does: each is the first worker of its driver
        launch.work(here.config, 1)
    waiting = len(here.study.warm_start)
    study.ask()
    study.enqueue_trial({})
    launch.work(here.config, 1)
    lone = [(here.seed + 7919 * begun) % 2**32 for begun in (waiting, waiting + 1)]
    assert [seeds[0], seeds[-1]] == lone
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**32 for seed in seeds)


class Doomed:
    """A nursery whose processes end at once, each with this code and these words."""

    def __init__(self, code, words=""):
        self.code, self.words, self.begun, self.left = code, words, [], []

    def start(self, task, *arguments):
        self.begun.append((task, arguments))
        self.left.append(len(self.begun))
        return len(self.begun)

    def ended(self):
        left, self.left = self.left, []
        return [(pid, self.code) for pid in left]

    def last_words(self, pid):
        return self.words


def test_gpus_are_dealt_out_to_re_runs_and_the_float_model_as_to_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "POLL_S", 0.0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    here, study = quickstart(tmp_path, "workers=3", "study.trials=1", "study.warm_start=[]")
    nursery = Doomed(0)
    team = launch.Team(here, 1, nursery)
    team.aside(print)
    team.search(study, print, lambda: None)
    team.each(print, [(i,) for i in range(4)], lambda: None)
    dealt = [
        next(a for a in given if isinstance(a, dict) and "CUDA_VISIBLE_DEVICES" in a)
        for _, given in nursery.begun
    ]
    float_model, *others = [variables["CUDA_VISIBLE_DEVICES"] for variables in dealt]
    assert float_model == "3"
    assert others == ["0", "1", "2", "0", "1", "2", "0"]


def given_up(here, study, nursery):
    with pytest.raises(exits.GivenUp) as caught:
        launch.Team(here, 1, nursery).search(study, print, lambda: None)
    return caught.value


def test_a_crew_whose_workers_keep_dying_says_so_in_place_of_a_finished_study(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "POLL_S", 0.0)
    here, study = quickstart(tmp_path, "workers=2")
    shot = Doomed(-9)
    error = given_up(here, study, shot)
    assert ("SIGKILL" in str(error), error.no_room) == (True, False)
    assert len(shot.begun) == 2 + 3 * 2 - 1
    full = Doomed(5, "OSError: [Errno 28] No space left on device: '/x/models'")
    error = given_up(here, study, full)
    assert ("No space left on device: '/x/models'" in str(error), error.no_room) == (True, True)
    assert len(full.begun) == 2, "nobody is sent after them onto a full disk"


def test_a_worker_that_dies_beside_one_that_meets_the_budget_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "POLL_S", 0.0)
    here, study = quickstart(tmp_path, "workers=2", "study.trials=1", "study.warm_start=[]")
    study._thread_local.in_optimize_loop = True
    trial = study.ask()
    trial.set_user_attr("record", json.dumps({"state": "stopped:silent"}))
    database.backend(study).set_trial_state_values(trial._trial_id, TrialState.PRUNED)
    launch.Team(here, 1, Doomed(-9)).search(study, print, lambda: None)


def test_last_words_and_want_of_room_are_heard_of_a_real_process():
    with Nursery() as nursery:
        pid = nursery.start(os.mkdir, "/dev/null/no")
        full = nursery.start(out_of_room)
        codes = {}
        while len(codes) < 2:
            time.sleep(0.02)
            codes |= dict(nursery.ended())
        assert codes == {pid: 1, full: exits.NO_ROOM}
        assert nursery.last_words(pid).startswith("NotADirectoryError")
        assert nursery.last_words(full) == "OSError: [Errno 28] No space left on device"
        assert nursery.last_words(full) == ""


def out_of_room():
    raise OSError(errno.ENOSPC, "No space left on device")


class Remote:
    """What a crew needs of ray, where every task fails with this error."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, error):
        self.failed = self.exceptions.RayError()
        self.failed.cause = error
        self.begun = 0

    def remote(self, function=None, **_):
        if function is None:
            return lambda function: self.remote(function)
        return SimpleNamespace(remote=self.start)

    def start(self, *_):
        self.begun += 1
        return self.begun

    def wait(self, references, **_):
        return references[:1], references[1:]

    def get(self, _):
        raise self.failed


@pytest.mark.parametrize(
    ("error", "no_room", "begun"),
    [(OSError(errno.ENOSPC, "No space left on device"), True, 2), (RuntimeError("out of luck"), False, 7)],
)
def test_a_crew_of_ray_tasks_gives_up_as_well(error, no_room, begun, tmp_path):
    here, study = quickstart(tmp_path, "workers=2")
    ray = Remote(error)
    with pytest.raises(exits.GivenUp, match=str(error.args[-1])) as caught:
        cluster.RayCrew(here, cluster.Ray(), ray).search(study, print, lambda: None)
    assert (caught.value.no_room, ray.begun) == (no_room, begun)


@pytest.mark.parametrize(("no_room", "code"), [(True, 5), (False, 1)])
def test_a_run_that_workers_gave_up_ends_with_a_code_and_says_how_to_resume(
    no_room, code, tmp_path, monkeypatch, capsys
):
    def search(*_args, **_kwargs):
        raise exits.GivenUp("workers cannot go on: killed by SIGKILL", no_room)

    monkeypatch.setattr(launch.Alone, "search", search)
    monkeypatch.setattr(finalists, "baseline", lambda *_: None)
    monkeypatch.setattr(run, "_tell", lambda *_: None)
    assert run.main(["+experiment=quickstart", "workers=1", "tracking=silent", f"out={tmp_path}"]) == code
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "quickstart: workers cannot go on: killed by SIGKILL Finished trials are kept. Resume with:" in said
    )


def test_the_time_of_a_trial_begins_when_it_no_longer_waits_for_an_equal_one(tmp_path, monkeypatch):
    timed = Study(
        trials=2, objectives=("error",), space={"x": {"low": 0.0, "high": 1.0}}, trial_timeout_s=0.2
    )
    study = database.create(database.connect(f"sqlite:///{tmp_path}/s.db"), "s", timed, {})
    study._thread_local.in_optimize_loop = True
    twin = study.ask()
    twin.set_user_attr(WORKER, "elsewhere:1:1")
    twin.set_user_attr("fingerprint", "same")
    watch, really = launch.Watch(study, timed.trial_timeout_s), time.sleep
    fuse = []
    monkeypatch.setattr(Worker, "fuse", lambda self, lit: fuse.append(lit))

    def sleep(_seconds):
        really(0.15)
        watch.look(None)
        if len(slept) < 2:
            slept.append(1)
            return
        database.give_back(study, study.get_trials(deepcopy=False)[0], 3, blame=False)

    slept, waiting = [], Worker(timed, study, lambda *_: None, lambda _: "same")
    monkeypatch.setattr("pipeline.study.attempt.time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))

    def evaluate(params, report, number):
        assert study.get_trials(deepcopy=False)[number].user_attrs["waits"] is False
        report(1, {"validation_error": 0.5})
        return Outcome({"error": 0.5})

    waiting.evaluate = evaluate
    waiting.run(limit=1)
    states = {
        trial.number: json.loads(trial.user_attrs["record"]) for trial in study.get_trials() if trial.values
    }
    assert states[1]["state"] == "complete"
    assert fuse == [True, False, True, False]
