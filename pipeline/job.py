"""One job: a plain config turned into checked objects, and the evaluation that every worker runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

from pipeline import checkpoint, config, experiment, heap, provable
from pipeline.config import ConfigError, Plain
from pipeline.experiment import Experiment, Trained
from pipeline.export.program import Accumulator
from pipeline.pretrained import FLOAT_KEYS, Pretrained
from pipeline.study import database, results
from pipeline.study.search import Outcome, Samplers
from pipeline.study.select import Selector
from pipeline.study.space import Axis, paths, settled
from pipeline.study.spec import Study
from pipeline.study.stopping import Stopper
from pipeline.types import METRICS, DataError, Dataset, Report

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PROOFS = ("told", "required")
REPORTED = ("loss", "running_error")
"""What learners report on the way beside an evaluation's metrics: for stoppers only."""
JOB_KEYS = (
    "name",
    "workers",
    "out",
    "storage",
    "study",
    "sampler",
    "stopper",
    "tracking",
    "launcher",
    "proof",
    "accumulator",
)


@dataclass(frozen=True)
class Job:
    """A study to run: `config` is plain data and travels to workers; the rest is built from it."""

    config: Plain
    name: str
    workers: int
    folder: Path
    storage: str
    study: Study
    sampler: Samplers
    stopper: Stopper
    selectors: Mapping[str, Selector] = field(default_factory=dict)
    accumulator: Accumulator = field(default_factory=Accumulator)
    """Of the integer form that members of the front are proven in."""

    def params_config(self, params: Mapping[str, object]) -> Plain:
        return config.override(self.config, params)

    def fingerprint(self, params: Mapping[str, object]) -> str:
        """Equal for params whose trials are one computation, also where they name it differently."""
        return config.fingerprint(config.computed(self.params_config(params)))

    def config_fingerprint(self, params: Mapping[str, object]) -> str:
        """Of the config word by word: whose a model file is."""
        return config.fingerprint(self.params_config(params))

    def experiment(self, params: Mapping[str, object], seed: int | None = None) -> Experiment:
        changes = dict(params) if seed is None else {**params, "seed": seed}
        return config.build_experiment(self.params_config(changes))

    @property
    def seed(self) -> int:
        return cast(int, self.config["seed"])

    @property
    def proof(self) -> str:
        """told: what has no exact integer form is said; required: it is refused before it is trained."""
        return str(self.config.get("proof", PROOFS[0]))

    def model_path(self, number: int) -> Path:
        return self.folder / "models" / f"trial-{number:05d}.safetensors"

    def evaluate(self, params: Mapping[str, object], report: Report, number: int) -> Outcome:
        """Train and price one suggestion and keep its model."""
        point = self.experiment(params)
        if self.proof == "required":
            provable.demand(point, self.accumulator)
        with heap.held():
            trained = experiment.evaluate(point, report, self.pretrained(params))
        self.keep(trained, params, number)
        return Outcome(trained.metrics, trained.detail)

    def pretrained(self, params: Mapping[str, object]) -> Pretrained:
        """The float model that these params start from, shared by all trials that differ only in compression."""
        return Pretrained(self.folder / "float", config.fingerprint(self.params_config(params), FLOAT_KEYS))

    def warm_points(self) -> list[dict[str, object]]:
        """The fronts of the studies in `study.warm_start_from`, as far as they lie in this space.

        Raises:
            DataError: one of them is not there.
        """
        found = []
        for other in self.study.warm_start_from:
            url = self.storage
            if url.startswith("sqlite"):
                path = self.folder.parent / other / "study.db"
                if not path.exists():
                    raise DataError(f"study.warm_start_from: there is no study {other!r}: {path} is missing")
                url = f"sqlite:///{path}"
            points = results.front_params(database.connect(url), other)
            found += [point for point in points if self.study.axes.holds(point)]
        return found

    def bound(self, params: Mapping[str, object]) -> Mapping[str, float]:
        """What this suggestion costs at least, before it is trained."""
        return experiment.bound(self.experiment(params))

    def keep(self, trained: Trained, params: Mapping[str, object], number: int) -> None:
        notes = {
            "params": dict(params),
            "fingerprint": self.config_fingerprint(params),
            "metrics": dict(trained.metrics),
            "loads": [asdict(load) for load in trained.loads],
        }
        checkpoint.save(self.model_path(number), trained.net, trained.decode, trained.widths, notes)


