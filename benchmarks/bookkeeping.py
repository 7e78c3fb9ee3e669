"""What a trial costs beside its training: Optuna and MLflow, per trial, with two workers; and no-op trials a second.

    python benchmarks/bookkeeping.py                                      SQLite, two workers, MLflow on
    python benchmarks/bookkeeping.py --load 1 8 32 --trials 1000 --storage postgresql://user@host/db
                                                                          trials a second, no-op trials
    python benchmarks/bookkeeping.py --memory 1000 4000                   what all trials cost one worker

Bookkeeping is everything between two evaluations in a worker (claim, ask, suggest, record, tell) plus the driver's
time to write the trial to MLflow. The space is that of the quickstart; every trial reports ten epochs of six metrics.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import optuna
import psutil
from optuna.trial import create_trial

from pipeline import config, job
from pipeline.nursery import Nursery, Task
from pipeline.study import database, results
from pipeline.study.ledger import Ledger
from pipeline.study.samplers import Tpe
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.tracking import Mlflow
from pipeline.types import Report

EPOCHS, TRAINING_S = 10, 0.3
METRICS = (
    "loss",
    "train_accuracy",
    "validation_accuracy",
    "validation_error",
    "firing_rate",
    "learning_rate",
)


def trained(params: Mapping[str, object], report: Report, number: int) -> Outcome:
    """Stands for training: sleeps, reports, and costs nothing that could be mistaken for bookkeeping."""
    for epoch in range(EPOCHS):
        report(epoch + 1, dict.fromkeys(METRICS, 1.0 / (epoch + 1)))
    time.sleep(TRAINING_S)
    hidden = params["net.hidden"]
    assert isinstance(hidden, int)
    return Outcome(
        {"validation_error": 1 / hidden, "memory_bits": hidden * 100.0, "energy_pj": hidden + number / 7}
    )


def serve(url: str, name: str, index: int, trials: int) -> None:
    """One worker with the quickstart's space and sampler; its times go to the study."""
    plain = config.plain(config.compose(["+experiment=quickstart"]))
    here = job.build(plain)
    spec = Study(trials=trials, objectives=here.study.objectives, space=here.study.space)
    storage = database.connect(url)
    study = optuna.load_study(storage=storage, study_name=name)
    study.sampler = here.sampler.build(index)
    spent: list[float] = []
    last, begun = time.perf_counter(), time.process_time()

    def timed(params: Mapping[str, object], report: Report, number: int) -> Outcome:
        nonlocal last
        before = time.perf_counter() - last
        begin = time.perf_counter()
        outcome = trained(params, report, number)
        spent.append(before + time.perf_counter() - begin - TRAINING_S)
        last = time.perf_counter()
        return outcome

    Worker(spec, study, timed, lambda p: json.dumps(p, sort_keys=True, default=str)).run()
    study.set_user_attr(f"spent:{index}", json.dumps(spent))
    study.set_user_attr(f"cpu:{index}", (time.process_time() - begun) / max(len(spent), 1))


def noop(params: Mapping[str, object], report: Report, number: int) -> Outcome:  # noqa: ARG001
    """A trial that takes no time."""
    x = params["x"]
    assert isinstance(x, float)
    return Outcome({"error": x, "price": 1.0 - x})


LOAD = {"x": {"low": 0.0, "high": 1.0}, "y": {"low": 1, "high": 100}, "z": {"choices": ["a", "b", "c"]}}


SAMPLERS = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "tpe": lambda seed: Tpe().build(seed),
}


def hurry(url: str, name: str, index: int, trials: int, sampler: str) -> None:
    """One worker of the load test; its processor time goes to the study."""
    begin = time.process_time()
    spec = Study(trials=trials, objectives=("error", "price"), space=LOAD)
    study = optuna.load_study(storage=database.connect(url, made=True), study_name=name)
    study.sampler = SAMPLERS[sampler](index)
    Worker(spec, study, noop, lambda p: json.dumps(p, sort_keys=True)).run()
    study.set_user_attr(f"cpu:{index}", time.process_time() - begin)


