"""What a report says about the study as a whole, as plain data: the study computes it, the report writes it
down."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.types import Row


@dataclass(frozen=True)
class Context:
    """Everything but the rows."""

    experiment: str
    command: str
    """What was typed to run the study."""
    reproduce: str
    """What runs one given point again; a row's parameters are appended as ``key=value``."""
    tracking_uri: str = ""
    data: str = ""
    """One line on the data: ``digits: 1,078 train, 359 validation, 360 test samples``."""
    ended: str = ""
    """Why the search ended before its budget was met, in words; empty: it did not."""
    classes: tuple[str, ...] = ()
    """Names of the classes in the order of the confusion matrix; empty: their numbers."""
    validation_samples: int = 0
    test_samples: int = 0
    """Sizes of the splits, for the interval of an accuracy that one run measured; 0: no interval."""
    counted: str = ""
    """What energy and latency are prices of: ``256 training samples``; empty: not said."""
    reference: tuple[float, ...] = ()
    """Reference point of the hypervolume, in the order of the objectives."""
    hypervolume: tuple[tuple[int, float, float], ...] = ()
    """(trials finished, seconds since the start, hypervolume) after each finished trial."""
    importance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """objective -> parameter -> share of the variance it explains."""
    sensitivity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """layer -> what was done to it -> accuracy lost (a fraction)."""
    sensitivity_samples: int = 0
    """Validation samples that it was measured on; 0: not said."""
    published: str = ""
    """Name of a table in `pipeline/report/published` whose points are drawn beside the study's own; empty:
    none."""
    published_alike: bool = True
    """Whether they are of this study's data and kind of network; where not, their accuracies alone are drawn, as a
    reference: what another network costs says nothing about the trials beside it."""
    claims: tuple[Mapping[str, str], ...] = ()
    """Lines of the table of claims (column -> text), as `python -m pipeline.claims` gathers them; empty:
    none."""
    compared: tuple[Mapping[str, object], ...] = ()
    """Members of the front beside baselines of their size (name, accuracies, prices); empty: none."""
    baseline: Row | None = None
    """The uncompressed float model, drawn beside the front where the study trained one."""


def command_of(row: Row, context: Context) -> str:
    """The shell command that runs this row's point again; a row may bring its own in
    ``detail["command"]``."""
    own = row.detail.get("command")
    if isinstance(own, str):
        return own
    return " ".join(
        [
            context.reproduce,
            f"name=again-{row.number}",
            *(shlex.quote(f"{key}={_plain(v)}") for key, v in row.params.items()),
        ]
    )


def _plain(given: object) -> str:
    """A value as Hydra's override grammar reads it back."""
    if given is None:
        return "null"
    if isinstance(given, bool):
        return str(given).lower()
    if isinstance(given, Mapping):
        return "{" + ",".join(f"{key}:{_plain(entry)}" for key, entry in given.items()) + "}"
    if isinstance(given, list | tuple):
        return "[" + ",".join(map(_plain, given)) + "]"
    return str(given)
