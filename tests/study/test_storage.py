"""The fast way into Optuna's tables: what it writes Optuna reads, what Optuna writes it reads, and once is enough."""

import json
import math

import optuna
import pytest
from optuna.trial import TrialState

from pipeline.study import database
from pipeline.study.ledger import Ledger
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.study.storage import RECORD, WORKER

SPEC = Study(
    trials=12,
    objectives=("error", "price"),
    space={
        "x": {"low": 0.0, "high": 1.0},
        "kind": {"choices": ["a", "b"]},
        "n": {"low": 1, "high": 64, "log": True, "when": {"kind": "b"}},
    },
    constraints={"price": 1.5},
)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/study.db"


def priced(params, report, number):
    report(1, {"validation_error": params["x"]})
    if number == 3:
        raise KeyError("lost")
    return Outcome({"error": params["x"], "price": 1 - params["x"] + (params["kind"] == "b")})


def key(params):
    return json.dumps(params, sort_keys=True)


def searched(url, spec=SPEC, sampler=None):
    study = database.create(database.connect(url), "s", spec, {"config": 1})
    study.sampler = sampler or optuna.samplers.NSGAIISampler(seed=0, population_size=4)
    Worker(spec, study, priced, key).run()
    study.enqueue_trial({"x": 0.5, "kind": "a"})
    return study


def test_optuna_reads_the_same_trials(url):
    study = searched(url)
    here = database.connect(url).get_all_trials(study._study_id)
    there = optuna.storages.RDBStorage(url).get_all_trials(study._study_id)
    assert here == there
    assert {t.state for t in here} == {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}
    assert any(t.system_attrs for t in here)
    assert all(database.connect(url).get_trial(t._trial_id) == t for t in here)


def test_what_optuna_writes_is_read(url):
    study = optuna.create_study(storage=url, study_name="plain", directions=["minimize"])
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    trial.report(math.inf, 2)
    study.tell(trial, math.inf)
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED))
    here = database.connect(url).get_all_trials(study._study_id)
    assert here == optuna.storages.RDBStorage(url).get_all_trials(study._study_id)
    assert here[0].value == math.inf
    assert here[0].intermediate_values == {1: 0.5, 2: math.inf}


def test_a_trial_is_four_transactions(url):
    """Claim, look, suggestion, result: what makes many workers possible."""
    from sqlalchemy import event

    study = database.create(database.connect(url), "s", SPEC, {"config": 1})
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    begun = []
    event.listen(database.backend(study).engine, "begin", lambda connection: begun.append(1))
    Worker(SPEC, study, priced, key).run()
    assert len(begun) <= 4 * SPEC.trials + 8


def test_a_repeated_call_whose_answer_was_lost_changes_nothing(url):
    study = searched(url, Study(**{**vars(SPEC), "trials": 2}))
    storage = database.backend(study)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    study._thread_local.in_optimize_loop = True
    trial = study.ask()  # the enqueued one
    mine = dict(storage._mine)
    storage._mine.clear()
    assert storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING), (
        "claimed by this worker already"
    )
    storage._mine.update(mine)
    trial.set_user_attr(RECORD, "{}")
    for _ in range(2):
        storage._mine.update(mine)
        assert storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.1, 0.2])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    assert storage.get_trial(trial._trial_id).values == [0.1, 0.2]


def test_a_claim_whose_answer_was_lost_does_not_hold_a_place_for_ever(url):
    study = database.create(database.connect(url), "s", SPEC, {"config": 1})
    storage = database.backend(study)
    lost = storage.create_new_trial(study._study_id)
    storage.forget(lost)
    assert storage.get_trial(lost).user_attrs[WORKER] == storage.worker
    Worker(SPEC, study, priced, key).run()
    trials = study.get_trials(deepcopy=False)
    assert trials[0].state == TrialState.FAIL
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    assert database.finished(study) == SPEC.trials


def test_the_ledger_counts_as_a_walk_through_all_trials_does(url):
    study = searched(url)
    ledger = Ledger(study)
    for _ in range(2):
        ledger.look()
        trials = study.get_trials(deepcopy=False)
        assert ledger.held == sum(database.counted(t) for t in trials)
        for number in range(len(trials) + 1):
            there = sum(database.counted(t) or t.state == TrialState.WAITING for t in trials[:number])
            assert ledger.held_before(number) == there
        for trial in trials:
            same = trial.user_attrs.get("fingerprint", "none")
            equal = [t.number for t in trials if t.user_attrs.get("fingerprint") == same and t.number < 9]
            assert [t.number for t in ledger.equal(same, 9)] == equal
        study.ask()


def test_no_two_workers_have_the_same_place(url):
    """(trials so far, place among those who began then): what a sampler's seed is made of."""
    study = database.create(database.connect(url), "s", SPEC, {"config": 1})
    drivers = [database.connect(url) for _ in range(3)]
    assert [driver.join(study._study_id) for driver in drivers] == [(0, 0), (0, 1), (0, 2)]
    study.ask()
    assert [driver.join(study._study_id) for driver in drivers[:2]] == [(1, 0), (1, 1)]
    with pytest.raises(KeyError):
        drivers[0].join(99)
