"""``python -m pipeline.stages STAGE +experiment=NAME``: one step of a study at a time, for `dvc repro`.

    data        read and check the data; sizes and sha256
    pretrain    train the float model
    studies     search: all trials
    finalists   the front over seeds and on the test split

`pipeline.run` does all of them and the report in one go, and both share one folder: each step finds what the earlier
ones, or the run, have left, and does only what is missing. Each writes one small file into ``outputs/stages/NAME``.
Another config under the same name puts the old folder aside (``outputs/NAME.1``) and starts afresh.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import optuna
from rich.console import Console

from pipeline import config, experiment, finalists, interrupts, job, overview
from pipeline.config import ConfigError
from pipeline.exits import INTERRUPTED, NO_RESULT, OK, spoken
from pipeline.job import Job
from pipeline.launch import Launcher
from pipeline.report.files import write_whole
from pipeline.report.progress import StudyProgress, counted
from pipeline.report.tables import strict, write_front_csv, write_trials_csv
from pipeline.study import database, results
from pipeline.types import Row

COUNTED = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj", "latency_us")


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; the exit codes are those of `pipeline.run`."""
    asked = _parser().parse_args(arguments)
    interrupts.listen()
    try:
        here = job.build(config.plain(config.compose_job(asked.overrides)))
        if asked.stage != "data":
            overview.remember(opened(here), asked.overrides)
        return STAGES[asked.stage](here)
    except KeyboardInterrupt:
        interrupts.heard()
        print("\nInterrupted; finished trials are kept. The same command goes on.", file=sys.stderr)
        return INTERRUPTED


def data(here: Job) -> int:
    """Sizes, shape and digest of the data that the study will see."""
    found = experiment.check(here.experiment({}))
    sizes = {name: len(found.split(name)) for name in ("train", "validation", "test")}
    about = {"name": found.name, "sha256": found.digest, "classes": found.classes, **sizes}
    about |= {"skipped": dict(found.skipped)} if found.skipped else {}
    _write(here, "data", about | {"step_shape": found.shape, "timesteps": found.timesteps})
    return OK


def pretrain(here: Job) -> int:
    """The float model's figures; its weights are in ``outputs/NAME/float``, where the trials find them."""
    row = finalists.baseline(here, opened(here))
    _write(here, "pretrain", figures(row) if row is not None else {})
    return OK


def studies(here: Job) -> int:
    """All trials, as a table."""
    launcher = cast(Launcher, config.instantiate(here.config["launcher"], "launcher"))
    with launcher.open(here) as crew:
        study = opened(here)
        book = results.Book(study, here.study)
        with StudyProgress(here.name, here.study.trials, Console(soft_wrap=True)) as progress:

            def look() -> None:
                progress.update(book.rows())

            crew.search(study, after_trial=lambda row: look(), on_poll=look)
    rows = results.rows(study, here.study)
    write_trials_csv(rows, _folder(here) / "trials.csv")
    return OK if any(row.on_front for row in rows) else NO_RESULT


def confirm(here: Job) -> int:
    """The members of the front with their test accuracies."""
    launcher = cast(Launcher, config.instantiate(here.config["launcher"], "launcher"))
    with launcher.open(here) as crew:
        study = opened(here)
        rows = results.rows(study, here.study)
        with counted("finalists", Console(soft_wrap=True)) as progress:
            rows = finalists.confirm(here, study, rows, progress, crew.each)
    write_front_csv(rows, _folder(here) / "finalists.csv")
    return OK if any(row.on_front for row in rows) else NO_RESULT


STAGES: Mapping[str, Callable[[Job], int]] = {
    "data": data,
    "pretrain": pretrain,
    "studies": studies,
    "finalists": confirm,
}


def opened(here: Job) -> optuna.Study:
    """The study, created or found; one of another config, or of other data, is put aside."""
    old, seen = _stored(here)
    changed = config.difference(old, here.config) if old else []
    digest = _digest(here)
    if seen is not None and digest not in (None, seen):
        changed = [*changed, f"data: sha256 {seen[:16]} -> {str(digest)[:16]}"]
    if changed and not here.storage.startswith("sqlite"):
        raise ConfigError(f"study {here.name!r} was made with another config: {'; '.join(changed)}")
    if changed:
        old = None
        print(f"{here.folder} was made otherwise ({'; '.join(changed)}) and is now {_aside(here.folder)}")
    here.folder.mkdir(parents=True, exist_ok=True)
    storage = database.connect(here.storage)
    more = [] if old else here.warm_points()
    study = database.create(storage, here.name, here.study, here.config, more, digest)
    database.reap(study)
    return study


def _stored(here: Job) -> tuple[Mapping[str, object] | None, str | None]:
    """Config and sha256 of the data of the study that is there."""
    if not (here.folder / "study.db").exists() and here.storage.startswith("sqlite"):
        return None, None
    storage = database.connect(here.storage)
    return database.stored_config(storage, here.name), database.stored_data(storage, here.name)


def _digest(here: Job) -> str | None:
    """The sha256 of the data as the stage `data` found it; None where that stage did not run."""
    told = _folder(here) / "data.json"
    return json.loads(told.read_text(encoding="utf-8"))["sha256"] if told.exists() else None


def _aside(folder: Path) -> Path:
    """Rename `folder` to the first free ``NAME.1``, ``NAME.2``, …; gives the new place."""
    free = next(n for n in range(1, sys.maxsize) if not folder.with_name(f"{folder.name}.{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.{free}"))


def figures(row: Row) -> dict[str, float]:
    """What a table of metrics shows of a row."""
    return {name: row.metrics[name] for name in COUNTED if math.isfinite(row.metrics.get(name, math.nan))}


def _folder(here: Job) -> Path:
    return here.folder.parent / "stages" / here.name  # beside the study's folder, which may be put aside


def _write(here: Job, stage: str, content: Mapping[str, object]) -> None:
    text = json.dumps(strict(content), indent=1) + "\n"
    write_whole(_folder(here) / f"{stage}.json", text)
    print(f"{here.name}: {stage}: {text.strip()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.stages",
        description="One step of a study at a time, for `dvc repro`; pipeline.run does all of them.",
        epilog="example: python -m pipeline.stages pretrain +experiment=quickstart",
    )
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("overrides", nargs="+", metavar="+experiment=NAME", help="as for pipeline.run")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
