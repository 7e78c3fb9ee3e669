"""What a barrier costs: trials of uneven length, by workers that never wait and by batches that wait for their slowest.

    python benchmarks/noop.py [--workers 4 --trials 40]

Batches are what hydra-optuna-sweeper does (ask n, run n, tell n). Both sides run the same sleeps in processes of their
own on the same SQLite storage, so that the difference is waiting alone. Lengths are lognormal (sigma 1), as those of
studies that search epochs and network sizes; no trial computes anything.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import optuna

from pipeline.nursery import Nursery
from pipeline.study import database
from pipeline.study.search import Outcome, Worker
from pipeline.study.spec import Study
from pipeline.types import Report

SPACE = {"x": {"low": 0.0, "high": 1.0}}


def length(number: int, mean_s: float) -> float:
    """Seconds of trial `number`: the same on both sides."""
    return mean_s * random.Random(number).lognormvariate(-0.5, 1.0)


def serve(url: str, index: int, trials: int, mean_s: float) -> None:
    """One worker that takes the next trial as soon as it is free."""

    def sleep(params: Mapping[str, object], report: Report, number: int) -> Outcome:  # noqa: ARG001
        time.sleep(length(number, mean_s))
        x = params["x"]
        assert isinstance(x, float)
        return Outcome({"error": x, "price": 1 - x})

    study = optuna.load_study(storage=database.connect(url), study_name="free")
    study.sampler = optuna.samplers.RandomSampler(seed=index)
    Worker(Study(trials, ("error", "price"), SPACE), study, sleep, json.dumps).run()


def rest(seconds: float) -> None:
    """A trial of a batch."""
    time.sleep(seconds)


def free(folder: str, workers: int, trials: int, mean_s: float) -> float:
    """Seconds for all trials without a barrier."""
    url = f"sqlite:///{folder}/free.db"
    database.create(database.connect(url), "free", Study(trials, ("error", "price"), SPACE), {"made": 1})
    with Nursery() as nursery:
        begin = time.perf_counter()
        team = {nursery.start(serve, url, i, trials, mean_s) for i in range(workers)}
        while team:
            time.sleep(0.01)
            team -= {pid for pid, _ in nursery.ended()}
        return time.perf_counter() - begin


def batched(folder: str, workers: int, trials: int, mean_s: float) -> float:
    """Seconds for all trials in batches of `workers`, through Optuna's own ask and tell."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/batched.db",
        directions=["minimize"] * 2,
        sampler=optuna.samplers.RandomSampler(0),
    )
    with Nursery() as nursery:
        begin = time.perf_counter()
        for first in range(0, trials, workers):
            asked = [study.ask() for _ in range(first, min(first + workers, trials))]
            points = [trial.suggest_float("x", 0.0, 1.0) for trial in asked]
            team = {nursery.start(rest, length(trial.number, mean_s)) for trial in asked}
            while team:
                time.sleep(0.01)
                team -= {pid for pid, _ in nursery.ended()}
            for trial, x in zip(asked, points, strict=True):
                study.tell(trial, (x, 1 - x))
        return time.perf_counter() - begin


def main() -> None:
    """Measure in turn, print, and write outputs/benchmarks/noop.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--mean", type=float, default=1.0, help="seconds a trial")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        barrier = batched(folder, given.workers, given.trials, given.mean)
        without = free(folder, given.workers, given.trials, given.mean)
    ideal = sum(length(n, given.mean) for n in range(given.trials)) / given.workers
    found = {
        "batched_s": barrier,
        "free_s": without,
        "ratio": barrier / without,
        "work_over_workers_s": ideal,
    }
    print({name: round(value, 2) for name, value in found.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    record = {**found, "workers": given.workers, "trials": given.trials, "mean_s": given.mean}
    (given.out / "noop.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
