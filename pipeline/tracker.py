"""What a study tells whoever tracks it: the protocol, what is said at the end, and nobody listening."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.report.detail import asked, left_out, weight_bits
from pipeline.types import Dataset, Metrics, Row

SOME = 8
"""The most rivals that a ``dominated_by`` tag names."""


class Finalist(Protocol):
    """A model of the front that can be logged; `takes`: name, dtype and shape of one input."""

    @property
    def number(self) -> int: ...
    @property
    def takes(self) -> tuple[str, str, tuple[int, ...]]: ...
    def write(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Ending:
    """What is told of a study when it ends, beside its rows."""

    metrics: Metrics = field(default_factory=dict)
    history: Sequence[tuple[int, Metrics]] = ()
    """Of the study as a whole: (trials finished, metrics)."""
    artifacts: Sequence[Path] = ()
    folder: Path | None = None
    """Artifacts below it keep their place: ``figures/importance.png``."""
    dominated_by: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """Trial -> the members of the front that are better in every objective."""
    picks: Mapping[str, int] = field(default_factory=dict)
    """Selector -> trial."""
    models: Sequence[Finalist] = ()


class Tracker(Protocol):
    """Shows a study's trials as they end and its artifacts at the end."""

    def start(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, str], data: Dataset | None = None
    ) -> None:
        """Open (or find again) the parent run of study `name`."""
        ...

    def trial(self, row: Row) -> None:
        """Write one ended trial; a trial that is already there is not written twice."""
        ...

    def finish(self, rows: Sequence[Row], ending: Ending) -> None:
        """Send what is missing, mark the front, log its models, attach the artifacts, close the parent run."""
        ...

    @property
    def look(self) -> str:
        """The command that shows what was tracked, or an empty string."""
        ...


@dataclass(frozen=True)
class Silent:
    """No tracking at all."""

    def start(
        self, name: str, params: Mapping[str, object], tags: Mapping[str, str], data: Dataset | None = None
    ) -> None: ...

    def trial(self, row: Row) -> None: ...

    def finish(self, rows: Sequence[Row], ending: Ending) -> None: ...

    @property
    def look(self) -> str:
        return ""


def within_reach(command: str) -> str:
    """A command as this shell finds it: a virtual environment that was not activated is named before it."""
    program, _, rest = command.partition(" ")
    beside = Path(sys.executable).parent / program
    if shutil.which(program) is None and beside.exists():
        return f"{os.path.relpath(beside)} {rest}"
    return command


def title(row: Row) -> str:
    """A trial's name for people: ``#17 4-bit 80% joint``; the scheme stands where the mode is not searched.

    What its plan leaves out is no part of the network, and none of its name: ``#7 80% isolated``.
    """
    words, unused = [f"#{row.number}"], left_out(row)
    bits, sparsity = asked(row, "quantize_weights.bits"), asked(row, "prune_weights.sparsity")
    scheme = asked(row, "plan.mode") or asked(row, "plan.scheme")
    found = weight_bits(row) if bits is None else str(bits)  # of the layers, where each has its own
    if found not in ("", "32") and unused != "bits":
        words.append(f"{found}-bit")
    if isinstance(sparsity, int | float) and unused != "sparsity":
        words.append(f"{sparsity:.0%}")
    if scheme is not None:
        words.append(str(scheme))
    if row.state != "complete":
        words.append(row.state)
    return " ".join(words)


def alias(selector: str) -> str:
    """A selector's name as MLflow takes one: letters, digits, ``_`` and ``-``, and none of those it reserves."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", selector).strip("-")
    reserved = re.fullmatch(r"latest|v[0-9]+|", plain, re.IGNORECASE)
    return f"selector-{plain}" if reserved else plain


def note(rows: Sequence[Row], ending: Ending) -> str:
    """The parent run's description in Markdown: what was found, and how to filter the children."""
    by_number = {row.number: title(row) for row in rows}
    picks = "\n".join(f"- {name}: {by_number[number]}" for name, number in ending.picks.items())
    return (
        f"{len(rows)} trials, {sum(row.on_front for row in rows)} on the front. The picks:\n\n{picks or '- none'}\n\n"
        "Filters: `tags.front = 'true'`, `metrics.energy_pj < 1e6 and tags.front = 'true'`, "
        "`tags.state LIKE 'stopped%'`. Pictures and the report page are under Artifacts."
    )


def named(rivals: Sequence[int]) -> str:
    """``#3, #17``, and how many more."""
    more = [f"and {len(rivals) - SOME} more"] if len(rivals) > SOME else []
    return ", ".join([*(f"#{rival}" for rival in rivals[:SOME]), *more])
