"""The members of the front once more: over seeds, and on the test split, which is read here and nowhere else."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from statistics import mean, stdev
from typing import cast

import numpy as np
import optuna
from scipy.special import stdtrit

from pipeline import checkpoint, experiment, heap
from pipeline.config import Plain
from pipeline.experiment import Trained
from pipeline.export.finalist import device_columns
from pipeline.export.program import NotExact
from pipeline.export.proof import PLACES
from pipeline.export.robustness import Stress
from pipeline.job import Job, build
from pipeline.study import database, pareto, results
from pipeline.types import DataError, Metrics, Row, TrialEnded

log = logging.getLogger(__name__)

WAIT_S = 0.5
"""Between two looks at a re-run that another driver does."""
CONFIDENCE = 0.95
DRAWS = 2000


@heap.held()
def baseline(job: Job, study: optuna.Study) -> Row | None:
    """The float model of `study.baseline`, trained once beside the budget; None where there is none to be had."""
    params = job.study.baseline
    if not params:
        return None
    stored = study.user_attrs.get("baseline")
    if stored is None:
        try:
            trained = experiment.evaluate(job.experiment(params), _unheard, job.pretrained(params))
        except TrialEnded as ended:
            log.warning("there is no float model to compare with: %s (%s)", ended, ended.state)
            return None
        metrics = dict(trained.metrics) | tested(job, trained, params)
        loads = [asdict(load) for load in trained.loads]
        stored = json.dumps({"metrics": metrics, "detail": trained.detail, "loads": loads})
        study.set_user_attr("baseline", stored)
    record = json.loads(stored)
    return Row(-1, "complete", params, record["metrics"], detail=record["detail"])


def train_baseline(plain: Plain) -> None:
    """`baseline` in a process of its own, beside the search."""
    baseline(*opened(plain))


def rerun(plain: Plain, number: int, seed: int) -> None:
    """One member under one seed, in a process of its own; the result is in the study."""
    job, study = opened(plain)
    member = results.row(study.get_trials(deepcopy=False)[number], job.study)
    _run(job, study, member, seed)


def opened(plain: Plain) -> tuple[Job, optuna.Study]:
    """The job and its study in a process of its own."""
    job = build(plain)
    return job, optuna.load_study(storage=database.connect(job.storage), study_name=job.name)


def _unheard(_step: int, _metrics: Metrics) -> None:
    """A report that nobody reads: re-runs are not stopped."""


def tested(job: Job, trained: Trained, params: Mapping[str, object]) -> dict[str, float]:
    """The test split's accuracy; `params` because the encoding may be searched, too."""
    data = job.experiment(params).data.load(job.seed)
    metrics, _ = experiment.measured(trained.net, trained.decode, data, "test", trained.widths)
    return metrics


def on_device(job: Job, trained: Trained, params: Mapping[str, object]) -> tuple[dict[str, float], str]:
    """The same model in integers: whether every spike of the test split is equal, and how it bears stress.

    Or no columns, and why there is no exact integer form.
    """
    data = job.experiment(params).data.load(job.seed)
    found = experiment.grids_of(trained)
    try:
        return device_columns(
            trained.net, found, trained.widths, trained.decode, data, job.seed, Stress(), job.accumulator
        ), ""
    except NotExact as error:
        return {}, " ".join(error.reasons)


Each = Callable[[Callable[..., None], Sequence[tuple[object, ...]], Callable[[], None]], None]


