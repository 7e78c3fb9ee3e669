"""What an integer machine can repeat of a space, found before the search, so that what was searched is what is proven.

Points are drawn from the space, their untrained networks compressed and lowered to integers: formats do not depend on
training. What has no exact integer form is said with the settings that give it one, or refused (``proof=required``).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline import experiment
from pipeline.config import ConfigError
from pipeline.experiment import Experiment
from pipeline.export.finalist import obstacles
from pipeline.export.program import Accumulator
from pipeline.study.space import Axis
from pipeline.types import DataError, Dataset, Inexact

if TYPE_CHECKING:
    from pipeline.job import Job

POINTS, SECONDS, SAID = 16, 5.0, 3
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def reasons(point: Experiment, accumulator: Accumulator, data: Dataset | None = None) -> tuple[str, ...]:
    """What is in the way of an integer form of this experiment's networks; nothing where there is one."""
    loaded = point.data.load(point.seed) if data is None else data
    net, grids, widths = experiment.sketch(point, loaded)
    return obstacles(net, grids, widths, loaded, accumulator)


def demand(point: Experiment, accumulator: Accumulator) -> None:
    """Raise `Inexact` for an experiment whose networks have no exact integer form."""
    if found := reasons(point, accumulator):
        raise Inexact(" ".join(found))


def expectation(job: Job, seconds: float = SECONDS) -> list[str]:
    """Which finalists of this job can be proven, as lines to be read before the search; draws for `seconds` at most.

    Points that no training can begin with, as folding before the first training, are counted and said.

    Raises:
        ConfigError: no point that was drawn can be trained; or ``proof=required``, and none has an exact integer form.
    """
    drawn = exact = 0
    found: dict[str, str] = {}
    hopeless: list[str] = []
    generator, begin = random.Random(job.seed), time.monotonic()
    for _ in range(POINTS):
        try:
            point = job.experiment(draw(job.study.axes.axes, generator))
            said = reasons(point, job.accumulator)
        except (ValueError, DataError) as error:
            # a combination that no trial can have, or frames that the data cannot give
            hopeless.append(str(error))
        else:
            drawn, exact = drawn + 1, exact + (not said)
            found.update({_NUMBER.sub("#", reason): reason for reason in reversed(said)})
        if time.monotonic() - begin > seconds or not job.study.axes.axes:
            break
    if hopeless and not drawn:
        raise ConfigError(hopeless[-1])
    if hopeless:
        head = (
            f"space: {len(hopeless)} of {drawn + len(hopeless)} points drawn from it end before any training:"
        )
        return [f"{head} {hopeless[-1]}", *_proven(job, drawn, exact, found)]
    return _proven(job, drawn, exact, found)


def _proven(job: Job, drawn: int, exact: int, found: Mapping[str, str]) -> list[str]:
    """How many of the points drawn have an exact integer form, and what is in the way of the others."""
    if exact == drawn:
        what = f"all {drawn} points drawn from the space have an" if drawn > 1 else "this network has an"
        line = f"proof: {what} exact integer form, which finalists are compared with spike by spike"
        return [line]
    lines, required = list(found.values()), job.proof == "required"
    if required and not exact:
        rule = "proof is required, but no network of this space has an exact integer form:"
        raise ConfigError("\n  ".join([rule, *lines]))
    scope = f"{drawn - exact} of {drawn} points drawn from the space have" if exact else "networks here have"
    does = "are refused" if required else "cannot be proven"
    more = [f"and {len(lines) - SAID} more"] if len(lines) > SAID else []
    head = f"proof: {scope} no exact integer form and {does}:"
    return [head, *(f"       {line}" for line in [*lines[:SAID], *more])]


def draw(axes: tuple[Axis, ...], generator: random.Random) -> Mapping[str, object]:
    """One point of the space, each active axis by chance."""
    params: dict[str, object] = {}
    for axis in axes:
        if axis.active(params):
            values = axis.values()
            params[axis.path] = (
                generator.choice(values)
                if values is not None
                else generator.uniform(float(axis.low or 0), float(axis.high or 0))
            )
    return params
