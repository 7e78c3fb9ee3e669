"""The members of the front once more: over seeds, and on the test split, which is read here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import cast

import numpy as np
import optuna
from scipy.stats import t as student

from pipeline import checkpoint, experiment
from pipeline.experiment import Trained
from pipeline.job import Job
from pipeline.study import pareto
from pipeline.types import DataError, Row, TrialEnded

CONFIDENCE = 0.95
DRAWS = 2000


def baseline(job: Job, study: optuna.Study) -> Row | None:
    """The float model of `study.baseline`, trained once beside the budget; None where the study names none."""
    if not job.study.baseline:
        return None
    stored = study.user_attrs.get("baseline")
    if stored is None:
        trained = experiment.evaluate(
            job.experiment(job.study.baseline), lambda step, metrics: None, job.pretrained(job.study.baseline)
        )
        stored = json.dumps(
            {"metrics": dict(trained.metrics) | tested(job, trained), "detail": trained.detail}
        )
        study.set_user_attr("baseline", stored)
    record = json.loads(stored)
    return Row(-1, "complete", job.study.baseline, record["metrics"], detail=record["detail"])


def tested(job: Job, trained: Trained) -> dict[str, float]:
    """The test split's accuracy."""
    data = job.experiment({}).data.load(job.seed)
    metrics, _ = experiment.measured(trained.net, trained.decode, data, "test", trained.widths)
    return metrics


def confirm(
    job: Job, study: optuna.Study, rows: Sequence[Row], progress: Callable[[int, int], None]
) -> list[Row]:
    """Rows with the front's members re-run: test accuracy, and over several seeds means and intervals.

    A finished re-run is kept in the study and never done again; one that fails is left out and said in `reason`.
    """
    members = [row for row in rows if row.on_front]
    seeds = [job.seed + i for i in range(job.study.finalists)]
    runs: dict[int, list[dict[str, float]]] = {row.number: [] for row in members}
    for done, (row, seed) in enumerate((row, seed) for row in members for seed in seeds):
        progress(done, len(members) * len(seeds))
        runs[row.number].append(_run(job, study, row, seed))
    progress(len(members) * len(seeds), len(members) * len(seeds))
    chances = front_probability([[*runs[row.number]] for row in members], job.study.objectives, job.seed)
    merged = {row.number: _merge(row, runs[row.number], p) for row, p in zip(members, chances, strict=True)}
    return [merged.get(row.number, row) for row in rows]


def _run(job: Job, study: optuna.Study, row: Row, seed: int) -> dict[str, float]:
    """One member under one seed; the trial's own seed takes its saved model instead of training again."""
    key = f"final:{row.number}:{seed}"
    stored = study.user_attrs.get(key)
    if stored is None:
        try:
            trained = reload(job, row) if seed == job.seed else None
            if trained is None:
                seeded = {**row.params, "seed": seed}
                trained = experiment.evaluate(
                    job.experiment(seeded), lambda step, metrics: None, job.pretrained(seeded)
                )
                if seed == job.seed:
                    job.keep(trained, row.params, row.number)
            metrics = {**row.metrics, **trained.metrics} | tested(job, trained)
        except TrialEnded as ended:
            metrics = {"ended": 1.0}
            study.set_user_attr(f"{key}:reason", f"{ended.state}: {ended}")
        stored = json.dumps(metrics)
        study.set_user_attr(key, stored)
    return cast(dict[str, float], json.loads(stored))


def reload(job: Job, row: Row, number: int | None = None) -> Trained | None:
    """A trial's saved model, or None where it is missing, damaged or of another configuration."""
    path = job.model_path(row.number if number is None else number)
    if not path.exists():
        return None
    try:
        saved = checkpoint.Saved(path)
        if saved.notes["fingerprint"] != job.fingerprint(row.params):
            return None
        trained = experiment.reload(job.experiment(row.params), saved)
    except DataError:
        return None
    return trained._replace(metrics=row.metrics, detail=row.detail)


def _merge(row: Row, runs: Sequence[Mapping[str, float]], probability: float) -> Row:
    good = [run for run in runs if "ended" not in run]
    extra: dict[str, float] = {"finalist_seeds": float(len(good))}
    reason = row.reason
    if len(good) < len(runs):
        reason = f"{len(runs) - len(good)} of {len(runs)} re-runs ended early"
    if good:
        extra["test_accuracy"] = mean(run["test_accuracy"] for run in good)
        extra["test_samples"] = good[0]["test_samples"]
        extra["front_probability"] = probability
    if len(good) > 1:
        for name in ("validation_accuracy", "test_accuracy", *_prices(good)):
            values = [run[name] for run in good]
            extra[f"{name}_mean"] = mean(values)
            extra[f"{name}_interval"] = interval(values)
        spread = stdev(run["validation_accuracy"] for run in good)
        extra["validation_standard_error"] = spread / len(good) ** 0.5
    return replace(row, metrics={**row.metrics, **extra}, reason=reason)


def _prices(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in ("memory_bits", "energy_pj", "latency_us") if all(name in run for run in runs)]


def interval(values: Sequence[float]) -> float:
    """Half width of Student's 95 % confidence interval of the mean; needs two or more values."""
    quantile = float(student.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
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
