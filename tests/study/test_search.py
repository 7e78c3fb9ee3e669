import copy
import errno
import json
import math
import multiprocessing
import os
import signal
import time
from datetime import timedelta
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.study import database, results
from pipeline.study.attempt import no_room
from pipeline.study.samplers import Gp, Grid, Nsga2, Random, Tpe
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.study.stopping import NonDominatedRank
from pipeline.types import PART, STORED, DataError, Diverged, Row, Silent

SPACE = {"x": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b"]}}


def spec(**changes):
    given = {"trials": 8, "objectives": ("error", "price"), "space": SPACE, **changes}
    return Study(**given)


def price(params, report, number):
    x = params["x"]
    report(1, {"validation_error": 1 - x})
    return Outcome({"error": 1 - x, "price": x + (params["kind"] == "b")}, {"layers": [{"name": "fc1"}]})


def key(params):
    return json.dumps(params, sort_keys=True)


@pytest.fixture
def storage(tmp_path):
    return database.connect(f"sqlite:///{tmp_path}/study.db")


def run(storage, study_spec, evaluate=price, sampler=None, **more):
    study = database.create(storage, "s", study_spec, {"config": 1})
    study.sampler = sampler or optuna.samplers.RandomSampler(seed=0)
    Worker(study_spec, study, evaluate, key, **more).run()
    return results.rows(study, study_spec)


def test_exactly_the_budget_and_a_front(storage):
    rows = run(storage, spec())
    assert [r.number for r in rows] == list(range(8))
    assert all(r.state == "complete" and r.detail["layers"][0]["name"] == "fc1" for r in rows)
    front = [r for r in rows if r.on_front]
    assert front
    for r in front:
        better = [
            o
            for o in rows
            if o.metrics["error"] <= r.metrics["error"] and o.metrics["price"] < r.metrics["price"]
        ]
        assert not better


def test_more_budget_resumes_and_the_same_budget_does_nothing(storage):
    run(storage, spec(trials=3))
    assert len(run(storage, spec(trials=3))) == 3
    assert len(run(storage, spec(trials=5), sampler=optuna.samplers.RandomSampler(seed=9))) == 5


def test_failures_are_named_and_counted_and_do_not_end_the_study(storage):
    def fragile(params, report, number):
        if number == 1:
            raise KeyError("lost")
        if number == 2:
            raise Diverged("loss is NaN at epoch 1")
        if number == 3:
            raise Silent("lif1 fires never")
        if number == 4:
            return Outcome({"error": math.nan, "price": 1.0})
        return price(params, report, number)

    rows = run(storage, spec(trials=6), fragile)
    states = [r.state for r in rows]
    assert states == [
        "complete",
        "failed:KeyError",
        "failed:nan",
        "stopped:silent",
        "failed:ArithmeticError",
        "complete",
    ]
    assert "lif1 fires never" in rows[3].reason
    assert not any(r.on_front for r in rows[1:5])


def test_a_repeated_suggestion_is_cached_and_a_small_space_ends_early(storage):
    calls = []

    def count(params, report, number):
        calls.append(params)
        return Outcome({"error": float(params["n"]), "price": -float(params["n"])})

    space = {"n": {"low": 1, "high": 3}}
    rows = run(storage, spec(trials=50, space=space), count)
    assert sorted(c["n"] for c in calls) == [1, 2, 3], "each point is trained once"
    assert len(rows) < 50
    cached = [r for r in rows if r.state == "cached"]
    assert all("same configuration as trial" in r.reason for r in cached)


def test_infeasible_trials_stay_off_the_front(storage):
    rows = run(storage, spec(constraints={"price": 0.5, "error": {"min": 0.2}}))
    for r in rows:
        assert r.feasible == (r.metrics["price"] <= 0.5 and r.metrics["error"] >= 0.2)
        assert r.feasible or not r.on_front


def test_warm_starts_come_first(storage):
    rows = run(storage, spec(warm_start=({"x": 0.25, "kind": "b"},)))
    assert rows[0].params == {"x": 0.25, "kind": "b"}


def test_a_warm_start_outside_the_space_is_left_out(storage):
    """A space that was narrowed: x = 5 ran as trial 0 and could stand on the front."""
    study = spec(warm_start=({"x": 5.0, "kind": "b"}, {"x": 0.25, "kind": "z"}, {"x": 0.5}))
    rows = run(storage, study)
    assert rows[0].params["x"] == 0.5
    assert all(0 <= row.params["x"] <= 1 for row in rows)
    low, high = study.axes.axes[0].low, study.axes.axes[0].high
    assert study.axes.outside(study.warm_start[0]) == [f"x = 5.0 is not in [{low}, {high}]"]
    assert study.axes.outside(study.warm_start[1])[0].startswith("kind = z is not one of ['a', 'b'")


def test_another_study_s_front_is_tried_first_as_far_as_it_fits(tmp_path):
    other = database.connect(f"sqlite:///{tmp_path}/other.db")
    before = run(other, spec(trials=12))
    members = [r.params for r in before if r.on_front]
    points = results.front_params(other, "s")
    assert sorted(map(key, points)) == sorted(map(key, members))
    narrow = spec(space={"x": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a"]}})
    fitting = [p for p in points if narrow.axes.holds(p)]
    assert fitting == [p for p in points if p["kind"] == "a"]
    study = database.create(database.connect(f"sqlite:///{tmp_path}/new.db"), "s", narrow, {}, fitting)
    Worker(narrow, study, price, key).run()
    rows = results.rows(study, narrow)
    assert [r.params for r in rows[: len(fitting)]] == fitting[:8]
    with pytest.raises(DataError, match="there is no study 'nothing'"):
        results.front_params(other, "nothing")


def test_rank_stopping_ends_the_worse_ones_by_name(storage):
    def slow(params, report, number):
        report(1, {"validation_error": 1 - params["x"]})
        return price(params, lambda step, metrics: None, number)

    rows = run(storage, spec(trials=20), slow, stopper=NonDominatedRank(eta=3))
    stopped = [r for r in rows if r.state == "stopped:dominated"]
    assert stopped
    assert all(r.history for r in stopped)
    kept = [r.history[0][1]["validation_error"] for r in rows if r.state == "complete"]
    ended = [r.history[0][1]["validation_error"] for r in stopped]
    assert sum(kept) / len(kept) < sum(ended) / len(ended)


def test_rank_looks_at_the_bounds_of_prices_and_leaves_stored_models_alone(tmp_path):
    """Errors rise with x and prices fall with it: whoever looks at errors alone ends every cheap network."""

    def bound(params):
        return {"price": (1 - params["x"]) ** 2, "other": 1.0}

    def run_with(name, more):
        def reporting(params, report, number):
            report(1, {"validation_error": params["x"], **more})
            return Outcome({"validation_error": params["x"], "price": 2 * (1 - params["x"]) ** 2})

        asked = Study(
            trials=20, objectives=("validation_error", "price"), space={"x": {"low": 0.0, "high": 1.0}}
        )
        study = database.create(database.connect(f"sqlite:///{tmp_path}/{name}.db"), "s", asked, {})
        study.sampler = optuna.samplers.RandomSampler(seed=1)
        looked = ("validation_error",) if name.startswith("errors") else asked.objectives
        rule = NonDominatedRank(objectives=looked)
        Worker(asked, study, reporting, key, stopper=rule, bound=bound).run()
        return results.rows(study, asked)

    assert {r.state for r in run_with("both", {})} == {"complete"}
    assert sum(r.state == "stopped:dominated" for r in run_with("errors", {})) > 5
    stored = run_with("errors-stored", {STORED: 1.0})
    assert {r.state for r in stored} == {"complete"}
    assert all(set(m) == {"validation_error", STORED} for r in stored for _, m in r.history)


def one_pass(params, report, number):
    """As one-pass learning reports: parts of an epoch, then the epoch."""
    for images in (1000.0, 2000.0, 3000.0):
        report(1, {PART: images / 4000, "images": images, "running_error": 1 - params["x"]})
    report(1, {"validation_error": 1 - params["x"], "images": 4000.0, "running_error": 1 - params["x"]})
    return price(params, lambda step, metrics: None, number)


def test_rungs_by_images_end_a_trial_inside_its_only_epoch(storage):
    rule = NonDominatedRank(objectives=("running_error",), eta=3, first=1000, by="images")
    rows = run(storage, spec(trials=20), one_pass, stopper=rule)
    stopped = [r for r in rows if r.state == "stopped:dominated"]
    assert stopped
    assert {r.reason.rpartition(" ")[2] for r in stopped} <= {"1000", "3000"}
    assert not any(r.history for r in stopped), "no epoch was finished"
    assert all([m["images"] for _, m in r.history] == [4000.0] for r in rows if r.state == "complete")


def test_rungs_by_epochs_do_not_see_parts_of_one(storage):
    rows = run(storage, spec(trials=20), one_pass, stopper=NonDominatedRank(eta=3))
    stopped = [r for r in rows if r.state == "stopped:dominated"]
    assert stopped
    assert all(r.history[0][1]["images"] == 4000.0 for r in stopped)


@pytest.mark.parametrize("sampler", [Tpe(startup=3), Nsga2(population=4), Random(), Gp(startup=4)])
def test_every_sampler_is_deterministic_for_one_worker(tmp_path, sampler):
    def once(name):
        rows = run(
            database.connect(f"sqlite:///{tmp_path}/{name}.db"),
            spec(trials=7),
            sampler=sampler.build(seed=3),
        )
        return [r.params for r in rows]

    assert once("a") == once("b")


def test_the_grid_visits_every_point_once(storage):
    space = {
        "x": {"choices": [0.1, 0.9]},
        "kind": {"choices": ["a", "b"]},
        "n": {"low": 1, "high": 2, "when": {"kind": "b"}},
    }
    rows = run(storage, spec(trials=6, space=space), sampler=Grid().build(seed=0))
    assert len({key(r.params) for r in rows}) == len(rows) == 6
    assert all(r.state == "complete" for r in rows)


def test_hypervolume_never_falls(storage):
    run(storage, spec())
    study = optuna.load_study(storage=storage, study_name="s")
    history = results.hypervolume_history(study, spec(), (1.0, 2.0), results.rows(study, spec()))
    volumes = [v for _, _, v in history]
    assert volumes == sorted(volumes)
    assert volumes[-1] > 0


def test_the_night_between_two_sessions_is_no_time_of_the_search(storage):
    run(storage, spec(trials=1))
    study = optuna.load_study(storage=storage, study_name="s")
    begin = study.get_trials()[0].datetime_start

    def ran(number, worker, start, end):
        found = optuna.trial.create_trial(state=TrialState.COMPLETE, values=[0.5, 0.5])
        found.number, found.user_attrs = number, {"worker": worker, "record": '{"state": "complete"}'}
        found.datetime_start, found.datetime_complete = (begin + timedelta(seconds=s) for s in (start, end))
        return found

    # Two workers, who both wait from 9 to 10; then one of them alone, and at night nobody.
    times = [
        ("a", 0, 4),
        ("b", 1, 9),
        ("a", 10, 12),
        ("c", 100, 103),
        ("d", 101, 110),
        ("c", 111, 112),
        ("d", 111, 115),
    ]
    trials = [ran(i, *given) for i, given in enumerate(times)]
    assert [seconds for _, seconds in results.pauses(trials)] == [88.0]
    assert results.pauses([ran(i, "a", start, end) for i, (_, start, end) in enumerate(times)]) == []
    asked = SimpleNamespace(get_trials=lambda deepcopy: trials)
    rows = [Row(i, "complete", metrics={"error": 0.5, "price": 0.5}) for i in range(len(times))]
    history = results.hypervolume_history(asked, spec(), (1.0, 2.0), rows)
    assert [seconds for _, seconds, _ in history] == [4, 9, 12, 15, 22, 24, 27]


def _hang(url, started):
    def forever(params, report, number):
        started.set()
        time.sleep(600)

    study = optuna.load_study(storage=database.connect(url), study_name="s")
    Worker(spec(), study, forever, key).run()


def test_a_killed_worker_loses_only_its_own_trial(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    storage = database.connect(url)
    run(storage, spec(trials=3))
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=_hang, args=(url, started))
    worker.start()
    assert started.wait(30)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    study = optuna.load_study(storage=storage, study_name="s")
    assert database.reap(study) == 1
    rows = run(storage, spec(trials=8), sampler=optuna.samplers.RandomSampler(seed=5))
    assert len(rows) == 8
    assert all(r.state == "complete" for r in rows)
    assert not study.get_trials(states=(optuna.trial.TrialState.RUNNING,))


def test_wrong_studies_are_refused_by_field():
    with pytest.raises(ValueError, match="trials must be >= 1, but got 0"):
        spec(trials=0)
    with pytest.raises(ValueError, match=r"space\.x must have low <= high"):
        spec(space={"x": {"low": 2, "high": 1}})
    with pytest.raises(ValueError, match=r"constraints\.price must be a number"):
        spec(constraints={"price": {"below": 1}})


def test_importance_finds_the_axis_that_matters(storage):
    def one_axis(params, report, number):
        return Outcome({"error": params["x"], "price": 1.0})

    run(storage, spec(trials=20), one_axis)
    study = optuna.load_study(storage=storage, study_name="s")
    shares = results.importance(study, spec(), 0, results.rows(study, spec()))
    assert shares["error"]["x"] > 0.9
    assert "price" not in shares, "an objective that never changes has nothing to explain"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, "Read-only file system", "{folder}/models/x"),
        PermissionError(errno.EACCES, "Permission denied", "{folder}/models/x"),
        RuntimeError(
            'I/O error: Permission denied (os error 13) at path "{folder}/models/x"'
        ),  # as safetensors
        PermissionError(errno.EPERM, "Operation not permitted", "{folder}/float/x.lock"),
    ],
)
def test_a_folder_that_takes_nothing_gives_the_trial_back_and_another_place_fails_it(
    error, storage, tmp_path
):
    def refused(place):
        def evaluate(params, report, number):
            if getattr(error, "filename", None):
                raise type(error)(error.errno, error.strerror, error.filename.format(folder=place))
            raise type(error)(str(error).format(folder=place))

        return evaluate

    with pytest.raises(OSError, match="trial 0 was given back") as caught:
        run(storage, spec(), refused(tmp_path / "s"), folder=tmp_path / "s")
    assert no_room(caught.value)
    assert no_room(copy.copy(caught.value)), "another process knows it, too"
    study = optuna.load_study(storage=storage, study_name="s")
    assert database.finished(study) == 0
    if error.args[0] != errno.EROFS:
        rows = run(storage, spec(trials=1), refused(tmp_path / "data"), folder=tmp_path / "s")
        assert rows[0].state.startswith("failed:")
