import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.tracking import Mlflow, Silent, title
from pipeline.types import Row


def rows():
    params = {
        "compression.quantize_weights.bits": 4,
        "compression.prune_weights.sparsity": 0.8,
        "plan.scheme": "qat",
    }
    history = ((1, {"loss": 0.9}), (2, {"loss": 0.5}))
    return [
        Row(0, "complete", params, {"validation_accuracy": 0.9, "energy_pj": 5e5}, history, on_front=True),
        Row(1, "failed:nan", params, {}, reason="loss is NaN at epoch 1", feasible=False),
        Row(2, "stopped:silent", params, {}, reason="lif1 never fires", feasible=False),
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One study written by a process of its own (MLflow's import is slow and warns in many ways)."""
    folder = tmp_path_factory.mktemp("mlflow")
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracking import rows
from pipeline.tracking import Mlflow
from mlflow import MlflowClient
import json
uri = "sqlite:///{folder}/mlflow.db"
note = __import__("pathlib").Path("{folder}/note.txt"); note.write_text("hello")
for again in range(2):
    t = Mlflow(uri, "{folder}/artifacts"); t.start("s", {{"seed": 0}}, {{"command": "run"}})
    for row in rows()[: 1 + again]: t.trial(row)
t.finish(rows(), {{"hypervolume": 0.5}}, [note])
c = MlflowClient(uri); e = c.get_experiment_by_name("s").experiment_id
found = [dict(name=r.info.run_name, status=r.info.status, tags=dict(r.data.tags), metrics=r.data.metrics,
              params=r.data.params, steps=[m.step for m in c.get_metric_history(r.info.run_id, "loss")])
         for r in c.search_runs([e])]
cheap = [r.info.run_name for r in c.search_runs([e], "metrics.energy_pj < 1e6 and tags.front = 'true'")]
parent = [r for r in c.search_runs([e], "tags.kind = 'study'")]
print(json.dumps(dict(runs=found, cheap=cheap, parents=len(parent),
      artifacts=[a.path for a in c.list_artifacts(parent[0].info.run_id)])))
"""
    import json

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_parent_and_one_child_per_trial_even_when_told_twice(store):
    assert store["parents"] == 1
    names = sorted(r["name"] for r in store["runs"])
    assert names == [
        "#0 4-bit 80% qat",
        "#1 4-bit 80% qat failed:nan",
        "#2 4-bit 80% qat stopped:silent",
        "s",
    ]
    assert store["artifacts"] == ["note.txt"]


def test_states_front_and_steps_are_there(store):
    by_name = {r["name"]: r for r in store["runs"]}
    best = by_name["#0 4-bit 80% qat"]
    assert (best["status"], best["tags"]["front"], best["steps"]) == ("FINISHED", "true", [1, 2])
    assert best["params"]["plan.scheme"] == "qat"
    failed = by_name["#1 4-bit 80% qat failed:nan"]
    assert (failed["status"], failed["tags"]["state"]) == ("FAILED", "failed:nan")
    assert failed["tags"]["reason"] == "loss is NaN at epoch 1"
    assert by_name["#2 4-bit 80% qat stopped:silent"]["status"] == "KILLED"


def test_the_documented_filter_finds_the_cheap_members(store):
    assert store["cheap"] == ["#0 4-bit 80% qat"]


def test_a_dead_server_is_said_once_and_stops_nothing(caplog):
    tracker = Mlflow("http://127.0.0.1:9", retry_s=60)
    begin = time.monotonic()
    tracker.start("s", {}, {})
    for row in rows():
        tracker.trial(row)
    assert time.monotonic() - begin < 60
    said = [r for r in caplog.records if "did not take this" in r.message]
    assert len(said) == 1
    assert "the study goes on" in said[0].message


def test_a_store_without_a_scheme_is_refused():
    with pytest.raises(ValueError, match="uri must start with a scheme"):
        Mlflow("mlflow.db")


def test_silent_has_nothing_to_look_at():
    tracker = Silent()
    tracker.start("s", {}, {})
    tracker.trial(rows()[0])
    tracker.finish(rows(), {}, [])
    assert tracker.look == ""


def test_a_trial_is_named_for_people():
    assert title(rows()[0]) == "#0 4-bit 80% qat"
    assert title(Row(3, "complete")) == "#3"
