"""What a person sees while a study runs: trials done, the best so far, time left."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from pipeline.types import Row

PLAIN_EVERY_S = 5.0
RECENT = 20
"""Trials that the time left is estimated from: the first one often trains what all later ones share."""


def clock(seconds: float) -> str:
    """``1:05`` or ``2:03:04``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def summary(rows: Sequence[Row]) -> str:
    """``front 7 · best 96.1 % (#12) · 2 stopped · 1 failed``."""
    words = [f"front {sum(row.on_front for row in rows)}"]
    able = [row for row in rows if row.feasible and "validation_accuracy" in row.metrics]
    if able:
        best = max(able, key=lambda row: row.metrics["validation_accuracy"])
        words.append(f"best {best.metrics['validation_accuracy']:.1%} (#{best.number})")
    kinds = Counter(row.state.partition(":")[0] for row in rows)
    words += [f"{kinds[kind]} {kind}" for kind in ("cached", "stopped", "failed") if kinds[kind]]
    return " · ".join(words)


@contextmanager
def counted(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """A spinner with a count on a terminal; elsewhere a plain line where the count changed, at most one in five
    seconds. What is given takes (how many are done, of how many)."""
    last = [time.monotonic(), -1]
    with console.status(what) as status:

        def say(done: int, of: int) -> None:
            line = f"{what}: {done}/{of}"
            status.update(line)
            now = time.monotonic()
            if not console.is_terminal and done != last[1] and now - last[0] >= PLAIN_EVERY_S:
                last[:] = now, done
                console.print(Text(line))

        yield say


class StudyProgress:
    """A live bar on a terminal; plain lines, at most one in five seconds, elsewhere."""

    def __init__(self, name: str, budget: int, console: Console) -> None:
        self.name, self.budget, self.console = name, budget, console
        self._begin = time.monotonic()
        self._before: int | None = None
        self._ends: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)
        """When how many trials had ended, at every end of one in this run."""
        self._last_line, self._last_ended = 0.0, -1
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._task = self._progress.add_task(name, total=budget, note="")
        self._live = (
            Live(self._progress, console=console, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> StudyProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, rows: Sequence[Row]) -> None:
        """Show the study as it stands now."""
        ended = [row for row in rows if row.state != "running"]
        self._before = len(ended) if self._before is None else self._before
        if len(ended) > (self._ends[-1][1] if self._ends else self._before):
            self._ends.append((time.monotonic(), len(ended)))
        note = f"{summary(ended)} · {self._left(len(ended))}"
        if self._live:
            self._progress.update(self._task, completed=len(ended), note=note)
            return
        now = time.monotonic()
        due = now - self._last_line >= PLAIN_EVERY_S or len(ended) == self.budget
        if due and (len(ended) != self._last_ended or len(ended) < self.budget):
            self._last_line, self._last_ended = now, len(ended)
            self.console.print(Text(f"{self.name}: {len(ended)}/{self.budget} trials · {note}"))

    def _left(self, ended: int) -> str:
        """From the pace between two ends of trials: the time to the first one is not a trial's time."""
        now = time.monotonic()
        since, before = self._ends[0] if self._ends else (now, ended)
        if ended - before < 2 or ended >= self.budget:
            return f"{clock(now - self._begin)} spent"
        return f"about {clock((now - since) / (ended - before) * (self.budget - ended))} left"
