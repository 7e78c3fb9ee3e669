"""``python -m pipeline.run +experiment=NAME``: compose, search, confirm, report. Computes nothing itself."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Sequence
from typing import cast

import hydra
import optuna
from omegaconf import DictConfig
from rich.console import Console

from pipeline import baselines, config, experiment, finalists, interrupts, job, multirun, provable
from pipeline.config import ConfigError
from pipeline.exits import BAD_CONFIG, BAD_DATA, INTERRUPTED, NO_RESULT, NO_ROOM, OK, GivenUp
from pipeline.job import Job
from pipeline.launch import Crew, Launcher
from pipeline.overview import command, context, ending, expectation, remember, with_portraits
from pipeline.report.progress import StudyProgress, counted
from pipeline.report.tables import front_table
from pipeline.report.units import show
from pipeline.report.worth import worth_table
from pipeline.study import database, results, search, select
from pipeline.tracker import Tracker, within_reach
from pipeline.types import DataError, Dataset, Row

SHOWN = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the command line describes; the exit code says how it ended."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    interrupts.listen()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("pipeline.data").setLevel(
        logging.INFO
    )  # events per second and sizes, when frames are built
    console = Console(stderr=True)
    try:
        if multirun.asked(given):
            return multirun.run(given, screen())
        if any(a.startswith("-") for a in given):  # --help, --cfg job: Hydra's own
            if words := _shown(given):
                config.compose_job(words)
            sys.argv = [sys.argv[0], *given]
            _hydra_main()
            return OK
        return run(config.compose_job(given))
    except ConfigError as error:
        console.print(f"config error: {error}", markup=False, highlight=False, style="red")
        return BAD_CONFIG
    except DataError as error:
        console.print(f"data error: {error}", markup=False, highlight=False, style="red")
        return BAD_DATA
    except KeyboardInterrupt:  # before the study was opened: `run` answers for the rest
        interrupts.heard()
        console.print("Interrupted; nothing was begun.")
        return INTERRUPTED


def _shown(given: Sequence[str]) -> list[str]:
    """The overrides of a command that shows its config: checked before Hydra sees them, for our exit code."""
    flags = {at for at, word in enumerate(given) if word in ("--cfg", "-c")}
    return [
        word for at, word in enumerate(given) if flags and not word.startswith("-") and at - 1 not in flags
    ]


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def _hydra_main(cfg: DictConfig) -> None:
    code = run(cfg)
    if code:
        raise SystemExit(code)


def run(cfg: DictConfig) -> int:
    """Search, confirm the front, write the report."""
    plain = config.plain(cfg)
    here = job.build(plain)
    launcher = cast(Launcher, config.instantiate(plain["launcher"], "launcher"))
    tracker = cast(Tracker, config.instantiate(plain["tracking"], "tracking"))
    console = screen()
    study = None
    resume = f"Finished trials are kept. Resume with: {command()}"
    try:
        data = _checked(here)
        with launcher.open(here) as crew:
            here.folder.mkdir(parents=True, exist_ok=True)
            study = _open_study(here, data)
            _tell(console, here, data, study)
            reference = _search(here, data, study, crew, tracker, console)
            return _finish(here, data, study, tracker, reference, crew, console)
    except KeyboardInterrupt:
        interrupts.heard()
        if study is not None:
            database.reap(study)
        console.print(f"\nInterrupted; finished trials are kept. Resume with: {command()}", highlight=False)
        return INTERRUPTED
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        said = f"the study database {database.shown(here.storage)} does not take this: {cause}"
        console.print(f"{said}\n{resume}", style="red", markup=False)
        return NO_ROOM
    except GivenUp as error:
        console.print(f"{here.name}: {error}\n{resume}", style="red", markup=False)
        return error.code
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        said = f"cannot write below {here.folder}: {error}"
        console.print(f"{said}\n{resume}" if study else said, style="red", markup=False)
        return NO_ROOM


def _checked(here: Job) -> Dataset:
    try:
        data = experiment.check(here.experiment({}))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    job.check_measured(here, data)
    return data


def screen() -> Console:
    """Standard output; where it is no terminal, wide enough that no table is cut."""
    return Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160, soft_wrap=True)


def _open_study(here: Job, data: Dataset) -> optuna.Study:
    """Create or resume; another config under the same name is refused with the difference, and so is other data."""
    storage = database.connect(here.storage)
    old = database.stored_config(storage, here.name)
    changed = config.difference(old, here.config) if old else []
    if changed:
        raise ConfigError(
            f"study {here.name!r} was made with another config:\n  "
            + "\n  ".join(changed)
            + f"\nGive the new one another name (name={here.name}-2), or start afresh: rm -r {here.folder}"
        )
    seen = database.stored_data(storage, here.name)
    # results and float models are found by the config, which does not see that the files are others
    if seen not in (None, data.digest):
        raise DataError(
            f"study {here.name!r} was made with other data: sha256 {str(seen)[:16]}, but {data.name} has "
            f"{data.digest[:16]} here. Bring the old data back, give the new study another name "
            f"(name={here.name}-2), or start afresh: rm -r {here.folder}"
        )
    more = [] if old else here.warm_points()
    study = database.create(storage, here.name, here.study, here.config, more, data.digest)
    remember(study)
    database.reap(study)
    return study


def _tell(console: Console, here: Job, data: Dataset, study: optuna.Study) -> None:
    done = database.finished(study)
    if done >= here.study.trials:
        console.print(
            f"{here.name}: all {here.study.trials} trials are done; only reporting. ", highlight=False
        )
        console.print(f"More trials: study.trials={done + 20}", highlight=False)
    else:
        again = f"resuming after {done}, " if done else ""
        console.print(
            f"{here.name}: {again}{here.study.trials - done} trials, {here.workers} worker(s), {here.folder}",
            highlight=False,
        )
        for line in [
            *(_left_out(here) if not done else []),
            *expectation(here, data, rows=results.rows(study, here.study)),
            *provable.expectation(here),
        ]:
            console.print(line, highlight=False, markup=False)


def _left_out(here: Job) -> list[str]:
    """Warm starts that the space, narrowed perhaps, does not have."""
    found = ((i, here.study.axes.outside(point)) for i, point in enumerate(here.study.warm_start))
    return [f"study.warm_start[{i}] is left out: {'; '.join(said)}" for i, said in found if said]


def _search(
    here: Job, data: Dataset, study: optuna.Study, crew: Crew, tracker: Tracker, console: Console
) -> Row | None:
    """Run the trials, and beside them the float model, which is given back."""
    book = results.Book(study, here.study)
    shown: set[int] = {row.number for row in book.rows()}

    @functools.cache
    def start_tracking() -> None:  # once workers are at work: opening the store takes seconds
        tracker.start(here.name, config.flatten(here.config), {"command": command()}, data)

    def look() -> None:
        start_tracking()
        rows = book.rows()
        for row in rows:
            if row.number not in shown and row.state != "running":
                shown.add(row.number)
                tracker.trial(row)
        progress.update(rows)

    with StudyProgress(here.name, here.study.trials, console) as progress:
        progress.update(book.rows())
        if database.finished(study) >= here.study.trials:
            start_tracking()
            return finalists.baseline(here, study)
        beside = crew.aside(finalists.train_baseline, here.config)
        reference = None if beside else finalists.baseline(here, study)
        crew.search(study, after_trial=lambda row: look(), on_poll=look)
    said = results.early_end(study, here.study) or search.ended(here.sampler, study)
    if said is not None:
        console.print(f"{here.name}: {said}", highlight=False, markup=False)
    return reference or finalists.baseline(here, study)


def _finish(
    here: Job,
    data: Dataset,
    study: optuna.Study,
    tracker: Tracker,
    reference: Row | None,
    crew: Crew,
    console: Console,
) -> int:
    with counted("the front on the test split, over seeds and in integers", console) as progress:
        rows = finalists.confirm(here, study, results.rows(study, here.study), progress, crew.each)
    rows = with_portraits(here, data, rows)
    front = [row for row in rows if row.on_front]
    picks = select.picks(front, reference, here.selectors)
    if here.study.compare:
        with counted("baselines of the knee's size", console) as progress:
            baselines.at_knee(here, study, front, picks, progress, crew.each)
    about = context(here, data, study, rows, reference, tracker.look)
    chosen = {name: pick.number for name, pick in picks.items() if pick.number is not None}
    # Its pictures' library takes half a second to load: not in workers, and not where a config is refused.
    from pipeline.report.writing import write

    written = write(rows, here.study.objectives, chosen, here.folder, about)
    tracker.finish(rows, ending(here, rows, chosen, about, written))
    console.print(front_table(rows, chosen))
    if about.compared:
        console.print(worth_table(about.compared))
    if reference is not None:
        worth = " · ".join(show(name, reference.metrics[name]) for name in SHOWN if name in reference.metrics)
        console.print(f"float model: {worth} (validation, test, memory, energy)", highlight=False)
    for name, pick in picks.items():
        where = f"trial {pick.number}" if pick.number is not None else "none"
        console.print(f"{name}: {where} ({pick.why})", highlight=False)
    console.print(
        f"Look at: {here.folder}/report.html (all of it), front.png, front.csv, summary.json, study.db",
        highlight=False,
    )
    if tracker.look:
        console.print(f"         {within_reach(tracker.look)}", highlight=False)
    return OK if front else NO_RESULT


def cli() -> None:
    """The `snn-pipeline` command."""
    raise SystemExit(main())


if __name__ == "__main__":
    cli()