def confirm(
    job: Job,
    study: optuna.Study,
    rows: Sequence[Row],
    progress: Callable[[int, int], None],
    each: Each | None = None,
) -> list[Row]:
    """Rows with the front's members re-run: test accuracy, and over several seeds means and intervals.

    `each` (a crew's) does the re-runs side by side. A finished re-run is kept in the study and never done again;
    one that fails is left out and said in `reason`. What another driver of this machine is at comes last.
    """
    members = [row for row in rows if row.on_front]
    pairs = [(row, job.seed + i) for row in members for i in range(job.study.finalists)]

    def missing() -> list[tuple[Row, int]]:
        stored = study.user_attrs
        return [(row, seed) for row, seed in pairs if _key(row.number, seed) not in stored]

    def tell() -> None:
        progress(len(pairs) - len(missing()), len(pairs))

    # A saved model only has to see the test split, which is not worth a process.
    wanted = [
        (job.config, row.number, seed)
        for row, seed in missing()
        if seed != job.seed or not job.model_path(row.number).exists()
    ]
    wanted.sort(key=lambda given: _taken(study, given[1], given[2]) is not None)
    if each is not None and len(wanted) > 1:
        each(rerun, wanted, tell)
    found: dict[tuple[int, int], dict[str, float]] = {}
    while len(found) < len(pairs):
        tell()
        left = [(row, seed) for row, seed in pairs if (row.number, seed) not in found]
        row, seed = next((pair for pair in left if _taken(study, pair[0].number, pair[1]) is None), left[0])
        found[row.number, seed] = _run(job, study, row, seed)
    tell()
    seeds = range(job.seed, job.seed + job.study.finalists)
    return _with(
        job, study, rows, {row.number: [found[row.number, seed] for seed in seeds] for row in members}
    )


def known(job: Job, study: optuna.Study, rows: Sequence[Row]) -> list[Row]:
    """Rows with what re-runs have found so far; nothing is run."""
    stored = study.user_attrs
    runs: dict[int, list[dict[str, float]]] = {}
    for row in (row for row in rows if row.on_front):
        keys = [_key(row.number, job.seed + i) for i in range(job.study.finalists)]
        found = [json.loads(stored[key]) for key in keys if key in stored]
        if found:
            runs[row.number] = found
    return _with(job, study, rows, runs)


def _with(
    job: Job, study: optuna.Study, rows: Sequence[Row], runs: Mapping[int, list[dict[str, float]]]
) -> list[Row]:
    chances = front_probability(list(runs.values()), job.study.objectives, job.seed)
    chance = dict(zip(runs, chances, strict=True))
    why = {row.number: study.user_attrs.get(_inexact(row, job.seed), "") for row in rows}
    return [
        _merge(row, runs[row.number], chance[row.number], why[row.number]) if row.number in runs else row
        for row in rows
    ]


def _key(number: int, seed: int) -> str:
    return f"final:{number}:{seed}"


def _inexact(row: Row, seed: int) -> str:
    return f"{_key(row.number, seed)}:inexact"


def _by(number: int, seed: int) -> str:
    """Attribute of a study: the process that is at this re-run."""
    return f"{_key(number, seed)}:by"


def _taken(study: optuna.Study, number: int, seed: int) -> str | None:
    """The living process of this machine that is at a re-run without result; of other machines none is known to live,
    so that nobody waits for the dead."""
    stored = study.user_attrs
    by = stored.get(_by(number, seed))
    alive = by and by != database.identity() and database.dead(by) is False
    return by if alive and _key(number, seed) not in stored else None


def _take(study: optuna.Study, number: int, seed: int) -> None:
    """Wait until nobody is at a re-run that has no result, and be the one who is."""
    while _key(number, seed) not in study.user_attrs:
        by = study.user_attrs.get(_by(number, seed))
        free = _taken(study, number, seed) is None
        storage = database.backend(study)
        if free and storage.swap(study._study_id, _by(number, seed), by, database.identity()):
            return
        time.sleep(WAIT_S)


@heap.held()
def _run(job: Job, study: optuna.Study, row: Row, seed: int) -> dict[str, float]:
    """One member under one seed; the trial's own seed takes its saved model instead of training again."""
    key = _key(row.number, seed)
    _take(study, row.number, seed)
    stored = study.user_attrs.get(key)
    if stored is not None:
        return cast(dict[str, float], json.loads(stored))
    try:
        trained = reload(job, row) if seed == job.seed else None
        if trained is None:
            seeded = {**row.params, "seed": seed}
            trained = experiment.evaluate(job.experiment(seeded), _unheard, job.pretrained(seeded))
            if seed == job.seed:
                job.keep(trained, row.params, row.number)
        metrics = {**row.metrics, **trained.metrics} | tested(job, trained, row.params)
        if seed == job.seed:
            columns, why = on_device(job, trained, row.params)
            metrics |= columns
            if why:
                study.set_user_attr(_inexact(row, seed), why)
    except TrialEnded as ended:
        metrics = {"ended": 1.0}
        study.set_user_attr(f"{key}:reason", f"{ended.state}: {ended}")
    except (RuntimeError, ArithmeticError, MemoryError, OSError) as error:
        # Bad luck of one re-run (memory, disk) costs neither the report nor the next attempt.
        log.warning("trial %d with seed %d: %s: %s", row.number, seed, type(error).__name__, error)
        study.set_user_attr(_by(row.number, seed), "")
        return {"ended": 1.0}
    study.set_user_attr(key, json.dumps(metrics))
    return metrics


