"""``python -m pipeline.reprice``: prices change, nothing is trained, and the same machine gives the same figures."""

import json
from dataclasses import replace

import pytest

from pipeline import config, finalists, job, reprice
from pipeline.select import open_study
from pipeline.study import database, results

POINTS = (
    {"compression.quantize_weights.bits": 8, "compression.prune_weights.sparsity": 0.0},
    {"compression.quantize_weights.bits": 3, "compression.prune_weights.sparsity": 0.5},
)
SMALL = [
    "+experiment=quickstart",
    "name=small",
    "learner.epochs=2",
    "net.hidden=16",
    "study.trials=3",
    "study.compare=false",
]
SPACE = (
    "{compression.quantize_weights.bits:{low:2,high:8},compression.prune_weights.sparsity:{low:0.0,high:0.9}}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study of two trained points and the first of them once more, from the cache."""
    out = tmp_path_factory.mktemp("outputs")
    words = [*SMALL, "~study.space", f"+study.space={SPACE}", "study.warm_start=[]", "study.baseline={}"]
    plain = config.plain(config.compose([*words, f"out={out}"]))
    here = job.build(plain)
    study = database.create(database.connect(here.storage), "small", here.study, plain)
    study._thread_local.in_optimize_loop = True
    outcomes = [here.evaluate(params, lambda step, metrics: None, n) for n, params in enumerate(POINTS)]
    for params, outcome, state in (
        (POINTS[0], outcomes[0], "complete"),
        (POINTS[1], outcomes[1], "complete"),
        (POINTS[0], outcomes[0], "cached"),
    ):
        study.enqueue_trial(params)
        trial = study.ask()
        here.study.axes.suggest(trial)
        record = {"state": state, "metrics": dict(outcome.metrics), "detail": dict(outcome.detail)}
        trial.set_user_attr("record", json.dumps(record))
        study.tell(trial, [outcome.metrics[name] for name in here.study.objectives])
    return out / "small"


def on(folder, *words):
    here, study = open_study(folder)
    old = finalists.known(here, study, results.rows(study, here.study))
    found = reprice.loads_of(here, old)
    machine = reprice.machine_of(words)
    return old, reprice.marked(here, [reprice.priced(row, found.get(row.number, ()), machine) for row in old])


def test_the_same_machine_gives_the_same_figures_and_the_same_front(folder):
    old, new = on(folder, "accelerator=embedded_45nm")
    for before, after in zip(old, new, strict=True):
        assert dict(after.metrics) == pytest.approx(dict(before.metrics))
        assert after.on_front == before.on_front
        assert after.detail["layers"] == before.detail["layers"]


def test_a_changed_constant_changes_energy_and_not_accuracy(folder):
    old, new = on(folder, "accelerator=embedded_45nm", "accelerator.buffer.read_pj=1000")
    for before, after in zip(old, new, strict=True):
        assert after.metrics["energy_pj"] > 2 * before.metrics["energy_pj"]
        assert after.metrics["validation_accuracy"] == before.metrics["validation_accuracy"]


def test_a_cached_trial_has_the_prices_of_its_twin(folder):
    _, new = on(folder, "accelerator=loihi")
    assert new[2].state == "cached"
    assert new[2].metrics["energy_pj"] == new[0].metrics["energy_pj"]


def test_what_has_no_loads_keeps_no_old_price(folder):
    old, _ = on(folder, "accelerator=loihi")
    row = reprice.priced(old[0], (), reprice.machine_of(["accelerator=loihi"]))
    assert not [name for name in row.metrics if name.startswith(("energy", "memory", "worst", "latency"))]
    assert "validation_accuracy" in row.metrics


def test_the_energy_of_learning_on_the_old_machine_is_not_mixed_in(folder):
    """Both ways of counting it; the dense matrices are as large on every machine."""
    old, _ = on(folder, "accelerator=loihi")
    learning = {"energy_training_pj": 3.0, "dense_energy_training_pj": 4.0, "dense_memory_bits": 5.0}
    here, _ = open_study(folder)
    loads = reprice.loads_of(here, old)[0]
    row = replace(old[0], metrics={**old[0].metrics, **learning})
    for given in (loads, ()):
        new = reprice.priced(row, given, reprice.machine_of(["accelerator=loihi"])).metrics
        assert not [name for name in new if "training" in name]
        assert new["dense_memory_bits"] == 5.0


@pytest.mark.parametrize("key", ["objectives", "constraints"])
def test_an_objective_that_has_no_price_on_another_machine_is_named(folder, key, monkeypatch, capsys):
    """fspinn_knobs asks for it: the front was empty, the exit code 4, and nothing was said."""
    here, study = open_study(folder)
    named = {
        "objectives": ("validation_error", "energy_training_pj"),
        "constraints": {**here.study.constraints, "energy_training_pj": 1.0},
    }
    asked = replace(here, study=replace(here.study, **{key: named[key]}))
    monkeypatch.setattr(reprice, "open_study", lambda *_: (asked, study))
    assert reprice.main([str(folder), "accelerator=loihi"]) == reprice.BAD_CONFIG
    assert f"config error: study.{key} names energy_training_pj" in capsys.readouterr().err


def test_the_command_writes_a_report_and_leaves_the_models_alone(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()}
    assert reprice.main([str(folder), "accelerator=loihi"]) == 0
    summary = json.loads((folder / "priced" / "loihi" / "summary.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in (folder / "models").iterdir()} == before
    assert summary["hypervolume"] > 0
    assert "accelerator=loihi" in summary["front"][0]["command"]
    assert "3 trials priced on loihi, none trained" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["seed=1"], ["accelerator.clock_mhz=5"], ["accelerator=no_such"]])
def test_a_wrong_key_is_said(folder, words, capsys):
    assert reprice.main([str(folder), *words]) == reprice.BAD_CONFIG
    assert "config error" in capsys.readouterr().err


def test_no_study_is_said(tmp_path, capsys):
    assert reprice.main([str(tmp_path / "gone"), "accelerator=loihi"]) == reprice.NO_STUDY
    assert "there is no study" in capsys.readouterr().err
