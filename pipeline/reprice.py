"""``python -m pipeline.reprice outputs/NAME accelerator=loihi``: a finished study on another machine, nothing trained.

What each trial's network does for a sample was measured when it was trained and is kept with its model, so a changed
accelerator is arithmetic: every trial is priced again, the front, the picks and the report are made anew below
``outputs/NAME/priced/MACHINE``. The search itself was led by the old prices: a study of its own may find better.
Any number of the machine can be changed on the line (``accelerator.dram.read_pj=500``).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import optuna
from rich.console import Console

from pipeline import checkpoint, config, experiment, finalists, overview
from pipeline.config import ConfigError
from pipeline.exits import spoken
from pipeline.experiment import Experiment
from pipeline.job import Job
from pipeline.report.files import write_whole
from pipeline.report.tables import front_table
from pipeline.report.writing import write
from pipeline.select import open_study
from pipeline.stages import figures
from pipeline.study import pareto, results, select
from pipeline.types import DataError, Row

OK, BAD_CONFIG, NO_STUDY, NO_RESULT = 0, 2, 3, 4
PRICED = ("memory_", "energy_", "latency_", "area_")
LEARNING = ("energy_training_pj", "dense_energy_training_pj")
"""Prices of learning: what it took is not kept with the models, so another machine's are not known."""


Notes = Sequence[Mapping[str, object]]
"""Measured loads as plain data, one mapping per layer."""


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Price, choose, report; 0: there is a front, 2: a key is wrong, 3: no such study, 4: nothing is feasible."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    asked = _parser().parse_args(given)
    try:
        machine = machine_of(asked.overrides)
        here, study = open_study(asked.folder, asked.storage)
        out = asked.out or here.folder / "priced" / machine.accelerator.name
        return reprice(here, study, machine, out, given)
    except ConfigError as error:
        print(f"config error: {error}", file=sys.stderr)
        return BAD_CONFIG
    except DataError as error:
        print(f"data error: {error}", file=sys.stderr)
        return NO_STUDY


def machine_of(overrides: Sequence[str]) -> Experiment:
    """An experiment whose accelerator is the one that the command line names; the rest of it is not used.

    Raises:
        ConfigError: none is named, or a key that is no accelerator's.
    """
    foreign = [word for word in overrides if word.split("=")[0].split(".")[0] != "accelerator"]
    if foreign or not any(word.startswith("accelerator=") for word in overrides):
        there = ", ".join(config.members("accelerator"))
        raise ConfigError(f"give accelerator=NAME (and accelerator.KEY=VALUE), NAME one of: {there}.")
    return config.build_experiment(config.plain(config.compose(["name=reprice", *overrides])))


def reprice(here: Job, study: optuna.Study, machine: Experiment, out: Path, given: Sequence[str]) -> int:
    """Write the report of `study` on `machine` into `out`.

    Raises:
        ConfigError: the study asks for a price that nothing was kept for.
    """
    refuse_learning(here)
    data = experiment.check(here.experiment({}))
    old = finalists.known(here, study, results.rows(study, here.study))
    found = loads_of(here, old)
    rows = marked(here, [priced(row, found.get(row.number, ()), machine) for row in old])
    reference = baseline(here, study, machine)
    rows = overview.with_portraits(here, data, rows)
    front = [row for row in rows if row.on_front]
    picks = select.picks(front, reference, here.selectors)
    chosen = {name: pick.number for name, pick in picks.items() if pick.number is not None}
    about = overview.context(here, data, study, rows, reference, "")
    again = shlex.join(["python", "-m", "pipeline.reprice", *given])
    machine_words = [word for word in given if word.startswith("accelerator")]
    about = replace(
        about, command=again, reproduce=overview.reproduce([*typed(study), *machine_words]), compared=()
    )
    write(rows, here.study.objectives, chosen, out, about)
    volume = about.hypervolume[-1][2] if about.hypervolume else 0.0
    numbers: dict[str, object] = {"front_size": len(front), "hypervolume": volume}
    numbers |= {name: figures(row) for row in front for name in chosen if chosen[name] == row.number}
    numbers |= {"float": figures(reference)} if reference else {}
    write_whole(out / "metrics.json", json.dumps(numbers, indent=1) + "\n")
    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=160, soft_wrap=True)
    console.print(front_table(rows, chosen))
    for name, pick in picks.items():
        where = f"trial {pick.number}" if pick.number is not None else "none"
        console.print(f"{name}: {where} ({pick.why})", highlight=False)
    console.print(f"{len(found)} trials priced on {machine.accelerator.name}, none trained", highlight=False)
    console.print(f"Look at: {out}/front.html, report.html, front.csv, summary.json", highlight=False)
    return OK if front else NO_RESULT


