"""One progress bar for downloads, simulations and framing; silent where another live display owns the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def bar(
    title: str, total: int | None, done: int = 0, in_bytes: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields ``advance(count)``. The bar vanishes at the end; `total` None: unknown."""
    counting = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), *counting, TimeRemainingColumn(), transient=True
    )
    task = progress.add_task(title, total=total, completed=done)
    try:
        progress.start()
    except LiveError:
        yield lambda _: None
        return
    try:
        yield lambda count: progress.update(task, advance=count)
    finally:
        progress.stop()
