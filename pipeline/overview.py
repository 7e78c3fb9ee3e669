"""The study as a whole, put together for the report: data, hypervolume, the commands that make it again."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import optuna

from pipeline import baselines, checkpoint, claims, config, experiment, finalists, heap
from pipeline.job import Job
from pipeline.portrait import portrait
from pipeline.report import units
from pipeline.report.context import Context
from pipeline.report.files import write_whole
from pipeline.served import Finalist
from pipeline.study import results, search
from pipeline.tracker import Ending
from pipeline.types import DataError, Dataset, Row

ONE_POINT = ("~study.space", "+study.space={}", "study.trials=1", "study.warm_start=[]")
"""Overrides that make of any study a single trial at the point that the other overrides name."""


log = logging.getLogger(__name__)
SENSITIVITY_S = 20.0
"""About as long may the sensitivity per layer take."""
ENOUGH = 3
"""Trials that a pace is taken from."""
SCALES = ("study.trials", "data.limit", "learner.epochs")
"""Keys that the time of a study grows with in proportion, nearly."""
MEASURED = re.compile(r"(?:about )?(\d+) (minute|hour)s? for \d+ trials")
"""A header's time that is one of the whole study."""
TYPED = "typed"
"""Attribute of a study: the words of the command that made it."""


def remember(study: optuna.Study, arguments: Sequence[str] | None = None) -> None:
    """Keep the words of the command with the study."""
    if TYPED not in study.user_attrs:
        study.set_user_attr(TYPED, list(sys.argv[1:] if arguments is None else arguments))


def expectation(
    job: Job, data: Dataset, arguments: Sequence[str] | None = None, rows: Sequence[Row] = ()
) -> list[str]:
    """What a study will work on and how long it takes, said before it starts.

    The time is that of the study's own earlier trials (`rows`) where it is resumed, else the one in the experiment's
    header (measured or computed, as it says), scaled to this study's trials, images and epochs where they differ. How
    long it really takes is said as soon as its first trials have ended.
    """
    given = sys.argv[1:] if arguments is None else arguments
    sizes = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", "validation", "test"))
    stored = sum(s.x.numel() * s.x.element_size() for s in (data.train, data.validation, data.test))
    steps = f"{data.timesteps} steps of {' x '.join(map(str, data.shape))}"
    lines = [f"data: {data.name}, {sizes} samples, {steps}, {stored / 1e6:,.1f} MB in memory"]
    small, large = size_of(job, {}), size_of(job, job.study.baseline)
    lines.append(f"float model: {large}" + (f" (as the config stands: {small})" if small != large else ""))
    time = _pace(job, rows) or _headed(job, given)
    return [*lines, f"time: {time}"] if time else lines


def _pace(job: Job, rows: Sequence[Row]) -> str:
    """The time left at the mean time of the trials so far; empty where there are too few."""
    took = [row.duration_s for row in rows if row.state != "running"]
    left = job.study.trials - len(took)
    if len(took) < ENOUGH or left <= 0 or not sum(took):
        return ""
    mean = sum(took) / len(took)
    total = units.duration(mean * left / min(job.workers, left))
    return f"about {total} for the {left} trials left, at {mean:.2g} s each as so far; then the front's seeds"


def _headed(job: Job, given: Sequence[str]) -> str:
    """The time in the header of the experiment that the command names, scaled by what the command changes of it."""
    named = [word.partition("=")[2] for word in given if word.lstrip("+").startswith("experiment=")]
    time = config.header(named[-1], "Time", given) if named else ""
    free = ("experiment=", "hydra.", "out=", "name=", "tracking", "storage=")
    changed = [word for word in given if "=" in word and not word.lstrip("+").startswith(free)]
    if not time or not changed:
        return time
    kept = [word for word in given if word.lstrip("+").startswith(("experiment=", "hydra."))]
    before, now = config.flatten(config.plain(config.compose_job(kept))), config.flatten(job.config)
    if (
        "data.limit" in now and before["data.limit"] is None is not now["data.limit"]
    ):  # the header's is all there is
        before["data.limit"] = len(job.experiment({"data.limit": None}).data.load(job.seed).train)
    scales = [key for key in SCALES if before.get(key) and now.get(key) and before[key] != now[key]]
    found = MEASURED.match(time)
    others = [w for w in changed if w.partition("=")[0] not in SCALES]
    if found is None or not scales:
        return f"{time} (as the file stands, without your changes)"
    ratios = [cast(float, now[key]) / cast(float, before[key]) for key in scales]
    seconds = float(found[1]) * {"minute": 60, "hour": 3600}[found[2]] * math.prod(ratios)
    by = ", ".join(f"{key} {now[key]} of {before[key]}" for key in scales)
    rest = ", your other changes not counted" if others else ""
    return f"about {units.duration(seconds)}, by {by}, from {time.partition(';')[0]!r}{rest}"


def size_of(job: Job, params: Mapping[str, object]) -> str:
    """Weights and memory of the float network at a point, before anything is trained."""
    weights, bits = experiment.size(job.experiment(params))
    return f"{weights:,} weights, {units.show('memory_bits', bits)} with neurons and maps"


def command(arguments: Sequence[str] | None = None) -> str:
    """The command that runs, and resumes, the study that is running."""
    given = sys.argv[1:] if arguments is None else arguments
    return " ".join(["python -m pipeline.run", *(shlex.quote(a) for a in given)])


def reproduce(arguments: Sequence[str] | None = None) -> str:
    """The command that evaluates one point again, as a study of one trial; a row's ``key=value`` are appended."""
    given = sys.argv[1:] if arguments is None else arguments
    kept = [a for a in given if not a.startswith(("name=", "study.trials=", "study.warm_start="))]
    return command([*kept, *ONE_POINT])


