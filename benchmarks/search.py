"""How long a search takes: to 95 % of the hypervolume against plain Optuna, with one and two workers, and with STDP.

    python benchmarks/search.py                     three seeds, ours and Optuna's TPE and NSGA-II in turn: 15 minutes
    python benchmarks/search.py --minutes 8         as many cells as begin in 8 minutes; the same call goes on later
    python benchmarks/search.py --workers           the same trials by one worker and by two, in turn
    python benchmarks/search.py --stdp              50 STDP trials of 5,000 MNIST images each at 400 neurons

All sides search the same space with the same objective (real MNIST, a feed-forward network trained through time,
then quantized and pruned), each with two processes of one thread, forked from a process that has imported everything,
for the same seconds. Plain Optuna is `study.optimize` on its own RDB storage with its default sampler or NSGA-II: no
stopping, no reuse of a float model, no cache of equal trials. Ours is what `pipeline.run` starts, without its warm
starts. The hypervolume is that of (validation error, memory, energy) below the fixed REFERENCE, about what a small
network of 8 bits costs: against a looser one the first trial of any side has 95 %. The target is 95 % of the largest
final hypervolume that any side reaches with that seed; a side that does not reach it counts with all its seconds. The
second ratio is to 95 % of what the other side itself reaches, which it always does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch
from docs_block import lined, put

from pipeline import config, experiment, job, launch
from pipeline.nursery import Nursery
from pipeline.study import database, pareto, results

WORKERS, SHARE = 2, 0.95
REFERENCE = (0.2, 2.0**19, 1e6)
"""Validation error, bits (64 KiB), pJ (1 uJ an inference)."""
SEARCHED = [
    "+experiment=mnist",
    "data.limit=3000",
    "data.validation=2000",
    "data.augment=null",
    "learner.epochs=10",
    "study.trials=100000",
    "study.warm_start=[]",
    "+study.space.net.hidden={choices: [32, 64, 128, 256]}",
    "stopper=rank",
]
STDP = [
    "+experiment=fspinn_mnist",
    "data.limit=5000",
    "study.trials=50",
    "study.finalists=0",
    "stopper=rank_images",
    "tracking=silent",
]
Point = tuple[float, ...]


def plain_config(seed: int, folder: Path) -> config.Plain:
    """The job of one cell; its seed is the sampler's, networks and data stay the same on all sides."""
    url = f"sqlite:///{folder}/study.db"
    return config.plain(config.compose([*SEARCHED, f"out={folder}", f"storage={url}", f"seed={seed}"]))


def serve(plain: config.Plain) -> None:
    """One of our workers."""
    launch.work(plain, threads=1)


def opponent(plain: config.Plain, kind: str, index: int, seconds: float) -> None:
    """One worker of plain Optuna; two of them make a suggestion each, ask nobody, and train everything."""
    torch.set_num_threads(1)
    here = job.build(plain)
    seed = here.seed + 1_000_003 * index
    sampler = (
        optuna.samplers.TPESampler(seed=seed) if kind == "tpe" else optuna.samplers.NSGAIISampler(seed=seed)
    )
    study = optuna.load_study(study_name=here.name, storage=here.storage, sampler=sampler)

    def objective(trial: optuna.Trial) -> list[float]:
        params = here.study.axes.suggest(trial)
        metrics = experiment.evaluate(here.experiment(params), lambda step, metrics: None).metrics
        return [metrics[name] for name in here.study.objectives]

    study.optimize(objective, timeout=seconds, catch=(Exception,))


def timed(plain: config.Plain, kind: str, seconds: float) -> list[tuple[float, Point]]:
    """(seconds since the start, objectives) of every trial that a side has finished in time."""
    here = job.build(plain)
    names = here.study.objectives

    def prepare() -> None:
        torch.set_num_threads(1)
        database.rehearse(here.sampler.build(0))
        experiment.rehearse(here.experiment({}))

    with Nursery(prepare) as nursery:
        if kind == "ours":
            database.create(database.connect(here.storage), here.name, here.study, here.config)
        else:
            optuna.create_study(
                study_name=here.name, storage=here.storage, directions=["minimize"] * len(names)
            )
        nursery.start(time.sleep, 0.0)  # answers once the nursery is prepared
        begin = time.time()
        for index in range(WORKERS):
            given = (serve, plain) if kind == "ours" else (opponent, plain, kind, index, seconds)
            nursery.start(*given)
        time.sleep(max(0.0, begin + seconds - time.time()))
    study = optuna.load_study(study_name=here.name, storage=here.storage)
    return sorted(
        (trial.datetime_complete.timestamp() - begin, tuple(trial.values))
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        if trial.datetime_complete is not None and trial.datetime_complete.timestamp() - begin <= seconds
    )


