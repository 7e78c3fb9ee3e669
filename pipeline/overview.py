"""The study as a whole, put together for the report: data, hypervolume, the commands that make it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import optuna

from pipeline.job import Job
from pipeline.report.context import Context
from pipeline.study import results
from pipeline.types import Dataset, Row


def command(arguments: Sequence[str] | None = None) -> str:
    """The command that runs, and resumes, the study that is running."""
    given = sys.argv[1:] if arguments is None else arguments
    return " ".join(["python -m pipeline.run", *(shlex.quote(a) for a in given)])


def reproduce(arguments: Sequence[str] | None = None) -> str:
    """The command that evaluates one point again; a row's ``key=value`` are appended to it."""
    given = [
        a for a in (sys.argv[1:] if arguments is None else arguments) if not a.startswith(("name=", "study"))
    ]
    return command([*given, "study=single", "name=again"])


def context(
    job: Job, data: Dataset, study: optuna.Study, rows: Sequence[Row], reference: Row | None, look: str
) -> Context:
    """What the report says beside the rows."""
    bound = results.reference_point(rows, job.study, reference)
    sizes = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", "validation", "test"))
    return Context(
        experiment=job.name,
        command=command(),
        reproduce=reproduce(),
        tracking_uri=look,
        data=f"{data.name}: {sizes} samples, sha256 {data.digest[:16]}",
        validation_samples=len(data.validation),
        test_samples=len(data.test),
        reference=bound,
        hypervolume=results.hypervolume_history(study, job.study, bound),
    )