def reload(job: Job, row: Row, number: int | None = None) -> Trained | None:
    """A trial's saved model, or None where it is missing, damaged or of another configuration."""
    path = job.model_path(row.number if number is None else number)
    if not path.exists():
        return None
    try:
        saved = checkpoint.Saved(path)
        if saved.notes["fingerprint"] != job.config_fingerprint(row.params):
            return None
        trained = experiment.reload(job.experiment(row.params), saved)
    except DataError:
        return None
    return trained._replace(metrics=row.metrics, detail=row.detail)


def _merge(row: Row, runs: Sequence[Mapping[str, float]], probability: float, inexact: str = "") -> Row:
    good = [run for run in runs if "ended" not in run]
    extra: dict[str, float] = {"finalist_seeds": float(len(good))}
    reason = row.reason
    if len(good) < len(runs):
        reason = f"{len(runs) - len(good)} of {len(runs)} re-runs ended early"
    if good:
        extra["test_accuracy"] = mean(run["test_accuracy"] for run in good)
        extra["test_samples"] = good[0]["test_samples"]
        extra["front_probability"] = probability
        extra |= {k: v for k, v in good[0].items() if k.startswith(("integer_", "robust_"))}
        if good[0].get("integer_exact") == 0.0:
            reason = _differing(good[0])
        elif inexact:
            reason = f"no exact integer form: {inexact}"
    if len(good) > 1:
        for name in ("validation_accuracy", "test_accuracy", *_prices(good)):
            values = [run[name] for run in good]
            extra[f"{name}_mean"] = mean(values)
            extra[f"{name}_interval"] = interval(values)
        spread = stdev(run["validation_accuracy"] for run in good)
        extra["validation_standard_error"] = spread / len(good) ** 0.5
    return replace(row, metrics={**row.metrics, **extra}, reason=reason)


def _differing(run: Mapping[str, float]) -> str:
    """Which spike of the integer re-run is the first that the network does not have."""
    found = [f"{name} {run[f'integer_{name}']:.0f}" for name in PLACES if f"integer_{name}" in run]
    where = f", first at {', '.join(found)}" if found else ": its labels do"
    held, needed = (run.get(f"integer_accumulator_bits{end}", 0.0) for end in ("", "_needed"))
    why = (
        f"; sums may leave its accumulator.bits={held:.0f}, and {needed:.0f} are enough"
        if held < needed
        else ""
    )
    return f"its integer re-run differs from the network{where}{why}"


def _prices(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in ("memory_bits", "energy_pj", "latency_us") if all(name in run for run in runs)]


def interval(values: Sequence[float]) -> float:
    """Half width of Student's 95 % confidence interval of the mean; needs two or more values."""
    quantile = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2))
    return quantile * stdev(values) / len(values) ** 0.5


def front_probability(
    runs: Sequence[Sequence[Mapping[str, float]]], objectives: Sequence[str], seed: int
) -> list[float]:
    """For each member, the share of draws in which it is non-dominated, one of its seeds drawn for every member.

    Ours: a bootstrap over the seeds that were run. One seed each gives 1 for every member of a front.
    """
    usable = [[run for run in member if all(name in run for name in objectives)] for member in runs]
    alive = [i for i, member in enumerate(usable) if member]
    wins = np.zeros(len(runs))
    if not alive:
        return [0.0] * len(runs)
    rng = np.random.default_rng(seed)
    draws = 1 if all(len(usable[i]) == 1 for i in alive) else DRAWS
    for _ in range(draws):
        drawn = [usable[i][rng.integers(len(usable[i]))] for i in alive]
        for member in pareto.front([[run[name] for name in objectives] for run in drawn]):
            wins[alive[member]] += 1
    return [float(w / draws) for w in wins]