def rise(finished: Sequence[tuple[float, Point]], limit: Point) -> list[tuple[float, float]]:
    """(seconds, hypervolume) after each finished trial."""
    front: list[Point] = []
    found = []
    for second, point in finished:
        front = [*front, point]
        front = [front[i] for i in pareto.front(front)]
        found.append((second, pareto.hypervolume(front, limit)))
    return found


def reached(curve: Sequence[tuple[float, float]], target: float) -> float | None:
    """When a curve first is at the target; None: never."""
    return next((second for second, volume in curve if volume >= target > 0), None)


SIDES = ("ours", "tpe", "nsga2")
SAID = {"ours": "this project", "tpe": "Optuna, TPE", "nsga2": "Optuna, NSGA-II"}
PAGE, RESULTS = Path("docs/search.md"), Path("docs/results/benchmarks/search.json")


def compare(folder: Path, seeds: int, seconds: float, deadline: float) -> dict[str, object] | None:
    """Run the cells that are missing, in turn; the table once all are there."""
    cells = [(seed, kind) for seed in range(seeds) for kind in SIDES[seed % 3 :] + SIDES[: seed % 3]]
    folder.mkdir(parents=True, exist_ok=True)
    for seed, kind in cells:
        path = folder / f"{kind}-{seed}-{seconds:g}s.json"
        if path.exists():
            continue
        if time.monotonic() > deadline:
            print("more is to do: the same command goes on")
            return None
        with tempfile.TemporaryDirectory() as temporary:
            finished = timed(plain_config(seed, Path(temporary)), kind, seconds)
        load = float(Path("/proc/loadavg").read_text().split()[0])
        path.write_text(json.dumps({"finished": finished, "load_average": load}))
        print(f"{kind} seed {seed}: {len(finished)} trials in {seconds:g} s, load {load}", flush=True)
    rows = []
    for seed in range(seeds):
        cell = {kind: json.loads((folder / f"{kind}-{seed}-{seconds:g}s.json").read_text()) for kind in SIDES}
        curves = {kind: rise([(s, tuple(p)) for s, p in cell[kind]["finished"]], REFERENCE) for kind in SIDES}
        best = max((curve[-1][1] for curve in curves.values() if curve), default=0.0) or 1.0
        row: dict[str, object] = {"seed": seed, "best": best}
        for kind, curve in curves.items():
            row[f"{kind}_trials"] = len(curve)
            row[f"{kind}_final"] = curve[-1][1] / best if curve else 0.0
            row[f"{kind}_s"] = reached(curve, SHARE * best)
        for kind in SIDES[1:]:
            own = SHARE * (
                curves[kind][-1][1] if curves[kind] else 0.0
            )  # 95 % of what the other side itself reaches
            mine, other = reached(curves["ours"], own), reached(curves[kind], own)
            row[f"ours_to_{kind}_own_s"], row[f"{kind}_own_s"] = mine, other
        rows.append(row)
    return {"cells": rows, "seconds": seconds, "reference": REFERENCE, **ratios(rows, seconds)}


def ratios(rows: Sequence[Mapping[str, object]], seconds: float) -> dict[str, object]:
    """Ours over theirs, the median over seeds: to 95 % of the best, and to 95 % of what the other side reaches."""

    def over(mine: object, other: object) -> float:
        return _number(mine, seconds) / _number(other, seconds)

    found: dict[str, object] = {}
    for kind in SIDES[1:]:
        found[f"ratio_{kind}"] = median(over(row["ours_s"], row[f"{kind}_s"]) for row in rows)
        found[f"reached_{kind}"] = sum(row[f"{kind}_s"] is not None for row in rows)
        own = [over(row[f"ours_to_{kind}_own_s"], row[f"{kind}_own_s"]) for row in rows]
        found[f"ratio_{kind}_own"] = median(own)
    return found


def table(found: Mapping[str, Any]) -> list[str]:
    """Trials, seconds to the target and final hypervolume of each side and seed, and the ratios."""
    seconds = found["seconds"]
    rows = []
    for cell in found["cells"]:
        for kind in SIDES:
            reach = cell[f"{kind}_s"]
            said = f"not in {seconds:g} s" if reach is None else f"{reach:.1f} s"
            share = f"{100 * cell[f'{kind}_final']:.0f} % of the best"
            rows.append([str(cell["seed"]), SAID[kind], str(cell[f"{kind}_trials"]), said, share])
    lines = lined(("seed", "side", "trials", "to 95 % of the best", "final hypervolume"), rows)
    ratio = {k: found[f"ratio_{k}"] for k in SIDES[1:]}
    own = {k: found[f"ratio_{k}_own"] for k in SIDES[1:]}
    lines += [
        "",
        "Median over the seeds, our time over theirs; who does not arrive counts with all its seconds:",
    ]
    for kind in SIDES[1:]:
        lines.append(
            f"{ratio[kind]:.2f} of {SAID[kind]}'s time; to 95 % of what {SAID[kind]} itself reaches, {own[kind]:.2f}."
        )
    for kind in SIDES[1:]:
        if found[f"reached_{kind}"] < len(found["cells"]):
            arrived = found[f"reached_{kind}"] or "none"
            lines.append(
                f"{SAID[kind]} arrived in {arrived} of {len(found['cells'])} seeds: the first ratio is at most that."
            )
    load = found["load_average"]
    return [*lines, f"{found['cores']} cores, two processes each side, load average {load} at the end."]


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def command(arguments: Sequence[str], folder: Path) -> float:
    """Seconds of `pipeline.run` with these arguments, its imports included."""
    import subprocess
    import sys

    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.run", *arguments, f"out={folder}"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode not in (0, 4):
        raise SystemExit(done.stderr)
    return time.perf_counter() - begin