def optunas(url: str, name: str, index: int, trials: int, sampler: str) -> None:
    """One worker of plain Optuna, on its own storage with its own loop and the same two attributes per trial."""
    begin = time.process_time()
    address = url.replace("postgresql://", "postgresql+psycopg://")
    study = optuna.load_study(storage=address, study_name=name, sampler=SAMPLERS[sampler](index))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.suggest_int("y", 1, 100)
        trial.suggest_categorical("z", ["a", "b", "c"])
        for key in ("fingerprint", "record"):
            trial.set_user_attr(key, json.dumps(trial.params))
        return x, 1.0 - x

    enough = (optuna.trial.TrialState.COMPLETE,)
    study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(trials, states=enough)])
    study.set_user_attr(f"cpu:{index}", time.process_time() - begin)


def bookkeeping(folder: Path, url: str, trials: int) -> dict[str, object]:
    """Median and 90th percentile of what two workers and the driver spend per trial."""
    plain = config.plain(config.compose(["+experiment=quickstart"]))
    here = job.build(plain)
    spec = Study(trials=trials, objectives=here.study.objectives, space=here.study.space)
    study = database.create(database.connect(url), "bookkeeping", spec, {"made": time.time()})
    tracker = Mlflow(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"))
    tracker.start("bookkeeping", config.flatten(plain), {})
    book, shown, written = results.Book(study, spec), set[int](), list[float]()
    cpu = 0.0
    with Nursery() as nursery:
        team = {nursery.start(serve, url, "bookkeeping", i, trials) for i in range(2)}
        while team:
            time.sleep(0.1)
            team -= {pid for pid, _ in nursery.ended()}
            for row in book.rows():
                if row.state != "running" and row.number not in shown:
                    shown.add(row.number)
                    begin, before = time.perf_counter(), time.process_time()
                    tracker.trial(row)
                    cpu += time.process_time() - before
                    written.append(time.perf_counter() - begin)
    optuna_s = [s for i in range(2) for s in json.loads(study.user_attrs.get(f"spent:{i}", "[]"))]
    return {
        "trials": len(shown),
        "optuna_ms": 1e3 * median(optuna_s),
        "mlflow_ms": 1e3 * median(written),
        "sum_ms": 1e3 * (median(optuna_s) + median(written)),
        "optuna_cpu_ms": 1e3 * max(study.user_attrs[f"cpu:{i}"] for i in range(2)),
        "mlflow_cpu_ms": 1e3 * cpu / max(len(written), 1),
        "optuna_p90_ms": 1e3 * sorted(optuna_s)[int(0.9 * len(optuna_s))],
    }


def load(url: str, workers: int, trials: int, sampler: str, task: Task = hurry) -> dict[str, object]:
    """No-op trials a second with `workers` processes, from the first claim to the last verdict."""
    name = f"load-{workers}-{time.time_ns()}"
    spec = Study(trials=trials, objectives=("error", "price"), space=LOAD)
    study = database.create(database.connect(url), name, spec, {"made": name})
    with Nursery() as nursery:
        team = {nursery.start(task, url, name, i, trials, sampler) for i in range(workers)}
        while team:
            time.sleep(0.05)
            team -= {pid for pid, _ in nursery.ended()}
    ended = optuna.trial.TrialState.COMPLETE
    done = study.get_trials(deepcopy=False, states=(ended,))
    first = min(t.datetime_start for t in done if t.datetime_start)
    last = max(t.datetime_complete for t in done if t.datetime_complete)
    seconds = (last - first).total_seconds()
    cpu = sum(float(study.user_attrs[f"cpu:{i}"]) for i in range(workers))
    return {
        "workers": workers,
        "sampler": sampler,
        "trials": len(done),
        "budget": trials,
        "trials_per_s": len(done) / seconds,
        "worker_cpu_ms": 1e3 * cpu / len(done),
        "stored_bytes": stored_bytes(done),
    }


def stored_bytes(trials: Sequence[optuna.trial.FrozenTrial]) -> float:
    """Mean size of what the database keeps of a trial, as JSON."""
    return sum(len(json.dumps([t.params, t.user_attrs, t.system_attrs])) for t in trials) / len(trials)


def memory(url: str, trials: int) -> dict[str, object]:
    """What a worker pays for a study of `trials` finished trials: to read it once, to keep it, and to look again."""
    name = f"memory-{time.time_ns()}"
    plain = config.plain(config.compose(["+experiment=quickstart"]))
    here = job.build(plain)
    spec = Study(trials=trials, objectives=here.study.objectives, space=here.study.space)
    study = database.create(database.connect(url), name, spec, {"made": name})
    source, detail = (
        optuna.create_study(directions=["minimize"] * 3),
        {"layers": [dict.fromkeys("abcdefgh", 0.5)] * 2},
    )
    history = json.dumps([(i, dict.fromkeys(METRICS, 1.0 / i)) for i in range(1, EPOCHS + 1)])
    made = []
    for number in range(trials):
        trial = source.ask()
        here.study.axes.suggest(trial)
        metrics = dict.fromkeys((*METRICS, *here.study.objectives), number / 7)
        record = json.dumps({"state": "complete", "metrics": metrics, "detail": detail})
        attrs = {
            "worker": database.identity(),
            "fingerprint": f"{number:064x}",
            "record": record,
            "history": history,
        }
        values = [number / 7] * 3
        kinds = trial.distributions
        made.append(create_trial(params=trial.params, distributions=kinds, values=values, user_attrs=attrs))
    study.add_trials(made)
    del made, source
    process = psutil.Process()
    fresh = optuna.load_study(storage=database.connect(url), study_name=name)
    before, begin = process.memory_info().rss, time.process_time()
    ledger = Ledger(fresh)
    ledger.look()
    read_s = time.process_time() - begin
    begin = time.process_time()
    for _ in range(5):
        ledger.look()
    again_s = (time.process_time() - begin) / 5
    grown = process.memory_info().rss - before
    return {
        "trials": trials,
        "read_ms_a_trial": 1e3 * read_s / trials,
        "kept_bytes_a_trial": grown / trials,
        "look_again_ms": 1e3 * again_s,
        "stored_bytes": stored_bytes(fresh.get_trials(deepcopy=False)),
    }


def main() -> None:
    """Measure, print, and write outputs/benchmarks/bookkeeping.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--storage", default=None, help="default: a new SQLite file")
    parser.add_argument("--load", type=int, nargs="*", default=[], help="numbers of workers")
    parser.add_argument("--sampler", choices=sorted(SAMPLERS), default="random", help="of --load")
    parser.add_argument(
        "--memory", type=int, nargs="*", default=[], help="numbers of finished trials to read"
    )
    parser.add_argument("--plain", action="store_true", help="--load by Optuna's own loop and storage")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        url = given.storage or f"sqlite:///{temporary}/study.db"
        kind = url.partition(":")[0]
        if given.load:
            task = optunas if given.plain else hurry
            found = [load(url, workers, given.trials, given.sampler, task) for workers in given.load]
        elif given.memory:
            found = [memory(url, trials) for trials in given.memory]
        else:
            found = [bookkeeping(Path(temporary), url, given.trials)]
    for line in found:
        print(kind, {k: round(v, 1) if isinstance(v, float) else v for k, v in line.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    part = (
        f"-load-{'plain-' * given.plain}{given.sampler}" if given.load else "-memory" if given.memory else ""
    )
    name = f"bookkeeping{part}-{kind}.json"
    record = {
        "storage": kind,
        "machine": platform.platform(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
    }
    (given.out / name).write_text(json.dumps({**record, "results": found}, indent=2))


if __name__ == "__main__":
    main()