def _claims() -> tuple[dict[str, str], ...]:
    """The table of claims, where there are records; a file that is none is said and left out."""
    refused: list[claims.RecordError] = []
    found = claims.gather(claims.FOLDERS, refused)
    for error in refused:
        log.warning("claims: %s", error)
    return tuple(claims.lines(found)) if found else ()


def context(
    job: Job, data: Dataset, study: optuna.Study, rows: Sequence[Row], reference: Row | None, look: str
) -> Context:
    """What the report says beside the rows."""
    bound = results.reference_point(rows, job.study, reference)
    losses, samples = sensitivity(job)
    return Context(
        experiment=job.name,
        command=command(),
        reproduce=reproduce(),
        tracking_uri=look,
        data=_described(data),
        ended=results.early_end(study, job.study) or search.ended(job.sampler, study) or "",
        validation_samples=len(data.validation),
        test_samples=len(data.test),
        counted=_counted(job, data),
        reference=bound,
        hypervolume=results.hypervolume_history(study, job.study, bound, rows),
        importance=results.importance(study, job.study, job.seed, rows),
        sensitivity=losses,
        sensitivity_samples=samples,
        published=_papers(job, data),
        published_alike=_alike(job, data),
        claims=_claims(),
        baseline=reference,
        compared=tuple(baselines.known(job.folder)),
    )


def _counted(job: Job, data: Dataset) -> str:
    counting = job.experiment({}).counting
    names = {"validation": "validation", "train": "training"}
    return f"{len(counting.of(data).split(counting.split)):,} {names[counting.split]} samples"


def _described(data: Dataset) -> str:
    """One line on the data, with what data.skip_bad left out: a result on a part of a data set says so."""
    sizes = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", "validation", "test"))
    line = f"{data.name}: {sizes} samples, sha256 {data.digest[:16]}"
    reasons = ", ".join(f"{count} {reason}" for reason, count in data.skipped.items())
    return f"{line}; left out by data.skip_bad: {reasons}" if reasons else line


def _papers(job: Job, data: Dataset) -> str:
    """The published points that belong beside this study's: of the same data and kind of network, or of gestures."""
    if "gesture" in data.name:
        return "dvs_gesture_schaefer_2023"
    return "mnist_diehl_cook_2015" if _net(job) == "Stdp" and data.name == "mnist" else ""


def _alike(job: Job, data: Dataset) -> bool:
    """Whether those are of the study's own data and kind of network, so that their costs can be compared too.

    Simulated gestures have the paper's accuracies beside them as a reference; its network is dozens of times as dear.
    """
    return "gesture" not in data.name or (data.name == "dvs_gesture" and _net(job) == "Tcja")


def _net(job: Job) -> str:
    """The name of the class that builds the network."""
    return str(job.config["net"].get("_target_", "")).rpartition(".")[-1]  # type: ignore[attr-defined]


def ending(
    job: Job, rows: Sequence[Row], picks: Mapping[str, int], about: Context, written: Sequence[Path]
) -> Ending:
    """What the tracker is told when the study has ended."""
    members = [row for row in rows if row.on_front and job.model_path(row.number).exists()]
    volume = about.hypervolume[-1][2] if about.hypervolume else 0.0
    return Ending(
        metrics={"front_size": float(sum(row.on_front for row in rows)), "final_hypervolume": volume},
        history=[
            (done, {"hypervolume": at, "elapsed_s": seconds}) for done, seconds, at in about.hypervolume
        ],
        artifacts=written,
        folder=job.folder,
        dominated_by=results.dominators(rows, job.study.objectives),
        picks=picks,
        models=[
            Finalist(row.number, job.model_path(row.number), job.params_config(row.params)) for row in members
        ],
    )


def sensitivity(job: Job) -> tuple[Mapping[str, Mapping[str, float]], int]:
    """Points lost by each layer of the float model alone, and on how many samples; measured once and kept as JSON.

    Empty where the study has no float model that is trained before it is compressed.
    """
    path = job.folder / "sensitivity.json"
    if not path.exists():
        params = job.study.baseline
        model = job.pretrained(params).path
        if not params or not model.exists():
            return {}, 0
        try:
            with heap.held():
                found = experiment.layer_losses(
                    job.experiment(params), checkpoint.Saved(model), SENSITIVITY_S
                )
        except (DataError, RuntimeError) as error:
            log.warning("sensitivity per layer: %s", error)
            return {}, 0
        write_whole(path, json.dumps(found))
    losses, samples = json.loads(path.read_text(encoding="utf-8"))
    return losses, samples


def with_portraits(job: Job, data: Dataset, rows: Sequence[Row]) -> list[Row]:
    """Rows whose front members carry rasters, confusions and receptive fields; drawn once and kept as JSON."""
    return [replace(r, detail={**r.detail, **_portrait(job, data, r)}) if r.on_front else r for r in rows]


def _portrait(job: Job, data: Dataset, row: Row) -> dict[str, object]:
    """`data` are those of the config as it stands: a member that searched a key of data is shown its own.

    Its portrait has another file name than the others', as older ones were drawn on the wrong data.
    """
    spec = job.experiment(row.params).data
    own = spec != job.experiment({}).data
    path = job.folder / "portraits" / f"trial-{row.number:05d}{'-own-data' if own else ''}.json"
    if path.exists():
        try:
            return cast(dict[str, object], json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError:
            path.unlink()  # cut off while it was written; drawn again below
    trained = finalists.reload(job, row)
    if trained is None:
        return {}
    drawn = portrait(trained.net, trained.decode, spec.load(job.seed) if own else data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(drawn), encoding="utf-8")
    return drawn