def build(plain: Plain) -> Job:
    """Check everything that can be checked before trial 0, and build it.

    Raises:
        ConfigError: the key, the rule and what came.
    """
    config.refuse_misfits(Experiment, {"seed": plain["seed"]})  # before the parts that repeat it
    study = dict(cast(Plain, plain["study"]))
    if isinstance(study["space"], Mapping):  # else the study says what it must be
        study["space"] = settled(study["space"], config.flatten(plain))
    if isinstance(plain["name"], bool) or not isinstance(plain["name"], str | int):
        raise ConfigError(f"name must be text, but got {plain['name']!r}.")
    sampler = plain["sampler"]
    if isinstance(sampler, Mapping) and sampler.get("space") == cast(Plain, plain["study"])["space"]:
        sampler = {
            **sampler,
            "space": study["space"],
        }  # ${study.space}, without what is not searched after all
    parts: Plain = {
        "name": str(plain["name"]),
        "workers": plain["workers"],
        "storage": plain["storage"],
        "study": config.instantiate(study, "study"),
        "sampler": config.instantiate(sampler, "sampler"),
        "stopper": config.instantiate(plain["stopper"], "stopper"),
    }
    config.refuse_misfits(Job, parts)
    out = plain["out"]
    if not isinstance(out, str):
        raise ConfigError(f"out must be text, but got {out!r}.")
    job = Job(
        config=plain,
        folder=Path(out) / str(parts["name"]),
        selectors=cast(Mapping[str, Selector], cast(Study, parts["study"]).selectors),
        accumulator=config.build_accumulator(plain),
        **parts,  # type: ignore[arg-type]
    )
    if not NAME.fullmatch(job.name):
        raise ConfigError(f"name must be letters, digits, '.', '_' or '-', but got {job.name!r}.")
    if job.workers < 1:
        raise ConfigError(f"workers must be >= 1, but got {job.workers!r}.")
    if plain.get("proof", PROOFS[0]) not in PROOFS:
        raise ConfigError(f"proof must be one of {', '.join(PROOFS)}, but got {plain['proof']!r}.")
    config.build_experiment(plain)
    most = 2**32 - max(job.study.finalists, 1)
    if job.seed > most:
        raise ConfigError(f"seed must be <= {most} with {job.study.finalists} finalists, but got {job.seed}.")
    for name, selector in job.selectors.items():
        if not isinstance(selector, Selector):
            raise ConfigError(
                f"study.selectors.{name} must be a selector, as {{_target_: pipeline.study.select.Knee}}, "
                f"but got {selector!r}."
            )
    _check_metrics(job)
    _check_space(job)
    return job


def check_measured(job: Job, data: Dataset) -> None:
    """Refuse metrics that only other networks, or other schemes, have: each trial would be trained and then fail.

    Raises:
        ConfigError: the key, and what the metric needs.
    """
    point = job.experiment({})
    special = {metric for metrics in _asked(job).values() for metric in metrics} & set(METRICS[-3:])
    if not special or any(path in ("net", "net._target_") for path in job.study.axes.paths):
        return
    net = point.net.build(data.shape, data.classes, job.seed)
    schemes = next((a.choices for a in job.study.axes.axes if a.path == "plan.scheme"), (point.plan.scheme,))
    # As hardware/workload.py asks a network whether it counts its learning, and the matrices of a simulator.
    learns = hasattr(net, "training_load") and "in_training" in schemes
    for key, metrics in _asked(job).items():
        for metric in special & set(metrics):
            matrices = metric == "dense_memory_bits"
            if not (hasattr(net, "matrix_bits") if matrices else learns):
                needs = (
                    "a network of dense matrices (net=stdp)" if matrices else "net=stdp and plan=in_training"
                )
                raise ConfigError(f"{key} asks for {metric}, which only {needs} has.")


def _asked(job: Job) -> dict[str, tuple[str, ...]]:
    """The metrics that a study, its selectors and its stopper ask for, by key."""
    asked = {
        f"study.{name}": tuple(getattr(job.study, name)) for name in ("objectives", "constraints", "floors")
    }
    asked["stopper.objectives"] = tuple(getattr(job.stopper, "objectives", ()))
    for name, selector in job.selectors.items():
        for field_name in ("objectives", "price", "bounds"):
            given = getattr(selector, field_name, ())
            asked[f"study.selectors.{name}.{field_name}"] = (
                (given,) if isinstance(given, str) else tuple(given)
            )
    return asked


def _check_metrics(job: Job) -> None:
    """Every metric that is asked for is one that trials have."""
    asked = _asked(job)
    for key, metrics in asked.items():
        there = (*METRICS, *REPORTED) if key.startswith("stopper") else METRICS
        for metric in metrics:
            if metric not in there:
                near = config.hint(metric, there)
                raise ConfigError(f"{key} must be of {', '.join(there)}, but got {metric!r}.{near}")
    if "validation_accuracy" in job.study.objectives:
        raise ConfigError(
            "study.objectives are minimised: give validation_error in place of 'validation_accuracy'."
        )


def _check_space(job: Job) -> None:
    """Every searched path exists, and its ends and choices build: a bad range stops here, not in trial 17."""
    for axis in job.study.axes.axes:
        for value in _extremes(axis):
            try:
                config.build_experiment(config.override(job.config, {**_conditions(axis), axis.path: value}))
            except ConfigError as error:
                raise ConfigError(f"study.space.{axis.path}: {error}") from error
    points = {"study.baseline": job.study.baseline}
    points |= {f"study.warm_start[{i}]": point for i, point in enumerate(job.study.warm_start)}
    for key, point in points.items():
        try:
            config.build_experiment(config.override(job.config, point))
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    known = paths(cast(Mapping[str, object], cast(Plain, job.config["study"])["space"]))
    for i, point in enumerate(job.study.warm_start):
        for path in point:
            if path not in known:
                rule = "must give paths that study.space searches"
                raise ConfigError(f"study.warm_start[{i}] {rule}, but got {path!r}.")


def _extremes(axis: Axis) -> tuple[object, ...]:
    return axis.choices or (axis.low, axis.high)


def _conditions(axis: Axis) -> dict[str, object]:
    return {path: allowed[0] for path, allowed in axis.when.items()}