EQUAL = [
    *SEARCHED[:4],
    "learner.epochs=24",
    "~study.space",
    "+study.space={learner.learning_rate: {low: 0.002, high: 0.02, log: true}}",
    "study.warm_start=[]",
    "study.baseline={}",
    "study.finalists=0",
    "study.selectors={}",
    "sampler=random",
    "tracking=silent",
]
"""Trials that all train and cost the same, some seconds each: below one second the start of a worker is what counts."""


def several(trials: int, rounds: int) -> dict[str, object]:
    """Trials per hour with one and with two workers in turn, from the first claim to the last end."""
    arguments = [*EQUAL, f"study.trials={trials}"]
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as temporary:
                command([*arguments, f"workers={workers}"], Path(temporary))
                rates[workers].append(_rate(f"sqlite:///{temporary}/mnist/study.db", "mnist"))
            print(f"{workers} worker(s): {rates[workers][-1]:.0f} trials/h", flush=True)
    ratio = median(b / a for a, b in zip(rates[1], rates[2], strict=True))
    return {"one_per_h": rates[1], "two_per_h": rates[2], "ratio": ratio, "trials": trials}


def _rate(url: str, name: str) -> float:
    trials = optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)
    done = [t for t in trials if t.datetime_start and t.datetime_complete and database.counted(t)]
    begin = min(t.datetime_start for t in done if t.datetime_start)
    end = max(t.datetime_complete for t in done if t.datetime_complete)
    return 3600 * len(done) / (end - begin).total_seconds()


def stdp(more: Sequence[str]) -> dict[str, object]:
    """Seconds of a study of 50 STDP trials, the whole command and its trials alone."""
    with tempfile.TemporaryDirectory() as temporary:
        seconds = command([*STDP, "name=stdp", *more], Path(temporary))
        url = f"sqlite:///{temporary}/stdp/study.db"
        study = optuna.load_study(study_name="stdp", storage=database.connect(url))
        here = job.build(config.plain(config.compose([*STDP, *more])))
        rows = results.rows(study, here.study)
        search_s = 3600 * len(rows) / _rate(url, "stdp")
    best = max((row.metrics.get("validation_accuracy", 0.0) for row in rows), default=0.0)
    states: dict[str, int] = {}
    for row in rows:
        states[row.state] = states.get(row.state, 0) + 1
    return {"command_s": seconds, "search_s": search_s, "trials": len(rows), "best_accuracy": best, **states}


def main() -> None:
    """Measure, print, and write outputs/benchmarks/search*.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=90.0, help="of a cell")
    parser.add_argument("--minutes", type=float, default=60.0, help="no cell begins after so many")
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--trials", type=int, default=24, help="of each study of --workers")
    parser.add_argument("--rounds", type=int, default=2, help="of --workers")
    parser.add_argument("--stdp", action="store_true")
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are there")
    parser.add_argument("--table", action="store_true", help=f"run nothing: {RESULTS} into {PAGE}")
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("more", nargs="*", help="overrides of --stdp")
    given = parser.parse_args()
    if given.table:
        lines = table(json.loads(RESULTS.read_text()))
        PAGE.write_text(put(PAGE.read_text(), "search", "python benchmarks/search.py --table", lines))
        print("\n".join(lines))
        return
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    name, found = "search", None
    if given.workers:
        name, found = "search-workers", several(given.trials, given.rounds)
    elif given.stdp:
        name, found = "search-stdp", stdp(given.more)
    else:
        cells = given.out / "search"
        if given.fresh:
            shutil.rmtree(cells, ignore_errors=True)
        found = compare(cells, given.seeds, given.seconds, time.monotonic() + 60 * given.minutes)
    if found is None:
        return
    print(json.dumps(found, indent=1))
    record = {
        **found,
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "load_average": Path("/proc/loadavg").read_text().split()[0],
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{name}.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
