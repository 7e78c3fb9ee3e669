import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.tracker import Ending, alias
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
        Row(3, "complete", {"compression.quantize_weights.bits": 8}, {"energy_pj": 9e5}),
    ]


META = {"registered_model_meta"}
"""What the registry writes beside a version."""
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
sys.path.insert(0, {here!r})
from test_tracking import rows
import mlflow
from mlflow import MlflowClient
from pipeline import config, job
from pipeline.served import Finalist
from pipeline.tracker import Ending
from pipeline.tracking import Mlflow

folder = Path({folder!r})
uri = f"sqlite:///{{folder}}/mlflow.db"
given = ["+experiment=quickstart", "learner.epochs=2", "net.hidden=16", f"out={{folder}}", "name=s"]
here = job.build(config.plain(config.compose_job(given)))
quantized = {{"compression.quantize_weights.bits": 4}}
outcome = here.evaluate(quantized, lambda step, metrics: None, 0)
data = here.experiment(quantized).data.load(here.seed)
ended = [replace(rows()[0], metrics={{**rows()[0].metrics, **outcome.metrics, "energy_pj": 5e5}}), *rows()[1:]]
(folder / "s" / "figures").mkdir(parents=True)
note = folder / "s" / "figures" / "note.txt"
note.write_text("hello")
ending = Ending(
    metrics={{"front_size": 1.0}}, history=[(1, {{"hypervolume": 0.2}}), (2, {{"hypervolume": 0.5}})],
    artifacts=[note], folder=folder / "s", dominated_by={{3: tuple(range(20))}}, picks={{"knee": 0}},
    models=[Finalist(0, here.model_path(0), here.params_config(quantized))],
)
for again in range(2):
    t = Mlflow(uri, f"{{folder}}/artifacts")
    t.start("s", {{"seed": 0}}, {{"command": "run"}}, data)
    for row in ended[: 1 + again]:
        t.trial(row)
    if again:
        t.finish(ended, ending)
        t.finish(ended, ending)  # the same command once more
c = MlflowClient(uri)
e = c.get_experiment_by_name("s").experiment_id
found = [dict(name=r.info.run_name, status=r.info.status, tags=dict(r.data.tags), metrics=r.data.metrics,
              params=r.data.params, steps=[m.step for m in c.get_metric_history(r.info.run_id, "loss")],
              data=[d.dataset.to_dictionary() for d in r.inputs.dataset_inputs])
         for r in c.search_runs([e])]
cheap = [r.info.run_name for r in c.search_runs([e], "metrics.energy_pj < 1e6 and tags.front = 'true'")]
parent = c.search_runs([e], "tags.kind = 'study'")
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model("models:/s@chosen")
right = float((model.predict(data.validation.x.numpy()) == data.validation.y.numpy()).mean())
refused = ""
try:
    model.predict(np.zeros((2, 1, 9, 9), dtype=np.uint8))
except Exception as error:
    refused = str(error)
print(json.dumps(dict(
    runs=found, cheap=cheap, parents=len(parent), digest=data.digest, right=right, refused=refused,
    artifacts=[a.path for a in c.list_artifacts(parent[0].info.run_id, "figures")],
    volume=[(m.step, m.value) for m in c.get_metric_history(parent[0].info.run_id, "hypervolume")],
    signature=model.metadata.signature.to_dict(), loader=model.loader_module,
    versions=[v.tags["trial"] for v in c.search_model_versions("name='s'")],
    aliases=c.get_registered_model("s").aliases,
    models=[m.tags["trial"] for m in c.search_logged_models([e])],
    files=sorted(p.name for p in (folder / "artifacts" / "models").rglob("*") if p.is_file()),
)))
"""


LOST = """
def driver(fails=()):
    tracker = Mlflow(uri, f"{folder}/artifacts", retry_s=0.0, register=())
    calls, real = [], tracker._client.log_batch

    def log_batch(*args, **kwargs):
        calls.append(1)
        if len(calls) in fails:
            raise ConnectionError("the answer was lost")
        return real(*args, **kwargs)

    tracker._client.log_batch = log_batch
    return tracker


def seen(name):
    c = tracker._client
    e = c.get_experiment_by_name(name).experiment_id
    children = sorted((int(r.data.tags["trial"]), r.info.status, len(r.data.params), len(r.data.metrics))
                      for r in c.search_runs([e], "tags.kind = 'trial'"))
    return [children, [r.data.params for r in c.search_runs([e], "tags.kind = 'study'")]]


found, two = dict(), rows()[2:]
tracker = driver(fails=(1, 3))  # the parent's parameters, and all of a trial but that it has begun
tracker.start("lost", dict(seed=0), dict())
for row in two:
    tracker.trial(row)
tracker.finish(two, Ending())
found["answers lost"] = seen("lost")
tracker = driver(fails=(2,))
tracker.start("killed", dict(seed=0), dict())
tracker.trial(two[0])
tracker = driver()  # the same command again
tracker.start("killed", dict(seed=0), dict())
tracker.finish(two, Ending())
found["killed in between"] = seen("killed")
drivers = driver(), driver()
for tracker in drivers:
    tracker.start("joined", dict(seed=0), dict())
