"""Fetching a file once: resumable, checked before it gets its name, with a progress bar.

The bytes gather in ``NAME.part`` beside the target; only a file that passed its check is renamed to the
target, so a target that exists is whole. A lock file lets several workers ask for the same file at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.errors import LiveError
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pipeline.types import DataError

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
TRIES = 4
"""Attempts per address; a broken connection goes on from where it stopped."""


def cache_folder() -> Path:
    """Where downloads and built caches go: $XDG_CACHE_HOME or ~/.cache, then snn-pipeline."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snn-pipeline"


def hash_of(path: Path, algorithm: str) -> str:
    """Hex digest of a file, read in chunks. `algorithm` as hashlib names it (md5, sha256)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def fetch(addresses: Sequence[str], target: Path, check: Callable[[Path], None]) -> Path:
    """Download the first address that answers to `target`, unless it is there; returns `target`.

    `check(path)` raises DataError for a file that is not what it should be: the part is then deleted and the
    next address tried. Raises DataError naming every address and what it answered.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.exists():  # another worker was faster
            return target
        part = target.with_name(target.name + ".part")
        failures = []
        for address in addresses:
            try:
                _gather(address, part)
                check(part)
            except DataError as error:
                part.unlink(missing_ok=True)
                failures.append(f"{address}: {error}")
            except OSError as error:
                failures.append(f"{address}: {error}")
            else:
                part.replace(target)
                return target
    raise DataError(f"{target} could not be downloaded. " + " ".join(failures))


def _gather(address: str, part: Path) -> None:
    """Fill `part` from `address`, resuming after broken connections; OSError after TRIES without an end."""
    for attempt in range(1, TRIES + 1):
        try:
            _stream(address, part)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to send: the part was complete already
                return
            if error.code < 500 or attempt == TRIES:
                raise
        except OSError:
            if attempt == TRIES:
                raise


def _stream(address: str, part: Path) -> None:
    """One connection: append what the server still has; OSError when it ends early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"User-Agent": "snn-pipeline"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        resumed = answer.status == 206
        have = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file, _bar(part.stem, total, have) as advance:
            while chunk := answer.read(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
                have += len(chunk)
    if total is not None and have < total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


@contextlib.contextmanager
def _bar(name: str, total: int | None, done: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar; silent where another live display already owns the terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), transient=True)
    try:
        progress.start()
    except LiveError:
        yield lambda _: None
        return
    try:
        task = progress.add_task(f"download {name}", total=total, completed=done)
        yield lambda count: progress.update(task, advance=count)
    finally:
        progress.stop()
