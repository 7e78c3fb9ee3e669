"""``python -m pipeline.select outputs/NAME --within 1.0``: which member of a front to build, and how to export it.

Chooses on validation figures alone; the test accuracy is shown beside the choice, where it is known, and decides
nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna

from pipeline import finalists, job
from pipeline.config import ConfigError
from pipeline.exits import spoken
from pipeline.job import Job
from pipeline.report.units import show
from pipeline.study import database, results
from pipeline.study.select import Budget, Knee, OneStandardError, Pick, Reward, Selector, Within, picks
from pipeline.types import DataError, Row

OK, USAGE, NO_STUDY, NO_MEMBER = 0, 2, 3, 4

UNITS: Mapping[str, Mapping[str, float]] = {
    "memory_bits": {"bit": 1, "b": 8, "kb": 8192, "kib": 8192, "mb": 8 * 2**20, "mib": 8 * 2**20},
    "energy_pj": {"pj": 1, "nj": 1e3, "uj": 1e6, "µj": 1e6, "mj": 1e9, "j": 1e12},
    "latency_us": {"ns": 1e-3, "us": 1, "µs": 1, "ms": 1e3, "s": 1e6},
}
"""Sizes as data sheets of memories mean them: 1 KB = 1 KiB = 1,024 bytes."""
SHOWN = ("validation_accuracy", "test_accuracy", "memory_bits", "energy_pj", "latency_us")


@spoken
def main(arguments: Sequence[str] | None = None) -> int:
    """Print what each selector picks; the exit code is 4 where one of them finds no member."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        wanted = selectors(given)
    except ValueError as error:
        parser.print_usage(sys.stderr)
        print(f"select: {error}", file=sys.stderr)
        return USAGE
    try:
        here, study = open_study(given.folder, given.storage)
    except (DataError, ConfigError) as error:
        print(f"select: {error}", file=sys.stderr)
        return NO_STUDY
    rows = finalists.known(here, study, results.rows(study, here.study))
    front = [row for row in rows if row.on_front]
    reference = finalists.baseline(here, study) if "baseline" in study.user_attrs else None
    chosen = picks(front, reference, wanted or here.selectors)
    members = {row.number: row for row in front}
    if given.json:
        print(json.dumps({name: _plain(pick, members) for name, pick in chosen.items()}, indent=2))
    else:
        for name, pick in chosen.items():
            _print(name, pick, members, given)
    return OK if all(pick.number is not None for pick in chosen.values()) else NO_MEMBER


def open_study(folder: Path, storage: str | None = None) -> tuple[Job, optuna.Study]:
    """The study below `folder` (or of the folder's name in `storage`), with the config that made it.

    Raises:
        DataError: there is none.
    """
    if storage is None:
        file = folder / "study.db"
        if not file.exists():
            raise DataError(f"there is no study in {folder}: {file} is missing (elsewhere? --storage URL)")
        storage = f"sqlite:///{file}"
    connected = database.connect(storage)
    stored = database.stored_config(connected, folder.name)
    if stored is None:
        known = ", ".join(optuna.get_all_study_names(connected)) or "none"
        raise DataError(f"{database.shown(storage)} has no study {folder.name!r}; it has: {known}")
    moved = {**stored, "storage": storage, "out": str(folder.parent)}
    return job.build(moved), optuna.load_study(storage=connected, study_name=folder.name)


def selectors(given: argparse.Namespace) -> dict[str, Selector]:
    """The selectors that the command line names; empty: the study's own.

    Raises:
        ValueError: a size without a known unit, or a reward that cannot be read.
    """
    wanted: dict[str, Selector] = {}
    if given.within is not None:
        wanted[f"within {given.within:g}"] = Within(points=given.within, price=given.price)
    limits = {"memory_bits": given.memory, "energy_pj": given.energy, "latency_us": given.latency}
    bounds = {metric: quantity(metric, text) for metric, text in limits.items() if text is not None}
    if bounds:
        wanted["budget"] = Budget(bounds)
    if given.knee:
        wanted["knee"] = Knee()
    if given.one_standard_error:
        wanted["one standard error"] = OneStandardError(price=given.price)
    if given.reward is not None:
        wanted["reward"] = Reward(**weights(given.reward))
    return wanted


def quantity(metric: str, text: str) -> float:
    """``64KB`` -> 524288 bits, ``0.2mJ`` -> 2e8 pJ, ``3ms`` -> 3000 µs.

    Raises:
        ValueError: no number, or a unit that is none.
    """
    units = UNITS[metric]
    match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-zµ]+)\s*", text.lower())
    if match is None or match[2] not in units:
        raise ValueError(f"{metric} must be a number with a unit ({', '.join(units)}), but got {text!r}.")
    return float(match[1]) * units[match[2]]


def weights(words: Sequence[str]) -> dict[str, float]:
    """``mu=0.3 eps=0.1`` -> the reward's weights.

    Raises:
        ValueError: a word that is neither.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in ("mu", "eps") or not re.fullmatch(r"[0-9.]+(e[+-]?[0-9]+)?", value):
            raise ValueError(f"reward takes mu=NUMBER and eps=NUMBER, but got {word!r}.")
        found[name] = float(value)
    return found


def _plain(pick: Pick, members: Mapping[int, Row]) -> dict[str, object]:
    if pick.number is None:
        return {"trial": None, "why": pick.why}
    row = members[pick.number]
    return {"trial": pick.number, "why": pick.why, "params": dict(row.params), "metrics": dict(row.metrics)}


def _print(name: str, pick: Pick, members: Mapping[int, Row], given: argparse.Namespace) -> None:
    if pick.number is None:
        print(f"{name}: no member ({pick.why})")
        return
    row = members[pick.number]
    worth = ", ".join(
        f"{key.partition('_')[0]} {show(key, row.metrics[key])}" for key in SHOWN if key in row.metrics
    )
    print(f"{name}: trial {pick.number} ({pick.why})")
    print(f"  {worth}")
    for path, value in row.params.items():
        print(f"  {path}={value:.6g}" if isinstance(value, float) else f"  {path}={value}")
    storage = f" --storage {given.storage}" if given.storage else ""
    print(f"  export it: python -m pipeline.export {given.folder} --member {pick.number}{storage}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.select",
        description="Which member of a study's front to build.",
        epilog="examples: python -m pipeline.select outputs/quickstart --within 1.0 | "
        "python -m pipeline.select outputs/quickstart --memory 8KB --energy 0.2uJ | "
        "python -m pipeline.select outputs/quickstart --reward mu=0.3",
    )
    parser.add_argument("folder", type=Path, help="the study's folder, e.g. outputs/quickstart")
    parser.add_argument(
        "--within", type=float, metavar="POINTS", help="the cheapest at most POINTS %% below float"
    )
    parser.add_argument("--memory", metavar="SIZE", help="the most accurate that fits, e.g. 64KB")
    parser.add_argument("--energy", metavar="ENERGY", help="... and needs at most, e.g. 0.2mJ an inference")
    parser.add_argument("--latency", metavar="TIME", help="... and takes at most, e.g. 3ms an inference")
    parser.add_argument("--knee", action="store_true", help="the best balance of error, memory and energy")
    parser.add_argument("--reward", nargs="+", metavar="mu=X", help="accuracy - mu memory - eps energy")
    parser.add_argument("--one-standard-error", action="store_true", help="the cheapest as good as the best")
    parser.add_argument("--price", default="energy_pj", choices=sorted(UNITS), help="what cheap means")
    parser.add_argument("--storage", metavar="URL", help="the study database, where it is not in the folder")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