def refuse_learning(here: Job) -> None:
    """Without a value of every objective no trial is feasible, and the front would be empty without a word."""
    for key, names in (("objectives", here.study.objectives), ("constraints", here.study.constraints)):
        for name in LEARNING:
            if name in names:
                raise ConfigError(
                    f"study.{key} names {name}, but what learning took is not kept with the models: "
                    f"it has no price on another machine. Search again with accelerator=NAME."
                )


def loads_of(here: Job, rows: Sequence[Row]) -> dict[int, Notes]:
    """trial -> its measured loads; a cached trial has those of its twin. A model without them is run once more."""
    found: dict[int, Notes] = {}
    twins: dict[str, Notes] = {}
    for row in rows:
        path = here.model_path(row.number)
        if row.state == "complete" and path.exists():
            notes = cast(Notes, checkpoint.Saved(path).notes.get("loads") or measured(here, row))
            found[row.number] = twins[here.fingerprint(row.params)] = notes
    for row in rows:
        twin = here.fingerprint(row.params) if row.state == "cached" else ""
        if twin in twins:
            found[row.number] = twins[twin]
    return found


def measured(here: Job, row: Row) -> Notes:
    """The loads of a model that was kept without them: one pass over the samples that are counted."""
    trained = finalists.reload(here, row)
    if trained is None:
        return ()
    built = here.experiment(row.params)
    data = built.data.load(here.seed)
    loads = experiment.counted(trained.net, trained.decode, data, trained.widths, built.counting)
    return [asdict(load) for load in loads]


def priced(row: Row, loads: Notes, machine: Experiment) -> Row:
    """The row with `machine`'s prices; one without loads keeps none, so that old prices are never mixed in."""
    kept = {key: value for key, value in row.metrics.items() if not _is_price(key)}
    if not loads:
        return replace(row, metrics=kept, detail={})
    prices, layers = experiment.priced(experiment.loads_from(loads), machine.accelerator)
    before = {str(old.get("name")): old for old in cast(Notes, row.detail.get("layers", ()))}
    drawn = [
        {**layer, "accumulator_bits": before.get(str(layer["name"]), {}).get("accumulator_bits")}
        for layer in layers
    ]
    return replace(row, metrics={**kept, **prices}, detail={**row.detail, "layers": drawn})


def _is_price(key: str) -> bool:
    return key in ("front_probability", *LEARNING) or key.removeprefix("worst_").startswith(PRICED)


def marked(here: Job, rows: Sequence[Row]) -> list[Row]:
    """Who is feasible and on the front now."""
    wanted = here.study.objectives
    able = [
        replace(
            row,
            feasible=row.state in ("complete", "cached")
            and all(name in row.metrics for name in wanted)
            and all(v <= 0 for v in here.study.violations(row.metrics).values()),
            on_front=False,
        )
        for row in rows
    ]
    good = [row for row in able if row.feasible]
    chosen = {good[i].number for i in pareto.front([[row.metrics[n] for n in wanted] for row in good])}
    return [replace(row, on_front=True) if row.number in chosen else row for row in able]


def baseline(here: Job, study: optuna.Study, machine: Experiment) -> Row | None:
    """The float model on `machine`, where the study kept what it does."""
    stored = study.user_attrs.get("baseline")
    if stored is None:
        return None
    record = json.loads(stored)
    row = Row(-1, "complete", here.study.baseline, record["metrics"], detail=record["detail"])
    return priced(row, record.get("loads", ()), machine)


def typed(study: optuna.Study) -> list[str]:
    """The words of the command that made the study."""
    return list(study.user_attrs.get(overview.TYPED, [f"name={study.study_name}"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.reprice",
        description="A finished study on another machine; nothing is trained.",
        epilog="examples: python -m pipeline.reprice outputs/quickstart accelerator=loihi | "
        "python -m pipeline.reprice outputs/quickstart accelerator=eyeriss_45nm accelerator.dram.read_pj=500",
    )
    parser.add_argument("folder", type=Path, help="the study's folder, e.g. outputs/quickstart")
    parser.add_argument(
        "overrides", nargs="+", metavar="accelerator=NAME", help="the machine, and changes of it"
    )
    parser.add_argument("--storage", metavar="URL", help="the study database, where it is not in the folder")
    parser.add_argument("--out", type=Path, help="where to write (default: FOLDER/priced/MACHINE)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