for row in two:
    for tracker in drivers:
        tracker.trial(row)
double = tracker._client.create_run(tracker._experiment, tags=dict(kind="trial", trial="3"))  # at the same moment
tracker._client.set_terminated(double.info.run_id)
for tracker in drivers:
    tracker.finish(two, Ending())
found["two drivers"] = seen("joined")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One study written by a process of its own (MLflow's import is slow and warns in many ways)."""
    script = SCRIPT.format(here=str(Path(__file__).parent), folder=str(tmp_path_factory.mktemp("mlflow")))
    script += LOST  # in the same process
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, lost = done.stdout.splitlines()[-2:]
    return {**json.loads(found), "lost": json.loads(lost)}


def test_a_parent_and_one_child_per_trial_even_when_told_twice(store):
    assert store["parents"] == 1
    names = sorted(r["name"] for r in store["runs"])
    assert names == [
        "#0 4-bit 80% qat",
        "#1 4-bit 80% qat failed:nan",
        "#2 4-bit 80% qat stopped:silent",
        "#3 8-bit",
        "s",
    ]
    assert store["artifacts"] == ["figures/note.txt"]
    assert store["volume"] == [[1, 0.2], [2, 0.5]]


def test_the_dominated_say_by_whom_and_long_lists_are_cut(store):
    by_name = {r["name"]: r["tags"] for r in store["runs"]}
    assert by_name["#3 8-bit"]["dominated_by"] == "#0, #1, #2, #3, #4, #5, #6, #7, and 12 more"
    assert "dominated_by" not in by_name["#0 4-bit 80% qat"]


def test_data_are_logged_with_their_digest(store):
    """MLflow's own column has room for 36 letters; the source has all of it."""
    for name in ("s", "#0 4-bit 80% qat"):
        (data,) = next(r for r in store["runs"] if r["name"] == name)["data"]
        assert data["digest"] == store["digest"][:36]
        assert json.loads(data["source"])["sha256"] == store["digest"]


def test_a_finalist_is_a_model_with_a_signature_that_answers_as_in_the_study(store):
    best = next(r for r in store["runs"] if r["name"] == "#0 4-bit 80% qat")
    assert store["right"] == best["metrics"]["validation_accuracy"] > 0.2
    assert '"shape": [-1, 1, 8, 8]' in store["signature"]["inputs"]
    assert '"uint8"' in store["signature"]["inputs"]
    assert '"int64"' in store["signature"]["outputs"]
    assert store["refused"]


def test_no_model_file_is_a_pickle(store):
    assert store["loader"] == "pipeline.served"
    assert set(store["files"]) == {"MLmodel", "model.json", "model.safetensors", "requirements.txt", *META}


def test_the_chosen_one_is_registered_once_with_its_aliases(store):
    assert store["models"] == ["0"]
    assert store["versions"] == ["0"]
    assert store["aliases"] == {"chosen": 1, "knee": 1} or store["aliases"] == {"chosen": "1", "knee": "1"}


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


def test_every_trial_is_sent_whole_and_once_whatever_answer_is_lost_and_however_many_drivers_there_are(store):
    whole = [[[2, "KILLED", 3, 0], [3, "FINISHED", 1, 1]], [{"seed": "0"}]]
    assert list(store["lost"]) == ["answers lost", "killed in between", "two drivers"]
    for case, found in store["lost"].items():
        assert found == whole, case


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
    tracker.finish(rows(), Ending())
    assert tracker.look == ""


def test_a_trial_is_named_for_people():
    assert title(rows()[0]) == "#0 4-bit 80% qat"
    assert title(Row(3, "complete")) == "#3"
    each = {"layers": [{"name": "conv1", "bits": 6}, {"name": "fc1", "bits": 3}]}
    assert title(Row(5, "complete", {"plan.scheme": "ptq"}, detail=each)) == "#5 3-6-bit ptq"
    assert title(Row(6, "complete", detail={"layers": [{"name": "fc1", "bits": 32}]})) == "#6"
    assert title(Row(4, "complete", {"plan.scheme": "qat", "plan.mode": "joint"})) == "#4 joint"
    params = {
        "compression.quantize_weights.bits": 4,
        "compression.prune_weights.sparsity": 0.8,
        "plan.scheme": "joint",
    }
    assert title(Row(17, "complete", params)) == "#17 4-bit 80% joint"


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("within 1 point", "within-1-point"), ("within 0.5 points", "within-0-5-points"), ("≤ 8 KiB", "8-KiB"),
        ("knee", "knee"), ("Latest", "selector-Latest"), ("v2", "selector-v2"), ("≤", "selector-"),
    ],
)  # fmt: skip
def test_any_selectors_name_is_an_alias_that_the_registry_takes(selector, said):
    assert alias(selector) == said
