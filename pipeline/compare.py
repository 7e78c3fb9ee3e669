"""``python -m pipeline.compare outputs/A outputs/B``: what each search found, for how many evaluations and minutes.

For studies of one question under different samplers (``sampler=ordered`` against ``sampler=tpe``), or the jobs of a
``--multirun``: the same objectives, from the same float model if they have one. All hypervolumes are taken under one
reference point, as shares of its box.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import finalists
from pipeline.config import ConfigError
from pipeline.exits import spoken
from pipeline.job import Job
from pipeline.report.figures import LINES, canvas, colour, save
from pipeline.report.files import write_whole
from pipeline.report.units import NOTHING, show
from pipeline.select import open_study
from pipeline.study import results
from pipeline.types import DataError, Row

OK, NO_STUDY = 0, 3
WORDS = "Hypervolume of the front so far, in percent of the box under twice the float model's costs; higher is better."


@dataclass(frozen=True)
class Found:
    """One study's line of the table."""

    name: str
    search: str
    evaluations: int
    """Trials that were evaluated; repeats that were answered from memory are not among them."""
    minutes: float
    """From the first trial's start to the last one's end, without the pauses between sessions."""
    front: int
    accuracy: float
    """Best on validation."""
    memory_bits: float | None
    """Least memory within `points` of the float model; None: no trial is."""
    memory_times: float | None
    """The float model's memory over it."""
    hypervolume: float
    """Share of the reference box."""
    history: tuple[tuple[int, float, float], ...]
    """(evaluations, minutes, hypervolume share) after each evaluation."""


def compare(folders: Sequence[Path], points: float) -> list[Found]:
    """One line per study.

    Raises:
        DataError: a study is missing or empty, or two of them have other objectives or another float model.
    """
    opened = [(*open_study(folder), folder) for folder in folders]
    first = opened[0][0]
    reference = finalists.baseline(first, opened[0][1]) if "baseline" in opened[0][1].user_attrs else None
    for here, study, folder in opened:
        if here.study.objectives != first.study.objectives:
            raise DataError(f"{folder} has objectives {here.study.objectives}, not {first.study.objectives}")
        floats = [
            json.loads(s.user_attrs.get("baseline", "{}")).get("metrics") for s in (opened[0][1], study)
        ]
        if floats[0] != floats[1]:
            raise DataError(
                f"{folder} starts from another float model than {folders[0]}: {floats[1]}, {floats[0]}"
            )
    tables = [results.rows(study, here.study) for here, study, _ in opened]
    for rows, folder in zip(tables, folders, strict=True):
        if not any(row.state == "complete" for row in rows):
            raise DataError(f"{folder} has no finished trial")
    # Without a float model the largest cost that any of them saw stands in.
    bound = results.reference_point([row for rows in tables for row in rows], first.study, reference)
    lines = []
    for (here, study, _), rows in zip(opened, tables, strict=True):
        history = results.hypervolume_history(study, here.study, bound, rows, only=results.evaluated)
        lines.append(_found(here, rows, history, reference, points))
    return lines


def _found(
    here: Job,
    rows: Sequence[Row],
    history: Sequence[tuple[int, float, float]],
    reference: Row | None,
    points: float,
) -> Found:
    done = [row for row in rows if row.state == "complete" and row.feasible]
    good: list[float] = []
    if reference is not None:
        floor = reference.metrics["validation_accuracy"] - points / 100
        good = [r.metrics["memory_bits"] for r in done if r.metrics["validation_accuracy"] >= floor - 1e-12]
    least = min(good, default=None)
    return Found(
        name=here.name,
        search=type(here.sampler).__name__,
        evaluations=history[-1][0],
        minutes=history[-1][1] / 60,
        front=sum(row.on_front for row in rows),
        accuracy=max((row.metrics["validation_accuracy"] for row in done), default=math.nan),
        memory_bits=least,
        memory_times=None if least is None or reference is None else reference.metrics["memory_bits"] / least,
        hypervolume=history[-1][2],
        history=tuple((count, seconds / 60, volume) for count, seconds, volume in history),
    )


def table(lines: Sequence[Found], points: float) -> Table:
    """For a terminal."""
    shown = Table(title="What each search found", title_justify="left")
    within = f"least memory within {points:g} of float"
    for name in (
        "study",
        "search",
        "evaluations",
        "minutes",
        "front",
        "best accuracy",
        within,
        "hypervolume",
    ):
        shown.add_column(name, justify="left" if name in ("study", "search") else "right", overflow="fold")
    for line in lines:
        memory = NOTHING
        if line.memory_bits is not None:
            memory = f"{show('memory_bits', line.memory_bits)} ({line.memory_times:.1f}x)"
        shown.add_row(
            line.name, line.search, str(line.evaluations), f"{line.minutes:.1f}", str(line.front),
            show("validation_accuracy", line.accuracy), memory, f"{100 * line.hypervolume:.2f} %",
        )  # fmt: skip
    return shown


def draw(lines: Sequence[Found], folder: Path) -> list[Path]:
    """``compare.{png,svg}``: the hypervolume over evaluations and over minutes."""
    alike = len({line.search for line in lines}) < len(lines)  # the jobs of a multi-run
    figure, axes = canvas(columns=2, size=(4.6, 3.6), caption=WORDS)
    for ax, column, title in zip(axes, (0, 1), ("evaluations", "minutes"), strict=True):
        for i, line in enumerate(lines):
            x = [entry[column] for entry in line.history]
            y = [100 * entry[2] for entry in line.history]
            ax.step(
                x,
                y,
                where="post",
                color=colour(i),
                linestyle=LINES[i % len(LINES)],
                label=line.name if alike else line.search,
            )
        ax.set_xlabel(title)
    axes[0].set_ylabel("hypervolume (%)")
    axes[0].legend(fontsize=9, frameon=False, loc="lower right")
    return save(figure, folder, "compare")


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; with ``--out`` also the figure and the numbers as JSON."""
    given = _parser().parse_args(arguments)
    try:
        lines = compare(given.folders, given.within)
    except (DataError, ConfigError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return NO_STUDY
    if given.json:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(lines, given.within))
    if given.out is not None:
        write_whole(given.out / "compare.json", json.dumps([asdict(line) for line in lines], indent=1) + "\n")
        draw(lines, given.out)
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description="What each of several searches found, and for how much.",
    )
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="studies, e.g. outputs/a outputs/b"
    )
    parser.add_argument(
        "--within", type=float, default=1.0, metavar="POINTS", help="points below float for the memory (1)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write compare.png, .svg and .json there")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
